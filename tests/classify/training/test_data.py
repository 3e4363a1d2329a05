"""Which cells are learned from, in which order, and how they are normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wbcpipe.classify.models import normalise
from wbcpipe.classify.models.classes import class_order, split_channels
from wbcpipe.classify.models.normalise import Normalisation, fit_normalisation, resize
from wbcpipe.classify.training.augment import Augmentation, augment
from wbcpipe.classify.training.data import CellSet, epoch_indices, head_batches, load_cells
from wbcpipe.errors import TrainingDataError
from wbcpipe.samples.cell_columns import QcFlag

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.samples.cell_store import CellStore


def test_unlabelled_border_and_debris_cells_are_left_out(
    write_store: Callable[..., CellStore],
) -> None:
    labels = ["NEU", "LYM"] * 20
    labels[4] = ""
    flags = {0: int(QcFlag.BORDER), 1: int(QcFlag.DEBRIS), 2: int(QcFlag.DOUBLET)}
    store = write_store(labels=labels, quality=flags)
    cells = load_cells([("s1", store.path)], 32)
    assert len(cells) == 37
    assert cells.classes == ("NEU", "LYM")
    assert cells.modalities == ("color1", "color2", "fluorescence")
    assert np.array_equal(cells.images[0], store.images(2, 3)[0])


def test_several_samples_keep_their_fields_apart(write_store: Callable[..., CellStore]) -> None:
    stores = [
        ("a", write_store("a", 30, fields=5).path),
        ("b", write_store("b", 30, fields=5, seed=1).path),
    ]
    cells = load_cells(stores, 32)
    assert len(np.unique(cells.groups)) == 10
    assert not set(cells.groups[:30]) & set(cells.groups[30:])
    assert cells.samples == ("a", "b")


BAD = [
    pytest.param({"labels": ["NEU"] * 40}, {}, "all 40 labelled cells are 'NEU'", id="one-class"),
    pytest.param(
        {"labels": ["NEU", "LYM"] * 4},
        {},
        "8 labelled cells inside their field, at least 16",
        id="too-few",
    ),
    pytest.param(
        {}, {"modalities": ("color1", "fluorescence")}, "different modalities", id="modalities"
    ),
    pytest.param({}, {"pixel_um": 0.2}, "crops of 0.1 um and 0.2 um", id="pixel"),
]


@pytest.mark.parametrize(("first", "second", "text"), BAD)
def test_cells_that_cannot_train(
    write_store: Callable[..., CellStore],
    first: dict[str, object],
    second: dict[str, object],
    text: str,
) -> None:
    sources = [("a", write_store("a", **first).path)]
    if second:
        sources.append(("b", write_store("b", **second).path))
    with pytest.raises(TrainingDataError, match=text):
        load_cells(sources, 32)


def test_channels_form_modalities_of_planes() -> None:
    assert split_channels(["color1", "fluorescence"]) == (("color1", "fluorescence"), 1)
    assert split_channels(["a:r", "a:g", "b:r", "b:g"]) == (("a", "b"), 2)
    with pytest.raises(TrainingDataError, match="do not form modalities"):
        split_channels(["a:r", "b:r", "a:g", "b:g"])
    with pytest.raises(TrainingDataError, match="do not form modalities"):
        split_channels(["a:r", "a:g", "b"])


def test_classes_come_from_the_data() -> None:
    assert class_order({"MO", "LYM", "", "G1"}) == ("LYM", "MO", "G1")
    assert class_order({"G2", "G1"}, ["G1", "S", "G2"]) == ("G1", "G2")


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [("natural", [90, 9, 1]), ("balanced", [34, 33, 33]), ("sqrt", [70, 22, 8])],
)
def test_sampling_shares(sampling: str, expected: list[int]) -> None:
    labels = np.repeat([0, 1, 2], [90, 9, 1]).astype(np.int64)
    rows = epoch_indices(labels, sampling, np.random.default_rng(0))  # type: ignore[arg-type]
    assert np.bincount(labels[rows]).tolist() == expected
    counts = np.bincount(rows, minlength=100)[labels == 1]
    assert counts.max() - counts.min() <= 1


def test_inputs_are_independent_cells_but_for_repetition() -> None:
    rows = np.arange(4000)
    batches = list(head_batches(rows, 4, 50, 0.0, np.random.default_rng(0)))
    table = np.concatenate([part for part, _ in batches])
    assert not any(same.any() for _, same in batches)
    for column in table.T:
        assert np.array_equal(np.sort(column), rows)  # each input sees each cell once an epoch
    assert abs(np.corrcoef(table.T) - np.eye(4)).max() < 0.05
    assert (table[:, 0] == table[:, 1]).mean() < 0.01


def test_repetition_gives_one_cell_to_all_inputs() -> None:
    batches = list(head_batches(np.arange(4000), 4, 50, 0.5, np.random.default_rng(0)))
    same = np.concatenate([part for _, part in batches])
    table = np.concatenate([part for part, _ in batches])
    assert same.mean() == pytest.approx(0.5, abs=0.03)
    assert (table[same] == table[same, :1]).all()


def test_small_sets_make_one_batch_and_rests_are_left_out() -> None:
    rng = np.random.default_rng(0)
    assert [len(part) for part, _ in head_batches(np.arange(10), 1, 64, 1.0, rng)] == [10]
    assert [len(part) for part, _ in head_batches(np.arange(70), 2, 32, 0.0, rng)] == [32, 32]


@pytest.mark.parametrize(("side", "tolerance"), [(56, 0.51), (100, 0.51), (112, 0.51)])
def test_resizing_keeps_means(side: int, tolerance: float) -> None:
    images = np.random.default_rng(0).integers(0, 65536, (2, 3, 224, 224)).astype(np.uint16)
    small = resize(images, side)
    assert small.shape == (2, 3, side, side)
    np.testing.assert_allclose(small.mean(axis=(2, 3)), images.mean(axis=(2, 3)), atol=tolerance)


def test_resizing_by_two_rounds_half_up() -> None:
    image = np.array([[[[1, 2], [2, 1]]]], np.uint16)
    assert resize(image, 1).item() == 2
    assert resize(image, 2) is image
    assert resize(np.full((1, 1, 6, 6), 65535, np.uint16), 4).max() == 65535


def test_normalisation_is_blind_to_exposure(cells: CellSet) -> None:
    normalisation = fit_normalisation(cells.images)
    assert normalisation.polarity == ("bright", "bright", "dark")
    plain = normalisation.apply(cells.images[:20])
    dimmed = normalisation.apply((cells.images[:20] * 0.5).astype(np.uint16))
    assert np.abs(plain - dimmed).max() < 0.02
    offset = cells.images[:20].copy()
    offset[:, 2] = offset[:, 2] // 2 + 3000
    assert np.abs(plain[:, 2] - normalisation.apply(offset)[:, 2]).max() < 0.02
    assert abs(plain.mean()) < 0.2
    assert plain.std() == pytest.approx(1, abs=0.2)


def test_a_few_cells_at_a_time_are_normalised_as_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.random.default_rng(0).integers(0, 65536, (7, 3, 32, 32)).astype(np.uint16)
    normalisation = Normalisation(
        polarity=("bright", "dark", "fixed"), mean=(0.5, 0.4, 0.3), std=(0.01, 0.2, 0.1)
    )
    gain, offset = (values[:, :, None, None] for values in normalisation.affine(images))
    expected = np.clip(images.astype(np.float32) * gain + offset, -8, 8)
    assert expected.max() == 8
    monkeypatch.setattr(normalise, "CACHE_BYTES", 2 * 4 * 3 * 32 * 32)
    assert np.array_equal(normalisation.apply(images), expected)
    room = np.full((9, 3, 32, 32), 3, np.float32)
    assert normalisation.apply(images, room[:7]).base is room
    assert np.array_equal(room[:7], expected)
    assert (room[7:] == 3).all()


def test_fixed_normalisation_keeps_the_amount_of_light(cells: CellSet) -> None:
    normalisation = fit_normalisation(cells.images, "fixed")
    values = normalisation.apply(cells.images)
    assert values.mean(axis=(0, 2, 3)) == pytest.approx(np.zeros(3), abs=0.01)
    assert values.std(axis=(0, 2, 3)) == pytest.approx(np.ones(3), abs=0.01)
    dimmed = normalisation.apply(cells.images // 2)
    assert (dimmed.mean(axis=(0, 2, 3)) < -0.3).all()


def test_stain_normalisation_is_blind_to_how_strong_the_stain_is(cells: CellSet) -> None:
    normalisation = fit_normalisation(cells.images, "stain")
    assert normalisation.polarity == ("stained", "stained", "dark")
    plain = normalisation.apply(cells.images[:20])
    paler = cells.images[:20].copy()
    paler[:, :2] = (
        paler[:, :2] // 2 + 20000
    )  # a third of the light that the stain took is back, the lamp is dimmer
    np.testing.assert_allclose(normalisation.apply(paler), plain, atol=0.02)
    assert np.abs(fit_normalisation(cells.images).apply(paler) - plain).max() > 0.2


def test_an_empty_plane_stays_quiet(cells: CellSet) -> None:
    normalisation = fit_normalisation(cells.images)
    images = cells.images[:2].copy()
    images[:, 2] = 0
    values = normalisation.apply(images)[:, 2]
    assert np.isfinite(values).all()
    assert np.ptp(values) == 0


def test_normalisation_refuses_unknown_and_uneven_entries() -> None:
    good = {"polarity": ["bright"], "mean": [0.1], "std": [0.2]}
    for key in good:
        with pytest.raises(ValidationError):
            Normalisation.model_validate(
                {**{k: v for k, v in good.items() if k != key}, key + "s": good[key]}
            )
    with pytest.raises(ValidationError, match="one entry a plane"):
        Normalisation.model_validate({**good, "mean": [0.1, 0.2]})


def test_augmentation_off_changes_nothing_and_is_repeatable() -> None:
    images = torch.randn(6, 4, 32, 32)
    same = torch.tensor([True, False] * 3)
    still = Augmentation(rotate=False, scale=0, shift=0, gain=0, offset=0, gamma=0, blur=0, noise=0)
    torch.testing.assert_close(
        augment(images, same, 4, still, torch.Generator()), images, atol=1e-5, rtol=1e-5
    )
    first, second = (
        augment(images, same, 4, Augmentation(), torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, images)
    assert augment(images, same, 4, Augmentation(), torch.Generator(), side=24).shape == (
        6,
        4,
        24,
        24,
    )


def test_one_cell_keeps_one_geometry_and_independent_cells_do_not() -> None:
    plane = torch.randn(8, 1, 32, 32)
    images = plane.expand(8, 3, 32, 32).contiguous()
    same = torch.tensor([True] * 4 + [False] * 4)
    only_geometry = Augmentation(gain=0, offset=0, gamma=0, blur=0, noise=0)
    moved = augment(images, same, 3, only_geometry, torch.Generator().manual_seed(0))
    assert torch.equal(moved[:4, 0], moved[:4, 1])
    assert not torch.isclose(moved[4:, 0], moved[4:, 1]).all(dim=-1).all(dim=-1).any()


def test_the_grid_is_torchs() -> None:
    from wbcpipe.classify.training.augment import _grid

    theta = torch.randn(3, 2, 3)
    expected = torch.nn.functional.affine_grid(theta, [3, 1, 17, 17], align_corners=False)
    torch.testing.assert_close(_grid(theta, 17), expected, atol=1e-5, rtol=1e-5)
