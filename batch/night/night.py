"""What `batch run` does beside scanning and processing.

Checks, alerts, figures, the morning page, control charts.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.loader.workflow import load_slide
from wbcpipe.acquire.open_microscope import specimen_for
from wbcpipe.batch.morning.page import write_morning_page
from wbcpipe.batch.qc.control import record_control
from wbcpipe.batch.qc.night_checks import (
    CHECK_FILE,
    NightCheckRequest,
    run_night_check,
)
from wbcpipe.batch.row_request import load_request, stage_slot
from wbcpipe.batch.supervise.night_hooks import CheckOutcome, NightHooks
from wbcpipe.errors import BatchCheckError, WbcpipeError
from wbcpipe.samples.sample import Sample
from wbcpipe.system.awake import keep_awake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.alerts.alerts import Alerter
    from wbcpipe.batch.alerts.config import AlertKind
    from wbcpipe.batch.night.metrics import MetricsExporter
    from wbcpipe.batch.records import JournalEntry, WorklistRow
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["Night"]

_log = logging.getLogger(__name__)

#: Entry of the journal to the alert that it causes, and to the one whose cause it ends.
_CAUSES: Final[Mapping[str, AlertKind]] = {
    "attempt_failed": "first_failure",
    "quarantined": "first_failure",
    "scanning_stopped": "microscope_stopped",
    "check_failed": "check_failed",
    "disk_low": "disk_low",
    "unload_failed": "microscope_stopped",
    "computer_slept": "clock_or_sleep",
    "clock_changed": "clock_or_sleep",
    "batch_ended": "finished",
}
_ENDS: Final[Mapping[str, AlertKind]] = {
    "scanning_resumed": "microscope_stopped",
    "check_passed": "check_failed",
    "disk_freed": "disk_low",
    "operator_confirmed": "waiting_for_operator",
    "scan_started": "waiting_for_operator",
    "batch_resumed": "finished",
}
#: After these the morning page is written again.
_PAGE: Final = frozenset({"finished", "quarantined", "skipped", "scanning_stopped", "check_failed"})


class Night(NightHooks):
    """The hooks of `batch run`.

    Args:
        alerter: sends alerts.
        metrics: offers figures; ``None`` for none.
        check: check the microscope before the first slide, and between slides as the scope file
            says.
    """

    def __init__(self, alerter: Alerter, metrics: MetricsExporter | None, *, check: bool) -> None:
        self._alerter, self._metrics, self._check = alerter, metrics, check
        self._page_wanted = threading.Event()
        self._ended = False

    @contextlib.contextmanager
    def running(self, folder: BatchFolder) -> Iterator[str]:
        """See `NightHooks.running`."""
        writer = threading.Thread(
            target=self._keep_page, args=(folder,), name="wbcpipe-morning", daemon=True
        )
        if self._metrics is not None:
            self._metrics.start()
        writer.start()
        in_order = False
        try:
            with keep_awake() as refused:
                yield refused and f"{refused}; see docs/how-to/unattended.md"
            in_order = True
        finally:
            self._ended = True
            self._page_wanted.set()
            writer.join(60)
            if self._metrics is not None:
                self._metrics.stop()
            self._alerter.close(in_order=in_order)

    def check(
        self,
        folder: BatchFolder,
        scope: Scope,
        rows: tuple[WorklistRow, ...],
        slides_since: int | None,
        beat: Callable[[], None],
    ) -> CheckOutcome | None:
        """See `NightHooks.check`."""
        if not self._check or not scope.night_check.is_due(slides_since):
            return None
        row = rows[0]
        if (load := load_request(row, scope, folder.root)) is not None:
            if scope.loader is not None and scope.loader.method == "prompt":
                return None  # the slide comes when its process asks for it
            load_slide(load, ask=_no_operator, say=lambda _: beat())
        request = NightCheckRequest(
            scope=scope,
            slot=stage_slot(row, scope),
            rows=rows,
            data=folder.root,
            result_path=folder.path / CHECK_FILE,
            batch=folder.name,
            specimen=specimen_for(scope, row.specimen_seed, row.specimen_preparation),
            stained=row.protocol == "one-pass",
            first=slides_since is None,
        )
        result = run_night_check(request, lambda *_: beat())
        if result.broken_rules:
            rules = "; ".join(str(rule.figure) + " " + rule.rule for rule in result.broken_rules)
            self._alerter.send(
                "qc_rule_broken", f"Batch {folder.name}: a control rule is broken", rules
            )
        found = [
            f"{one.name}: {one.detail}"
            for one in result.findings
            if one.status in ("fail", "drift")
        ]
        text = "; ".join(found) or f"{len(result.findings)} findings, none beyond its limit"
        return CheckOutcome(
            result.passed, text, {"seconds": result.seconds, "frames": float(result.frames)}
        )

    def told(self, folder: BatchFolder, entry: JournalEntry) -> None:
        """See `NightHooks.told`."""
        if (ended := _ENDS.get(entry.event)) is not None:
            self._alerter.clear(ended)
        if (kind := _CAUSES.get(entry.event)) is not None:
            words = " ".join(filter(None, (entry.sample, entry.event.replace("_", " "))))
            self._alerter.send(kind, f"Batch {folder.name}: {words}", entry.reason or words)
        if entry.event in _PAGE:
            self._page_wanted.set()

    def operator_needed(self, folder: BatchFolder, text: str) -> None:
        """See `NightHooks.operator_needed`."""
        self._alerter.send("waiting_for_operator", f"Batch {folder.name} waits for you", text)

    def sample_finished(self, folder: BatchFolder, row: WorklistRow) -> None:
        """See `NightHooks.sample_finished`."""
        if not row.control:
            return
        try:
            scope = load_scope(row.scope)
            sample = Sample.open(folder.root, row.sample)
            record_control(sample, scope.name, folder.root, batch=folder.name, slide=row.slide)
        except (WbcpipeError, OSError, ValueError) as error:
            _log.warning("control slide %s: its figures could not be kept: %s", row.sample, error)

    def alive(self) -> None:
        """See `NightHooks.alive`."""
        self._alerter.alive()

    def _keep_page(self, folder: BatchFolder) -> None:
        """Write the morning page whenever it has changed: in a thread, since the microscope does
        not wait for it.
        """
        ended = False
        while not ended:
            self._page_wanted.wait()
            self._page_wanted.clear()
            ended = self._ended
            try:
                write_morning_page(folder, ended=ended)
            except Exception:  # noqa: BLE001 - the boundary of the page: one that cannot be written ends no night
                _log.exception("the morning page of %s could not be written", folder.name)


def _no_operator(message: str) -> None:
    raise BatchCheckError(f"the slide for the check must be loaded by an operator: {message}")
