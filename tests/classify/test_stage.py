"""A sample is classified once, the same each time, and as its options say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.classify.cli import classify
from wbcpipe.classify.inference.classifier import Classifier
from wbcpipe.classify.inference.missing_modality import dead_modalities
from wbcpipe.classify.stage import ClassifyOptions, classify_sample
from wbcpipe.errors import BundleError, ConfigError
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import PREDICTIONS, CellStore
from wbcpipe.samples.complete_store import METADATA, group_metadata
from wbcpipe.samples.differential_record import ModelF1
from wbcpipe.samples.sample import Sample
from wbcpipe.system.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.classify.models.bundle import Bundle


MODALITIES = ("color1", "color2", "fluorescence")
CPU16 = ClassifyOptions(device="cpu", batch_size=16)


def test_the_size_of_a_batch_that_nobody_asked_for_is_noted(
    write_store: Callable[..., CellStore], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    write_store("s1", 20)
    sample = Sample.open(tmp_path, "s1")
    classify_sample(sample, tiny_bundle, ClassifyOptions(device="cpu", engine="torch"))
    assert CellStore(sample.cells_path).classification().batch_size == 32


def test_classify_writes_calls_once(
    write_store: Callable[..., CellStore], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    write_store("s1", 50, quality={3: 64})
    sample = Sample.open(tmp_path, "s1")
    steps: list[tuple[str, int, int]] = []
    summary = classify_sample(sample, tiny_bundle, CPU16, progress=lambda *step: steps.append(step))
    compiling = [("compiling tiny", 0, 1), ("compiling tiny", 1, 1)]
    assert steps == [*compiling, *(("cells classified", done, 50) for done in (32, 50))]
    assert not summary.already_classified
    assert sum(summary.counts.values()) == 50
    store = CellStore(sample.cells_path)
    classified = store.classification()
    assert classified.sha256 == tiny_bundle.info.sha256
    assert classified.heads == tuple(MODALITIES)
    assert classified.batch_size == 16
    assert classified.classes == ("NEU", "LYM", "MO")
    assert store.column("probability").shape == (50, 3, 3)
    assert np.isfinite(store.column("probability")[3]).all()  # debris too
    confidence = store.column("confidence")
    unidentified = np.array(store.predicted_classes()) == "unidentified"
    assert np.array_equal(unidentified, confidence < np.float32(0.3))
    before = {p: p.read_bytes() for p in sample.cells_path.rglob("*") if p.is_file()}
    assert classify_sample(sample, tiny_bundle, CPU16).already_classified
    assert before == {p: p.read_bytes() for p in sample.cells_path.rglob("*") if p.is_file()}


def test_a_sample_that_the_bundle_was_trained_on_is_recorded(
    write_store: Callable[..., CellStore], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    write_store("s1", 20)
    sample = Sample.open(tmp_path, "s1")
    for samples, trained in ((("s0",), False), (("s0", "s1"), True)):
        training = tiny_bundle.info.training.model_copy(update={"samples": samples})
        info = tiny_bundle.info.model_copy(update={"training": training})
        bundle = replace(tiny_bundle, info=info)
        assert not classify_sample(sample, bundle, CPU16).already_classified
        assert CellStore(sample.cells_path).classification().trained_on_sample is trained
        assert classify_sample(sample, bundle, CPU16).already_classified


@pytest.mark.parametrize(
    ("name", "damage"),
    [("probability", "flipped"), ("confidence", "deleted"), ("predicted_class", "metadata")],
)
def test_damaged_classes_are_written_anew(
    write_store: Callable[..., CellStore],
    tiny_bundle: Bundle,
    tmp_path: Path,
    name: str,
    damage: str,
) -> None:
    write_store("s1", 20)
    sample = Sample.open(tmp_path, "s1")
    classify_sample(sample, tiny_bundle, CPU16)
    store = CellStore(sample.cells_path)
    before = {column: store.column(column).tolist() for column in PREDICTIONS}
    chunk = next((sample.cells_path / name).glob("c.*"))
    if damage == "flipped":
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content)
    elif damage == "deleted":
        chunk.unlink()
    else:
        (sample.cells_path / name / "zarr.json").write_text("{}")
    assert not classify_sample(sample, tiny_bundle, CPU16).already_classified
    store = CellStore(sample.cells_path)
    assert {column: store.column(column).tolist() for column in PREDICTIONS} == before


@pytest.mark.usefixtures("two_threads")
def test_the_same_cells_give_the_same_bytes(
    write_store: Callable[..., CellStore],
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for name in ("a", "b"):
        write_store(name, 40)
        # Each is classified as by a process of its own.
        monkeypatch.setattr("wbcpipe.classify.inference.select_engine._kept", {})
        classify_sample(Sample.open(tmp_path, name), tiny_bundle, CPU16)
        store = CellStore(tmp_path / name / "cells.zarr")
        found.append((store.column("probability").tobytes(), store.predicted_classes()))
    assert found[0] == found[1]


def test_a_bundle_that_does_not_fit(
    write_store: Callable[..., CellStore], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    write_store("a", 30, modalities=("color1", "fluorescence"))
    with pytest.raises(
        BundleError,
        match=r"'tiny' reads modalities \['color1', 'color2', 'fluorescence'\].*'a' have",
    ):
        classify_sample(Sample.open(tmp_path, "a"), tiny_bundle)
    write_store("b", 30, pixel_um=0.12)
    with pytest.raises(
        BundleError, match=r"reads crops of 0\.1 um a pixel.*'b' have 0\.12 um.*--pixel-um 0\.1"
    ):
        classify_sample(Sample.open(tmp_path, "b"), tiny_bundle)


def test_classify_without_is_written_down_and_repeatable(
    tiny_bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    write_store("s1", 30)
    given = ["--sample", "s1", "--bundle", str(tiny_bundle.path), "--data", str(tmp_path), "--json"]

    def run(*more: str) -> dict[str, object]:
        return dict(
            json.loads(CliRunner().invoke(classify, [*given, *more], catch_exceptions=False).stdout)
        )

    assert run()["excluded_modalities"] == []
    left = run("--exclude-modality", "color2")
    assert (left["excluded_modalities"], left["already_classified"]) == (["color2"], False)
    assert run("--exclude-modality", "color2")["already_classified"]
    classified = CellStore(tmp_path / "s1" / "cells.zarr").classification()
    assert classified.f1_weighted == ModelF1(all_modalities=0.95, remaining_modalities=0.9)
    run("--exclude-modality", "color1", "--exclude-modality", "color2")
    classified = CellStore(tmp_path / "s1" / "cells.zarr").classification()
    assert classified.f1_weighted == ModelF1(all_modalities=0.95, remaining_modalities=None)
    assert classified.excluded_modalities == ("color1", "color2")
    assert not run()["already_classified"]


def test_a_dead_lamp_is_noticed(
    tiny_bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    store = write_store("s1", 30, quality=dict.fromkeys(range(20), QcFlag.MISSING_MODALITY.value))
    assert dead_modalities(store, MODALITIES, (0, 1, 2)) == ()
    import zarr

    images = zarr.open_group(str(store.path), mode="r+")["images"]
    assert isinstance(images, zarr.Array)
    images[:, 1] = 400
    unchecked = store.attributes.model_copy(update={"chunks": {}})
    write_json(store.path / METADATA, group_metadata(unchecked))
    sample = Sample.open(tmp_path, "s1")
    assert dead_modalities(CellStore(store.path), MODALITIES, (0, 1, 2)) == ("color2",)
    summary = classify_sample(sample, tiny_bundle, CPU16)
    assert summary.excluded_modalities == ("color2",)
    assert CellStore(store.path).classification().dead_modalities == ("color2",)
    assert classify_sample(sample, tiny_bundle, CPU16).already_classified


def test_errors_are_bounded_as_asked_or_refused(
    tiny_bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    write_store("s1", 30)
    sample = Sample.open(tmp_path, "s1")
    usual = classify_sample(sample, tiny_bundle, CPU16)
    bound = CellStore(sample.cells_path).classification().risk_control
    assert bound is not None
    assert bound.error_bound == 0.2
    assert (usual.risk_control is None) == bool(usual.doubts), "a doubt takes the bound back"
    strict = classify_sample(sample, tiny_bundle, replace(CPU16, max_error=0.15))
    bound = CellStore(sample.cells_path).classification().risk_control
    assert bound is not None
    assert bound.error_bound == 0.1
    assert any(
        "are identified; a statement on their error needs 20" in text for text in strict.doubts
    )
    assert strict.risk_control is None
    assert not strict.already_classified
    assert CellStore(sample.cells_path).classification().threshold == 0.35
    with pytest.raises(
        ConfigError, match=r"at most 1 % cannot be guaranteed: 100 test cells bound it by 10 %"
    ):
        classify_sample(sample, tiny_bundle, replace(CPU16, max_error=0.01))
    with pytest.raises(ConfigError, match="has no error bounds for these modalities"):
        Classifier(tiny_bundle, device="cpu", excluded_modalities=["color2"], max_error=0.1)
