"""The virtual microscope: repeatable frames that obey the physics they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage

from wbcpipe.acquire.simulation.optics.camera import OFFSET_DN
from wbcpipe.acquire.simulation.optics.light_path import BLEACH_MS, OpticalState
from wbcpipe.acquire.simulation.optics.microscope import SlideState, VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.slide_relocation.transform import SlideTransform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.acquire.simulation.specimen.slide import SpecimenObject

SENSOR_PX = (640, 768)
EXPOSURE_MS = {"color1": 5.0, "color2": 5.0, "color3": 5.0, "fluorescence": 20.0, "": 5.0}


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return Specimen(SpecimenPlan(7, "buffy-coat"))


@pytest.fixture
def microscope(specimen: Specimen) -> VirtualMicroscope:
    return VirtualMicroscope(specimen, sensor_px=SENSOR_PX)


def true_shift_px(
    microscope: VirtualMicroscope, light: str, x_um: float, y_um: float
) -> tuple[float, float]:
    """Return (row, column) by which a light's image is displaced against the ideal one at the image
    centre.
    """
    transform = microscope.true_transform(light, x_um, y_um)
    centre = (np.array(microscope.sensor_px[::-1]) - 1) / 2
    moved = transform[:2, :2] @ centre + transform[:2, 2]
    return float(moved[1] - centre[1]), float(moved[0] - centre[0])


@pytest.fixture(scope="module")
def lone_cells(specimen: Specimen) -> list[SpecimenObject]:
    found = specimen.objects_in(0, 0, 500, 500)
    return [item for item in found if item.kind == "cell"]


def state_at(
    specimen: Specimen,
    x_um: float = 300.0,
    y_um: float = 300.0,
    light: str = "color1",
    *,
    defocus_um: float = 0.0,
    **changes: Any,
) -> OpticalState:
    z_um = specimen.focus_um(x_um, y_um) + defocus_um
    changes.setdefault("exposure_ms", EXPOSURE_MS[light])
    return OpticalState(x_um=x_um, y_um=y_um, z_um=z_um, light=light, **changes)


@pytest.mark.parametrize("light", ["color1", "fluorescence", ""])
def test_same_state_same_bytes_in_another_process_order(
    microscope: VirtualMicroscope, specimen: Specimen, light: str
) -> None:
    wanted = microscope.expose(state_at(specimen, light=light))
    other = VirtualMicroscope(Specimen(specimen.plan), sensor_px=SENSOR_PX)
    other.expose(state_at(specimen, 900.0, 50.0, "fluorescence"))
    other.expose(state_at(specimen, 310.0, 300.0, "color2"))
    out = np.zeros(SENSOR_PX, np.uint16)
    assert other.expose(state_at(specimen, light=light), out) is out
    np.testing.assert_array_equal(out, wanted)


def test_other_seed_other_bytes(microscope: VirtualMicroscope, specimen: Specimen) -> None:
    other = Specimen(SpecimenPlan(8, "buffy-coat"))
    frame = VirtualMicroscope(other, sensor_px=SENSOR_PX).expose(state_at(specimen))
    assert (frame != microscope.expose(state_at(specimen))).mean() > 0.9


def test_background_is_well_exposed(microscope: VirtualMicroscope, specimen: Specimen) -> None:
    frame = microscope.expose(state_at(specimen, light="color3"))
    assert 0.5 < np.median(frame) / 65535 < 0.65


@pytest.mark.parametrize("defocus_um", [0.0, 9.0])
@pytest.mark.parametrize("light", ["color2", "fluorescence"])
def test_roi_is_the_crop(specimen: Specimen, light: str, defocus_um: float) -> None:
    full = VirtualMicroscope(specimen, sensor_px=SENSOR_PX).expose(
        state_at(specimen, light=light, defocus_um=defocus_um)
    )
    part = VirtualMicroscope(specimen, sensor_px=SENSOR_PX).expose(
        state_at(specimen, light=light, defocus_um=defocus_um, roi=(131, 77, 300, 413))
    )
    np.testing.assert_array_equal(part, full[77 : 77 + 413, 131 : 131 + 300])


@pytest.mark.parametrize("light", ["color1", "fluorescence"])
def test_binning_is_the_mean(specimen: Specimen, light: str) -> None:
    full = VirtualMicroscope(specimen, sensor_px=SENSOR_PX).expose(state_at(specimen, light=light))
    binned = VirtualMicroscope(specimen, sensor_px=SENSOR_PX).expose(
        state_at(specimen, light=light, binning=2)
    )
    rows, columns = binned.shape
    mean = full.reshape(rows, 2, columns, 2).mean(axis=(1, 3))
    assert binned.shape == (320, 384)
    assert np.median(np.abs(binned - mean)) < 0.012 * np.median(mean) + 15
    assert (
        np.corrcoef(
            ndimage.gaussian_filter(mean, 1).ravel(),
            ndimage.gaussian_filter(binned * 1.0, 1).ravel(),
        )[0, 1]
        > 0.999
    )


def test_red_cells_are_dark_mid_and_faint_by_band(
    microscope: VirtualMicroscope, specimen: Specimen
) -> None:
    reds = specimen.red_cells_in(275, 275, 325, 325)
    contrast = []
    for light in ("color1", "color2", "color3"):
        frame = microscope.expose(state_at(specimen, light=light)).astype(float)
        columns = np.rint((reds.x_um - 300) / 0.1 + (SENSOR_PX[1] - 1) / 2).astype(int)
        rows = np.rint((reds.y_um - 300) / 0.1 + (SENSOR_PX[0] - 1) / 2).astype(int)
        # Halfway out, where the disc is thickest.
        contrast.append(1 - np.median(frame[rows + 20, columns]) / np.percentile(frame, 90))
    assert contrast[0] > 3 * contrast[1] > 6 * contrast[2]
    assert contrast[0] > 0.35


def sharpness(frame: NDArray[np.uint16]) -> float:
    smooth = ndimage.gaussian_filter(frame.astype(float), 2)
    return float(np.hypot(*np.gradient(smooth)).mean() / smooth.mean())


@pytest.mark.parametrize("light", ["color1", "color2", "color3", "fluorescence"])
def test_sharpness_peaks_at_focus_and_falls_alike_on_both_sides(
    specimen: Specimen, light: str
) -> None:
    def at(defocus_um: float) -> float:
        fresh = VirtualMicroscope(specimen, sensor_px=SENSOR_PX)
        return sharpness(fresh.expose(state_at(specimen, light=light, defocus_um=defocus_um)))

    peak = at(0.0)
    for defocus_um in (4.0, 8.0, 16.0):
        below, above = at(-defocus_um), at(defocus_um)
        assert below < peak > above
        assert below == pytest.approx(above, rel=0.15)
        peak = max(below, above)


def test_bleaching_follows_the_dose_and_is_replayed(specimen: Specimen) -> None:
    fresh = VirtualMicroscope(specimen, sensor_px=SENSOR_PX)
    state = state_at(specimen, light="fluorescence")
    first, second = fresh.expose(state) - OFFSET_DN, fresh.expose(state) - OFFSET_DN
    bright = first > 8_000
    assert (second[bright] / first[bright]).mean() == pytest.approx(
        np.exp(-20 / BLEACH_MS), abs=0.002
    )
    resumed = VirtualMicroscope(specimen, sensor_px=SENSOR_PX)
    resumed.age([(300.0, 300.0, 20.0)])
    np.testing.assert_array_equal(resumed.expose(state) - OFFSET_DN, second)


def test_bleaching_spares_what_was_not_lit(specimen: Specimen) -> None:
    beside = VirtualMicroscope(specimen, sensor_px=SENSOR_PX)
    beside.age([(300.0 + 38.4, 300.0, 2000.0)])
    frame = beside.expose(state_at(specimen, light="fluorescence"))
    fresh = VirtualMicroscope(specimen, sensor_px=SENSOR_PX).expose(
        state_at(specimen, light="fluorescence")
    )
    np.testing.assert_array_equal(frame[:, :384], fresh[:, :384])
    assert frame[:, 384:].mean() < 0.4 * fresh[:, 384:].mean()
    beside.expose(state_at(specimen, light="color1"))
    np.testing.assert_array_equal(
        beside.expose(state_at(specimen, -900.0, 0.0, "fluorescence")),
        VirtualMicroscope(specimen, sensor_px=SENSOR_PX).expose(
            state_at(specimen, -900.0, 0.0, "fluorescence")
        ),
    )


def test_over_exposure_saturates_and_darkness_is_dark(
    microscope: VirtualMicroscope, specimen: Specimen
) -> None:
    assert (microscope.expose(state_at(specimen, exposure_ms=60.0)) == 65535).mean() > 0.5
    dark = microscope.expose(state_at(specimen, light=""))
    assert np.median(dark) == pytest.approx(OFFSET_DN, abs=2)
    shallow = VirtualMicroscope(specimen, sensor_px=SENSOR_PX, bit_depth=12)
    assert shallow.expose(state_at(specimen, exposure_ms=60.0)).max() == 4095


def test_noise_is_shot_noise(specimen: Specimen) -> None:
    microscope = VirtualMicroscope(Specimen(SpecimenPlan(7)), sensor_px=(256, 256))
    # So far out of focus, neighbouring pixels differ by noise alone.
    frame = microscope.expose(state_at(specimen, 300.0, 300.0, "color3", defocus_um=60.0)).astype(
        float
    )
    gain = (65535 - OFFSET_DN) / 30_000
    spread = np.std(np.diff(frame[:, ::2], axis=1)) / np.sqrt(2)
    assert spread == pytest.approx(np.sqrt(np.median(frame) * gain), rel=0.1)


def nucleus_centroid_px(frame: NDArray[np.uint16]) -> NDArray[np.float64]:
    image = ndimage.gaussian_filter(frame.astype(float), 2) - np.median(frame)
    mask, _ = ndimage.label(image > 0.35 * image[300:340, 360:410].max())
    label = mask[310:330, 374:394].max()
    return np.array(ndimage.center_of_mass(image, mask, label))


@pytest.mark.parametrize(
    "placement",
    [SlideTransform(), SlideTransform.about((250.0, 250.0), 0.8, 12.0, -7.0)],
    ids=["straight", "moved"],
)
def test_truth_lies_under_the_cell_in_fluorescence(
    specimen: Specimen, lone_cells: list[SpecimenObject], placement: SlideTransform
) -> None:
    microscope = VirtualMicroscope(specimen, sensor_px=SENSOR_PX, slide=SlideState(placement))
    offsets = []
    for item in lone_cells[:8]:
        x_um, y_um = placement.to_stage_um(item.x_um, item.y_um)
        frame = microscope.expose(state_at(specimen, x_um, y_um, "fluorescence", defocus_um=0.0))
        found = nucleus_centroid_px(frame)
        shift = true_shift_px(microscope, "fluorescence", x_um, y_um)
        offsets.append(found - (np.array(SENSOR_PX) - 1) / 2 - shift)
    distance_um = 0.1 * np.linalg.norm(offsets, axis=1)
    assert np.median(distance_um) < 1.2
    assert distance_um.max() < 3.0


def test_shift_is_recovered_from_red_cells(specimen: Specimen) -> None:
    microscope = VirtualMicroscope(specimen, sensor_px=SENSOR_PX)
    frames = [
        microscope.expose(state_at(specimen, light=light)).astype(float)
        for light in ("color1", "color2")
    ]
    taper = np.outer(np.hanning(640), np.hanning(768))
    detail = [ndimage.gaussian_filter(f, 2) - ndimage.gaussian_filter(f, 20) for f in frames]
    spectra = [np.fft.fft2(image * taper) for image in detail]
    correlation = np.fft.ifft2(spectra[1] * spectra[0].conj()).real

    def peak(profile: NDArray[np.float64]) -> float:
        before, at, after = profile[-1], profile[0], profile[1]
        return float(0.5 * (before - after) / (before - 2 * at + after))

    measured = peak(correlation[:, 0]), peak(correlation[0])
    assert measured == pytest.approx(true_shift_px(microscope, "color2", 300.0, 300.0), abs=0.15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"light": "color4"}, "allowed are color1"),
        ({"binning": 0}, "binning is 0"),
        ({"roi": (0, 0, 800, 10)}, "768 x 640"),
    ],
)
def test_impossible_states_are_refused(
    microscope: VirtualMicroscope, changes: dict[str, Any], message: str
) -> None:
    state = OpticalState(0.0, 0.0, 0.0, **{"light": "color1", "exposure_ms": 5.0, **changes})
    with pytest.raises(ValueError, match=message):
        microscope.expose(state)
    with pytest.raises(ValueError, match="needs uint16"):
        microscope.expose(OpticalState(0.0, 0.0, 0.0, "color1", 5.0), np.zeros((3, 3), np.uint16))


def test_true_transform_scales_about_the_centre(microscope: VirtualMicroscope) -> None:
    transform = microscope.true_transform("fluorescence", 10.0, 20.0)
    assert transform[0, 0] == pytest.approx(1.002)
    row, column = true_shift_px(microscope, "fluorescence", 10.0, 20.0)
    assert abs(column - 11) <= 1.5
    assert abs(row + 6) <= 1.5
