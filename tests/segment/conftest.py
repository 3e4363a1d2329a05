"""A small run on the virtual scope, rendered once; and drawings of nuclei."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.simulation.field_truth import truth_rows
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.samples.fields import MODALITIES, FieldInfo, FrameInfo, field_path, write_field
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.truth import write_truth
from wbcpipe.segment.run import segment_sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellStore

SIDE_PX = 1024
PIXEL_UM = 0.1
STEP_UM = 90.0
EXPOSURE_MS = {"color1": 5.0, "color2": 5.0, "color3": 5.0, "fluorescence": 20.0}


@dataclass(frozen=True)
class VirtualRun:
    """A run with its truth: ``transform(light, field)`` maps (x, y, 1) of ideal pixels to that
    light's pixels.
    """

    sample: Sample
    scope: VirtualMicroscope
    fields: list[tuple[int, float, float]]

    def to_modality(
        self, field: int, modality: int, points: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Points (N, 2) as (y, x) of the fluorescence frame, as points of another modality's."""
        _, x_um, y_um = self.fields[field]
        to_ideal = np.linalg.inv(self.scope.true_transform("fluorescence", x_um, y_um))
        mapping = self.scope.true_transform(MODALITIES[modality], x_um, y_um) @ to_ideal
        columns_first = np.column_stack([points[:, ::-1], np.ones(len(points))])
        return np.asarray((columns_first @ mapping.T)[:, 1::-1])


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> VirtualRun:
    """Six overlapping fields of 102 um of an enriched specimen, written as the acquisition writes
    them; read only.
    """
    return render(
        tmp_path_factory.mktemp("rendered"), SpecimenPlan(seed=11, preparation="buffy-coat"), 6
    )


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> VirtualRun:
    """The same of a blood film: few white cells among many red ones."""
    return render(tmp_path_factory.mktemp("film"), SpecimenPlan(seed=3), 6)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> VirtualRun:
    """One field of a blood film as wide as the scope takes them, 205 um."""
    return render(tmp_path_factory.mktemp("wide"), SpecimenPlan(seed=3), 1, side_px=2048)


def render(folder: Path, plan: SpecimenPlan, count: int, *, side_px: int = SIDE_PX) -> VirtualRun:
    """Fields of a specimen, in rows of three."""
    sample = Sample.open(folder, "virtual")
    sample.write(SampleRecord(sample="virtual", modalities=MODALITIES))
    sample.raw_path().mkdir(parents=True)
    specimen = Specimen(plan)
    scope = VirtualMicroscope(specimen, sensor_px=(side_px, side_px), pixel_um=PIXEL_UM)
    fields = [(k, 500.0 + k % 3 * STEP_UM, 700.0 + k // 3 * STEP_UM) for k in range(count)]
    for index, x_um, y_um in fields:
        z_um = specimen.focus_um(x_um, y_um)
        states = [
            OpticalState(x_um, y_um, z_um, light, exposure)
            for light, exposure in EXPOSURE_MS.items()
        ]
        frames = tuple(FrameInfo(state.light, state.exposure_ms) for state in states)
        info = FieldInfo(index, x_um, y_um, PIXEL_UM, frames)
        write_field(
            field_path(sample.raw_path(), index),
            np.stack([scope.expose(state) for state in states]),
            info,
        )
    half_um = side_px * PIXEL_UM / 2
    rows_um = (count // 3 - 1) * STEP_UM
    low, high = (
        (500 - half_um, 700 - half_um),
        (500 + 2 * STEP_UM + half_um, 700 + rows_um + half_um),
    )
    write_truth(sample.truth_path, truth_rows(specimen, (*low, *high), fields, half_um))
    return VirtualRun(sample, scope, fields)


@pytest.fixture(scope="session")
def unbroken(rendered: VirtualRun, tmp_path_factory: pytest.TempPathFactory) -> CellStore:
    """The cells of ``rendered``, segmented in one go; read only."""
    sample = Sample.open(tmp_path_factory.mktemp("unbroken"), "virtual")
    shutil.copytree(rendered.sample.path, sample.path)
    return segment_sample(sample, pixel_um=0.1)


@pytest.fixture
def copy_run(rendered: VirtualRun, tmp_path: Path) -> Callable[[str], Sample]:
    """Makes a copy of the run under a name, its fields linked."""

    def copy(name: str) -> Sample:
        sample = Sample.open(tmp_path, name)
        shutil.copytree(
            rendered.sample.path, sample.path, ignore=shutil.ignore_patterns("work", "cells.zarr*")
        )
        return sample

    return copy


def draw_disks(
    shape: tuple[int, int], disks: list[tuple[float, float, float, float]], *, blur: float = 2.0
) -> NDArray[np.float32]:
    """Bright disks (y, x, radius, brightness), in pixels, on nothing.

    The brighter one shows where two overlap.
    """
    from scipy import ndimage

    y, x = np.mgrid[: shape[0], : shape[1]]
    picture = np.zeros(shape, np.float32)
    for row, column, radius, brightness in disks:
        inside = (y - row) ** 2 + (x - column) ** 2 <= radius**2
        picture[inside] = np.maximum(picture[inside], brightness)
    return np.asarray(ndimage.gaussian_filter(picture, blur), np.float32)


@pytest.fixture
def draw() -> Callable[..., NDArray[np.float32]]:
    """`draw_disks`."""
    return draw_disks
