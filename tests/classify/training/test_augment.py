"""Augmentation: one geometry for one cell, whole pixels where promised, RandAugment's operations,
all from the seed.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pictures

from wbcpipe.classify.training.augment import (
    Augmentation,
    add_rims,
    augment,
    restain,
    sample_affine,
)
from wbcpipe.classify.training.randaugment import (
    _GEOMETRIC,
    _LIGHT,
    RandAugment,
    _change_light,
    _compose,
    _geometry,
    rand_augment,
)

STILL: dict[str, Any] = {"gain": 0.0, "offset": 0.0, "gamma": 0.0, "blur": 0.0, "noise": 0.0}


def cells(batch: int = 12, inputs: int = 3, side: int = 32) -> torch.Tensor:
    """Smooth pictures (B, inputs, side, side) whose planes are alike."""
    noise = torch.randn((batch, 1, side, side), generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2, count_include_pad=False)
    return smooth.expand(batch, inputs, side, side).clone()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_one_cell_keeps_one_geometry_and_independent_ones_have_their_own() -> None:
    same = torch.arange(12) < 6
    changed = augment(cells(), same, 3, Augmentation(**STILL), generator())
    alike = (changed - changed[:, :1]).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert alike[same].all()
    assert not alike[~same].any()


def test_randaugment_moves_one_cell_as_one_and_lights_it_by_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.Tensor] = []

    def sampled(images: torch.Tensor, theta: torch.Tensor, side: int, how: str) -> torch.Tensor:
        del side, how
        seen.append(theta)
        return images

    monkeypatch.setattr("wbcpipe.classify.training.randaugment.sample_affine", sampled)
    images = cells(batch=60)
    one_cell = rand_augment(images, torch.ones(60, dtype=torch.bool), 3, RandAugment(), generator())
    together = seen.pop().reshape(-1, 3, 2, 3)
    assert torch.equal(together, together[:, :1].expand_as(together))
    assert (one_cell - one_cell[:, :1]).abs().amax(dim=(1, 2, 3)).gt(1e-3).any(), (
        "light is each input's own"
    )
    rand_augment(images, torch.zeros(60, dtype=torch.bool), 3, RandAugment(), generator())
    assert len(seen[0]) % 3 or not torch.equal(*seen[0].reshape(-1, 3, 2, 3)[:, :2].unbind(1))


def test_exact_pictures_keep_their_pixels() -> None:
    images = cells(inputs=1)
    changed = augment(
        images,
        torch.ones(12, dtype=torch.bool),
        1,
        Augmentation(lossless_prob=1.0, shift=0.0, **STILL),
        generator(),
    )
    assert not torch.equal(changed, images)
    for before, after in zip(images, changed, strict=True):
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)


def test_interpolated_pictures_are_softer_and_exact_ones_are_not() -> None:
    images = torch.randn((32, 1, 32, 32), generator=generator())
    same = torch.ones(32, dtype=torch.bool)
    sharp = [
        augment(
            images,
            same,
            1,
            Augmentation(lossless_prob=exact, interpolation="bilinear", shift=0.0, **STILL),
            generator(),
        )
        .diff(dim=-1)
        .std()
        for exact in (0.0, 1.0)
    ]
    assert sharp[0] < 0.8 * images.diff(dim=-1).std()
    assert sharp[1] == pytest.approx(float(images.diff(dim=-1).std()), rel=0.05)


def test_randaugment_comes_from_the_seed_and_does_nothing_at_no_operations() -> None:
    images, same = cells(), torch.zeros(12, dtype=torch.bool)
    one, other = (rand_augment(images, same, 3, RandAugment(), generator()) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.allclose(one, images)
    assert torch.allclose(
        rand_augment(images, same, 3, RandAugment(operations=0), generator()), images, atol=1e-6
    )
    assert rand_augment(images, same, 3, RandAugment(), generator(), side=16).shape == (
        12,
        3,
        16,
        16,
    )


def test_movements_are_those_of_the_published_magnitude() -> None:
    number = torch.tensor(
        [[_GEOMETRIC.index("rotate"), _GEOMETRIC.index("translate_x"), len(_GEOMETRIC)]]
    )
    rotated, shifted, still = _geometry(number, torch.ones(1, 3), 18 / 30)[0]
    assert torch.rad2deg(torch.arcsin(rotated[1, 0])) == pytest.approx(18.0, abs=1e-4)
    assert shifted[0, 2] / 2 == pytest.approx(150 / 331 * 0.6)
    assert torch.equal(still, torch.eye(2, 3))


def moved(name: str) -> torch.Tensor:
    return _geometry(torch.tensor([[_GEOMETRIC.index(name)]]), -torch.ones(1, 1), 18 / 30)[0]


def test_movements_are_torchvisions() -> None:
    picture = cells(batch=1, inputs=1, side=64)
    middle = (..., slice(20, 44), slice(20, 44))
    still: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    degrees = math.degrees(math.atan(0.3 * 18 / 30))
    for name, change in (
        ("rotate", {"angle": 18.0}),
        ("shear_x", {"shear": [-degrees, 0.0]}),
        ("shear_y", {"shear": [0.0, -degrees]}),
    ):
        expected = pictures.affine(
            picture, interpolation=InterpolationMode.BILINEAR, **{**still, **change}
        )
        found = sample_affine(picture, moved(name), 64, "bilinear")
        torch.testing.assert_close(found[middle], expected[middle], atol=1e-4, rtol=0)


def test_two_movements_in_a_row_are_one_in_their_order() -> None:
    picture = cells(batch=1, inputs=1, side=64)
    smooth = torch.nn.functional.avg_pool2d(picture, 9, stride=1, padding=4)
    middle = (..., slice(24, 40), slice(24, 40))
    first, second = moved("rotate"), moved("translate_x")
    in_a_row = sample_affine(sample_affine(smooth, first, 64, "bicubic"), second, 64, "bicubic")[
        middle
    ]
    errors = [
        float(
            (sample_affine(smooth, _compose(*order), 64, "bicubic")[middle] - in_a_row).abs().max()
            / smooth.std()
        )
        for order in ((first, second), (second, first))
    ]
    assert errors[0] < 0.1 < 0.5 < errors[1]


@pytest.mark.parametrize("name", _LIGHT)
def test_operations_on_light(name: str) -> None:
    levels = torch.linspace(0.2, 0.6, 1024)[torch.randperm(1024, generator=generator())]
    unit = levels.reshape(1, 1, 32, 32).repeat(2, 2, 1, 1)
    before = unit.clone()
    _change_light(
        unit, torch.full((2,), len(_GEOMETRIC) + _LIGHT.index(name)), torch.tensor([1.0, -1.0]), 0.6
    )
    assert ((unit >= 0) & (unit <= 1)).all()
    up, down = unit[0, 0], unit[1, 0]
    match name:
        case "identity":
            assert torch.equal(unit, before)
        case "brightness":
            assert up.mean() == pytest.approx(
                float((before * 1.54).clamp(0, 1)[0, 0].mean()), rel=1e-5
            )
            assert down.mean() == pytest.approx(0.46 * 0.4, rel=1e-4)
        case "contrast":
            assert up.std() > before[0, 0].std() > down.std()
            assert down.mean() == pytest.approx(0.4, abs=0.01)
        case "autocontrast" | "equalize":
            assert (up.min(), up.max()) == pytest.approx((0.0, 1.0), abs=0.02)
        case "solarize":
            assert torch.equal(up[before[0, 0] < 0.4], before[0, 0][before[0, 0] < 0.4])
            assert up[before[0, 0] >= 0.4].max() == pytest.approx(0.6, abs=0.01)
        case "posterize":
            assert len(set(up.flatten().tolist())) < 64
        case "sharpness":
            assert up.diff(dim=-1).std() > before[0, 0].diff(dim=-1).std() > down.diff(dim=-1).std()


BRIGHT = torch.tensor([True, True, False])


def lights() -> torch.Tensor:
    """Shares of light (40, 3, 8, 8), other in each plane."""
    return torch.rand((40, 3, 8, 8), generator=generator()) * 0.8 + 0.1


def test_another_stain_multiplies_the_optical_density_of_bright_planes() -> None:
    before, same = lights(), torch.ones(40, dtype=torch.bool)
    after = restain(
        before.clone(), BRIGHT, same, Augmentation(stain=0.3, restained=1.0), generator()
    )
    power = after.log() / before.log()
    spread = power.flatten(2).std(dim=-1)
    assert spread[:, :2].max() < 1e-3, "one power a plane and picture"
    assert torch.equal(after[:, 2], before[:, 2])
    logarithm = power[:, :2].mean(dim=(2, 3)).log()
    assert logarithm.std() == pytest.approx(0.3, rel=0.25)
    assert abs(float(logarithm.mean())) < 0.1
    assert not torch.allclose(power[:, 0], power[:, 1]), "each plane has its own"


def test_colours_are_mixed_where_planes_show_one_cell_only() -> None:
    before, same = lights(), torch.arange(40) < 20
    options = Augmentation(stain=0.0, stain_mixing=0.2, restained=1.0)
    after = restain(before.clone(), BRIGHT, same, options, generator())
    torch.testing.assert_close(after[20:], before[20:])
    density, other = -after[:20, 0].log(), -before[:20, 1].log()
    share = (density + before[:20, 0].log()) / other
    within = after[:20, 0] < 1.5  # beyond that light is cut off
    for one, kept in zip(share, within, strict=True):
        assert one[kept].std() < 1e-3
    assert share[within].std() == pytest.approx(0.2, rel=0.4)


def test_only_the_share_asked_for_is_restained_and_all_comes_from_the_seed() -> None:
    before, same = lights(), torch.ones(40, dtype=torch.bool)
    options = Augmentation(stain=0.3, stain_mixing=0.1, restained=0.5)
    one, again = (restain(before.clone(), BRIGHT, same, options, generator()) for _ in range(2))
    assert torch.equal(one, again)
    changed = (one != before).flatten(1).any(dim=1)
    assert 10 <= int(changed.sum()) <= 30
    none = restain(before.clone(), torch.zeros(3, dtype=torch.bool), same, options, generator())
    assert torch.equal(none, before)


def test_rims_are_beside_the_cell_and_on_bright_planes_alone() -> None:
    before = torch.ones(40, 3, 64, 64)
    options = Augmentation(rims=0.5)
    after = add_rims(before.clone(), BRIGHT, options, generator())
    assert torch.equal(after, add_rims(before.clone(), BRIGHT, options, generator()))
    changed = (after != before).flatten(1).any(dim=1)
    assert 10 <= int(changed.sum()) <= 30
    assert torch.equal(after[:, 2], before[:, 2])
    assert torch.equal(after[:, 0], after[:, 1]), "all planes show the same rings"
    axis = (torch.arange(64) + 0.5) / 64 - 0.5
    middle = torch.hypot(axis[:, None], axis[None, :]) < 0.09
    assert (after[:, 0, middle] - 1).abs().max() < 0.02
    assert after[:, 0].min() < 0.3
    assert after[:, 0].max() > 1.05
    none = add_rims(before.clone(), torch.zeros(3, dtype=torch.bool), options, generator())
    assert torch.equal(none, before)


def test_defocus_smooths_the_share_asked_for() -> None:
    images = torch.randn(40, 2, 32, 32, generator=generator())
    options = Augmentation(**STILL, rotate=False, scale=0, shift=0, lossless_prob=1, defocus=0.5)
    after = augment(images, torch.ones(40, dtype=torch.bool), 1, options, generator())
    left = after.flatten(1).std(dim=1) / images.flatten(1).std(dim=1)
    smoothed = left < 0.6
    assert 10 <= int(smoothed.sum()) <= 30
    assert torch.equal(after[~smoothed], images[~smoothed])
    assert len({round(float(value), 1) for value in left[smoothed]}) >= 2, "once to three times"
