"""The model card of a bundle, in Markdown."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

    from wbcpipe.classify.models.bundle_info import BundleInfo

__all__ = ["model_card"]


def model_card(info: BundleInfo) -> str:
    """Return the model card of a bundle."""
    return _environment().get_template("MODEL_CARD.md.j2").render(info=info)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("wbcpipe.classify.models", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["general"] = lambda value: f"{value:g}"
    environment.filters["percent"] = lambda value: "-" if value is None else f"{100 * value:.2f}"
    environment.filters["recipe"] = lambda keys: json.dumps(keys, indent=1)
    return environment
