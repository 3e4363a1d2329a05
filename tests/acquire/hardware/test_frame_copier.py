"""Frames are copied in order on one thread, and those held back wait for their release."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from wbcpipe.acquire.hardware.frame_copier import FrameCopier


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
