"""A laboratory's own reference intervals, from a TOML or JSON file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wbcpipe.errors import ConfigError
from wbcpipe.report.differential import Reference
from wbcpipe.system.user_files import UserFile
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ReferenceIntervals", "load_reference"]

_Percentage = Annotated[float, Field(ge=0, le=100, strict=True)]


class ReferenceIntervals(BaseModel):
    """The content of a file of reference intervals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, Field(strict=True)] | None = None
    percent: Annotated[dict[str, tuple[_Percentage, _Percentage]], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for name, (low, high) in self.percent.items():
            if low >= high:
                raise ValueError(f"percent.{name} is [{low:g}, {high:g}]; the lower limit comes first")
        return self


def load_reference(path: Path, classes: Sequence[str]) -> Reference:
    """Read reference intervals.

    The file, TOML or JSON by its suffix, holds ``source`` (text) and ``percent``: class name to ``[low, high]``. A
    class that is not listed gets no flag.

    Raises:
        ConfigError: the file is absent or not readable, or a key, class or interval is not allowed.
    """
    file = UserFile(path, "a file of reference intervals", ConfigError)
    content = file.read_json() if path.suffix.lower() == ".json" else file.read_toml()
    try:
        found = ReferenceIntervals.model_validate(content)
    except ValidationError as error:
        findings = "; ".join(explain(item, ReferenceIntervals) for item in error.errors()[:3])
        raise ConfigError(f"{path}: {findings}; an example is in `wbcpipe report --help`.") from error
    if unknown := sorted(set(found.percent) - set(classes)):
        raise ConfigError(f"{path}: unknown class {unknown[0]!r}; the cells were classified as {', '.join(classes)}.")
    return Reference(found.percent, found.source or path.name)
