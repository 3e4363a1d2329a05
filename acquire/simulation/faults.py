"""A virtual scope whose devices fail on purpose, on a real core, to show that a run survives it.

Used by the tests and by ``benchmarks/soak.py``. A fault is injected into a call of the core, or
into the light, where a real one would occur; everything else is the code that runs on a microscope.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import AcquisitionPlan, PlannedField, PlannedPass
    from wbcpipe.acquire.simulation.optics.light_path import OpticalState
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan

__all__ = [
    "KINDS",
    "LABEL_KINDS",
    "Fault",
    "FaultKind",
    "FaultyOpener",
    "FaultyScope",
    "read_strikes",
]

FaultKind = Literal[
    "camera time-out",
    "dropped frame",
    "stage stays busy",
    "autofocus hangs",
    "lamp dark",
    "lamp saturates",
    "lamp fails",
    "camera frozen",
    "driver crash",
    "driver hangs",
    "core lost",
    "wrong label",
    "label unreadable",
]
#: Faults of the slide rather than of a field: they strike when its label is read.
LABEL_KINDS: Final[tuple[FaultKind, ...]] = ("wrong label", "label unreadable")
#: Faults that strike at a field.
KINDS: Final[tuple[FaultKind, ...]] = tuple(
    kind for kind in get_args(FaultKind) if kind not in LABEL_KINDS
)
#: What a wrong label reads: the slide of another sample.
WRONG_LABEL: Final = "ANOTHER-SLIDE"
#: Calls of the core that start an exposure, and those that fetch a frame.
_EXPOSING: Final = ("snap_image", "start_sequence_acquisition")
_FETCHING: Final = ("get_image", "pop_next_tagged_image")
#: Power of a lamp relative to a good one; the camera sees it as so much more or less exposure.
_POWER: Final[dict[str, float]] = {"lamp saturates": 50.0, "lamp fails": 0.2}
_NEAR_UM: Final = 0.05
#: An autofocus fault strikes at focus points near so many fields from its own on.
_FOCUS_FIELDS: Final = 200


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: what fails.
        field: planned field at which it strikes; ``autofocus hangs`` strikes near this or one of
            the 199 after it. Of no meaning for `LABEL_KINDS`.
        attempts: number of attempts that fail; for `LABEL_KINDS`, of times that the microscope is
            opened.
        modality: the frame that a fault of the light, or a frozen camera, affects.
    """

    kind: FaultKind
    field: int
    attempts: int = 1
    modality: str = "color2"


@dataclass(frozen=True)
class FaultyOpener:
    """Opens a `FaultyScope`.

    Give it to `AcquisitionRequest` or `AcquisitionSession` as ``microscope``.

    Attributes:
        plan: of the run; it gives the positions of the fields.
        faults: to inject.
        journal: file to which each fault is appended before it strikes, so that one that kills the
            process does not strike again in the next.
        bleaching: of the specimen; without it a field that is taken twice gives the same frames
            twice.
    """

    plan: AcquisitionPlan
    faults: tuple[Fault, ...]
    journal: Path
    bleaching: bool = True

    def __call__(
        self,
        scope: Scope,
        specimen: SpecimenPlan | None = None,
        planned: PlannedPass | None = None,
        /,
    ) -> FaultyScope:
        """See `open_microscope`."""
        assert specimen is not None
        return FaultyScope(scope, specimen, self, planned)


def read_strikes(journal: Path) -> list[Fault]:
    """Return the faults that struck, in order.

    A fault is listed once for each attempt that failed.
    """
    if not journal.is_file():
        return []
    return [Fault(**json.loads(line)) for line in journal.read_text(encoding="utf-8").splitlines()]


