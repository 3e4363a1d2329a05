"""Cells of a slide that was taken off, stained and put back between bright field and
fluorescence.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.simulation.field_truth import truth_rows
from wbcpipe.acquire.simulation.optics.light_path import OpticalState, sensor_view
from wbcpipe.acquire.simulation.optics.microscope import SlideState, VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.slide_relocation.transform import IDENTITY_TRANSFORM, SlideTransform
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import (
    PASSES,
    FieldInfo,
    FieldTransform,
    FrameInfo,
    field_path,
    write_field,
)
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.truth import write_truth
from wbcpipe.segment.run import segment_sample

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.cell_store import CellStore

SIDE_PX, PIXEL_UM = 1024, 0.1
PLAN = SpecimenPlan(seed=11, preparation="buffy-coat")
#: As the acquisition leaves it: turned, and each field some micrometres beside the place asked for.
PLACEMENT = SlideTransform.about((300.0, 500.0), 1.7, 150.0, -90.0)
FIELDS = [(k, 500.0 + k % 3 * 90.0, 700.0 + k // 3 * 90.0) for k in range(6)]
BESIDE_UM = np.random.default_rng(4).uniform(-3.0, 3.0, (6, 2))
EXPOSURE_MS = {"color1": 5.0, "color2": 5.0, "color3": 5.0, "fluorescence": 20.0}


def second_um(index: int) -> tuple[float, float]:
    """Where the stage stands for a field of the second pass."""
    x_um, y_um = PLACEMENT.to_stage_um(*FIELDS[index][1:])
    return x_um + float(BESIDE_UM[index, 0]), y_um + float(BESIDE_UM[index, 1])


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, CellStore]:
    folder: Path = tmp_path_factory.mktemp("passes")
    sample = Sample.open(folder, "S")
    sample.write(SampleRecord(sample="S", modalities=tuple(EXPOSURE_MS)))
    specimen = Specimen(PLAN)
    for name, placement in (("brightfield", IDENTITY_TRANSFORM), ("fluorescence", PLACEMENT)):
        raw = sample.raw_path(name)
        raw.mkdir(parents=True)
        scope = VirtualMicroscope(
            specimen, sensor_px=(SIDE_PX, SIDE_PX), pixel_um=PIXEL_UM, slide=SlideState(placement)
        )
        for index, x_um, y_um in FIELDS:
            z_um = specimen.focus_um(x_um, y_um)
            slide_transform = None
            if name == "fluorescence":
                x_um, y_um = second_um(index)
                slide_transform = FieldTransform(
                    *PLACEMENT.to_slide_um(x_um, y_um), PLACEMENT.rotation_deg
                )
            states = [
                OpticalState(x_um, y_um, z_um, light, EXPOSURE_MS[light])
                for light in PASSES[name]  # type: ignore[index]
            ]
            frames = tuple(FrameInfo(state.light, state.exposure_ms) for state in states)
            info = FieldInfo(index, x_um, y_um, PIXEL_UM, frames, slide_transform=slide_transform)
            write_field(
                field_path(raw, index), np.stack([scope.expose(state) for state in states]), info
            )
    half_um = SIDE_PX * PIXEL_UM / 2
    write_truth(
        sample.truth_path,
        truth_rows(
            specimen, (500 - half_um, 700 - half_um, 680 + half_um, 790 + half_um), FIELDS, half_um
        ),
    )
    return sample, segment_sample(sample, pixel_um=0.1)


def test_cells_lie_where_the_first_pass_saw_them(cells: tuple[Sample, CellStore]) -> None:
    sample, store = cells
    with sample.truth_path.open(encoding="utf-8") as handle:
        truth = [
            (float(row["x_um"]), float(row["y_um"]))
            for row in csv.DictReader(handle)
            if row["class"] and int(row["field"]) >= 0
        ]
    found = np.stack([store.column("x_um"), store.column("y_um")], -1)
    inside = [place for place in truth if 455 < place[0] < 725 and 655 < place[1] < 835]
    assert len(inside) > 12
    away_um = [float(np.hypot(*(found - place).T).min()) for place in inside]
    assert np.mean(np.array(away_um) < 3.0) >= 0.95
    assert np.median(away_um) < 1.0


def test_bright_field_is_registered_to_the_turned_fluorescence(
    cells: tuple[Sample, CellStore],
) -> None:
    _, store = cells
    quality = store.column("qc_flags")
    assert not (quality & QcFlag.UNREGISTERED).any()
    shift_px = store.column("shift_px")
    errors = []
    for row, field in enumerate(store.column("field_index").tolist()):
        there = np.array([[store.column("x_px")[row], store.column("y_px")[row]]], float)
        turned = sensor_view(
            OpticalState(*second_um(field), 0.0, "fluorescence", 0.0),
            PLAN.seed,
            PLACEMENT,
            (SIDE_PX, SIDE_PX),
            PIXEL_UM,
        )
        x_um, y_um = np.linalg.solve(turned.matrix, (there[0] - turned.offset))
        for number, light in enumerate(PASSES["brightfield"]):
            plain = sensor_view(
                OpticalState(FIELDS[field][1], FIELDS[field][2], 0.0, light, 0.0),
                PLAN.seed,
                IDENTITY_TRANSFORM,
                (SIDE_PX, SIDE_PX),
                PIXEL_UM,
            )
            expected = plain.to_px(np.array([x_um]), np.array([y_um]))[0]  # (x, y)
            got = there[0] + shift_px[row, number, ::-1]
            errors.append(got - expected)
    rms_px = float(np.sqrt(np.mean(np.sum(np.square(errors), axis=1))))
    assert rms_px <= 0.6
