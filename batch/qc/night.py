"""What a night's page shows of quality control.

The broken rules, which are a gate of the night, and a few charts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.batch.qc.series import broken_rules, build_series
from wbcpipe.batch.qc.store import QcStore
from wbcpipe.batch.qc.westgard import WARNING

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.batch.qc.records import BrokenRule
    from wbcpipe.batch.qc.series import Series

__all__ = ["NightQuality", "quality_of_night"]

#: Shown where no rule is broken, as far as the scope has them.
_USUAL: Final = ("light.color1", "sharpness")


@dataclass(frozen=True)
class NightQuality:
    """Quality control of one scope in one night.

    Attributes:
        scope: its name.
        broken: rules that the night's checks and control slides break, warnings (1-2s) last.
        charts: series worth a look, at most as many as asked for: those that break a rule first.
            Draw them with `qc_chart_svg`; `chart_description` says what they show.
    """

    scope: str
    broken: tuple[BrokenRule, ...]
    charts: tuple[Series, ...]

    @property
    def passed(self) -> bool:
        """The gate: no rule but the warning is broken."""
        return all(rule.rule == WARNING for rule in self.broken)


def quality_of_night(data: Path, scope_name: str, batch: str, *, charts: int = 4) -> NightQuality:
    """Return the quality control of a scope in a batch.

    Raises:
        SampleStateError: the scope's file is damaged.
    """
    series = build_series(QcStore.of_scope(data, scope_name).entries())
    broken = broken_rules(series, batch=batch)
    order = {
        (rule.figure, rule.kind, rule.material): number
        for number, rule in reversed(list(enumerate(broken)))
    }
    last = len(order) + len(broken)

    def rank(line: Series) -> float:
        usual = last if line.figure in _USUAL or line.kind == "control" else last + 1
        return order.get((line.figure, line.kind, line.material), usual)

    return NightQuality(scope_name, tuple(broken), tuple(sorted(series, key=rank)[:charts]))
