"""A laboratory's own reference intervals, from a TOML or JSON file."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wbcpipe.errors import ConfigError
from wbcpipe.report.differential import Reference
from wbcpipe.samples.order_record import OrderRecord, order_path
from wbcpipe.system.user_files import UserFile
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.laboratory.lab_file import Lab
    from wbcpipe.samples.sample import Sample

__all__ = ["lab_reference", "load_reference"]

_Percentage = Annotated[float, Field(ge=0, le=100, strict=True)]


class _ReferenceFile(BaseModel):
    """The content of a file of reference intervals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, Field(strict=True)] | None = None
    percent: Annotated[dict[str, tuple[_Percentage, _Percentage]], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for name, (low, high) in self.percent.items():
            if low >= high:
                raise ValueError(
                    f"percent.{name} is [{low:g}, {high:g}]; the lower limit comes first"
                )
        return self


def load_reference(path: Path, classes: Sequence[str]) -> Reference:
    """Read reference intervals.

    The file, TOML or JSON by its suffix, holds ``source`` (text) and ``percent``: class name to
    ``[low, high]``. A class that is not listed gets no flag.

    Raises:
        ConfigError: the file is absent or not readable, or a key, class or interval is not allowed.
    """
    file = UserFile(path, "a file of reference intervals", ConfigError)
    content = file.read_json() if path.suffix.lower() == ".json" else file.read_toml()
    try:
        found = _ReferenceFile.model_validate(content)
    except ValidationError as error:
        findings = "; ".join(explain(item, _ReferenceFile) for item in error.errors()[:3])
        raise ConfigError(
            f"{path}: {findings}; an example is in `wbcpipe report --help`."
        ) from error
    if unknown := sorted(set(found.percent) - set(classes)):
        raise ConfigError(
            f"{path}: unknown class {unknown[0]!r}; the cells were classified as "
            f"{', '.join(classes)}."
        )
    return Reference(found.percent, found.source or path.name)


def lab_reference(lab: Lab, sample: Sample) -> Reference | None:
    """Return the laboratory's intervals for the patient of a sample's ``order.json``; ``None`` if
    it gives none.

    Raises:
        SampleStateError: ``order.json`` is damaged.
    """
    if lab.reference is None:
        return None
    order = OrderRecord.read_if_present(order_path(sample)) or OrderRecord()
    on = date.fromisoformat(order.collected[:10]) if order.collected else datetime.now(UTC).date()
    found = lab.reference.of(order.sex, order.age_years(on))
    if not found.percent:
        return None
    return Reference(found.percent, found.source or lab.reference.source or "the laboratory's file")
