"""Devices that are awkward in ways that other people's are, in front of the real core."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.doctor import check_live
from wbcpipe.acquire.events import CaptureEvent
from wbcpipe.acquire.hardware.camera import _binning
from wbcpipe.acquire.hardware.core_link import CoreLink, _open, _readable
from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.tests.acquire.conftest import Intercept

NO_TYPE = ('"16bit"', '""')
REAL = ("virtual = true", "virtual = false")
DEVICES = (
    "# Devices\n",
    "# Devices\nDevice,Camera2,DemoCamera,DCam\nDevice,MC,Utilities,Multi Camera\n"
    "Device,Lamp Shutter,DemoCamera,DShutter\n",
)
PRESETS = ("color1", "color2", "color3", "fluorescence")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close what a test left open, so that one failure is not that of all."""
    yield
    for link in list(_open):
        link.close()


# ---- camera


@pytest.mark.parametrize(
    ("value", "binning"),
    [
        ("1x1", 1),
        ("2x2", 2),
        ("4 X 4", 4),
        ("8", 8),
        ("2.0", 2),
        ("1x2", None),
        ("2x2 (1024 x 1024)", 2),
        ("full", None),
    ],
)
def test_binning_is_read_as_cameras_write_it(value: str, binning: int | None) -> None:
    assert _binning(value) == binning


@pytest.mark.parametrize("form", ["{0}x{0}", "{0} x {0}", "{0}X{0} binned"[:7]])
@pytest.mark.parametrize("binning", [1, 2])
def test_a_binning_in_other_words_is_set_by_its_meaning(
    make_scope: Callable[..., Scope], intercept: Intercept, form: str, binning: int
) -> None:
    scope = make_scope(REAL, ("binning = 1", f"binning = {binning}"))
    link = CoreLink(scope)
    words = {form.format(number): str(number) for number in (1, 2, 4)}

    def set_property(real: Callable[..., Any], device: str, name: str, value: str) -> None:
        real("set_property", device, name, words[value] if name == "Binning" else value)

    def get_property(real: Callable[..., Any], device: str, name: str) -> str:
        value = str(real("get_property", device, name))
        return form.format(value) if name == "Binning" else value

    def allowed(real: Callable[..., Any], device: str, name: str) -> list[str]:
        return (
            list(words)
            if name == "Binning"
            else list(real("get_allowed_property_values", device, name))
        )

    answers: dict[str, Callable[..., Any]] = {
        "get_allowed_property_values": allowed,
        "set_property": set_property,
        "get_property": get_property,
    }
    calls = intercept(link, **answers)
    with CoreMicroscope(scope, link) as microscope:
        assert microscope.camera.frame_px == (256 // binning, 256 // binning)
    sets = [made[3] for made in calls.made if made[0] == "set_property" and made[2] == "Binning"]
    assert sets == ([] if binning == 1 else [form.format(2)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            [("binning = 1", "binning = 8")],
            r"has no binning of 8; it has 1x1, 2x2: correct 'camera\.binning'",
        ),
        (
            [("BitDepth,16", "BitDepth,12"), NO_TYPE],
            r"gives 12 bits, 'camera\.bits' says 16; .*bits = 12",
        ),
        (
            [("BitDepth,16", "BitDepth,10"), ("bits = 16", "bits = 12"), NO_TYPE],
            r"gives 10 bits, .*write bits = 10",
        ),
        ([('"16bit"', '"8bit"')], r"gives 8 bits, .*write bits = 8"),
        (
            [('"16bit"', '"32bitRGB"')],
            r"is a colour camera \(4 components.*'camera\.pixel_type'.*PixelType: 16bit",
        ),
        ([('"16bit"', '"64bitRGB"')], r"is a colour camera"),
        (
            [
                DEVICES,
                ('device = "Camera"', 'device = "MC"'),
                ('pixel_type = "16bit"', ""),
                (
                    "Property,Core,Camera,Camera",
                    "Property,MC,Physical Camera 1,Camera\nProperty,MC,Physical Camera 2,Camera2",
                ),
            ],
            r"'camera\.device' 'MC' combines 2 cameras",
        ),
    ],
    ids=["no such binning", "12 bits", "10 bits", "8 bits", "RGB32", "RGB64", "multi camera"],
)
def test_a_camera_that_is_another_is_refused_when_it_opens(
    make_scope: Callable[..., Scope],
    intercept: Intercept,
    changes: list[tuple[str, str]],
    words: str,
) -> None:
    scope = make_scope(REAL, *changes)
    link = CoreLink(scope)
    if "binning" in words:
        intercept(link, get_allowed_property_values=lambda *_: ["1x1", "2x2"])
    with pytest.raises(HardwareError, match=words):
        CoreMicroscope(scope, link)


