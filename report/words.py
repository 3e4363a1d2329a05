"""Put flags, gates, the review and numbers into words, as each document and table has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wbcpipe.samples.differential_record import (
        ClassEntry,
        DifferentialRecord,
        ModelChecks,
        QualityGate,
        Verification,
    )

__all__ = [
    "flag_words",
    "format_number",
    "gate_figure",
    "review_words",
    "training_warning",
    "virtual_notice",
]


def virtual_notice(document: DifferentialRecord) -> str:
    """Return the notice that no blood was counted; empty unless the specimen is a virtual one."""
    return "Virtual slide: no patient's blood." if document.provenance.specimen else ""


def training_warning(sample: str, checks: ModelChecks) -> str:
    """Return a warning that the bundle learned from the sample; empty if it did not."""
    return (
        f"This bundle was trained on cells of sample {sample!r}; figures on them are too good."
        if checks.trained_on_sample
        else ""
    )


def flag_words(entry: ClassEntry) -> str:
    """Return the flag of a class in words: ``borderline high`` instead of ``borderline``."""
    if entry.flag is None:
        return ""
    if (
        entry.flag == "borderline"
        and entry.percent is not None
        and entry.reference_percent is not None
    ):
        return "borderline low" if entry.percent < entry.reference_percent[0] else "borderline high"
    return entry.flag


def review_words(found: Verification) -> str:
    """Return what people did to the count, in sentences; empty if nobody reviewed the sample."""
    if found.journal is None and found.signed is None:
        return ""
    if found.signed is not None:
        by = (
            f"{found.state.capitalize()} by {found.signed_by} at "
            f"{found.signed[:16].replace('T', ' ')} UTC"
        )
        first = f"{by} ({found.correction})." if found.correction else f"{by}."
    else:
        first = "Preliminary: the review is not signed."
    if found.corrects is not None:
        before = found.corrects
        first += (
            f" It replaces the report signed by {before.signed_by} at "
            f"{before.signed[:16].replace('T', ' ')} UTC."
        )
    sentences = [first, f"Looked at {found.looked} cells, changed {found.changed}."]
    if found.voided:
        sentences.append(f"An earlier signature is not in force any more: {found.voided}.")
    if found.lost:
        sentences.append(
            f"{found.lost} reviewed cells were not found again by the new segmentation."
        )
    if extra := ", ".join(
        f"{item.name} {format_number(item.per_100_wbc, none='not known')}"
        for item in found.extra
        if item.count
    ):
        sentences.append(f"Per 100 white cells: {extra}.")
    return " ".join(sentences)


def gate_figure(gate: QualityGate) -> str:
    """Return the figure of a gate as text, without its unit."""
    return "not known" if gate.figure is None else f"{gate.figure:.4g}"


def format_number(value: float | None, decimals: int = 1, none: str = "") -> str:
    """Return a number as text; ``none`` for none."""
    return none if value is None else f"{value:.{decimals}f}"