class _FaultyLink(CoreLink):
    """A core whose calls fail with ``fault``."""

    fault: FaultKind | None = None
    _lost = False
    _ended: threading.Event | None = None

    def arm(self, fault: FaultKind | None) -> None:
        """Set the fault from here on, ``None`` for none. A call that hung until now returns."""
        if self._ended is not None and self.fault != "driver hangs":
            self._ended.set()
        self.fault, self._ended = fault, threading.Event()

    def call(self, name: str, *arguments: Any) -> Any:
        fault = self.fault
        if name in _EXPOSING and fault is not None:
            self._fail_exposing(fault)
        if name in _FETCHING and fault == "dropped frame":
            raise HardwareError(f"{name}() failed: Camera image buffer read failed.")
        if fault == "stage stays busy" and arguments == (self._scope.stage.xy_device,):
            if name == "device_busy":
                return True
            if name == "stop":
                self.fault = None
        if name == "load_system_configuration" and self._lost:
            raise HardwareError(
                f"{name}({arguments[0]!r}) failed: the devices are in use by another process."
            )
        return super().call(name, *arguments)

    def _fail_exposing(self, fault: FaultKind) -> None:
        if fault in ("camera time-out", "autofocus hangs", "driver hangs"):
            assert self._ended is not None
            # Longer than the deadline, so that it is missed; only a driver that hangs never
            # returns.
            self._ended.wait(
                None if fault == "driver hangs" else 1.6 * self._scope.reliability.camera_timeout_s
            )
            raise HardwareError("snap_image() failed: the camera was restarted.")
        if fault == "driver crash":
            super().call(
                "set_property",
                self._scope.camera.device,
                "SimulateCrash",
                "Dereference Null Pointer",
            )
        elif fault == "core lost":
            self._lost = True
            super().call("unload_all_devices")


class FaultyScope(VirtualScope):
    """The virtual scope with faults; see `FaultyOpener`."""

    def __init__(
        self,
        scope: Scope,
        plan: SpecimenPlan,
        opener: FaultyOpener,
        planned: PlannedPass | None = None,
    ) -> None:
        link = _FaultyLink(scope)
        super().__init__(scope, plan, planned, link=link, bleaches=opener.bleaching)
        #: Modality whose frame the present fault affects.
        self._modality = ""
        #: Light to the last frame taken in it.
        self._shown: dict[str, NDArray[np.uint16]] = {}
        self._faulty_link = link
        self._opener = opener
        self._fields = opener.plan.fields()
        self._positions_um = np.array(
            [(field.x_um, field.y_um) for field in self._fields]
        )  # (F, 2)
        self._strikes: Counter[Fault] = Counter(read_strikes(opener.journal))

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        """See `protocols.Microscope.move_xy`.

        Each attempt at a field or a focus point starts here.
        """
        fault = self._due(x_um, y_um)
        self._faulty_link.arm(None if fault is None else fault.kind)
        if fault is not None:
            self._modality = fault.modality
            self._strikes[fault] += 1
            self._note(fault)
        return super().move_xy(x_um, y_um)

    def label_text(self) -> str:
        """Return the id on the label, or that of another slide, or nothing, if such a fault is
        due.
        """
        for fault in self._opener.faults:
            if fault.kind in LABEL_KINDS and self._strikes[fault] < fault.attempts:
                self._strikes[fault] += 1
                self._note(fault)
                return WRONG_LABEL if fault.kind == "wrong label" else ""
        return super().label_text()

    def close(self) -> None:
        """See `protocols.Microscope.close`."""
        self._faulty_link.arm(None)
        super().close()

    def _render(self, state: OpticalState, out: NDArray[np.uint16]) -> None:
        """Render under a lamp, or with a camera, that fails."""
        fault = self._faulty_link.fault if state.light == self._modality else None
        if fault == "lamp dark":
            state = replace(state, light="")
        elif fault is not None and fault in _POWER:
            state = replace(state, exposure_ms=state.exposure_ms * _POWER[fault])
        super()._render(state, out)
        before = self._shown.get(state.light)
        if fault == "camera frozen" and before is not None and before.shape == out.shape:
            out[:] = before
        elif state.light:
            self._shown[state.light] = out.copy()

    def _due(self, x_um: float, y_um: float) -> Fault | None:
        distance_um = np.hypot(*(self._positions_um - (x_um, y_um)).T)  # (F,)
        nearest: PlannedField = self._fields[int(distance_um.argmin())]
        focusing = float(distance_um.min()) > _NEAR_UM
        for fault in self._opener.faults:
            if fault.kind in LABEL_KINDS:
                continue
            if self._strikes[fault] >= fault.attempts or focusing != (
                fault.kind == "autofocus hangs"
            ):
                continue
            if fault.field == nearest.index or (
                focusing and 0 <= nearest.index - fault.field < _FOCUS_FIELDS
            ):
                return fault
        return None

    def _note(self, fault: Fault) -> None:
        with self._opener.journal.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(asdict(fault)) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
