"""A small scope on the real Micro-Manager core, and samples to fill."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from wbcpipe.acquire.capture.session_observer import SessionObserver
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink

SHIPPED = Path(__file__).parents[2] / "hardware_configs"
SENSOR_PX = 256


class ScopeMaker(Protocol):
    """Writes a scope of a small sensor, with texts of its two files replaced."""

    def __call__(
        self, *replacements: tuple[str, str], focus: str = "fixed", sequencing: str = "off"
    ) -> Scope: ...


@pytest.fixture(scope="session", autouse=True)
def _real_core() -> None:
    """The real core must be there: these tests prove nothing against a stand-in."""
    from wbcpipe.acquire.hardware.device_adapters import interface_versions
    from wbcpipe.errors import HardwareError

    try:
        core, adapters = interface_versions()
    except HardwareError as error:
        pytest.fail(str(error))
    if core != adapters:
        pytest.fail(
            f"pymmcore speaks device interface {core}, mm-test-adapters {adapters}: "
            "pip install 'pymmcore==12.5.1.75.*' 'mm-test-adapters==75.*'"
        )


@pytest.fixture
def specimen() -> SpecimenPlan:
    return SpecimenPlan(7)


@pytest.fixture
def make_scope(tmp_path: Path, specimen: SpecimenPlan) -> ScopeMaker:
    # Faults are injected into single exposures, so light is switched by command where a test does
    # not say otherwise.
    def make(
        *replacements: tuple[str, str], focus: str = "fixed", sequencing: str = "off"
    ) -> Scope:
        toml = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
        cfg = (SHIPPED / "demo.cfg").read_text(encoding="utf-8")
        focus_um = Specimen(specimen).focus_um(0.0, 0.0)
        changes = [
            ("[2048, 2048]", f"[{SENSOR_PX}, {SENSOR_PX}]"),
            ("Size,2048", f"Size,{SENSOR_PX}"),
            ("[-2500.0, 2500.0]", "[-60.0, 60.0]"),
            ('config = "demo.cfg"', 'config = "small.cfg"'),
            ('method = "surface"', f'method = "{focus}"'),
            ("fixed_um = 0.0", f"fixed_um = {focus_um:.2f}"),
            ('sequencing = "auto"', f'sequencing = "{sequencing}"'),
            ("retry_wait_s = 0.5", "retry_wait_s = 0.0"),
            # A field of 26 um often shows no cell, and most tests count fields.
            ("skip_empty = true", "skip_empty = false"),
            *replacements,
        ]
        for old, new in changes:
            assert old in toml + cfg, old
            toml, cfg = toml.replace(old, new), cfg.replace(old, new)
        (tmp_path / "small.toml").write_text(toml, encoding="utf-8")
        (tmp_path / "small.cfg").write_text(cfg, encoding="utf-8")
        return load_scope(tmp_path / "small.toml")

    return make


@pytest.fixture
def small_scope(make_scope: ScopeMaker) -> Scope:
    return make_scope()


@pytest.fixture
def small_plan(small_scope: Scope) -> AcquisitionPlan:
    return AcquisitionPlan.from_scope(small_scope, "A")


class CoreCalls:
    """Answers some calls of a link in place of its core; the others go on to the core.

    Attributes:
        made: every call with its arguments, in order.
    """

    def __init__(
        self, link: CoreLink, patch: pytest.MonkeyPatch, answers: dict[str, Callable[..., Any]]
    ) -> None:
        self.made: list[tuple[Any, ...]] = []
        real = link.call

        def call(name: str, *arguments: Any) -> Any:
            self.made.append((name, *arguments))
            return answers[name](real, *arguments) if name in answers else real(name, *arguments)

        patch.setattr(link, "call", call)


class Intercept(Protocol):
    """Answers calls of a link by functions of (the real `CoreLink.call`, arguments...)."""

    def __call__(self, link: CoreLink, **answers: Callable[..., Any]) -> CoreCalls: ...


@pytest.fixture
def made_cores(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The cores that pycromanager makes from here on, to look at past the link."""
    import pycromanager

    made: list[Any] = []
    real = pycromanager.Core

    def core(*arguments: Any, **options: Any) -> Any:
        made.append(real(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(pycromanager, "Core", core)
    return made


@pytest.fixture
def intercept(monkeypatch: pytest.MonkeyPatch) -> Intercept:
    return lambda link, **answers: CoreCalls(link, monkeypatch, answers)


class Recorder(SessionObserver):
    """Records what a session reports; ``on_taken`` and ``on_started`` are called with each
    index.
    """

    def __init__(self) -> None:
        self.taken_fields: list[int] = []
        self.missing_fields: dict[int, str] = {}
        self.empty_fields: dict[int, float] = {}
        self.messages: list[str] = []
        self.on_taken: Callable[[int], object] = lambda _: None
        self.on_started: Callable[[int], object] = lambda _: None

    def progress(self, text: str) -> None:
        self.messages.append(text)

    def started(self, index: int) -> None:
        self.on_started(index)

    def taken(self, index: int) -> None:
        self.taken_fields.append(index)
        self.on_taken(index)

    def missing(self, index: int, reason: str) -> None:
        self.missing_fields[index] = reason

    def empty(self, index: int, foreground_um2: float) -> None:
        self.empty_fields[index] = foreground_um2


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample.open(tmp_path / "data", "S1")


@dataclass
class Bridged:
    """A scope over the bridge, the same one headless, and the server at the other end.

    The server stands for a running Micro-Manager; see `bridge_server`.
    """

    scope: Scope
    headless: Scope
    process: subprocess.Popen[str]
    port: int

    def order(self, line: str) -> str:
        """Order a fault, or ask; see `bridge_faults`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def restart(self) -> None:
        """Start a new one on the same port."""
        self.end()
        self.process, self.port = _start_server(self.headless.config_path, self.port)

    def end(self) -> int:
        """Close the server's standard input, as the end of this process would.

        Gives its exit code.
        """
        with self.process:
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            return self.process.wait(10)


class BridgeMaker(Protocol):
    """Starts a server on a small scope's .cfg, with texts of its two files replaced."""

    def __call__(self, *replacements: tuple[str, str]) -> Bridged: ...


def _start_server(config: Path, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).parent / "hardware" / "bridge_server.py"),
            str(config),
            "--port",
            str(port),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = process.stdout.readline()
    if not told:
        process.communicate()
        pytest.fail("the bridge server did not start; its message stands above")
    return process, int(told)


@pytest.fixture
def make_bridge(make_scope: ScopeMaker) -> Iterator[BridgeMaker]:
    started: list[Bridged] = []

    def make(*replacements: tuple[str, str]) -> Bridged:
        headless = make_scope(*replacements)
        process, port = _start_server(headless.config_path)
        micromanager = headless.micromanager.model_copy(update={"backend": "bridge", "port": port})
        scope = headless.model_copy(update={"micromanager": micromanager})
        started.append(Bridged(scope, headless, process, port))
        return started[-1]

    yield make
    for bridge in started:
        killed = bridge.process.poll() is not None
        assert bridge.end() == 0 or killed, "the server did not end by itself"


@pytest.fixture
def bridged(make_bridge: BridgeMaker) -> Bridged:
    return make_bridge()
