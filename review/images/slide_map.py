"""The map of a slide: its fields, complete, empty or missing, its cells, and the focus surface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError

from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.errors import FrameFileError, SampleStateError
from wbcpipe.samples.field_status import read_missing, read_skipped
from wbcpipe.samples.fields import complete_fields, passes_on_disk, read_passes_info
from wbcpipe.samples.records import FocusRecord

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.sample import Sample

__all__ = ["FieldState", "slide_map"]

FieldState = Literal["complete", "empty", "missing"]


def slide_map(sample: Sample, store: CellStore) -> dict[str, Any]:
    """Return fields and cells in stage coordinates (um), and the focus (um) at the points where it
    was measured.

    A field's position is that of its centre. Fields without frames are where the plan has them; a
    sample without a plan has none. A field whose file is damaged counts as missing.

    Args:
        sample: the sample.
        store: its cells.

    Raises:
        SampleStateError: ``sample.json`` or a record of the pass is damaged.
    """
    raw = sample.path / "raw"
    complete, damaged = _complete_fields(raw)
    without = {
        index: "missing" for name in passes_on_disk(raw) for index in read_missing(raw / name)
    }
    without |= {
        index: "empty" for name in passes_on_disk(raw) for index in read_skipped(raw / name)
    }
    without |= dict.fromkeys(damaged, "missing")
    shown = {field["index"] for field in complete}
    planned = [
        field for field in _planned_fields(sample) if field["index"] in without.keys() - shown
    ]
    fields = [*complete, *({**field, "state": without[field["index"]]} for field in planned)]
    return {
        "fields": sorted(fields, key=lambda field: field["index"]),
        "cells": {name: np.round(store.column(name), 2).tolist() for name in ("y_um", "x_um")},
        "focus": _focus(raw),
    }


def _complete_fields(raw: Path) -> tuple[list[dict[str, Any]], list[int]]:
    found, damaged = [], []
    for index in complete_fields(raw):
        try:
            info = read_passes_info(raw, index)
        except FrameFileError:
            damaged.append(index)
            continue
        height_um, width_um = (side * info.pixel_um for side in info.shape_px)
        found.append(_field(index, info.y_um, info.x_um, height_um, width_um, "complete"))
    return found, damaged


def _field(
    index: int, y_um: float, x_um: float, height_um: float, width_um: float, state: FieldState
) -> dict[str, Any]:
    figures = {"y_um": y_um, "x_um": x_um, "height_um": height_um, "width_um": width_um}
    return {
        "index": index,
        **{name: round(value, 3) for name, value in figures.items()},
        "state": state,
    }


def _planned_fields(sample: Sample) -> list[dict[str, Any]]:
    record = sample.record()
    if record.plan is None:
        return []
    try:
        plan = AcquisitionPlan.model_validate(record.plan.model_dump())
    except ValidationError as error:
        raise SampleStateError(
            f"{sample.info_path}: plan: {error.errors()[0]['msg']}; restore the file."
        ) from error
    height_um, width_um = plan.field_height_um, plan.field_width_um
    return [
        _field(field.index, field.y_um, field.x_um, height_um, width_um, "missing")
        for field in plan.fields()
    ]


def _focus(raw: Path) -> list[dict[str, float]]:
    """Return the measured focus of the first pass that has one."""
    for name in passes_on_disk(raw):
        record = FocusRecord.read_if_present(raw / name / "focus.json")
        if record is not None:
            points = record.fine or record.coarse
            return [
                {"y_um": at.y_um, "x_um": at.x_um, "z_um": at.z_um}
                for at in points
                if at.z_um is not None
            ]
    return []
