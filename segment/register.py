"""Where each modality shows what the reference shows: shift, rotation and scale, below a pixel.

Contrast turns over between modalities (a nucleus is bright in AO and dark in bright-field; a red cell absorbs at one
wavelength and only bends light at another), so edges are compared, not brightness: the gradient of the logarithm,
strong or weak. All pairs of modalities are measured and adjusted together, as a surveyor's network, so that a weak pair
(red light against fluorescence) is held by strong ones.

What stays the same over a slide (rotation and scale, and the usual shift) is found once from several fields
(``usual.find_usual``); a field then has its own shift (`align`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.segment.arrays import enlarge_grid, percentiles, shrink
from wbcpipe.segment.correlate import correlate_pairs, subpixel_peaks, tile_centres
from wbcpipe.segment.filters import gaussian

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wbcpipe.acquire.frames import FieldInfo

__all__ = [
    "Alignment",
    "align",
    "coarse_factor",
    "coarse_frame",
    "identity",
    "seat",
    "seated",
    "structure",
    "warp",
]

_COARSE_UM: Final = 0.4
#: Root mean square length of the central-difference gradient of unit noise under a Gaussian of 0.8 px.
_EDGES_OF_NOISE: Final = np.float32(0.64)
#: Search radii around the slide's usual shift: of any field, and of one that strayed.
_USUAL_UM: Final = 2.0
_STRAYED_UM: Final = 8.0
#: A field's registration of a pair counts when its correlation stands out by this much.
_LEAST_PROMINENCE: Final = 0.04
#: Field-to-field variation taken for granted where too few fields tell.
UNKNOWN_SCATTER_PX: Final = 1.0
#: A field's own shift is not trusted beyond this error.
_WORST_ERROR_PX: Final = 2.0


@dataclass(frozen=True)
class Alignment:
    """Maps reference pixels to each of M modalities' pixels: ``q = linear @ (p - centre) + centre + shift``, as (y, x).

    Attributes:
        linear: (M, 2, 2) float64, rotation and scale.
        shift_px: (M, 2) float64, in pixels of the frames.
        residual_px: (M,) float64, estimated standard error of the shift.
        scatter_px: (M, M) float64, how much the shift between two modalities varies from field to field.
        trusted: (M,) bool; False where the usual shift of the slide had to be used.
        centre_px: (2,) float64, centre of the frames.
    """

    linear: NDArray[np.float64]
    shift_px: NDArray[np.float64]
    residual_px: NDArray[np.float64]
    scatter_px: NDArray[np.float64]
    trusted: NDArray[np.bool_]
    centre_px: NDArray[np.float64]

    def to_modality(self, modality: int, points_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (N, 2) of the reference as points (N, 2) of a modality."""
        return np.asarray(
            (points_px - self.centre_px) @ self.linear[modality].T + self.centre_px + self.shift_px[modality]
        )


def identity(modalities: int, shape: tuple[int, ...]) -> Alignment:
    """The alignment of frames (Y, X) that are registered by construction."""
    return Alignment(
        linear=np.tile(np.eye(2), (modalities, 1, 1)),
        shift_px=np.zeros((modalities, 2)),
        residual_px=np.zeros(modalities),
        scatter_px=np.full((modalities, modalities), UNKNOWN_SCATTER_PX),
        trusted=np.ones(modalities, bool),
        centre_px=(np.array(shape, float) - 1) / 2,
    )


def seat(info: FieldInfo, modalities: int, shape: tuple[int, ...], *, reference: int) -> Alignment:
    """The alignment that follows from how the slide lay in its passes alone.

    The reference was taken in the last pass, all others in the first. Identity for a field of a single pass.

    Args:
        info: of the field, with all its passes.
        modalities: their number.
        shape: (Y, X) of the frames.
        reference: index of the reference modality.
    """
    plain = identity(modalities, shape)
    if info.reseated is None:
        return plain
    angle = np.deg2rad(info.reseated.rotation_deg)
    # As (y, x): what lies at q of the turned slide lay at R(-angle) q.
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([info.reseated.y_um - info.y_um, info.reseated.x_um - info.x_um]) / info.pixel_um
    linear, shifts = plain.linear.copy(), plain.shift_px.copy()
    others = [k for k in range(modalities) if k != reference]
    linear[others], shifts[others] = back, shift
    return replace(plain, linear=linear, shift_px=shifts)


def seated(usual: Alignment, seating: Alignment) -> Alignment:
    """The slide's usual alignment for a field that lies as `seat` says: first the seating, then what is usual."""
    shift = np.einsum("mij,mj->mi", usual.linear, seating.shift_px) + usual.shift_px
    return replace(usual, linear=usual.linear @ seating.linear, shift_px=shift)


