"""click's types of parameters; each states the type of its values to a type checker.

click knows these since 8.5.1 only, and the classes of earlier ones cannot be subscripted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

__all__ = ["ParamType", "PathType"]

if TYPE_CHECKING:
    from click import ParamType
    from click import Path as PathType
else:

    class ParamType(click.ParamType):
        """A type of a parameter."""

        def __class_getitem__(cls, _value: object) -> type:
            return cls

    class PathType(click.Path):
        """A path."""

        def __class_getitem__(cls, _value: object) -> type:
            return cls
