"""Exports give what torch gives, or are not written; bundles are verified.

The commands around them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from wbcpipe.classify.bundles_cli import bundles, with_command
from wbcpipe.classify.inference import export
from wbcpipe.classify.inference.classifier import Classifier
from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.inference.verify import check_logits, trial_images, verify_bundle
from wbcpipe.classify.models.bundle import Bundle, load_bundle, write_bundle
from wbcpipe.classify.models.bundle_info import BundleInfo, Training, Validation
from wbcpipe.classify.models.normalise import Normalisation
from wbcpipe.classify.networks import build_network
from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.errors import BundleError, ConfigError
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.inputs import CellImport

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURES = Path(__file__).resolve().parents[4] / "shared" / "data" / "pbc5"
CPU = torch.device("cpu")


def made(folder: Path, seed: int) -> Bundle:
    torch.manual_seed(seed)
    info = BundleInfo(
        name=f"tiny{seed}",
        method="mm-mimo",
        backbone="shufflenet_v2_x1_0",
        classes=("NEU", "LYM", "MO"),
        modalities=("color1", "fluorescence"),
        kind="scope",
        pixel_um=0.1,
        crop_px=64,
        side=32,
        normalisation=Normalisation(polarity=("bright", "dark"), mean=(0.8, 0.2), std=(0.2, 0.3)),
        calibration=ProbabilityCalibration(
            temperatures=(1.0, 1.0), weights=(0.5, 0.5), threshold=0.4
        ),
        validation=Validation(),
        training=Training(samples=("s1",), cells={"NEU": 1, "LYM": 1, "MO": 1}),
    )
    network = build_network("mm-mimo", info.backbone, 2, 1, 3)
    network.train()(torch.randn(16, 2, 32, 32))  # batch norm has seen something
    return write_bundle(folder / info.name, info, network.eval())


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return made(tmp_path, 0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, bytes]:
    """A bundle and its ONNX bytes, traced once: it takes seconds."""
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    bundle = made(tmp_path_factory.mktemp("exported"), 0)
    return bundle, export.onnx_model(bundle)


@pytest.mark.parametrize("count", [1, 5])
def test_an_export_gives_what_torch_gives(exported: tuple[Bundle, bytes], count: int) -> None:
    bundle, model = exported
    pictures = trial_images(bundle.info, count)
    found = export.OnnxNetwork(model)(pictures)
    assert found.shape == (count, 2, 3)
    np.testing.assert_allclose(found, TorchEngine(bundle.network(), CPU)(pictures), atol=1e-4)


def test_an_export_says_how_to_use_it_and_nothing_of_this_machine(
    exported: tuple[Bundle, bytes],
) -> None:
    bundle, model = exported
    metadata = export.OnnxNetwork(model).metadata
    assert (
        Normalisation.model_validate_json(metadata["wbcpipe.normalisation"])
        == bundle.info.normalisation
    )
    assert (
        ProbabilityCalibration.model_validate_json(metadata["wbcpipe.calibration"])
        == bundle.info.calibration
    )
    assert json.loads(metadata["wbcpipe.heads"]) == ["color1", "fluorescence"]
    assert metadata["wbcpipe.sha256"] == bundle.info.sha256
    assert "not for diagnostic use" in metadata["wbcpipe.use"]
    assert b"site-packages" not in model
    assert str(Path(export.__file__).parent).encode() not in model


def test_an_export_is_written_completely_and_never_over_another(
    exported: tuple[Bundle, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, model = exported
    monkeypatch.setattr(export, "onnx_model", lambda _: model)
    out = tmp_path / "tiny.onnx"
    arguments = ["export", str(bundle.path), "--out", str(out), "--json"]
    found = json.loads(CliRunner().invoke(bundles, arguments, catch_exceptions=False).stdout)
    assert found["bytes"] == out.stat().st_size == len(model)
    assert found["check"]["max_difference"] < 1e-4
    with pytest.raises(BundleError, match="exists already"):
        CliRunner().invoke(bundles, arguments, catch_exceptions=False)
    checked = CliRunner().invoke(
        bundles, ["verify", str(bundle.path), "--onnx", str(out)], catch_exceptions=False
    )
    assert "agrees with it" in checked.stdout


def test_an_export_that_disagrees_is_refused_and_not_written(
    exported: tuple[Bundle, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    bundle, model = exported
    wrong = onnx.load_from_string(model)
    weights = max(
        (one for one in wrong.graph.initializer if len(one.dims) == 4),
        key=lambda one: one.ByteSize(),
    )
    weights.CopyFrom(
        onnx.numpy_helper.from_array(1.1 * onnx.numpy_helper.to_array(weights), weights.name)
    )
    monkeypatch.setattr(export, "onnx_model", lambda _: wrong.SerializeToString())
    with pytest.raises(BundleError, match=r"logits differ from torch's by [\d.e-]+ of the largest"):
        export.export_onnx(bundle, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_of_other_weights_or_no_export_at_all_is_refused(
    exported: tuple[Bundle, bytes], tmp_path: Path
) -> None:
    with pytest.raises(
        BundleError, match=r"x\.onnx: was exported from weights [0-9a-f]{12}, bundle 'tiny1' has"
    ):
        export.check_onnx(made(tmp_path, 1), exported[1], "x.onnx")
    with pytest.raises(BundleError, match=r"y\.onnx: ONNX Runtime cannot read this file"):
        export.check_onnx(exported[0], b"no such thing", "y.onnx")


def test_what_is_not_installed_is_named(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    for run in (lambda: export.OnnxNetwork(b""), lambda: export.onnx_model(tiny)):
        with pytest.raises(ConfigError, match=r"pip install 'wbcpipe\[export\]'"):
            run()


@pytest.mark.skipif(not PICTURES.is_dir(), reason=f"{PICTURES} is not there")
def test_an_export_calls_real_cells_alike(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted(PICTURES.rglob("*.jpg"))[::25]:
        Image.open(path).save(folder / f"{path.stem}.png")
    sample = Sample.open(tmp_path, "smears")
    import_cells([folder], sample, CellImport("stained-rgb", 0.1))
    store = CellStore(sample.cells_path)
    bundle = load_bundle("smear-shufflenet")

    class Exported(TorchEngine):
        network = staticmethod(export.OnnxNetwork(export.onnx_model(bundle)))

        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return self.network(images)

    calls = []
    for engine in (TorchEngine(bundle.network(), CPU), Exported(bundle.network(), CPU)):
        classifier = Classifier(bundle, engine=engine)
        calls.append(classifier.call(classifier.probability(classifier.prepare(store.images())))[0])
    assert len(calls[0]) == 60
    assert len(set(calls[0])) > 3
    assert calls[0] == calls[1]


def test_a_bundle_whose_network_or_card_is_wrong_is_refused(tiny: Bundle, tmp_path: Path) -> None:
    assert verify_bundle(tiny).parameters > 1_000_000
    card = tiny.path / "MODEL_CARD.md"
    card.write_text(card.read_text().replace(tiny.info.sha256, "0" * 64))
    with pytest.raises(BundleError, match=r"MODEL_CARD\.md: absent, or not of the weights"):
        verify_bundle(tiny)
    network = tiny.network()
    with torch.no_grad():
        network.get_parameter("backbone.fc.bias")[0] = float("nan")
    info = tiny.info.model_copy(update={"name": "broken"})
    with pytest.raises(BundleError, match="holds values that are not finite"):
        verify_bundle(write_bundle(tmp_path / "broken", info, network))


def test_agreement_compares_shapes_and_logits() -> None:
    class Says:
        name, streams, batch_size, crop_logits = "says", 1, 8, None

        def __init__(self, value: float, heads: int = 2) -> None:
            self.value, self.heads = value, heads

        def buffer(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
            return np.empty(shape, np.float32)

        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.full((len(images), self.heads, 3), self.value, np.float32)

    pictures = np.zeros((4, 2, 8, 8), np.float32)
    assert check_logits(Says(10.0005), Says(10.0), pictures, "it") == pytest.approx(5e-5, rel=0.01)
    with pytest.raises(BundleError, match="it: logits differ"):
        check_logits(Says(0.01002), Says(0.01), pictures, "it")
    with pytest.raises(BundleError, match="it: logits differ"):
        check_logits(Says(float("nan")), Says(10.0), pictures, "it")
    with pytest.raises(BundleError, match=r"it: logits have shape \(4, 1, 3\)"):
        check_logits(Says(1.0, heads=1), Says(1.0), pictures, "it")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ([], ["list"]),
        (["--json"], ["list", "--json"]),
        (["mine"], ["show", "mine"]),
        (["--json", "mine"], ["show", "--json", "mine"]),
        (["mine", "--help"], ["show", "mine", "--help"]),
        (["verify", "mine"], ["verify", "mine"]),
        (["--help"], ["--help"]),
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_bundles_alone_lists_and_with_a_name_shows(given: list[str], meant: list[str]) -> None:
    assert with_command(given, ("list", "show", "verify", "export")) == meant


def test_bundles_commands() -> None:
    def told(*words: str) -> str:
        return CliRunner().invoke(bundles, list(words), catch_exceptions=False).stdout

    assert told() == told("list")
    assert "virtual-shufflenet: mm-mimo-kd" in told()
    assert told("virtual-shufflenet") == told("show", "virtual-shufflenet")
    assert json.loads(told("virtual-shufflenet", "--json"))["verified"] is True
    assert {row["name"] for row in json.loads(told("verify", "--json"))["bundles"]} == {
        "virtual-shufflenet",
        "smear-shufflenet",
    }
    assert CliRunner().invoke(bundles, ["verify", "--onnx", __file__]).exit_code == 2