def coarse_frame(frame: NDArray[np.uint16], pixel_um: float) -> NDArray[np.float32]:
    """A frame (Y, X) uint16 at the pixel size registration works with, (y, x) float32."""
    return shrink(frame, coarse_factor(pixel_um))


def structure(coarse: NDArray[np.float32], shading: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Edges of a frame, whatever its contrast, evened out.

    Args:
        coarse: (y, x) float32 from `coarse_frame`.
        shading: (rows, columns) float32 grid of the illumination; a quadratic fitted to the frame if ``None``. Uneven
            light left in would strengthen one side of every cell and so pretend a change of scale.

    Returns:
        (y, x) float32.
    """
    logarithm = np.log(np.maximum(coarse, 1))
    logarithm -= _quadratic(logarithm) if shading is None else enlarge_grid(np.log(shading), coarse.shape)
    noise = _noise(logarithm)
    smooth = gaussian(_shadows(logarithm, noise), 0.8)
    down, across = smooth[2:, 1:-1] - smooth[:-2, 1:-1], smooth[1:-1, 2:] - smooth[1:-1, :-2]
    square = np.zeros_like(smooth)
    square[1:-1, 1:-1] = down * down + across * across
    # Strong edges count alike. Nothing here looks at the neighbourhood: it would shift edges towards empty regions.
    steep = float(np.sqrt(percentiles(square[::2, ::2], 99)[0]))
    usual = 0.3 * steep + 2 * float(_EDGES_OF_NOISE * noise) + 1e-9
    fine = gaussian(square / (square + np.float32(usual**2)), 1.0)
    return fine - gaussian(fine, 4.0)


def _shadows(logarithm: NDArray[np.float32], noise: np.float32) -> NDArray[np.float32]:
    """Of a fluorescence frame (y, x) with shadows only these; any other frame as it is.

    Red cells shade the glow of free dye: dark disks, as in bright-field. A white cell glows unevenly, so its outline
    seems displaced towards its nucleus.
    """
    dark, level, bright = percentiles(logarithm[::2, ::2], 1, 50, 99.9)
    if bright - level > 0.5 and level - dark > max(0.05, 4 * float(noise)):
        return np.minimum(logarithm, np.float32(level + 0.02))
    return logarithm


def _noise(values: NDArray[np.float32]) -> np.float32:
    """Standard deviation of the noise of (y, x) values, from one row in four.

    J. Immerkaer, Comput. Vis. Image Underst. 64 (1996) 300, doi:10.1006/cviu.1996.0060, with a median for the mean.
    """
    rows = len(values) - 2
    down = values[:rows:4] - 2 * values[1 : 1 + rows : 4] + values[2 : 2 + rows : 4]
    laplacian = down[:, 2:] - 2 * down[:, 1:-1] + down[:, :-2]
    return np.float32(1.4826 / 6 * percentiles(np.abs(laplacian), 50)[0])


def _quadratic(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Robust quadratic surface through (y, x) values: what is far off (cells) counts little."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in values.shape)
    y, x = y[:, None], x[None, :]
    terms = np.stack([np.broadcast_to(term, values.shape) for term in (np.ones_like(y), y, x, y * y, y * x, x * x)], -1)
    step = max(1, min(values.shape) // 64)
    design, sample = terms[::step, ::step].reshape(-1, 6), values[::step, ::step].ravel()
    weight = np.ones_like(sample)
    for _ in range(6):
        rows = (design * weight[:, None]).T
        coefficients = np.linalg.solve(rows @ design + 1e-6 * np.eye(6), rows @ sample)
        residual = np.abs(sample - design @ coefficients)
        weight = 1 / (1 + (residual / (1.5 * np.median(residual) + 1e-6)) ** 2)
    return np.asarray(terms @ coefficients.astype(np.float32), np.float32)


def coarse_factor(pixel_um: float) -> int:
    """Frame pixels per pixel of `structure`."""
    return max(1, round(_COARSE_UM / pixel_um))


def align(structures: Sequence[NDArray[np.float32]], usual: Alignment, pixel_um: float, *, reference: int) -> Alignment:
    """Register one field, starting from the slide's usual alignment.

    Args:
        structures: M arrays (y, x) from `structure`.
        usual: from ``find_usual``.
        pixel_um: size of a frame's pixel.
        reference: index of the reference modality.

    Returns:
        The field's alignment; linear part as usual.
    """
    found = _align_within(structures, usual, pixel_um, reference, _USUAL_UM)
    if not found.trusted.all():
        wider = _align_within(structures, usual, pixel_um, reference, _STRAYED_UM)
        if wider.trusted.sum() > found.trusted.sum():
            return wider
    return found


def _align_within(
    structures: Sequence[NDArray[np.float32]], usual: Alignment, pixel_um: float, reference: int, search_um: float
) -> Alignment:
    factor = coarse_factor(pixel_um)
    warped = [values if k == reference else warp(values, usual, k, factor) for k, values in enumerate(structures)]
    shape = warped[0].shape
    search = max(2, min(round(search_um / pixel_um / factor), min(shape) // 6))
    half = (min(shape) - 2 * search) // 4
    surfaces = correlate_pairs(warped, tile_centres(shape, half, search, 2 * half), half, search)
    pairs: list[tuple[int, int]] = []
    shifts: list[NDArray[np.float64]] = []
    errors: list[float] = []
    for pair, (surface, weight) in surfaces.items():
        place, _, prominence = subpixel_peaks((surface * weight[:, None, None]).sum(0, keepdims=True))
        if not np.isfinite(place).all() or prominence[0] < _LEAST_PROMINENCE:
            continue
        pairs.append(pair)
        shifts.append(place[0] * factor)
        errors.append(_spread(surface, place[0]) * factor)
    measured = np.array(shifts).reshape(-1, 2), np.array(errors)
    shift, error, known = _adjust(reference, pairs, *measured, usual.scatter_px)
    known &= error <= _WORST_ERROR_PX
    moved = np.einsum("mij,mj->mi", usual.linear, shift)
    return replace(
        usual,
        shift_px=usual.shift_px + np.where(known[:, None], moved, 0.0),
        residual_px=np.where(known, error, usual.residual_px),
        trusted=known,
    )


def _spread(surfaces: NDArray[np.float32], place: NDArray[np.float64]) -> float:
    """Standard error (coarse pixels) of a shift, from how far the tiles' own peaks lie from it."""
    places, _, prominence = subpixel_peaks(surfaces)
    off = np.hypot(*(places - place).T)
    good = np.isfinite(off) & (prominence > _LEAST_PROMINENCE) & (off < 2.0)
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
    """Least-squares shifts of all M modalities against the reference, from measured pairs.

    Args:
        reference: index of the reference.
        pairs: P pairs of modalities.
        shifts: (P, 2) of the second against the first.
        errors: (P,) standard errors of these.
        scatter: (M, M) how far the shift of one against another lies from the usual, 0 here: holds weak measurements.

    Returns:
        (M, 2) shifts, (M,) standard errors, (M,) whether a chain of pairs leads to the reference.
    """
    modalities = len(scatter)
    known = np.zeros(modalities, bool)
    known[reference] = True
    for _ in range(modalities):
        for first, second in pairs:
            known[first] = known[second] = known[first] or known[second]
    shift, error = np.zeros((modalities, 2)), np.zeros(modalities)
    free = [k for k in range(modalities) if known[k] and k != reference]
    if not free:
        return shift, error, known
    used = [k for k, (first, _) in enumerate(pairs) if known[first]]
    bonds = _bonds(scatter, [reference, *free])
    rows = [pairs[k] for k in used] + bonds
    observed = np.concatenate([shifts[used], np.zeros((len(bonds), 2))])
    sigma = np.concatenate([np.maximum(errors[used], 0.02), [scatter[bond] for bond in bonds]])
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


def _bonds(scatter: NDArray[np.float64], members: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs that hold ``members`` together most tightly: the spanning tree of least scatter."""
    inside, bonds = {members[0]}, []
    while len(inside) < len(members):
        outside = [k for k in members if k not in inside]
        one, other = min(((i, j) for i in sorted(inside) for j in outside), key=lambda pair: (scatter[pair], pair))
        inside.add(other)
        bonds.append((one, other))
    return bonds


def warp(values: NDArray[np.float32], usual: Alignment, modality: int, factor: int) -> NDArray[np.float32]:
    """A modality's structure as it would look in the reference's pixels, (y, x) float32."""
    linear = usual.linear[modality]
    centre = (usual.centre_px + 0.5) / factor - 0.5
    offset = centre + usual.shift_px[modality] / factor - linear @ centre
    if max(abs(linear[0, 1]), abs(linear[1, 0])) * max(values.shape) < 0.05:
        # Without rotation rows and columns part, which is several times faster.
        for axis in (0, 1):
            values = _stretched(values, axis, float(linear[axis, axis]), float(offset[axis]))
        return values
    return np.asarray(ndimage.affine_transform(values, linear, offset, order=1, mode="nearest"), np.float32)


def _stretched(values: NDArray[np.float32], axis: int, scale: float, offset: float) -> NDArray[np.float32]:
    """Linear interpolation along one axis at ``scale * k + offset``; the edge is repeated."""
    at = np.clip(np.arange(values.shape[axis]) * scale + offset, 0, values.shape[axis] - 1)
    low = np.minimum(at.astype(np.intp), values.shape[axis] - 2)
    share = (at - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share
    return np.asarray(np.take(values, low, axis) * (1 - share) + np.take(values, low + 1, axis) * share, np.float32)
