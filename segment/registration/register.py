"""Register the modalities of a field.

Shift, rotation and scale against the reference, below a pixel.

Edges are compared (``edges.edge_map``), not brightness. All pairs of modalities are measured and
adjusted together, as a surveyor's network, so that strong pairs support a weak one (red light
against fluorescence).

Rotation, scale and typical shift are constant over a slide and estimated once from several fields
(``slide_alignment.estimate_slide_alignment``); a field then has its own shift (`align`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.peaks import subpixel_peaks
from wbcpipe.imaging.translation import correlate_pairs, tile_centres
from wbcpipe.samples.segment_settings.registration import RegistrationSettings
from wbcpipe.segment.registration.edges import coarse_factor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from wbcpipe.samples.fields import FieldInfo

__all__ = [
    "Alignment",
    "align",
    "compose_alignments",
    "connected",
    "identity",
    "slide_transform_alignment",
    "warp",
    "without_shift",
]

#: Field-to-field variation assumed where too few fields were measured: a prior, no setting.
UNKNOWN_SCATTER_PX: Final = 1.0
_DEFAULT: Final = RegistrationSettings()


@dataclass(frozen=True)
class Alignment:
    """The map from reference pixels to those of M modalities, (y, x): ``q = linear @ (p - centre) +
    centre + shift``.

    Attributes:
        linear: (M, 2, 2) float64, rotation and scale.
        shift_px: (M, 2) float64, in pixels of the frames.
        residual_px: (M,) float64, estimated standard error of the shift.
        scatter_px: (M, M) float64, how much the shift between two modalities varies from field to
            field.
        trusted: (M,) bool; False where the shift of the slide is used.
        centre_px: (2,) float64, centre of the frames.
    """

    linear: NDArray[np.float64]
    shift_px: NDArray[np.float64]
    residual_px: NDArray[np.float64]
    scatter_px: NDArray[np.float64]
    trusted: NDArray[np.bool_]
    centre_px: NDArray[np.float64]

    def to_modality(self, modality: int, points_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (N, 2) of the reference to points (N, 2) of a modality."""
        return np.asarray(
            (points_px - self.centre_px) @ self.linear[modality].T
            + self.centre_px
            + self.shift_px[modality]
        )


def identity(modalities: int, shape: tuple[int, ...]) -> Alignment:
    """Return the alignment of frames (Y, X) that are registered by construction."""
    return Alignment(
        linear=np.tile(np.eye(2), (modalities, 1, 1)),
        shift_px=np.zeros((modalities, 2)),
        residual_px=np.zeros(modalities),
        scatter_px=np.full((modalities, modalities), UNKNOWN_SCATTER_PX),
        trusted=np.ones(modalities, bool),
        centre_px=(np.array(shape, float) - 1) / 2,
    )


def slide_transform_alignment(
    info: FieldInfo, modalities: int, shape: tuple[int, ...], *, reference: int
) -> Alignment:
    """Return the alignment that follows from the slide transform between the passes alone.

    The reference was taken in the last pass, all others in the first. Identity for a field of a
    single pass.

    Args:
        info: of the field, with all its passes.
        modalities: their number.
        shape: (Y, X) of the frames.
        reference: index of the reference modality.
    """
    plain = identity(modalities, shape)
    if info.slide_transform is None:
        return plain
    angle = np.deg2rad(info.slide_transform.rotation_deg)
    # As (y, x): the point q of the rotated slide was at R(-angle) q before.
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = (
        np.array([info.slide_transform.y_um - info.y_um, info.slide_transform.x_um - info.x_um])
        / info.pixel_um
    )
    linear, shifts = plain.linear.copy(), plain.shift_px.copy()
    others = [k for k in range(modalities) if k != reference]
    linear[others], shifts[others] = back, shift
    return replace(plain, linear=linear, shift_px=shifts)


def without_shift(alignment: Alignment) -> Alignment:
    """Return the identity with the errors of an alignment: what it measured is too small to
    matter.
    """
    plain = np.broadcast_to(np.eye(2), alignment.linear.shape).copy()
    return replace(alignment, linear=plain, shift_px=np.zeros_like(alignment.shift_px))


