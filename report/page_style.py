"""What every HTML page of the project shares.

One style, one set of filters, one way to escape text.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import jinja2
from markupsafe import Markup

from wbcpipe.report.words import format_number

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["class_colours", "code_markup", "page_environment"]

#: Classes ``class-0`` to ``class-6`` of style.css.j2: distinguishable by colour-blind readers; the
#: text beside them repeats the information.
_COLOURS: Final = 7


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Return the CSS class that colours each class of cells.

    >>> class_colours(["NEU", "LYM"])
    {'NEU': 'class-0', 'LYM': 'class-1'}
    """
    return {name: f"class-{number % _COLOURS}" for number, name in enumerate(classes)}


def code_markup(text: str) -> Markup:
    """Escape a text, and set what stands between backticks as code.

    >>> str(code_markup("run `a > b`"))
    'run <code>a &gt; b</code>'
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return Markup.escape(text)
    marked = [
        Markup("<code>{}</code>").format(part) if i % 2 else Markup.escape(part)
        for i, part in enumerate(parts)
    ]
    return Markup("").join(marked)


def page_environment(package: str = "wbcpipe.report") -> jinja2.Environment:
    """Return an environment for the pages of a package: its ``templates/``, and ``style.css.j2`` of
    the report.

    Text is escaped in ``*.html.j2``, and left as it is in other templates.
    """
    packages = dict.fromkeys((package, "wbcpipe.report"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in packages]),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = code_markup
    environment.filters["number"] = functools.partial(format_number, none="–")
    return environment
