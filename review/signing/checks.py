"""Checks before signing; the laboratory's file makes each of them hard, soft or off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.report.words import gate_figure
from wbcpipe.samples.review.sign_basis import SignCheck

if TYPE_CHECKING:
    from wbcpipe.laboratory.lab_file import SignRules
    from wbcpipe.report.differential import Tally
    from wbcpipe.samples.differential_record import Quality

__all__ = ["sign_checks"]


def sign_checks(
    tally: Tally, quality: Quality, decisive: int, rules: SignRules
) -> tuple[SignCheck, ...]:
    """Return the results of the checks that are not off.

    Args:
        tally: of the cells after the review.
        quality: the quality gates.
        decisive: cells that nobody has looked at and that could change the differential, see
            `review.statistics.remaining_doubt`.
        rules: of the laboratory.
    """
    failed = [
        f"{gate.title.lower()} {gate_figure(gate)}"
        for gate in quality.gates
        if gate.passed is False
    ]
    found = {
        "unidentified": (tally.unidentified == 0, f"{_cells(tally.unidentified)} unidentified"),
        "doubtful": (
            decisive == 0,
            f"{_cells(decisive)} left to look at that could change the differential",
        ),
        "gates": (not failed, f"quality gates that failed: {', '.join(failed) or 'none'}"),
        "count": (
            tally.identified >= rules.min_cells,
            f"{_cells(tally.identified)} counted, of {rules.min_cells} asked for",
        ),
    }
    return tuple(
        SignCheck(name=name, passed=passed, hard=severity == "hard", text=text)
        for name, (passed, text) in found.items()
        if (severity := getattr(rules, name)) != "off"
    )


def _cells(number: int) -> str:
    return f"{number or 'no'} cell{'' if number == 1 else 's'}"
