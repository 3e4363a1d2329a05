"""The model card of a bundle, in Markdown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from wbcpipe.classify.metrics import table_lines

if TYPE_CHECKING:
    from wbcpipe.classify.models.bundle_info import BundleInfo, Training
    from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration

__all__ = ["model_card"]


def model_card(info: BundleInfo) -> str:
    """Return the model card of a bundle."""
    heads = len(info.calibration.temperatures)
    derived = [name for name in info.modalities if name in info.derived]
    training = info.training
    lines = [
        f"# {info.name}",
        "",
        "Research software: not for diagnostic use.",
        "",
        f"- **Purpose**: classifies white cells as {', '.join(info.classes)}, or leaves them `unidentified`.",
        f"- **Network**: {info.method} on {info.backbone}, {f'{heads} heads' if heads > 1 else 'one head'}.",
        f"- **Input**: modalities {', '.join(info.modalities)} ({info.planes} plane each), crops of {info.crop_px} px "
        f"at {info.pixel_um} um per pixel, reduced to {info.side} px.",
        f"- **Training images**: kind `{info.kind}`; samples {', '.join(training.samples)}.",
        f"- **Weights**: SHA-256 `{info.sha256}`.",
    ]
    if derived:
        lines.append(f"- **Derived**: {', '.join(derived)} is computed from the other modalities, not measured.")
    lines += ["", "## Training cells", "", *table_lines(("class", "cells"), training.cells.items())]
    if training.init_from is not None:
        source = training.init_from
        lines += ["", f"The training started from the weights of `{source.bundle}` (SHA-256 `{source.sha256}`)."]
    lines += ["", "## Training", "", *_recipe(training), "", "## Validation", "", *_scores(info), *_by_class(info)]
    lines += ["", "## Calibration", "", _calibration(info.calibration), *_correction(info.calibration)]
    lines += _risk_control(info.calibration) + _missing_modality(info)
    lines += [
        "",
        "## Limits",
        "",
        "Cells of other types than the classes above are predicted as one of them, or `unidentified`. Images of "
        "another stain, microscope or laboratory need their own validation; the figures above are not valid for them.",
    ]
    return "\n".join(lines) + "\n"


def _recipe(training: Training) -> list[str]:
    if not training.recipe:
        return ["Not recorded."]
    versions = ", ".join(f"{name} {version}" for name, version in training.versions.items())
    return [
        f"{training.date or 'Date not recorded'}; {versions}, Python {training.python or '?'}. The recipe, as `wbcpipe "
        "train --recipe FILE` reads it:",
        "",
        "```json",
        json.dumps(training.recipe, indent=1),
        "```",
    ]


def _scores(info: BundleInfo) -> list[str]:
    if not info.validation.rows:
        return ["No figures."]
    table = []
    for name, row in info.validation.rows.items():
        figures = (row["f1_weighted"], row["sensitivity"], row["specificity"], row["auc"])
        table.append([name, row["cells"], *map(_percent, figures)])
    return table_lines(("method", "cells", "weighted F1", "sensitivity", "specificity", "AUC"), table)


def _by_class(info: BundleInfo) -> list[str]:
    """Return scores and confusion of the plain mean of the heads, class by class."""
    row = info.validation.rows.get(info.method)
    if row is None:
        return []
    lines = ["", f"{info.method}, class by class; the columns on the right count the cells by predicted class:", ""]
    table = [
        [name, _percent(row["f1"].get(name)), _percent(row["sensitivity_by_class"].get(name)), *counts]
        for name, counts in zip(info.classes, row["confusion"], strict=True)
    ]
    lines += table_lines(("class", "F1", "sensitivity", *info.classes), table)
    error = info.validation.calibration_error
    if error is not None:
        lines += ["", f"Expected calibration error of the calibrated network: {error:.3f}."]
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _calibration(calibration: ProbabilityCalibration) -> str:
    test_cells = calibration.risk_bounds.cells if calibration.risk_bounds else 0
    fusion = (
        "the heads are fused by stacking, which was better than their weighted mean in cross-validation"
        if calibration.stacking
        else f"weights: {', '.join(f'{weight:g}' for weight in calibration.weights)}"
    )
    right = calibration.accepted_accuracy
    return (
        f"Fitted on {calibration.cells - test_cells} validation cells"
        + (f", tested on {test_cells} others" if test_cells else "")
        + f". Temperatures of the heads: {', '.join(f'{value:g}' for value in calibration.temperatures)}; {fusion}; "
        f"temperature of the fused probability: {calibration.fused_temperature:g}. Cells below a confidence of "
        f"{calibration.threshold:g} are `unidentified` ({100 * calibration.unidentified_fraction:.1f} % of the "
        f"{'test' if test_cells else 'validation'} cells"
        + (f"; {100 * right:.2f} % of the accepted predictions were right)." if right is not None else ").")
    )


def _correction(calibration: ProbabilityCalibration) -> list[str]:
    trial = calibration.correction
    if trial is None:
        return []
    effect = "show corrected percentages beside the counts" if trial.helps else "show no corrected percentages"
    return [
        "",
        "In test samples with class frequencies as uneven as those of blood, the mean error of a percentage was "
        f"{trial.raw_points:.2f} percentage points as counted and {trial.corrected_points:.2f} after correction for "
        f"the network's errors. Reports {effect}.",
    ]


def _risk_control(calibration: ProbabilityCalibration) -> list[str]:
    bounds = calibration.risk_bounds
    if bounds is None:
        return []
    lines = [
        "",
        "## Risk control",
        "",
        f"With {100 * bounds.confidence:g} % confidence, all of these bounds hold together: at each threshold, the "
        f"share of wrong predictions among the accepted ones is at most the bound, {bounds.assumption}. The bounds are "
        f"Clopper-Pearson limits with Bonferroni correction, from {bounds.cells} test cells that were not used to fit "
        "the network, the fusion or the thresholds. `wbcpipe classify --max-error` chooses a threshold.",
        "",
    ]
    table = [
        (
            f"{level.threshold:g}{' (default)' if level.threshold == calibration.threshold else ''}",
            f"{100 * level.unidentified_fraction:.1f} %",
            f"{level.wrong} of {level.accepted}",
            f"{100 * level.error_bound:.1f} %",
        )
        for level in bounds.levels
    ]
    return lines + table_lines(("threshold", "unidentified", "wrong of accepted", "bound"), table)


def _missing_modality(info: BundleInfo) -> list[str]:
    rows = {name: item.f1_weighted for name, item in info.missing_modality.items()}
    if all(value is None for value in rows.values()):
        return []
    rows = {"none": info.calibration.f1_weighted, **rows}
    table = [(name, _percent(value)) for name, value in rows.items() if value is not None]
    return ["", "## Missing modality", "", *table_lines(("missing", "weighted F1"), table)]
