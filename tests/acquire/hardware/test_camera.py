"""The camera of the real core: its region, its frames and its buffer."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.hardware.camera import FrameCopier
from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


def test_a_wrong_sensor_size_is_named(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(("sensor_px = [256, 256]", "sensor_px = [512, 256]"))
    with pytest.raises(HardwareError, match=r"has 256 x 256 pixels .* say 512 x 256"):
        VirtualScope(scope, specimen)


def test_part_of_the_sensor_and_binning(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    whole = np.empty((256, 256), np.uint16)
    with VirtualScope(make_scope(), specimen) as microscope:
        microscope.move_z(microscope.scope.focus.fixed_um)
        microscope.switch_light("color1")
        assert microscope.move_xy(0.0, 0.0) == pytest.approx((0.0, 0.0), abs=0.02)
        microscope.expose(5.0, whole)
    scope = make_scope(("binning = 1", "binning = 2\nroi_px = [128, 64, 64, 128]"))
    assert scope.field_um == pytest.approx((6.4, 12.8))
    part = np.empty((64, 32), np.uint16)
    with VirtualScope(scope, specimen) as microscope:
        microscope.move_z(scope.focus.fixed_um)
        microscope.switch_light("color1")
        # The middle of this region lies 3.2 um to the right of the stage's position, on its height.
        assert microscope.move_xy(3.2, 0.0) == pytest.approx((3.2, 0.0), abs=0.02)
        assert microscope.stage.xy_um() == pytest.approx((0.0, 0.0), abs=0.02)
        microscope.expose(5.0, part)
    expected = whole[64:192, 128:192].reshape(64, 2, 32, 2).mean(axis=(1, 3))
    assert np.corrcoef(part.ravel(), expected.ravel())[0, 1] > 0.98


def test_an_overflowing_buffer_is_an_error(make_scope: Callable[..., Scope]) -> None:
    with CoreMicroscope(make_scope(("virtual = true", "virtual = false"))) as microscope:
        link, camera = microscope.link, microscope.camera
        link.call("set_circular_buffer_memory_footprint", 1)
        with pytest.raises(
            HardwareError, match=r"buffer holds 8 frames, a sequence has 9; enlarge it"
        ):
            camera.prepare_buffer(9)
        camera.send_exposure(1.0)
        camera.start_sequence(20, 5.0)
        while link.call("is_sequence_running"):
            time.sleep(0.01)
        for _ in range(8):
            assert camera.wait_frame(time.monotonic() + 1)
            camera.next_frame()
        with pytest.raises(HardwareError, match="overflowed: frames of this sequence are lost"):
            camera.wait_frame(time.monotonic() + 1)
        camera.stop_sequence(5.0)


def test_jobs_run_in_order_on_one_thread() -> None:
    copier, done, threads = FrameCopier(), list[int](), set[int]()

    def note(number: int) -> None:
        done.append(number)
        threads.add(threading.get_ident())

    for number in range(20):
        copier.run(partial(note, number))
    copier.wait()
    assert done == list(range(20))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    copier.close()


def test_held_jobs_run_on_release_and_dropped_ones_never() -> None:
    copier, done = FrameCopier(), list[str]()
    copier.hold(lambda: done.append("dropped"))
    copier.drop_held()
    copier.hold(lambda: done.append("held"))
    copier.run(lambda: done.append("at once"))
    copier.wait()
    assert done == ["at once"]
    copier.release()
    copier.wait()
    assert done == ["at once", "held"]
    copier.close()


def test_a_copy_that_fails_is_raised_by_the_wait() -> None:
    copier = FrameCopier()
    copier.run(lambda: print(1 // 0))
    with pytest.raises(ZeroDivisionError):
        copier.wait()
    copier.wait()
    copier.close()
