"""Measure where each modality is sharpest: Z offsets between them, and from the sharpest image to
the best focus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.config.calibration_record import FocusOffset, OffsetsPart
from wbcpipe.acquire.focus.autofocus import sharpness
from wbcpipe.imaging.peaks import fit_log_parabola

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.acquire.calibration.microscope_probe import MicroscopeProbe

__all__ = ["measure_offsets"]

_PLACES: Final = 5
#: Places that are lit for fluorescence: each is bleached by its series.
_FLUORESCENCE_PLACES: Final = 5
#: Steps to each side: half the scope's fine step in bright field, the fine step in fluorescence, to
#: spare light.
_SIDE_STEPS: Final = 6
_FLUORESCENCE_SIDE_STEPS: Final = 3
#: The peak is fitted to what is at least this share of the sharpest.
_NEAR_PEAK: Final = 0.6
#: A series less sharp than this showed no nucleus.
_NOTHING: Final = 1e-8
#: A mean offset with a larger standard error is not to be relied on. Cells lie at heights of their
#: own, so in fluorescence, where few are seen at a place, places differ by half a micrometre.
_RELIABLE_UM: Final = 0.3


def measure_offsets(probe: MicroscopeProbe) -> OffsetsPart:
    """Measure the bright-field modalities at several places, and fluorescence at fewer."""
    probe.find_focus()
    policy = probe.scope.focus
    names = [name for name, _ in probe.scope.modalities.items() if name != "fluorescence"]
    found: dict[str, list[float]] = {name: [] for name in [*names, "fluorescence"]}
    focused = 0
    for x_um, y_um in probe.places(2 * _PLACES):
        if focused == _PLACES:
            break
        probe.go(x_um, y_um)
        near_um = probe.focus()
        peak = None if near_um is None else _bright_peak(probe, policy.modality, near_um)
        if near_um is None or peak is None:
            continue
        focused += 1
        probe.progress("sharpest planes, places", focused, _PLACES)
        for name in names:
            there = peak if name == policy.modality else _bright_peak(probe, name, near_um)
            if there is not None:
                found[name].append(there - peak)
        if len(found["fluorescence"]) < _FLUORESCENCE_PLACES:
            there = _fluorescent_peak(probe, near_um)
            if there is not None:
                found["fluorescence"].append(there - peak)
    figures = {name: _summary(offsets) for name, offsets in found.items()}
    best = figures["fluorescence"]
    return OffsetsPart(
        reference=policy.modality,
        from_reference_um=figures,
        # The focus surface is the reference's sharpest plane and the file's `focus.offset_um` above
        # it.
        z_offset_um={
            name: None
            if entry is None
            else round(entry.um - (policy.offset_um if name == "fluorescence" else 0), 3)
            for name, entry in figures.items()
        },
        focus_offset_um=None if best is None else best.um,
        focus_offset_se_um=None if best is None else best.se_um,
        places=focused,
    )


def _bright_peak(probe: MicroscopeProbe, modality: str, near_um: float) -> float | None:
    step_um = probe.scope.focus.fine_step_um / 2
    with probe.microscope.focus_region(probe.scope.focus.window_px) as frame_px:
        heights = _series(probe, near_um, step_um, _SIDE_STEPS)
        sharp = []
        for z_um in heights:
            probe.at_z(z_um)
            sharp.append(sharpness(probe.frame(modality, frame_px=frame_px)))
    found = fit_log_parabola(heights, np.array(sharp), _NEAR_PEAK)
    probe.at_z(near_um)
    return None if found is None else found[0]


def _fluorescent_peak(probe: MicroscopeProbe, near_um: float) -> float | None:
    """Measure the full frame, as nuclei are few.

    Up and down again, so that fading does not tilt the curve.
    """
    heights = _series(probe, near_um, probe.scope.focus.fine_step_um, _FLUORESCENCE_SIDE_STEPS)
    sharp = np.zeros(len(heights))
    for order in (range(len(heights)), reversed(range(len(heights)))):
        for number in order:
            probe.at_z(heights[number])
            # The geometric mean of both goes: fading is nearly a power of the dose.
            sharp[number] += np.log(max(sharpness(probe.frame("fluorescence")), 1e-12)) / 2
    probe.at_z(near_um)
    found = fit_log_parabola(
        heights, np.where(sharp > np.log(_NOTHING), np.exp(sharp), 0.0), _NEAR_PEAK
    )
    return None if found is None else found[0]


def _series(
    probe: MicroscopeProbe, near_um: float, step_um: float, side: int
) -> NDArray[np.float64]:
    """Return heights around one, within the soft limits."""
    low, high = probe.scope.stage.z_um
    heights = near_um + step_um * np.arange(-side, side + 1)
    return np.asarray(heights[(heights >= low) & (heights <= high)], np.float64)


def _summary(offsets: list[float]) -> FocusOffset | None:
    """Mean over the places, its standard error, and whether it can be relied on."""
    if not offsets:
        return None
    values = np.array(offsets)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return FocusOffset(
        um=round(float(values.mean()), 3),
        se_um=None if error is None else round(error, 3),
        places=len(values),
        reliable=error is not None and error <= _RELIABLE_UM,
    )
