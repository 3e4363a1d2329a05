"""Planted samples, whose stages are quick, and rendered ones for the real stages."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.classify.models.bundle import find_bundle
from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.cluster import stages
from wbcpipe.cluster.records import BundleChoice, SampleTask
from wbcpipe.cluster.stages import run_stage
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.fields import MODALITIES, FieldInfo, FrameInfo, field_path, write_field
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.system.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.cluster.workspace import Workspace

SIDE_PX, PIXEL_UM = 640, 0.1
EXPOSURE_MS = {"color1": 5.0, "color2": 5.0, "color3": 5.0, "fluorescence": 20.0}


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw fields of a small sample: three fields of an enriched specimen; read only."""
    raw = tmp_path_factory.mktemp("rendered") / "raw"
    specimen = Specimen(SpecimenPlan(seed=11, preparation="buffy-coat"))
    scope = VirtualMicroscope(specimen, sensor_px=(SIDE_PX, SIDE_PX), pixel_um=PIXEL_UM)
    for index in range(3):
        x_um, y_um = 500.0 + index * 58.0, 700.0
        z_um = specimen.focus_um(x_um, y_um)
        states = [
            OpticalState(x_um, y_um, z_um, light, exposure)
            for light, exposure in EXPOSURE_MS.items()
        ]
        frames = tuple(FrameInfo(state.light, state.exposure_ms) for state in states)
        path = field_path(raw / "single", index)
        path.parent.mkdir(parents=True, exist_ok=True)
        info = FieldInfo(index, x_um, y_um, PIXEL_UM, frames)
        write_field(path, np.stack([scope.expose(state) for state in states]), info)
    return raw


@pytest.fixture
def add_sample(rendered: Path) -> Callable[[Path, str], Sample]:
    """Puts a sample with the rendered fields into a data folder.

    A record without a time of creation names no sample in its files, so they fit any.
    """

    def add(root: Path, name: str) -> Sample:
        sample = Sample.open(root, name)
        sample.write(SampleRecord(sample=name, modalities=MODALITIES, pixel_um=PIXEL_UM))
        shutil.copytree(rendered, sample.path / "raw")
        return sample

    return add


@pytest.fixture(scope="session")
def second_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped bundle with another threshold: the same weights give other classes."""
    shipped = find_bundle("auto", kind="scope")
    folder = tmp_path_factory.mktemp("bundle") / "strict"
    shutil.copytree(shipped.path, folder)
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    info["name"] = "strict"
    info["calibration"]["threshold"] = 0.99999
    (folder / "bundle.json").write_text(json.dumps(info), encoding="utf-8")
    return find_bundle(str(folder))


def choice(bundle: Bundle) -> BundleChoice:
    """What a task says of a bundle."""
    info = bundle.info
    return BundleChoice(
        str(bundle.path), info.name, info.sha256, bundle.calibration_digest, info.pixel_um
    )


@pytest.fixture
def task_of() -> Callable[..., SampleTask]:
    """Makes the task of a sample; by default with the shipped bundle."""

    def task(sample: Sample, bundle: Bundle | None = None) -> SampleTask:
        found = bundle or find_bundle("auto", kind="scope")
        return SampleTask(
            str(sample.path.parent), sample.name, choice(found), SOFTWARE, lock_wait_s=0.0
        )

    return task


@pytest.fixture
def run_all() -> Callable[[SampleTask], str]:
    """Runs the stages of a sample in this process; returns the last record as JSON."""

    def run(task: SampleTask) -> str:
        record = run_stage("segment", task)
        record = run_stage("classify", task, record)
        return run_stage("report", task, record)

    return run


@pytest.fixture(scope="session")
def reported(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one sample, S1, that was processed by the stages' own functions."""
    from wbcpipe.classify.stage import classify_sample
    from wbcpipe.report.stage import write_report
    from wbcpipe.segment.run import segment_sample

    root = tmp_path_factory.mktemp("reported")
    sample = Sample.open(root, "S1")
    sample.write(SampleRecord(sample="S1", modalities=MODALITIES, pixel_um=PIXEL_UM))
    shutil.copytree(rendered, sample.path / "raw")
    bundle = find_bundle("auto", kind="scope")
    segment_sample(sample, pixel_um=bundle.info.pixel_um)
    classify_sample(sample, bundle)
    write_report(sample)
    return root


CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
CALLS = ["NEU"] * 20 + ["LYM"] * 10 + ["MO"] * 2
#: Weights of two bundles that are not there: name to the classes that they give.
FAKE_BUNDLES = {"c" * 64: CALLS, "d" * 64: ["NEU"] * 17 + ["EOS"] * 3 + ["LYM"] * 12}


def plant_cells(sample: Sample) -> None:
    """Write ``cells.zarr`` with cells that are not classified."""
    number, side = len(CALLS), 16
    zeros = np.zeros(number)
    columns = {
        "field_index": np.arange(number) // 4,
        "y_px": zeros + 3,
        "x_px": np.arange(number) + 4.0,
        "y_um": zeros + 12.34,
        "x_um": np.arange(number) * 20.0 - 100,
        "area_um2": zeros + 120,
        "nucleus_area_um2": zeros + 50,
        "sharpness": zeros + 1,
        "shift_px": np.zeros((number, 3, 2)),
        "shift_residual_px": np.zeros((number, 3)),
        "qc_flags": np.zeros(number, np.uint16),
    }
    images = np.random.default_rng(1).integers(0, 4000, (number, 4, side, side)).astype(np.uint16)
    block = CellBlock(images, np.zeros((number, side, side), np.uint8), columns, [""] * number)
    attributes = CellAttributes(modalities=MODALITIES, pixel_um=0.1, classes=CLASSES)
    CellStore.create(sample.cells_path, [block], attributes)


def call_cells(sample: Sample, sha256: str) -> None:
    """Write the classes that a bundle of `FAKE_BUNDLES` gives."""
    calls = FAKE_BUNDLES[sha256]
    probability = np.full((len(calls), 4, 5), 0.000025, np.float32)
    for row, name in enumerate(calls):
        probability[row, :, CLASSES.index(name)] = 0.9999
    calibration = ProbabilityCalibration(
        temperatures=(1.0,) * 4, weights=(0.25,) * 4, threshold=0.5, cells=400
    )
    CellStore(sample.cells_path).write_predictions(
        probability,
        list(calls),
        probability.mean(axis=1).max(axis=1),
        np.full(len(calls), 0.02, np.float32),
        classification=Classification(
            bundle=f"fake-{sha256[0]}",
            sha256=sha256,
            classes=CLASSES,
            heads=MODALITIES,
            threshold=0.5,
            calibration=calibration.model_dump(mode="json"),
        ),
    )


@pytest.fixture
def plant() -> Callable[[Path, str], Sample]:
    """Writes a sample whose cells are not classified."""

    def write(root: Path, name: str) -> Sample:
        sample = Sample.open(root, name)
        sample.write(SampleRecord(sample=name, modalities=MODALITIES))
        plant_cells(sample)
        return sample

    return write


@pytest.fixture
def fake_task() -> Callable[..., SampleTask]:
    """Makes the task of a planted sample, with a bundle of `FAKE_BUNDLES` by its letter."""

    def task(sample: Sample, letter: str = "c") -> SampleTask:
        chosen = BundleChoice(f"fake-{letter}", f"fake-{letter}", letter * 64, "", 0.1)
        return SampleTask(str(sample.path.parent), sample.name, chosen, SOFTWARE, lock_wait_s=0.0)

    return task


@pytest.fixture
def fake_classify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the stages of this process classify with the bundles of `FAKE_BUNDLES`."""

    def classify(task: SampleTask, workspace: Workspace, *, wanted: bool) -> None:
        del wanted
        if not workspace.classified:
            call_cells(workspace.sample, task.bundle.sha256)

    monkeypatch.setitem(stages.STEPS, "classify", classify)
