"""Measure whether the channels of imported cells lie over one another.

A crop is cut at one place from all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import fft, ndimage

from wbcpipe.errors import ImportDataError
from wbcpipe.imaging.arrays import percentiles
from wbcpipe.imaging.filters import gaussian
from wbcpipe.samples.segment_settings.registration import ChannelShiftSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ChannelShift", "check_channel_shifts", "measure_channel_shifts"]

# Constants, no settings: how the shift is measured.
_MIN_SIDE_PX: Final = 16
#: Cells over which the distance of nucleus and cell does not average out yet.
_FEW_CELLS: Final = 3
_SMOOTH_PX: Final = 1.5
#: What differs from the rim by less than this share of the cell's difference is background.
_BACKGROUND: Final = np.float32(0.3)
_PLATEAU: Final = 0.9
_DEFAULT: Final = ChannelShiftSettings()


@dataclass(frozen=True)
class ChannelShift:
    """How a channel lies against the nuclear one, in all cells together.

    Attributes:
        channel: its index.
        y_px, x_px: by which it lies down and right.
        correlation: of what they show there, at most 1.
        settings: what is a displacement.
    """

    channel: int
    y_px: float
    x_px: float
    correlation: float
    settings: ChannelShiftSettings = _DEFAULT

    @property
    def is_known(self) -> bool:
        """Whether the two channels have enough in common to tell."""
        return self.correlation >= self.settings.min_correlation

    @property
    def distance_px(self) -> float:
        """Length of the shift."""
        return float(np.hypot(self.y_px, self.x_px))

    def allowed_px(self, cells: int, pixel_um: float) -> float:
        """Return the longest shift of a channel that is in register, measured in this number of
        cells.
        """
        # Nuclei are not in the middle of cells. That averages out over many cells, and is less the
        # more of one channel the other explains.
        different = max(0.0, 1 - self.correlation**2)
        averaged = math.sqrt(min(1.0, _FEW_CELLS / cells))
        allowed_px = self.settings.allowed_um * different * averaged / pixel_um
        return max(self.settings.allowed_px, allowed_px)

    def text(self, name: str) -> str:
        """Return the shift of the channel of this name as a clause."""
        if not self.is_known:
            return f"{name} cannot be compared (correlation {self.correlation:.2f})"
        return (
            f"{name} {self.x_px:+.1f} px right, {self.y_px:+.1f} px down (correlation "
            f"{self.correlation:.2f})"
        )


def check_channel_shifts(
    cells: Sequence[NDArray[Any]],
    names: Sequence[str],
    nuclear: int,
    pixel_um: float,
    settings: ChannelShiftSettings = _DEFAULT,
) -> str | None:
    """Return a line on how the channels of cells lie against the nuclear one; ``None`` without
    another channel.

    Args:
        cells: N images, each (C, Y, X).
        names: of the channels.
        nuclear: index of the nuclear channel.
        pixel_um: size of a pixel.
        settings: what is a displacement.

    Raises:
        ImportDataError: a channel is displaced, so that one crop cannot hold the cell in all of
            them.
    """
    shifts = measure_channel_shifts(cells, nuclear, settings)
    allowed = {shift.channel: shift.allowed_px(len(cells), pixel_um) for shift in shifts}
    displaced = [
        shift for shift in shifts if shift.is_known and shift.distance_px > allowed[shift.channel]
    ]
    text = "; ".join(shift.text(names[shift.channel]) for shift in displaced or shifts)
    if displaced:
        limit_px = min(allowed[shift.channel] for shift in displaced)
        raise ImportDataError(
            f"channels that do not lie over {names[nuclear]}: {text}; at most {limit_px:.1f} px "
            f"are allowed. Register the channels before, or import the fields of view: `wbcpipe "
            "segment` registers those."
        )
    return f"channels against {names[nuclear]}: {text}" if shifts else None


def measure_channel_shifts(
    cells: Sequence[NDArray[Any]], nuclear: int, settings: ChannelShiftSettings = _DEFAULT
) -> list[ChannelShift]:
    """Measure the shift of each channel but the nuclear one.

    The cross-correlations of the foregrounds are added over the cells: where one cell shows little,
    many show one peak.

    Args:
        cells: N images, each (C, Y, X) of any number type and size.
        nuclear: index of the nuclear channel; may be negative.
        settings: what is a displacement.

    Returns:
        One entry per other channel; none for images too small for a cell.
    """
    cells = [cell for cell in cells if min(cell.shape[1:]) >= _MIN_SIDE_PX]
    if not cells or len(cells[0]) == 1:
        return []
    channels, reach = len(cells[0]), min(min(cell.shape[1:]) for cell in cells) // 2 - 1
    nuclear %= channels
    others = [k for k in range(channels) if k != nuclear]
    side = 2 * reach + 1
    overlap, correlation = np.zeros((2, len(others), side, side))
    for cell in cells:
        maps = np.stack([_foreground(plane.astype(np.float32)) for plane in cell])
        overlap += _correlated(maps, nuclear, others, reach)
        correlation += _correlated(maps - maps.mean((1, 2), keepdims=True), nuclear, others, reach)
    found = []
    for k, surface, quality in zip(others, overlap, correlation / len(cells), strict=True):
        y, x = _plateau_centre(surface)
        likeness = float(quality[round(y), round(x)])
        found.append(ChannelShift(k, y - reach, x - reach, likeness, settings))
    return found


def _correlated(
    maps: NDArray[np.float32], nuclear: int, others: Sequence[int], reach: int
) -> NDArray[np.float64]:
    """Return the normalised correlation of channels with the nuclear one for shifts of up to
    ``reach``, (K, y, x).
    """
    shape = [fft.next_fast_len(2 * length, real=True) for length in maps.shape[1:]]
    spectra = fft.rfft2(maps, shape)
    sizes = np.sqrt((maps * maps).sum((1, 2)))
    surfaces = fft.irfft2(np.conj(spectra[nuclear]) * spectra[list(others)], shape)
    surfaces /= np.maximum(sizes[nuclear] * sizes[list(others)], 1e-12)[:, None, None]
    lags = np.arange(-reach, reach + 1)
    return np.asarray(surfaces[:, lags[:, None], lags])


def _plateau_centre(surface: NDArray[np.float64]) -> tuple[float, float]:
    """Return the centre of the highest part of a surface: a nucleus lies alike well everywhere
    within its cell.
    """
    labels, _ = ndimage.label(surface >= _PLATEAU * surface.max())
    peak = np.unravel_index(int(np.argmax(surface)), surface.shape)
    y, x = ndimage.center_of_mass(labels == labels[peak])
    return float(y), float(x)


def _foreground(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what differs from the rim of an image (Y, X), darker or brighter alike; 0 for the
    background.
    """
    rim = np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
    values = gaussian(np.abs(plane - np.median(rim)), _SMOOTH_PX)
    high = np.float32(percentiles(values, 95)[0])  # a bright spot counts no more than the cell
    return np.asarray(np.clip(values, _BACKGROUND * high, high) - _BACKGROUND * high, np.float32)