def compose_alignments(slide: Alignment, transform: Alignment) -> Alignment:
    """Compose two alignments: apply ``transform`` (see `slide_transform_alignment`) first, then the
    slide's.
    """
    shift = np.einsum("mij,mj->mi", slide.linear, transform.shift_px) + slide.shift_px
    return replace(slide, linear=slide.linear @ transform.linear, shift_px=shift)


def align(
    edges: Sequence[NDArray[np.float32]],
    slide: Alignment,
    pixel_um: float,
    *,
    reference: int,
    settings: RegistrationSettings = _DEFAULT,
) -> Alignment:
    """Register one field, starting from the alignment of its slide.

    Args:
        edges: M arrays (y, x) from ``edges.edge_map``.
        slide: from ``estimate_slide_alignment``.
        pixel_um: size of a frame's pixel.
        reference: index of the reference modality.
        settings: how far to search, and what to trust.

    Returns:
        The field's alignment; the linear part is that of the slide.
    """
    found = _align_within(edges, slide, pixel_um, reference, settings, settings.field_search_um)
    if not found.trusted.all():
        wider = _align_within(
            edges, slide, pixel_um, reference, settings, settings.field_wide_search_um
        )
        if wider.trusted.sum() > found.trusted.sum():
            return wider
    return found


def _align_within(
    edges: Sequence[NDArray[np.float32]],
    slide: Alignment,
    pixel_um: float,
    reference: int,
    settings: RegistrationSettings,
    search_um: float,
) -> Alignment:
    factor = coarse_factor(pixel_um, settings)
    warped = [
        values if k == reference else warp(values, slide, k, factor)
        for k, values in enumerate(edges)
    ]
    shape = warped[0].shape
    search = max(2, min(round(search_um / pixel_um / factor), min(shape) // 6))
    half = (min(shape) - 2 * search) // 4
    surfaces = correlate_pairs(warped, tile_centres(shape, half, search, 2 * half), half, search)
    pairs: list[tuple[int, int]] = []
    shifts: list[NDArray[np.float64]] = []
    errors: list[float] = []
    for pair, (surface, weight) in surfaces.items():
        peak, _, prominence = subpixel_peaks(
            (surface * weight[:, None, None]).sum(0, keepdims=True)
        )
        if not np.isfinite(peak).all() or prominence[0] < settings.field_min_prominence:
            continue
        pairs.append(pair)
        shifts.append(peak[0] * factor)
        errors.append(_standard_error(surface, peak[0], settings.field_min_prominence) * factor)
    measured = np.array(shifts).reshape(-1, 2), np.array(errors)
    shift, error, known = _adjust(reference, pairs, *measured, slide.scatter_px)
    known &= error <= settings.max_error_px
    shift_of_frames = np.einsum("mij,mj->mi", slide.linear, shift)
    return replace(
        slide,
        shift_px=slide.shift_px + np.where(known[:, None], shift_of_frames, 0.0),
        residual_px=np.where(known, error, slide.residual_px),
        trusted=known,
    )


def _standard_error(
    surfaces: NDArray[np.float32], shift: NDArray[np.float64], min_prominence: float
) -> float:
    """Return the standard error of a shift, in coarse pixels, from the distances of the tiles' own
    peaks to it.
    """
    peaks, _, prominence = subpixel_peaks(surfaces)
    off = np.hypot(*(peaks - shift).T)
    good = np.isfinite(off) & (prominence > min_prominence) & (off < 2.0)
    if good.sum() < 2:
        return 0.25
    return float(np.sqrt(np.mean(off[good] ** 2) / 2 / good.sum()))


def _adjust(
    reference: int,
    pairs: Sequence[tuple[int, int]],
    shifts: NDArray[np.float64],
    errors: NDArray[np.float64],
    scatter: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Adjust the shifts of all M modalities against the reference by least squares, from measured
    pairs.

    Args:
        reference: index of the reference.
        pairs: P pairs of modalities.
        shifts: (P, 2) of the second against the first.
        errors: (P,) standard errors of these.
        scatter: (M, M) typical deviation of a pair's shift from that of the slide; bounds weak
            measurements.

    Returns: (M, 2) shifts, (M,) standard errors, (M,) whether a chain of pairs connects the
        modality to the reference.
    """
    modalities = len(scatter)
    known = connected(pairs, modalities, reference)
    shift, error = np.zeros((modalities, 2)), np.zeros(modalities)
    free = [k for k in range(modalities) if known[k] and k != reference]
    if not free:
        return shift, error, known
    used = [k for k, (first, _) in enumerate(pairs) if known[first]]
    priors = _tightest_pairs(scatter, [reference, *free])
    rows = [pairs[k] for k in used] + priors
    observed = np.concatenate([shifts[used], np.zeros((len(priors), 2))])
    sigma = np.concatenate([np.maximum(errors[used], 0.02), [scatter[pair] for pair in priors]])
    design = np.zeros((len(rows), len(free)))
    for row, pair in enumerate(rows):
        for sign, modality in zip((-1.0, 1.0), pair, strict=True):
            if modality != reference:
                design[row, free.index(modality)] = sign
    weighted = design / sigma[:, None]
    covariance = np.linalg.inv(weighted.T @ weighted)
    shift[free] = covariance @ weighted.T @ (observed / sigma[:, None])
    error[free] = np.sqrt(np.diag(covariance))
    return shift, error, known


def connected(
    pairs: Iterable[tuple[int, int]], modalities: int, reference: int
) -> NDArray[np.bool_]:
    """Return whether a chain of measured pairs connects each modality (M,) to the reference."""
    known = np.zeros(modalities, bool)
    known[reference] = True
    for _, (first, second) in itertools.product(range(modalities), set(pairs)):
        known[first] = known[second] = known[first] or known[second]
    return known


def _tightest_pairs(scatter: NDArray[np.float64], members: Sequence[int]) -> list[tuple[int, int]]:
    """Return the spanning tree of least scatter (Prim): the pairs that connect ``members`` most
    tightly.
    """
    inside, pairs = {members[0]}, []
    while len(inside) < len(members):
        outside = [k for k in members if k not in inside]
        one, other = min(
            ((i, j) for i in sorted(inside) for j in outside),
            key=lambda pair: (scatter[pair], pair),
        )
        inside.add(other)
        pairs.append((one, other))
    return pairs


def warp(
    values: NDArray[np.float32], alignment: Alignment, modality: int, factor: int
) -> NDArray[np.float32]:
    """Return a modality's edge map in the reference's pixels, (y, x) float32."""
    linear = alignment.linear[modality]
    centre = (alignment.centre_px + 0.5) / factor - 0.5
    offset = centre + alignment.shift_px[modality] / factor - linear @ centre
    if max(abs(linear[0, 1]), abs(linear[1, 0])) * max(values.shape) < 0.05:
        # Without rotation rows and columns are separable, which is several times faster.
        for axis in (0, 1):
            values = _interpolate_axis(values, axis, float(linear[axis, axis]), float(offset[axis]))
        return values
    return np.asarray(
        ndimage.affine_transform(values, linear, offset, order=1, mode="nearest"), np.float32
    )


def _interpolate_axis(
    values: NDArray[np.float32], axis: int, scale: float, offset: float
) -> NDArray[np.float32]:
    """Interpolate linearly along one axis at ``scale * k + offset``; the edge is repeated."""
    positions = np.clip(np.arange(values.shape[axis]) * scale + offset, 0, values.shape[axis] - 1)
    low = np.minimum(positions.astype(np.intp), values.shape[axis] - 2)
    high_weight = (positions - low).astype(np.float32)
    high_weight = high_weight[:, None] if axis == 0 else high_weight
    low_values, high_values = np.take(values, low, axis), np.take(values, low + 1, axis)
    return np.asarray(low_values * (1 - high_weight) + high_values * high_weight, np.float32)
