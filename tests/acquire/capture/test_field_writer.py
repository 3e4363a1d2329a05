"""Fields are written frame by frame while the next frames are exposed, and named only when
whole.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.field_accounting import FieldInventory
from wbcpipe.acquire.capture.field_writer import FieldWriter, field_buffers
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.capture.session_observer import SessionObserver
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.samples.fields import FieldInfo, FrameInfo, field_path, fields_on_disk, read_field
from wbcpipe.system.files import begin_flush

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import IO

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Exposure
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.sample import Sample

SIDE_PX = 128
PLANE_BYTES = 2 * SIDE_PX**2
INFO = FieldInfo(0, 1.0, 2.0, 0.1, tuple(FrameInfo(f"light{number}") for number in range(4)))

#: A process that is killed when two frames of four are written.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from wbcpipe.acquire.capture.field_accounting import FieldInventory
from wbcpipe.acquire.capture.field_writer import FieldWriter, field_buffers
from wbcpipe.acquire.capture.session_observer import SessionObserver
raw = Path(sys.argv[1])
(buffer, *_), aside = field_buffers(4, (128, 128)), raw / ".field_00000.ome.tif.partial"
pending = FieldWriter(raw, [buffer], FieldInventory(), SessionObserver()).start_field(0, buffer)
pending.complete_frame(0)
pending.complete_frame(1)
while not aside.exists() or aside.stat().st_size < 2 * 2 * 128 * 128:
    time.sleep(0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""


def wait_for_bytes(path: Path, least: int) -> None:
    """A file that never grows so long fails the test."""
    deadline_s = time.monotonic() + 10
    while not path.exists() or path.stat().st_size < least:
        assert time.monotonic() < deadline_s, f"{path} does not reach {least} bytes"
        time.sleep(0.001)


def aside_of(raw: Path) -> Path:
    return raw / ".field_00000.ome.tif.partial"


def take_whole(raw: Path) -> NDArray[np.uint16]:
    """Have a field written of which three frames are on the disk before the last comes.

    Gives its pixels.
    """
    (buffer, *_) = field_buffers(4, (SIDE_PX, SIDE_PX))
    buffer[:] = np.random.default_rng(1).integers(0, 65536, buffer.shape, np.uint16)
    inventory = FieldInventory()
    writer = FieldWriter(raw, [buffer], inventory, SessionObserver())
    pending = writer.start_field(0, buffer)
    for channel in range(3):
        pending.complete_frame(channel)
    wait_for_bytes(aside_of(raw), 3 * PLANE_BYTES)
    assert not fields_on_disk(raw), "named before it is whole"
    pending.complete_frame(3)
    writer.write(pending, INFO)
    writer.finish()
    writer.check()
    assert inventory.taken == {0: INFO}
    return buffer


def test_frames_reach_the_file_before_the_last_is_taken(tmp_path: Path) -> None:
    pixels = take_whole(tmp_path)
    images, info = read_field(field_path(tmp_path, 0))
    np.testing.assert_array_equal(images, pixels)
    assert info == INFO
    assert [path.name for path in tmp_path.iterdir()] == ["field_00000.ome.tif"]


def test_each_frame_is_sent_to_the_disk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []

    def noted(handle: IO[bytes], start: int) -> int:
        end = begin_flush(handle, start)
        sent.append((start, end))
        return end

    monkeypatch.setattr("wbcpipe.acquire.capture.field_writer.begin_flush", noted)
    take_whole(tmp_path)
    starts, ends = zip(*sent, strict=True)
    assert starts == (0, *ends[:-1]), "nothing is left out, nothing sent twice"
    assert np.diff(ends).tolist() == [PLANE_BYTES] * 3
    assert PLANE_BYTES < ends[0] < 2 * PLANE_BYTES


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("at_frame", [1, 3])
def test_a_field_whose_storage_fails_in_the_middle_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, at_frame: int
) -> None:
    flushed = []

    def refused(handle: IO[bytes], start: int) -> int:
        flushed.append(start)
        if len(flushed) == at_frame:
            raise OSError(number, os.strerror(number))
        return begin_flush(handle, start)

    monkeypatch.setattr("wbcpipe.acquire.capture.field_writer.begin_flush", refused)
    (buffer, *_) = field_buffers(4, (SIDE_PX, SIDE_PX))
    buffer[:] = np.random.default_rng(1).integers(0, 65536, buffer.shape, np.uint16)
    writer = FieldWriter(tmp_path, [buffer], FieldInventory(), SessionObserver())
    pending = writer.start_field(0, buffer)
    for channel in range(4):
        pending.complete_frame(channel)
    writer.write(pending, INFO)
    writer.finish()
    writer.check()
    images, info = read_field(field_path(tmp_path, 0))
    np.testing.assert_array_equal(images, buffer)
    assert info == INFO
    assert [path.name for path in tmp_path.iterdir()] == ["field_00000.ome.tif"]


def test_a_field_whose_frames_were_not_told_is_written_at_its_end(tmp_path: Path) -> None:
    (buffer, *_) = field_buffers(4, (SIDE_PX, SIDE_PX))
    writer = FieldWriter(tmp_path, [buffer], FieldInventory(), SessionObserver())
    writer.write(writer.start_field(0, buffer), INFO)
    writer.finish()
    writer.check()
    np.testing.assert_array_equal(read_field(field_path(tmp_path, 0))[0], buffer)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_kill_in_the_middle_leaves_nothing_under_a_fields_name(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [aside_of(tmp_path).name]
    assert not fields_on_disk(tmp_path)
    pixels = take_whole(tmp_path)
    np.testing.assert_array_equal(read_field(field_path(tmp_path, 0))[0], pixels)
    assert not aside_of(tmp_path).exists()


def test_frames_taken_by_command_are_written_as_they_come(
    sample: Sample,
    make_scope: Callable[..., Scope],
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scope = make_scope(sequencing="off")
    plan = AcquisitionPlan.from_scope(scope, "A")
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan, specimen)) as session:
        expose = session.microscope.expose
        exposed = [0]

        def watched(exposure_ms: float, out: NDArray[np.uint16], *more: Any) -> Exposure:
            if exposed[0] == 3:
                wait_for_bytes(aside_of(sample.raw_path()), 3 * out.nbytes)
            exposed[0] += 1
            return expose(exposure_ms, out, *more)

        monkeypatch.setattr(session.microscope, "expose", watched)
        session.take([0])
    assert exposed[0] == 4
    assert list(fields_on_disk(sample.raw_path())) == [0]


def test_a_take_does_not_lay_the_plan_out_anew_for_each_field(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a whole slide it takes a millisecond, before the first field's light."""
    laid_out, fields = [0], AcquisitionPlan.fields

    def counted(self: AcquisitionPlan) -> Any:
        laid_out[0] += 1
        return fields(self)

    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen)
    ) as session:
        monkeypatch.setattr(AcquisitionPlan, "fields", counted)
        session.take(range(3))
        with pytest.raises(ValueError, match="not in the plan, which has 0 to 24"):
            session.take([25])
        assert laid_out == [0]