def _rounds(real: Callable[..., Any], x: int, y: int, width: int, height: int) -> None:
    real(
        "set_roi",
        x // 100 * 100,
        y // 100 * 100,
        max(width // 100, 1) * 100,
        max(height // 100, 1) * 100,
    )


def _refuses(_real: Callable[..., Any], *_: int) -> None:
    raise HardwareError("set_roi failed: not a region of this camera.")


def _shifts(real: Callable[..., Any], x: int, y: int, width: int, height: int) -> None:
    real("set_roi", x - 8, y, width, height)


@pytest.mark.parametrize("set_roi", [_rounds, _refuses, _shifts])
def test_a_camera_without_the_focus_window_focuses_on_the_whole_field(
    make_scope: Callable[..., Scope],
    intercept: Intercept,
    set_roi: Callable[..., None],
) -> None:
    scope = make_scope(REAL)
    with CoreMicroscope(scope) as microscope:
        calls = intercept(microscope.link, set_roi=set_roi)
        for _ in range(2):
            with microscope.focus_region(128) as shape:
                assert shape == (256, 256)
                assert microscope.camera.region_px == (0, 0, 256, 256)
        assert (
            len([made for made in calls.made if made[0] == "set_roi"]) == 1
        )  # it is not asked again
    with CoreMicroscope(scope) as sound, sound.focus_region(128) as shape:
        assert shape == (128, 128)


def test_a_region_that_the_camera_shifts_is_named(
    make_scope: Callable[..., Scope], intercept: Intercept
) -> None:
    scope = make_scope(REAL, ("binning = 1", "binning = 1\nroi_px = [64, 64, 128, 128]"))
    link = CoreLink(scope)
    intercept(link, set_roi=_shifts)
    with pytest.raises(
        HardwareError, match=r"from \(56, 64\), 'camera\.roi_px' asks for 128 x 128 from \(64, 64\)"
    ):
        CoreMicroscope(scope, link)


@pytest.mark.parametrize(("actual_ms", "is_told"), [(1.0, True), (24.0, True), (20.4, False)])
def test_doctor_tells_an_exposure_that_the_camera_changes(
    make_scope: Callable[..., Scope],
    intercept: Intercept,
    actual_ms: float,
    is_told: bool,
) -> None:
    from wbcpipe.acquire.doctor import _check_exposures

    scope = make_scope(REAL)
    link = CoreLink(scope)
    try:
        intercept(
            link,
            get_exposure=lambda real: actual_ms if real("get_exposure") == 20.0 else 5.0,
        )
        check = _check_exposures(scope, link)
    finally:
        link.close()
    assert (check.status == "fail") == is_told
    assert ("modalities.fluorescence.exposure_ms = 20 becomes" in check.detail) == is_told


def test_doctor_compares_the_live_pixel_size(make_scope: Callable[..., Scope]) -> None:
    resolution = "ConfigPixelSize,Res,Camera,Binning,1\nPixelSize_um,Res,0.325\n"
    resolution += "PixelSizeAffine,Res,0.325,0,0,0,-0.325,0\n"
    checks = {
        check.name: check for check in check_live(make_scope(REAL, ("# Group: System", resolution)))
    }
    assert checks["pixel size"].status == "warn"
    assert "a pixel of 0.325 um, 'camera.pixel_um' is 0.1" in checks["pixel size"].detail
    assert "flipped" in checks["pixel size"].detail
    assert checks["dark exposure"].status == "ok"


# ---- stages


class _LateStage:
    """Gives its old position for some reads after a move, and is never busy."""

    def __init__(self, late_reads: float) -> None:
        self.late_reads, self.left = late_reads, 0.0

    def moves(self, name: str) -> Callable[..., Any]:
        def move(real: Callable[..., Any], *target: float) -> None:
            real(name, *target)
            self.left = self.late_reads

        return move

    def reads(self, name: str) -> Callable[..., float]:
        def read(real: Callable[..., Any]) -> float:
            self.left -= 1
            return -50.0 if self.left >= 0 else float(real(name))

        return read

    def answers(self) -> dict[str, Callable[..., Any]]:
        return {
            **{
                name: self.reads(name)
                for name in ("get_position", "get_x_position", "get_y_position")
            },
            **{name: self.moves(name) for name in ("set_position", "set_xy_position")},
            "device_busy": lambda *_: False,
        }


def test_a_stage_that_is_never_busy_is_waited_for(
    make_scope: Callable[..., Scope], intercept: Intercept
) -> None:
    with CoreMicroscope(make_scope(REAL)) as microscope:
        intercept(microscope.link, **_LateStage(20).answers())
        assert microscope.move_xy(20.0, 30.0) == pytest.approx((20.0, 30.0), abs=0.1)
        assert microscope.move_z(7.0) == pytest.approx(7.0)


def test_a_stage_that_never_arrives_ends_at_its_deadline(
    make_scope: Callable[..., Scope], intercept: Intercept
) -> None:
    with CoreMicroscope(
        make_scope(REAL, ("move_timeout_s = 30.0", "move_timeout_s = 0.2"))
    ) as microscope:
        intercept(microscope.link, **_LateStage(math.inf).answers())
        with pytest.raises(HardwareError, match=r"the stage is at \(-50\.00, -50\.00\) um"):
            microscope.move_xy(20.0, 30.0)
        with pytest.raises(
            HardwareError, match=r"the focus drive is at -50 um, its target was 7 um"
        ):
            microscope.move_z(7.0)


def test_a_stage_that_has_arrived_is_asked_once(
    make_scope: Callable[..., Scope], intercept: Intercept
) -> None:
    with CoreMicroscope(make_scope(REAL)) as microscope:
        microscope.move_z(5.0)
        calls = intercept(microscope.link)
        microscope.move_z(6.0)
        assert [made[0] for made in calls.made].count("get_position") == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["get_position", "get_x_position", "get_y_position"])
def test_a_position_that_is_no_number_is_refused_everywhere(
    make_scope: Callable[..., Scope], intercept: Intercept, name: str, value: float
) -> None:
    from wbcpipe.acquire.doctor import _check_position

    device = "Z" if name == "get_position" else "XY"
    with CoreMicroscope(
        make_scope(REAL, ("move_timeout_s = 30.0", "move_timeout_s = 0.2"))
    ) as microscope:
        intercept(microscope.link, **{name: lambda _: value})
        action = (
            (lambda: microscope.move_z(1.0))
            if device == "Z"
            else (lambda: microscope.move_xy(1.0, 1.0))
        )
        with pytest.raises(
            HardwareError, match=rf"'{device}' gives {value} as its . position: .* home or restart"
        ):
            action()
        (check,) = _check_position(microscope.scope, microscope.link)
        assert check.status == "fail"
        if device == "Z":
            with pytest.raises(HardwareError, match="position"):
                microscope.expose(1.0, np.empty((256, 256), np.uint16))


@pytest.mark.parametrize(
    "line",
    [
        "ConfigGroup,System,Startup,Z,Position,50",
        "Property,Z,Position,50",
        "ConfigGroup,System,Shutdown,Z,Position,50",
    ],
)
def test_no_stage_moves_when_the_devices_are_loaded(
    make_scope: Callable[..., Scope], line: str
) -> None:
    scope = make_scope(REAL, ("# Group: System\n", f"# Group: System\n{line}\n"))
    with CoreMicroscope(scope) as microscope:
        assert microscope.focus.z_um() == 0.0
        microscope.move_z(10.0)
        microscope.reinitialise()
        assert microscope.focus.z_um() != 50.0


# ---- light


def _shutters(*names: str) -> tuple[str, str]:
    lines = "".join(
        f"ConfigGroup,Illumination,{preset},Core,Shutter,{name}\n"
        for preset, name in zip(PRESETS, names, strict=True)
    )
    return ("# Group: System\n", f"{lines}# Group: System\n")


def test_the_shutter_that_a_preset_names_is_opened_and_closed(
    make_scope: Callable[..., Scope],
) -> None:
    names = ("Lamp Shutter", "Lamp Shutter", "Lamp Shutter", "LED Shutter")
    scope = make_scope(REAL, DEVICES, _shutters(*names), sequencing="auto")
    with CoreMicroscope(scope) as microscope:
        call = microscope.link.call
        for name, shutter in zip(PRESETS, names, strict=True):
            microscope.switch_light(name)
            other = next(each for each in names if each != shutter)
            with microscope.illumination.lit():
                assert call("get_shutter_open", shutter)
                assert not call("get_shutter_open", other)
            assert not call("get_shutter_open", shutter)
        obstacles = microscope.sequencing.obstacles({"color1": 5.0, "fluorescence": 20.0})
        assert "the modalities' shutters differ (LED Shutter, Lamp Shutter)" in obstacles
        # As a process that died may have left them: both are closed, whichever is selected.
        for shutter in {*names}:
            call("set_shutter_open", shutter, True)
        assert microscope.link.shutter.is_lit()
        microscope.link.shutter.darken()
        assert not microscope.link.shutter.is_lit()
        microscope.reinitialise()
        assert call("get_shutter_device") == "LED Shutter"
        microscope.switch_light("color1")
        with microscope.illumination.lit():
            assert call("get_shutter_open", "Lamp Shutter")


def test_the_delay_of_the_shutter_really_used_is_waited_for(
    make_scope: Callable[..., Scope], intercept: Intercept
) -> None:
    with CoreMicroscope(make_scope(REAL, DEVICES, _shutters(*["Lamp Shutter"] * 4))) as microscope:
        calls = intercept(microscope.link)
        microscope.switch_light("color2")
        with microscope.illumination.lit():
            pass
        assert ("device_busy", "Lamp Shutter") in calls.made


SETTLE = ('shutter_device = "LED Shutter"', 'shutter_device = "LED Shutter"\nsettle_ms = 60.0')
NO_SHUTTER = (
    'shutter_device = "LED Shutter"',
    'settle_ms = 60.0\ndark.settings = [{ device = "LED", property = "Label", value = "Closed" }]',
)


@pytest.mark.parametrize("light", [SETTLE, NO_SHUTTER], ids=["shutter", "no shutter"])
@pytest.mark.parametrize("sequencing", ["off", "on"])
def test_the_lamp_settles_after_the_shutter_opened(
    make_scope: Callable[..., Scope],
    intercept: Intercept,
    light: tuple[str, str],
    sequencing: str,
) -> None:
    with CoreMicroscope(make_scope(REAL, light, sequencing=sequencing)) as microscope:
        doses: list[float] = []
        microscope.on_fluorescence = doses.append
        times: dict[str, float] = {}

        def at(name: str, key: str) -> Callable[..., Any]:
            def call(real: Callable[..., Any], *arguments: Any) -> Any:
                result = real(name, *arguments)
                if arguments[:1] != (False,):
                    times.setdefault(key, time.monotonic())
                return result

            return call

        out = np.empty((2, 256, 256), np.uint16)
        lights = ("fluorescence", "color1")
        events = [CaptureEvent(0, light, 0.0, 0.0, 0.0, 5.0, 500.0) for light in lights]
        microscope.switch_light("color2")
        opened = "set_shutter_open" if light is SETTLE else "set_property"
        exposed = "snap_image" if sequencing == "off" else "start_sequence_acquisition"
        intercept(
            microscope.link,
            **{opened: at(opened, "lit"), exposed: at(exposed, "exposed")},
        )
        if sequencing == "off":
            microscope.switch_light("fluorescence")
            microscope.expose(5.0, out[0])
        else:
            microscope.sequencing.expose_sequence(events, out)
        microscope.wait_for_frames()
        assert times["exposed"] - times["lit"] >= 0.06
        assert doses == [pytest.approx(65.0)]


# ---- texts and paths


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"385nm", "385nm"),
        ("Öl".encode(), "Öl"),
        ("40x Öl µm".encode("cp1252"), "40x Öl µm"),
        (b"a\x81b", "a\ufffdb"),
    ],
)
def test_texts_of_devices_can_be_printed_whatever_their_bytes(raw: bytes, shown: str) -> None:
    text = _readable(raw.decode("utf-8", "surrogateescape"))
    assert text == shown
    assert text.encode("utf-8")


def test_labels_and_folders_with_umlauts_work_on_the_core(
    make_scope: Callable[..., Scope], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from wbcpipe.acquire.config.scope import load_scope

    small = make_scope(REAL)
    folder = tmp_path_factory.mktemp("x") / "Müller Labor" / "neues Mikroskop"
    folder.mkdir(parents=True)
    cfg = small.config_path.read_text(encoding="utf-8").replace("385nm", "Grün für Öl")
    (folder / "small.cfg").write_bytes(cfg.encode("cp1252"))
    (folder / "small.toml").write_bytes(small.path.read_bytes())
    with CoreMicroscope(load_scope(folder / "small.toml")) as microscope:
        microscope.switch_light("color1")
        assert microscope.link.get_property("LED", "Label") == "Grün für Öl"
        microscope.reinitialise()
        microscope.switch_light("color1")
        assert microscope.link.get_property("LED", "State") == "1"
