"""Configuration of the documentation site: ``sphinx-build -n -W --keep-going docs docs/_build``."""

import sys
from pathlib import Path

from wbcpipe import __version__
from wbcpipe.system.version import RELEASE

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "wbcpipe"
author = "The wbcpipe developers"
copyright = "The wbcpipe developers; BSD 3-Clause"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "generated_reference",
]
# Fragments that pages include, and pages that readers of the repository need.
exclude_patterns = ["_build", "reference/generated", "examples", "decisions/template.md"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

# Single backquotes in docstrings and help texts name something of the code.
default_role = "code"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# No inventory of another project is fetched, so that the site builds without a network: the types
# in signatures are shown, and linked where the class has a page here.
nitpick_ignore_regex = [("py:(class|obj|data)", ".*"), ("py:exc", r"(?!wbcpipe\.).*")]
# Help texts name options such as --json.
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Attributes that a class documents and defines are shown once.
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = f"wbcpipe {RELEASE}"
html_static_path = ["_static"]
html_css_files = ["wbcpipe.css"]
html_show_sourcelink = False
# Pages of one, which have nothing beside them to list.
html_sidebars = {"tutorial/index": [], "limits": []}
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["research-note"],
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
templates_path = ["_templates"]
