"""A classifier gives the same result for a cell in any batch, by any engine, from images or
crops.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from wbcpipe.classify.inference.classifier import Classifier
from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.inference.openvino_engine import OpenVinoEngine
from wbcpipe.classify.inference.select_engine import select_engine
from wbcpipe.classify.models.bundle import load_bundle
from wbcpipe.errors import ConfigError
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.inputs import CellImport

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle


PICTURES = Path(__file__).resolve().parents[4] / "shared" / "data" / "pbc5"
CPU = torch.device("cpu")


@pytest.mark.parametrize("without", [[], ["color2"]])
def test_crops_are_called_as_their_pictures_are(without: list[str]) -> None:
    bundle = load_bundle("virtual-shufflenet")
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 65536, (11, 4, 14, 14)).astype(np.uint16)
    images = coarse.repeat(bundle.info.crop_px // 14, axis=2).repeat(
        bundle.info.crop_px // 14, axis=3
    )
    classifier = Classifier(
        bundle, engine=select_engine(bundle, "cpu", "openvino"), excluded_modalities=without
    )
    assert classifier.batch_size == classifier.engine.batch_size == 8
    expected = Classifier(
        bundle, engine=TorchEngine(bundle.network(), CPU), excluded_modalities=without
    )
    assert expected.batch_size == 32
    found = classifier.probability_of(images, classifier.image_buffer())
    assert (classifier.image_buffer() is None) == (not without)
    np.testing.assert_allclose(found, expected.probability(expected.prepare(images)), atol=1e-5)
    np.testing.assert_allclose(
        expected.probability_of(images, expected.image_buffer()), found, atol=1e-5
    )
    assert np.array_equal(
        classifier.probability_of(images[3:6], classifier.image_buffer()), found[3:6]
    )


@pytest.mark.parametrize("takes", ["pictures", "crops"])
def test_an_engine_always_gets_whole_batches(takes: str) -> None:
    bundle = load_bundle("virtual-shufflenet")
    seen: list[tuple[int, ...]] = []

    class Noted(TorchEngine):
        batch_size = 5

        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            seen.append((len(images),))
            return np.zeros((len(images), 4, 5), np.float32)

        def crop_logits(  # type: ignore[override]
            self, crops: NDArray[np.uint16], gain: NDArray[np.float32], offset: NDArray[np.float32]
        ) -> NDArray[np.float32]:
            seen.append((len(crops), len(gain), len(offset)))
            return np.zeros((len(crops), 4, 5), np.float32)

    classifier = Classifier(
        bundle,
        engine=Noted(bundle.network(), CPU),
        excluded_modalities=["color1"] if takes == "pictures" else [],
    )
    crops = np.zeros((7, 4, 224, 224), np.uint16)
    assert classifier.probability_of(crops, classifier.image_buffer()).shape == (7, 4, 5)
    assert seen == [(5,)] * 2 if takes == "pictures" else [(5, 5, 5)] * 2


@pytest.mark.skipif(not PICTURES.is_dir(), reason=f"{PICTURES} is not there")
def test_engines_call_real_cells_alike(tmp_path: Path) -> None:
    chosen = sorted(PICTURES.rglob("*.jpg"))[::25]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in chosen:
        Image.open(path).save(folder / f"{path.stem}.png")
    sample = Sample.open(tmp_path, "smears")
    import_cells([folder], sample, CellImport("stained-rgb", 0.1))
    images = CellStore(sample.cells_path).images(0, len(chosen))
    bundle = load_bundle("smear-shufflenet")
    calls = {}
    shape = (4, bundle.info.side, bundle.info.side)
    for engine in (
        TorchEngine(bundle.network(), CPU),
        TorchEngine(bundle.network(), CPU, "bfloat16"),
        OpenVinoEngine(bundle.network(), shape),
    ):
        classifier = Classifier(bundle, engine=engine)
        calls[engine.name] = classifier.call(classifier.probability(classifier.prepare(images)))[0]
    reference = np.array(calls.pop("torch-cpu-float32"))
    assert len(reference) == 60
    for name, found in calls.items():
        assert (np.array(found) == reference).mean() >= (0.999 if "float32" in name else 0.98), name


@pytest.mark.usefixtures("two_threads")
def test_predictions_do_not_depend_on_company(
    write_store: Callable[..., CellStore], tiny_bundle: Bundle
) -> None:
    store = write_store("s1", 50)
    classifier = Classifier(tiny_bundle, device="cpu", batch_size=16)
    prepared = classifier.prepare(store.images())
    whole = classifier.probability(prepared)
    assert whole.shape == (50, 3, 3)
    assert np.allclose(whole.sum(axis=-1), 1, atol=1e-5)
    assert np.array_equal(whole[:5], classifier.probability(prepared[:5]))
    assert np.array_equal(whole[32:], classifier.probability(prepared[32:]))


def test_a_cuda_device_that_is_not_there(tiny_bundle: Bundle) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="finds no GPU here; use --device cpu"):
        Classifier(tiny_bundle, device="cuda")


def test_calls_do_not_look_at_what_is_left_out(
    tiny_bundle: Bundle, write_store: Callable[..., CellStore]
) -> None:
    images = write_store("s1", 20).images()
    other = images.copy()
    other[:, 1] = 65535 - other[:, 1]
    classifier = Classifier(
        tiny_bundle, device="cpu", batch_size=16, excluded_modalities=["color2"]
    )
    one, two = (classifier.probability(classifier.prepare(item)) for item in (images, other))
    assert np.array_equal(one, two)
    whole = Classifier(tiny_bundle, device="cpu", batch_size=16)
    assert not np.array_equal(one, whole.probability(whole.prepare(images)))
