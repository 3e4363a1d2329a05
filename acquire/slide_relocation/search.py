"""Relocate a slide that was taken off the stage.

Rotation and shift from a few fields that both passes show.

Works on two callables: one returns the first pass's frame of a field, one takes a frame at a stage
position.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.acquire.config.slide_policies import SlideRelocation
from wbcpipe.acquire.slide_relocation.transform import SlideTransform, fit_slide_transform
from wbcpipe.errors import AcquisitionError
from wbcpipe.imaging.peaks import interpolate_peak
from wbcpipe.imaging.translation import measure_translation, registered_correlation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from wbcpipe.acquire.plan import PlannedField

__all__ = ["Match", "RelocationResult", "displacement_um", "relocate_slide"]

#: Pixel sizes of the search and of the measurement.
_SEARCH_UM: Final = 1.6
_FINE_UM: Final = 0.4
#: Fraction of a field's side that the template covers.
_TEMPLATE: Final = 0.75
#: Distance of neighbouring tiles of the search, as a fraction of a field's side.
_STEP: Final = 0.9
#: Ratio of a guess's correlation to the best one elsewhere. Sparse regions resemble each other, so
#: a guess is confirmed by a full frame and then by other fields.
_MIN_LEAD: Final = 1.03
_ELSEWHERE_UM: Final = 15.0
#: Fields must lie so near where they are expected, and so much farther for each um from the nearest
#: field known.
_NEAR_UM: Final = 12.0
_FARTHER: Final = 0.006
#: Steps in which the rotation is refined on the first field.
_FINE_TURNS_DEG: Final = (-0.5, -0.25, 0.0, 0.25, 0.5)
#: Number of fields near the middle that may start the search; each is rated in this many parts
#: along each side.
_STARTS: Final = 9
_PARTS: Final = 6
#: Number of fields to match, at least to match, and to try.
_MATCHES: Final = 6
_MIN_MATCHES: Final = 3
_CANDIDATES: Final = 14
#: A match this far from the fit of the others is wrong.
_OUTLIER_UM: Final = 4.0
_DEFAULT: Final = SlideRelocation()


@dataclass(frozen=True)
class Match:
    """A field found again.

    Attributes:
        field: of the first pass.
        x_um, y_um: where its centre lies on the stage now.
        agreement: correlation of the two frames in register, at most 1.
        residual_um: distance from where the fit puts it.
    """

    field: PlannedField
    x_um: float
    y_um: float
    agreement: float
    residual_um: float = 0.0


@dataclass(frozen=True)
class RelocationResult:
    """The position of the slide, and the matches behind it.

    Attributes:
        transform: the rigid map.
        matches: the fields that the fit uses.
        frames: number taken to find it.
    """

    transform: SlideTransform
    matches: tuple[Match, ...]
    frames: int

    @property
    def rms_um(self) -> float:
        """Return the root mean square distance of the matches from the fit."""
        return math.sqrt(sum(match.residual_um**2 for match in self.matches) / len(self.matches))


def _detail(
    frame: NDArray[np.uint16], pixel_um: float, coarse_um: float
) -> tuple[NDArray[np.float32], float]:
    """Return the details of a frame, (y, x) float32 at about ``coarse_um`` a pixel, and its pixel
    size.

    The logarithm and the difference of Gaussians remove the lamp's level and uneven light.
    """
    factor = max(1, round(coarse_um / pixel_um))
    rows, columns = (side // factor * factor for side in frame.shape)
    parts = frame[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
    logarithm = np.log(np.maximum(parts.mean(axis=(1, 3), dtype=np.float32), 1.0))
    size_um = factor * pixel_um
    fine, wide = (ndimage.gaussian_filter(logarithm, sigma / size_um) for sigma in (1.2, 6.0))
    return np.asarray(fine - wide, np.float32), size_um


def _turned(detail: NDArray[np.float32], rotation_deg: float) -> NDArray[np.float32]:
    """Rotate an image (y, x) about its centre."""
    matrix = SlideTransform(rotation_deg).matrix()
    centre = (np.array(detail.shape) - 1) / 2
    return np.asarray(
        ndimage.affine_transform(detail, matrix, centre - matrix @ centre, order=1), np.float32
    )


def displacement_um(
    first: NDArray[np.uint16], now: NDArray[np.uint16], pixel_um: float, rotation_deg: float
) -> tuple[float, float, float]:
    """Measure the displacement of a frame's content from that of another frame of about the same
    field.

    Args:
        first: (Y, X) uint16 of the first pass.
        now: (Y, X) uint16 of the same size.
        pixel_um: of both.
        rotation_deg: of the slide since then.

    Returns: (dx_um, dy_um) in the image's axes, and the agreement: the correlation of the two in
        register, at most 1.
    """
    reference, size_um = _detail(first, pixel_um, _FINE_UM)
    seen, _ = _detail(now, pixel_um, _FINE_UM)
    reference = _turned(reference, rotation_deg)
    if not reference.std() or not seen.std():
        return 0.0, 0.0, 0.0
    down, right = measure_translation(reference, seen, upsampling=10)
    return right * size_um, down * size_um, registered_correlation(reference, seen, (down, right))


class _Search:
    """The search for one field, ring by ring around its position in the first pass."""

    def __init__(
        self,
        take_frame: Callable[[float, float], NDArray[np.uint16]],
        first: NDArray[np.uint16],
        pixel_um: float,
        policy: SlideRelocation,
    ) -> None:
        self._take_frame, self._pixel_um, self._policy = take_frame, pixel_um, policy
        most = policy.max_rotation_deg
        self._turns_deg = [float(turn) for turn in range(-most, most + 1)]
        detail, self._size_um = _detail(first, pixel_um, _SEARCH_UM)
        self._shape = detail.shape
        margins = [round(side * (1 - _TEMPLATE) / 2) for side in detail.shape]
        middle = tuple(
            slice(cut, side - cut) for cut, side in zip(margins, detail.shape, strict=True)
        )
        self._templates = [_turned(detail, turn)[middle] for turn in self._turns_deg]
        self._step_px = [max(1, int(side * _STEP)) for side in detail.shape]
        self._tiles: dict[tuple[int, int], NDArray[np.float32]] = {}

    @property
    def frames(self) -> int:
        return len(self._tiles)

    def find(self, x_um: float, y_um: float) -> Iterator[SlideTransform]:
        """Yield the guess of the slide's position that each ring around (x_um, y_um) gives, if
        any.
        """
        rings = math.ceil(self._policy.reach_um / (min(self._step_px) * self._size_um))
        for ring in range(rings + 1):
            steps = range(-ring, ring + 1)
            for at in itertools.product(steps, steps):
                if at not in self._tiles:
                    dy_um, dx_um = (
                        n * step * self._size_um for n, step in zip(at, self._step_px, strict=True)
                    )
                    frame = self._take_frame(x_um + dx_um, y_um + dy_um)
                    self._tiles[at] = _detail(frame, self._pixel_um, _SEARCH_UM)[0]
            found = self._best(self._mosaic(ring))
            if found is not None:
                yield SlideTransform.through(
                    found[2], (x_um, y_um), (x_um + found[0], y_um + found[1])
                )

    def _mosaic(self, ring: int) -> NDArray[np.float32]:
        """Return all tiles so far as one image (y, x) float32, the first one in its centre."""
        sides = [
            2 * ring * step + side for step, side in zip(self._step_px, self._shape, strict=True)
        ]
        mosaic = np.zeros(sides, np.float32)
        for (row, column), tile in self._tiles.items():
            top, left = (row + ring) * self._step_px[0], (column + ring) * self._step_px[1]
            mosaic[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return mosaic

    def _best(self, mosaic: NDArray[np.float32]) -> tuple[float, float, float] | None:
        """Return the shift (x, y) in um and the rotation of the best match, if it stands out."""
        # In double precision: sums over a mosaic in single precision make flat glass look like a
        # match.
        wide = mosaic.astype(np.float64)
        from skimage.feature import match_template  # slow to import, and most runs search for none

        scores = [match_template(wide, template) for template in self._templates]  # type: ignore[no-untyped-call]
        heights = [float(score.max()) for score in scores]
        number = int(np.argmax(heights))
        peak = np.unravel_index(int(scores[number].argmax()), scores[number].shape)
        elsewhere = scores[number].copy()
        reach = round(_ELSEWHERE_UM / self._size_um)
        elsewhere[tuple(slice(max(at - reach, 0), at + reach + 1) for at in peak)] = 0
        second = float(elsewhere.max(initial=0.0))
        if heights[number] < max(self._policy.min_correlation, _MIN_LEAD * second):
            return None
        middle = [
            (side - part) / 2
            for side, part in zip(mosaic.shape, self._templates[number].shape, strict=True)
        ]
        dy_um, dx_um = (
            (float(at) - mid) * self._size_um for at, mid in zip(peak, middle, strict=True)
        )
        return dx_um, dy_um, self._turns_deg[number] + interpolate_peak(heights, number)


def _spread_out(fields: Sequence[PlannedField], first: PlannedField) -> list[PlannedField]:
    """Return the fields in the order of farthest-point sampling from ``first``."""
    chosen = [first]
    left = [field for field in fields if field is not first]
    while left and len(chosen) < _CANDIDATES:
        far = max(
            left,
            key=lambda one: (min(math.dist(_xy(one), _xy(other)) for other in chosen), -one.index),
        )
        left.remove(far)
        chosen.append(far)
    return chosen


def _xy(field: PlannedField | Match) -> tuple[float, float]:
    return field.x_um, field.y_um


def _starts(
    fields: Sequence[PlannedField], reference: Callable[[int], NDArray[np.uint16]], pixel_um: float
) -> list[tuple[PlannedField, NDArray[np.uint16]]]:
    """Return the two fields near the middle of all that show the most detail, the richer one
    first.
    """
    middle = tuple(float(value) for value in np.median([_xy(field) for field in fields], axis=0))
    near = sorted(fields, key=lambda field: (math.dist(_xy(field), middle), field.index))[:_STARTS]
    shown = []
    for field in near:
        frame = reference(field.index)
        shown.append((_richness(_detail(frame, pixel_um, _SEARCH_UM)[0]), field, frame))
    return [
        (field, frame)
        for _, field, frame in sorted(shown, key=lambda entry: (-entry[0], entry[1].index))[:2]
    ]


def _richness(detail: NDArray[np.float32]) -> float:
    """Return the median standard deviation of an image's parts (y, x): one clump of cells counts
    little.
    """
    rows, columns = (side // _PARTS * _PARTS for side in detail.shape)
    parts = detail[:rows, :columns].reshape(_PARTS, rows // _PARTS, _PARTS, columns // _PARTS)
    return float(np.median(parts.std(axis=(1, 3))))


def relocate_slide(
    fields: Sequence[PlannedField],
    reference: Callable[[int], NDArray[np.uint16]],
    take_frame: Callable[[float, float], NDArray[np.uint16]],
    pixel_um: float,
    policy: SlideRelocation = _DEFAULT,
) -> RelocationResult:
    """Find the position of a slide on the stage.

    One field is searched for in rings around its first position. Then others, spread over the
    slide, are taken where the fit so far predicts them; each improves the next prediction.

    Args:
        fields: fields of the first pass.
        reference: returns the first pass's frame (Y, X) uint16 of a field.
        take_frame: takes a frame (Y, X) uint16 in the same light at a stage position (x_um, y_um).
        pixel_um: of all frames.
        policy: how far to search, and what is a match.

    Raises:
        AcquisitionError: the slide is not there, is another one, or lies farther away than the
            policy's ``reach_um`` or ``max_rotation_deg``.
    """
    frames = 0
    for start, first in _starts(fields, reference, pixel_um):
        search = _Search(take_frame, first, pixel_um, policy)
        for guess in search.find(start.x_um, start.y_um):
            frames += 1
            sure = _confirmed(start, first, take_frame, guess, pixel_um)
            if sure[1].agreement < policy.sure_agreement:
                continue
            matches, now, taken = _follow(
                fields, reference, take_frame, sure, pixel_um, policy.min_agreement
            )
            frames += taken
            result = _result(matches, now, frames + search.frames)
            if result is not None and len(result.matches) >= min(_MIN_MATCHES, len(fields)):
                return result
        frames += search.frames
    raise AcquisitionError(
        f"the slide of the first pass was not found again within {policy.reach_um:g} um and "
        f"{policy.max_rotation_deg} degrees: is it the same slide, the same way round, in the same "
        "slot, and in focus? Put it right and run the same command again."
    )


def _confirmed(
    field: PlannedField,
    first: NDArray[np.uint16],
    take_frame: Callable[[float, float], NDArray[np.uint16]],
    guess: SlideTransform,
    pixel_um: float,
) -> tuple[SlideTransform, Match]:
    """Take the first field at its guessed position.

    Return the measured map and match, whose agreement says whether it is the same field.
    """
    x_um, y_um = guess.to_stage_um(*_xy(field))
    frame = take_frame(x_um, y_um)
    turns = [guess.rotation_deg + fine for fine in _FINE_TURNS_DEG]
    found = [displacement_um(first, frame, pixel_um, turn) for turn in turns]
    heights = [agreement for _, _, agreement in found]
    number = int(np.argmax(heights))
    dx_um, dy_um, agreement = found[number]
    turn = turns[number] + interpolate_peak(heights, number) * (
        _FINE_TURNS_DEG[1] - _FINE_TURNS_DEG[0]
    )
    match = Match(field, x_um + dx_um, y_um + dy_um, agreement)
    return SlideTransform.through(turn, _xy(field), _xy(match)), match


def _follow(
    fields: Sequence[PlannedField],
    reference: Callable[[int], NDArray[np.uint16]],
    take_frame: Callable[[float, float], NDArray[np.uint16]],
    start: tuple[SlideTransform, Match],
    pixel_um: float,
    min_agreement: float,
) -> tuple[list[Match], SlideTransform, int]:
    """Take fields all over the slide at their predicted positions.

    Return the matches, their fit, and frames taken.
    """
    now, first = start
    matches, frames = [first], 0
    for field in _spread_out(fields, first.field)[1:]:
        x_um, y_um = now.to_stage_um(*_xy(field))
        frames += 1
        seen = take_frame(x_um, y_um)
        dx_um, dy_um, agreement = displacement_um(
            reference(field.index), seen, pixel_um, now.rotation_deg
        )
        nearest_um = min(math.dist(_xy(field), _xy(match.field)) for match in matches)
        if agreement < min_agreement or math.hypot(dx_um, dy_um) > _NEAR_UM + _FARTHER * nearest_um:
            continue
        matches.append(Match(field, x_um + dx_um, y_um + dy_um, agreement))
        now = _fitted(matches, now)
        if len(matches) == _MATCHES:
            break
    return matches, now, frames


def _fitted(matches: Sequence[Match], before: SlideTransform) -> SlideTransform:
    """Fit the rigid map to the matches; a single match keeps the rotation."""
    if len(matches) == 1:
        return SlideTransform.through(before.rotation_deg, _xy(matches[0].field), _xy(matches[0]))
    first, second = (
        np.array([_xy(one) for one in points]) for points in ([m.field for m in matches], matches)
    )
    return fit_slide_transform(first, second)


def _result(matches: list[Match], now: SlideTransform, frames: int) -> RelocationResult | None:
    """Remove matches that contradict the others, the worst first, and fit again; ``None`` if none
    is left.
    """
    while matches:
        judged = [
            replace(m, residual_um=math.dist(now.to_stage_um(*_xy(m.field)), _xy(m)))
            for m in matches
        ]
        worst = max(judged, key=lambda match: match.residual_um)
        if worst.residual_um <= _OUTLIER_UM:
            return RelocationResult(now, tuple(judged), frames)
        matches = [match for match in matches if match.field is not worst.field]
        now = _fitted(matches, now)
    return None
