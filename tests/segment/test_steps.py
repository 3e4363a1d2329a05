"""A frame's dense steps: torch gives what numpy gives, and is asked only where that may be worth while."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import ndimage

from wbcpipe.errors import ConfigError
from wbcpipe.samples.fields import read_passes
from wbcpipe.segment import gpu, steps
from wbcpipe.segment.cli import segment
from wbcpipe.segment.gpu import TorchSteps
from wbcpipe.segment.registration.correlate import tile_centres
from wbcpipe.segment.segment_field import process_field
from wbcpipe.segment.stage import SegmentStage
from wbcpipe.segment.steps import NUMPY, WORTH_A_GPU_PX, frame_steps, gpu_may_be_there

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")),
]


def frame(shape: tuple[int, int], *, above_background: bool) -> np.ndarray:
    """Dark disks on a bright ground, or bright and dark ones on a glow; noise; uneven light."""
    rng = np.random.default_rng(0)
    y, x = np.indices(shape)
    values = np.full(shape, 3000.0)
    for k, (row, column) in enumerate(rng.uniform(0, 1, (60, 2)) * shape):
        inside = np.hypot(y - row, x - column) < 30
        values[inside] *= 9.0 if above_background and k % 6 == 0 else 0.6
    values = ndimage.gaussian_filter(values, 2) * (0.8 + 0.4 * x / shape[1])
    # The largest value of a camera of 16 bits, which torch's signed numbers do not hold.
    values[:9, :9] = 65535
    return (values + rng.normal(0, 30, shape)).clip(0, 65535).astype(np.uint16)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(512, 512), (410, 523)], ids=["whole blocks", "broken blocks"])
def test_block_means_and_edges_are_numpys(device: str, shape: tuple[int, int]) -> None:
    there = TorchSteps(device)
    shading = np.linspace(2400, 3600, 8, dtype=np.float32)[None].repeat(8, 0)
    for above_background in (False, True):
        here = frame(shape, above_background=above_background)
        wanted = NUMPY.smoothed(here, 3, 1.0)
        assert there.smoothed(here, 3, 1.0) == pytest.approx(wanted, rel=2e-6)
        edges = NUMPY.structure(here, 4, shading)
        assert there.structure(here, 4, shading) == pytest.approx(edges, abs=2e-4 * float(np.ptp(edges)))


@pytest.mark.parametrize("device", DEVICES)
def test_correlations_are_numpys(device: str) -> None:
    rng = np.random.default_rng(1)
    pictures = [ndimage.gaussian_filter(rng.normal(size=(150, 170)), 2).astype(np.float32) for _ in range(3)]
    for half, search in ((30, 5), (24, 12)):
        centres = tile_centres((150, 170), half, search, half)
        wanted = NUMPY.correlate(pictures, centres, half, search)
        found = TorchSteps(device).correlate(pictures, centres, half, search)
        assert found.keys() == wanted.keys()
        for pair, (surface, weight) in wanted.items():
            assert found[pair][0] == pytest.approx(surface, abs=2e-5)
            assert found[pair][1] == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_field_has_the_same_cells(device: str, copy_run: Callable[[str], Sample]) -> None:
    sample = copy_run("dense")
    stage = SegmentStage(sample)
    stage.calibrate([0, 1, 2])
    frames, info = read_passes(sample.path / "raw", 1)

    def block(one: Any) -> Any:
        return process_field(
            frames, info, stage.calibration, crop_pixel_um=0.1, stage_affine=stage.affine(), steps=one
        ).block

    ours, theirs = block(NUMPY), block(TorchSteps(device))
    assert len(ours) == len(theirs) > 0
    assert theirs.columns["shift_px"] == pytest.approx(ours.columns["shift_px"], abs=2e-3)
    assert theirs.columns["y_px"] == pytest.approx(ours.columns["y_px"], abs=0.2)
    assert np.mean(ours.masks == theirs.masks) > 0.999
    assert theirs.columns["qc_flags"].tolist() == ours.columns["qc_flags"].tolist()


def test_a_large_frame_goes_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    here = frame((410, 523), above_background=False)
    whole = TorchSteps("cpu").smoothed(here, 3, 1.0)
    largest: list[int] = []
    upload = TorchSteps._here

    def watched(self: TorchSteps, values: Any) -> Any:
        largest.append(values.size)
        return upload(self, values)

    monkeypatch.setattr(TorchSteps, "_here", watched)
    monkeypatch.setattr(gpu, "_STRIP_PX", 20_000)
    assert np.array_equal(TorchSteps("cpu").smoothed(here, 3, 1.0), whole)
    assert len(largest) > 5
    assert max(largest) <= 20_000


def test_where_the_gpus_memory_is_full_numpy_takes_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    there, here = TorchSteps("cpu"), frame((256, 256), above_background=False)
    monkeypatch.setattr(TorchSteps, "_here", full)
    shading, centres = np.full((4, 4), 3000, np.float32), tile_centres((85, 85), 20, 5, 20)
    assert np.array_equal(there.smoothed(here, 3, 1.0), NUMPY.smoothed(here, 3, 1.0))
    assert np.array_equal(there.structure(here, 4, shading), NUMPY.structure(here, 4, shading))
    pictures = [NUMPY.smoothed(here, 3, 1.0)] * 2
    found, wanted = (one.correlate(pictures, centres, 20, 5)[0, 1][0] for one in (there, NUMPY))
    assert np.array_equal(found, wanted)
    assert capsys.readouterr().err.count("--device cpu") == 1


def test_a_gpu_is_asked_only_by_large_frames_and_where_its_driver_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bool] = []

    class Fake:
        def __init__(self, device: str, *, worker: bool) -> None:
            self.name = f"torch-{device}"
            asked.append(worker)

    monkeypatch.setattr(gpu, "found", lambda: True)
    monkeypatch.setattr(gpu, "TorchSteps", Fake)
    monkeypatch.setattr(steps, "_DRIVER_FILES", (str(tmp_path / "driver"),))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert frame_steps("auto", WORTH_A_GPU_PX) is NUMPY
    (tmp_path / "driver").touch()
    assert frame_steps("auto", WORTH_A_GPU_PX - 1) is NUMPY
    assert frame_steps("cpu", WORTH_A_GPU_PX) is NUMPY
    assert not asked
    assert frame_steps("auto", WORTH_A_GPU_PX).name == "torch-cuda"
    assert frame_steps("cuda", 1, worker=True).name == "torch-cuda"
    assert asked == [False, True]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not gpu_may_be_there()


def test_no_gpu_where_one_is_asked_for(monkeypatch: pytest.MonkeyPatch, copy_run: Callable[[str], Sample]) -> None:
    monkeypatch.setattr(gpu, "found", lambda: False)
    sample = copy_run("none")
    words = ["--data", str(sample.path.parent), "--sample", sample.name, "--device", "cuda"]
    with pytest.raises(ConfigError, match="device 'cuda': torch finds no GPU here; use --device cpu"):
        CliRunner().invoke(segment, words, catch_exceptions=False)


def test_fields_done_elsewhere_are_not_mixed(
    monkeypatch: pytest.MonkeyPatch, copy_run: Callable[[str], Sample]
) -> None:
    sample = copy_run("mixed")
    SegmentStage(sample, device="cpu").process(0)
    done = next((sample.work_path / "fields").glob("*.npz"))
    before = done.read_bytes()
    monkeypatch.setattr("wbcpipe.segment.stage.frame_steps", lambda *_, **__: TorchSteps("cpu"))
    SegmentStage(sample).process(0)
    assert done.read_bytes() != before


def test_segmenting_loads_no_torch(copy_run: Callable[[str], Sample]) -> None:
    sample = copy_run("light")
    program = (
        "import sys\nfrom pathlib import Path\nfrom wbcpipe.samples.sample import Sample\n"
        "from wbcpipe.segment.stage import SegmentStage\n"
        f"print(len(SegmentStage(Sample.open(Path({str(sample.path.parent)!r}), 'light')).process(0)))\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
