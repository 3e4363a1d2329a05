"""Find a slide again that was taken off the stage: turn and shift from a few fields that both passes show.

Works on two callables, one that gives the first pass's frame of a field and one that takes a frame at a place now; it
moves nothing itself.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage
from skimage.feature import match_template

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
#: How far the slide may have been shifted and turned: the search goes no farther.
_REACH_UM: Final = 450.0
_TURNS_DEG: Final = tuple(float(turn) for turn in range(-3, 4))
#: Part of a field, along each side, that is looked for.
_TEMPLATE: Final = 0.75
#: A tile of the search lies so far from its neighbour, in parts of a field.
_STEP: Final = 0.9
#: Correlation of a guess worth a look, and against the best one elsewhere. Where little lies, much looks alike: a guess
#: is confirmed by the whole frame and then by other fields.
_LEAST_MATCH: Final = 0.35
_LEAST_LEAD: Final = 1.03
_ELSEWHERE_UM: Final = 15.0
#: Correlation of two frames of one place once they are in register: of the first field found, and of the others, which
#: must lie near where they are expected: so near, and so much farther for each um from the nearest field known.
_SURE_AGREEMENT: Final = 0.5
_LEAST_AGREEMENT: Final = 0.3
_NEAR_UM: Final = 12.0
_FARTHER: Final = 0.006
#: Steps in which the turn is refined on the first field.
_FINE_TURNS_DEG: Final = (-0.5, -0.25, 0.0, 0.25, 0.5)
#: So many fields near the middle may begin the search; each is judged by this many parts along each side.
_STARTS: Final = 9
_PARTS: Final = 6
#: So many fields are matched, and so many looked at for them.
_MATCHES: Final = 6
_LEAST_MATCHES: Final = 3
_CANDIDATES: Final = 14
#: A match this far from where the others put it is wrong.
_OUTLIER_UM: Final = 4.0


@dataclass(frozen=True)
class Match:
    """A field found again.

    Attributes:
        place: of the first pass.
        x_um, y_um: where its centre lies on the stage now.
        agreement: correlation of the two frames in register, at most 1.
        residual_um: distance from where the fit puts it.
    """

    place: PlannedField
    x_um: float
    y_um: float
    agreement: float
    residual_um: float = 0.0


@dataclass(frozen=True)
class RelocationResult:
    """How the slide lies, and what says so.

    Attributes:
        transform: the rigid map.
        matches: the fields it rests on.
        frames: how many were taken to find it.
    """

    transform: SlideTransform
    matches: tuple[Match, ...]
    frames: int

    @property
    def rms_um(self) -> float:
        """Root mean square distance of the matches from the fit."""
        return math.sqrt(sum(match.residual_um**2 for match in self.matches) / len(self.matches))


def _detail(frame: NDArray[np.uint16], pixel_um: float, coarse_um: float) -> tuple[NDArray[np.float32], float]:
    """What stands out of a frame, (y, x) float32 at about ``coarse_um`` a pixel, and its pixel size.

    The logarithm and the difference of Gaussians take out the lamp's level and uneven light.
    """
    factor = max(1, round(coarse_um / pixel_um))
    rows, columns = (side // factor * factor for side in frame.shape)
    parts = frame[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
    logarithm = np.log(np.maximum(parts.mean(axis=(1, 3), dtype=np.float32), 1.0))
    size_um = factor * pixel_um
    fine, wide = (ndimage.gaussian_filter(logarithm, sigma / size_um) for sigma in (1.2, 6.0))
    return np.asarray(fine - wide, np.float32), size_um


def _turned(detail: NDArray[np.float32], rotation_deg: float) -> NDArray[np.float32]:
    """A picture (y, x) turned about its middle."""
    matrix = SlideTransform(rotation_deg).matrix()
    centre = (np.array(detail.shape) - 1) / 2
    return np.asarray(ndimage.affine_transform(detail, matrix, centre - matrix @ centre, order=1), np.float32)


def _middle(detail: NDArray[np.float32], part: float) -> NDArray[np.float32]:
    """The middle of a picture (y, x): ``part`` of each side."""
    cut = [round(side * (1 - part) / 2) for side in detail.shape]
    return detail[cut[0] : detail.shape[0] - cut[0], cut[1] : detail.shape[1] - cut[1]]


def displacement_um(
    first: NDArray[np.uint16], now: NDArray[np.uint16], pixel_um: float, rotation_deg: float
) -> tuple[float, float, float]:
    """How far the content of a frame lies from where it lay in another one of about the same place.

    Args:
        first: (Y, X) uint16 of the first pass.
        now: (Y, X) uint16 of the same size.
        pixel_um: of both.
        rotation_deg: how far the slide is turned since.

    Returns:
        (dx_um, dy_um) in the image's axes, and the agreement: the correlation of the two in register, at most 1.
    """
    reference, size_um = _detail(first, pixel_um, _FINE_UM)
    seen, _ = _detail(now, pixel_um, _FINE_UM)
    reference = _turned(reference, rotation_deg)
    if not reference.std() or not seen.std():
        return 0.0, 0.0, 0.0
    down, right = measure_translation(reference, seen, upsampling=10)
    return right * size_um, down * size_um, registered_correlation(reference, seen, (down, right))


class _Search:
    """One field looked for, ring after ring around where it was."""

    def __init__(
        self, look: Callable[[float, float], NDArray[np.uint16]], first: NDArray[np.uint16], pixel_um: float
    ) -> None:
        self._look, self._pixel_um = look, pixel_um
        detail, self._size_um = _detail(first, pixel_um, _SEARCH_UM)
        self._shape = detail.shape
        self._templates = [_middle(_turned(detail, turn), _TEMPLATE) for turn in _TURNS_DEG]
        self._step_px = [max(1, int(side * _STEP)) for side in detail.shape]
        self._tiles: dict[tuple[int, int], NDArray[np.float32]] = {}

    @property
    def frames(self) -> int:
        return len(self._tiles)

    def find(self, x_um: float, y_um: float) -> Iterator[SlideTransform]:
        """Where the slide seems to lie, from where this field was: one guess a ring, if there is one."""
        rings = math.ceil(_REACH_UM / (min(self._step_px) * self._size_um))
        for ring in range(rings + 1):
            steps = range(-ring, ring + 1)
            for at in itertools.product(steps, steps):
                if at not in self._tiles:
                    dy_um, dx_um = (n * step * self._size_um for n, step in zip(at, self._step_px, strict=True))
                    frame = self._look(x_um + dx_um, y_um + dy_um)
                    self._tiles[at] = _detail(frame, self._pixel_um, _SEARCH_UM)[0]
            found = self._best(self._mosaic(ring))
            if found is not None:
                yield _through(found[2], (x_um, y_um), (x_um + found[0], y_um + found[1]))

    def _mosaic(self, ring: int) -> NDArray[np.float32]:
        """All tiles so far, (y, x) float32, the first one's middle in the middle."""
        sides = [2 * ring * step + side for step, side in zip(self._step_px, self._shape, strict=True)]
        whole = np.zeros(sides, np.float32)
        for (row, column), tile in self._tiles.items():
            top, left = (row + ring) * self._step_px[0], (column + ring) * self._step_px[1]
            whole[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return whole

    def _best(self, mosaic: NDArray[np.float32]) -> tuple[float, float, float] | None:
        """Shift (x, y) in um and turn of the best match, if it stands out."""
        # In double precision: sums over a mosaic in single precision make flat glass look like a match.
        wide = mosaic.astype(np.float64)
        scores = [match_template(wide, template) for template in self._templates]  # type: ignore[no-untyped-call]
        heights = [float(score.max()) for score in scores]
        number = int(np.argmax(heights))
        peak = np.unravel_index(int(scores[number].argmax()), scores[number].shape)
        elsewhere = scores[number].copy()
        reach = round(_ELSEWHERE_UM / self._size_um)
        elsewhere[tuple(slice(max(at - reach, 0), at + reach + 1) for at in peak)] = 0
        if heights[number] < _LEAST_MATCH or heights[number] < _LEAST_LEAD * float(elsewhere.max(initial=0.0)):
            return None
        middle = [(side - part) / 2 for side, part in zip(mosaic.shape, self._templates[number].shape, strict=True)]
        dy_um, dx_um = ((float(at) - mid) * self._size_um for at, mid in zip(peak, middle, strict=True))
        return dx_um, dy_um, _TURNS_DEG[number] + interpolate_peak(heights, number)


def _spread_out(places: Sequence[PlannedField], first: PlannedField) -> list[PlannedField]:
    """The places in an order in which each is as far as can be from those before it, beginning with ``first``."""
    chosen = [first]
    left = [place for place in places if place is not first]
    while left and len(chosen) < _CANDIDATES:
        far = max(left, key=lambda one: (min(math.dist(_xy(one), _xy(other)) for other in chosen), -one.index))
        left.remove(far)
        chosen.append(far)
    return chosen


def _xy(place: PlannedField | Match) -> tuple[float, float]:
    return place.x_um, place.y_um


def _starts(
    places: Sequence[PlannedField], reference: Callable[[int], NDArray[np.uint16]], pixel_um: float
) -> list[tuple[PlannedField, NDArray[np.uint16]]]:
    """Of the fields near the middle of all, the two with most to recognise, the better one first."""
    middle = tuple(float(value) for value in np.median([_xy(place) for place in places], axis=0))
    near = sorted(places, key=lambda place: (math.dist(_xy(place), middle), place.index))[:_STARTS]
    shown = []
    for place in near:
        frame = reference(place.index)
        shown.append((_richness(_detail(frame, pixel_um, _SEARCH_UM)[0]), place, frame))
    return [(place, frame) for _, place, frame in sorted(shown, key=lambda entry: (-entry[0], entry[1].index))[:2]]


def _richness(detail: NDArray[np.float32]) -> float:
    """How much of a picture (y, x) shows something: the median spread of its parts, so that one clump is not much."""
    rows, columns = (side // _PARTS * _PARTS for side in detail.shape)
    parts = detail[:rows, :columns].reshape(_PARTS, rows // _PARTS, _PARTS, columns // _PARTS)
    return float(np.median(parts.std(axis=(1, 3))))


def relocate_slide(
    places: Sequence[PlannedField],
    reference: Callable[[int], NDArray[np.uint16]],
    look: Callable[[float, float], NDArray[np.uint16]],
    pixel_um: float,
) -> RelocationResult:
    """Find how a slide lies now.

    One field is searched for in rings around where it was, then others, spread over the slide, are taken where it
    says that they lie, each making the next prediction better.

    Args:
        places: fields of the first pass.
        reference: gives the first pass's frame (Y, X) uint16 of a field.
        look: takes a frame (Y, X) uint16 in the same light, its middle at (x_um, y_um) of the stage.
        pixel_um: of all frames.

    Raises:
        AcquisitionError: the slide is not there, is another one, or lies farther away than 450 um or 3 degrees.
    """
    frames = 0
    for start, first in _starts(places, reference, pixel_um):
        search = _Search(look, first, pixel_um)
        for guess in search.find(start.x_um, start.y_um):
            frames += 1
            sure = _confirmed(start, first, look, guess, pixel_um)
            if sure is None:
                continue
            matches, now, taken = _follow(places, reference, look, sure, pixel_um)
            frames += taken
            result = _result(matches, now, frames + search.frames)
            if result is not None and len(result.matches) >= min(_LEAST_MATCHES, len(places)):
                return result
        frames += search.frames
    raise AcquisitionError(
        f"the slide of the first pass was not found again within {_REACH_UM:g} um and {_TURNS_DEG[-1]:g} degrees: is "
        "it the same slide, the same way round, in the same slot, and in focus? Put it right and run the same command "
        "again."
    )


def _confirmed(
    place: PlannedField,
    first: NDArray[np.uint16],
    look: Callable[[float, float], NDArray[np.uint16]],
    guess: SlideTransform,
    pixel_um: float,
) -> tuple[SlideTransform, Match] | None:
    """The first field taken where it is guessed to lie: the turn and its place measured, if it is the same."""
    x_um, y_um = guess.to_stage_um(*_xy(place))
    frame = look(x_um, y_um)
    turns = [guess.rotation_deg + fine for fine in _FINE_TURNS_DEG]
    found = [displacement_um(first, frame, pixel_um, turn) for turn in turns]
    heights = [agreement for _, _, agreement in found]
    number = int(np.argmax(heights))
    if heights[number] < _SURE_AGREEMENT:
        return None
    dx_um, dy_um, agreement = found[number]
    turn = turns[number] + interpolate_peak(heights, number) * (_FINE_TURNS_DEG[1] - _FINE_TURNS_DEG[0])
    match = Match(place, x_um + dx_um, y_um + dy_um, agreement)
    return _through(turn, _xy(place), _xy(match)), match


def _follow(
    places: Sequence[PlannedField],
    reference: Callable[[int], NDArray[np.uint16]],
    look: Callable[[float, float], NDArray[np.uint16]],
    begun: tuple[SlideTransform, Match],
    pixel_um: float,
) -> tuple[list[Match], SlideTransform, int]:
    """Fields all over the slide taken where they should lie: those found, the fit through them, and frames taken."""
    now, first = begun
    matches, frames = [first], 0
    for place in _spread_out(places, first.place)[1:]:
        x_um, y_um = now.to_stage_um(*_xy(place))
        frames += 1
        seen = look(x_um, y_um)
        dx_um, dy_um, agreement = displacement_um(reference(place.index), seen, pixel_um, now.rotation_deg)
        nearest_um = min(math.dist(_xy(place), _xy(match.place)) for match in matches)
        if agreement < _LEAST_AGREEMENT or math.hypot(dx_um, dy_um) > _NEAR_UM + _FARTHER * nearest_um:
            continue
        matches.append(Match(place, x_um + dx_um, y_um + dy_um, agreement))
        now = _fitted(matches, now)
        if len(matches) == _MATCHES:
            break
    return matches, now, frames


def _through(rotation_deg: float, first_um: tuple[float, float], now_um: tuple[float, float]) -> SlideTransform:
    """The map of a known turn that brings one point onto another."""
    x_um, y_um = SlideTransform(rotation_deg).to_stage_um(*first_um)
    return SlideTransform(rotation_deg, now_um[0] - x_um, now_um[1] - y_um)


def _fitted(matches: Sequence[Match], before: SlideTransform) -> SlideTransform:
    """The rigid map through the matches; with only one the turn stays as it was."""
    if len(matches) == 1:
        return _through(before.rotation_deg, _xy(matches[0].place), _xy(matches[0]))
    first, second = (np.array([_xy(one) for one in points]) for points in ([m.place for m in matches], matches))
    return fit_slide_transform(first, second)


def _result(matches: list[Match], now: SlideTransform, frames: int) -> RelocationResult | None:
    """The fit without matches that contradict the others, the worst left out first; ``None`` if none is left."""
    while len(matches) >= 1:
        judged = [
            Match(m.place, m.x_um, m.y_um, m.agreement, math.dist(now.to_stage_um(*_xy(m.place)), _xy(m)))
            for m in matches
        ]
        worst = max(judged, key=lambda match: match.residual_um)
        if worst.residual_um <= _OUTLIER_UM:
            return RelocationResult(now, tuple(judged), frames)
        matches = [match for match in matches if match.place is not worst.place]
        now = _fitted(matches, now)
    return None
