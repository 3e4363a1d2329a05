"""Fixtures for all tests, and how the tests share the machine's cores."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

from wbcpipe.system.signals import STOP_SIGNALS

# Of the workers, which inherit it before they load numpy and torch. Two of them fill two cores: threads that wait for
# each other on a busy core take several times as long. What must hold on more threads asks for them by a fixture.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# OpenVINO reports its use over the network, from a fork of this process, unless it is told that nobody asked it to.
os.environ.setdefault("CI", "true")

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

#: The beginning of a test's path, to the name of what one worker runs in one go; other files go one by one. Servers of
#: the bridge take the port after their own too, so two workers would take each other's; fields are rendered once.
_TOGETHER: Final = {
    "acquire/hardware/test_java_bridge": "bridge",
    "acquire/hardware/test_bridge": "bridge",
    "segment/": "segment",
    "review/page/": "browser",
}
#: What takes longest is begun first, so that the workers end at about the same time.
_FIRST: Final = (
    "test_run.py",
    "bridge",
    "segment",
    "acquire/simulation/test_faults.py",
    "classify/study/test_study.py",
    "classify/training/test_train.py",
)


def _group(node: str) -> str:
    """What a test is run together with, by its node id."""
    path = node.partition("::")[0].rpartition("tests/")[2]
    return next((group for start, group in _TOGETHER.items() if path.startswith(start)), path)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """Hands a worker one group after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    return _Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        group = _group(item.nodeid)
        return _FIRST.index(group) if group in _FIRST else len(_FIRST)

    items.sort(key=turn)


@pytest.fixture(scope="session", autouse=True)
def _hasty_disk() -> Iterator[None]:
    """No flushing: tests never cut the power, and on a busy disk it is most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _handle: None)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real pictures are not there: {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def stop_handlers() -> Iterator[None]:
    """Remove the signal handlers that `pipeline.main` installs for its own process."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)
