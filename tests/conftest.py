"""Fixtures for all tests, and how the tests share the machine's cores."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from wbcpipe.system.signals import STOP_SIGNALS

# Of the workers, which inherit it before they load numpy and torch. Two of them fill two cores:
# threads that wait for each other on a busy core take several times as long. What must hold on more
# threads asks for them by a fixture.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# OpenVINO reports its use over the network, from a fork of this process, unless it is told that
# nobody asked it to.
os.environ.setdefault("CI", "true")
# Else each process that a test starts compiles the package anew, and pytest all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The same examples in each run, however slow the computer is; a test may ask for more or fewer.
hypothesis.settings.register_profile(
    "wbcpipe", derandomize=True, deadline=None, max_examples=60, database=None
)
hypothesis.settings.load_profile("wbcpipe")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.samples.sample import Sample

SHIPPED_SCOPES = Path(__file__).parents[1] / "hardware_configs"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

#: The beginning of a test's path, to the name of what one worker runs in one go; other files go one
#: by one. Servers of the bridge take the port after their own too, so two workers would take each
#: other's; fields are rendered once.
_TOGETHER: Final = {
    "acquire/hardware/test_java_bridge": "bridge",
    "acquire/hardware/test_bridge": "bridge",
    "segment/": "segment",
    "review/page/": "browser",
    "test_examples.py": "demo sample",
    "test_light_installs.py": "demo sample",
}
#: What takes longest is begun first, so that the workers end at about the same time.
_FIRST: Final = (
    "test_run.py",
    "bridge",
    "segment",
    "browser",
    "acquire/supervise/test_stop_signals.py",
    "acquire/focus/test_focus_moved.py",
    "acquire/simulation/test_faults.py",
    "classify/study/test_study.py",
    "classify/training/test_train.py",
)


#: Tests of what another version of a library or of Python is most likely to change: files and
#: arrays on disk, numerics, the network. `pytest -m smoke` collects these alone.
_SMOKE: Final = (
    "classify/inference/",
    "classify/test_stage.py",
    "exchange/images/",
    "imaging/",
    "report/test_document.py",
    "samples/",
    "segment/registration/",
    "segment/test_crop.py",
    "segment/test_flatfield.py",
    "system/test_storage.py",
    "system/test_user_files.py",
    "verify/",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.option.markexpr != "smoke" or collection_path.suffix != ".py":
        return None
    path = collection_path.relative_to(Path(__file__).parent).as_posix()
    return None if path.startswith(_SMOKE) else True


def _group(node: str) -> str:
    """What a test is run together with, by its node id."""
    path = node.partition("::")[0].rpartition("tests/")[2]
    return next((group for start, group in _TOGETHER.items() if path.startswith(start)), path)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """Hands a worker one group after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


#: The handlers of the stop signals before any test.
_handlers: Final[dict[signal.Signals, Any]] = {}


def pytest_configure() -> None:
    """Handle stop signals as a terminal would have it.

    A shell has its background jobs ignore SIGINT, and `nohup` SIGHUP; tests send both.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
        _handlers[number] = signal.getsignal(number)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    return _Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        group = _group(item.nodeid)
        return _FIRST.index(group) if group in _FIRST else len(_FIRST)

    for item in items:
        if item.nodeid.rpartition("tests/")[2].startswith(_SMOKE):
            item.add_marker("smoke")
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


@pytest.fixture(scope="session")
def small_scope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo scope with a quarter of the sensor."""
    folder = tmp_path_factory.mktemp("scope")
    for name in ("demo.toml", "demo.cfg"):
        text = (SHIPPED_SCOPES / name).read_text(encoding="utf-8")
        text = text.replace("[2048, 2048]", "[1024, 1024]").replace("Size,2048", "Size,1024")
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "demo.toml"


@pytest.fixture(scope="session")
def demo_sample(tmp_path_factory: pytest.TempPathFactory, small_scope: Path) -> Sample:
    """Four fields of the demo slide, from the microscope to the report; its fields stay."""
    import wbcpipe

    sample = wbcpipe.Sample.open(tmp_path_factory.mktemp("data"), "demo")
    request = wbcpipe.ScanRequest.from_scope(wbcpipe.load_scope(small_scope), fields=4)
    wbcpipe.run(sample, request)
    return sample


@pytest.fixture(autouse=True)
def stop_handlers() -> Iterator[None]:
    """Remove the signal handlers that `pipeline.main` installs for its own process."""
    yield
    if any(signal.getsignal(number) != handler for number, handler in _handlers.items()):
        signal.set_wakeup_fd(-1)
        for number, handler in _handlers.items():
            signal.signal(number, handler)
