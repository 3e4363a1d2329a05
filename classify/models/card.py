"""The model card that lies in each bundle, for people."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["model_card"]


def model_card(info: dict[str, Any]) -> str:
    """Markdown from the content of ``bundle.json``."""
    calibration, training, validation = info["calibration"], info["training"], info["validation"]
    derived = [name for name in info["modalities"] if name in info["derived"]]
    lines = [
        f"# {info['name']}",
        "",
        "Research software: not for diagnostic use.",
        "",
        f"- **What it does**: classifies white cells as {', '.join(info['classes'])}, or leaves them `unidentified`.",
        f"- **Network**: {info['method']} on {info['backbone']}, {_heads(info)}.",
        f"- **Input**: modalities {', '.join(info['modalities'])} ({info['planes']} plane each), crops of "
        f"{info['crop_px']} px at {info['pixel_um']} um a pixel, reduced to {info['side']} px.",
        f"- **Pictures it was trained on**: kind `{info['kind']}`; samples {', '.join(training.get('samples', []))}.",
        f"- **Weights**: SHA-256 `{info['sha256']}`.",
    ]
    if derived:
        lines.append(f"- **Derived**: {', '.join(derived)} is computed from the other modalities, not measured.")
    lines += ["", "## Cells it learned from", "", "| class | cells |", "|---|---|"]
    lines += [f"| {name} | {count} |" for name, count in training.get("cells", {}).items()]
    if "init_from" in training:
        init_from = training["init_from"]
        lines += ["", f"It started from the weights of `{init_from['bundle']}` (SHA-256 `{init_from['sha256']}`)."]
    lines += ["", "## How it was trained", "", *_recipe(training)]
    lines += ["", "## On cells kept from training", "", _scores(validation), *_by_class(info)]
    lines += [
        "",
        "## Calibration",
        "",
        _calibration(calibration),
        *_correction(calibration),
        *_guarantee(calibration),
        *_without(info),
        "",
        "## Limits",
        "",
        "Cells of other kinds than the classes above are given one of them, or `unidentified`. Pictures of another "
        "stain, microscope or laboratory need a validation of their own before any figure here is believed for them.",
    ]
    return "\n".join(lines) + "\n"


def _calibration(calibration: dict[str, Any]) -> str:
    stacked = calibration.get("stacking") is not None
    right = calibration["accepted_accuracy"]
    certificate = calibration.get("risk_bounds")
    apart = certificate["cells"] if certificate else 0
    return (
        f"Fitted on {calibration['cells'] - apart} of those cells"
        + (f", measured on the other {apart}" if apart else "")
        + f". Temperatures of the heads: "
        f"{', '.join(f'{t:g}' for t in calibration['temperatures'])}; "
        + (
            "fused by stacking, which was better than their weighted mean in cross-validation"
            if stacked
            else f"weights: {', '.join(f'{w:g}' for w in calibration['weights'])}"
        )
        + f"; of the fused probability: {calibration['fused_temperature']:g}. Calls below a confidence of "
        f"{calibration['threshold']:g} are `unidentified` "
        f"({100 * calibration['unidentified_fraction']:.1f} % of {'the others' if apart else 'those cells'}"
        + (f"; {100 * right:.2f} % of the accepted calls were right)." if right is not None else ").")
    )


def _correction(calibration: dict[str, Any]) -> list[str]:
    trial = calibration.get("correction")
    if not trial:
        return []
    helps = trial["corrected_points"] < trial["raw_points"]
    return [
        "",
        "In samples drawn with classes about as uneven as in blood, percentages erred by "
        f"{trial['raw_points']:.2f} points as counted and by {trial['corrected_points']:.2f} corrected for the "
        "network's errors, so reports "
        f"{'show corrected percentages beside the counts' if helps else 'do not correct'}.",
    ]


def _guarantee(calibration: dict[str, Any]) -> list[str]:
    certificate = calibration.get("risk_bounds")
    if not certificate:
        return []
    lines = [
        "",
        "## Guarantee",
        "",
        f"With {100 * certificate['confidence']:g} % confidence all of these hold together: at each threshold, at most "
        f"the bound's share of the accepted calls is wrong, {certificate['assumption']}. From {certificate['cells']} "
        "cells that had no say in network, fusion or thresholds (Clopper-Pearson limits, shared out over the rows). "
        "`wbcpipe classify --max-error` chooses among them.",
        "",
        "| threshold | unidentified | wrong of accepted | bound |",
        "|---|---|---|---|",
    ]
    for level in certificate["levels"]:
        own = " (default)" if level["threshold"] == calibration["threshold"] else ""
        lines.append(
            f"| {level['threshold']:g}{own} | {100 * level['unidentified_fraction']:.1f} % | "
            f"{level['wrong']} of {level['accepted']} | {100 * level['error_bound']:.1f} % |"
        )
    return lines


def _without(info: dict[str, Any]) -> list[str]:
    rows = {name: item["f1_weighted"] for name, item in info.get("missing_modality", {}).items()}
    if not any(value is not None for value in rows.values()):
        return []
    whole = info["calibration"].get("f1_weighted")
    lines = ["", "## Without a modality", "", "| missing | weighted F1 |", "|---|---|"]
    if whole is not None:
        lines.append(f"| none | {100 * whole:.2f} |")
    return lines + [f"| {name} | {100 * value:.2f} |" for name, value in rows.items() if value is not None]


def _heads(info: dict[str, Any]) -> str:
    count = len(info["calibration"]["temperatures"])
    return f"{count} heads" if count > 1 else "one head"


def _recipe(training: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in training.get("versions", {}).items())
    recipe = training.get("recipe")
    if not recipe:
        return ["Not recorded."]
    return [
        f"{training.get('date', 'Date not recorded')}; {versions}, Python {training.get('python', '?')}. The whole "
        "recipe, as `wbcpipe train --recipe FILE` reads it:",
        "",
        "```json",
        json.dumps(recipe, indent=1),
        "```",
    ]


def _by_class(info: dict[str, Any]) -> list[str]:
    """Scores and confusions of the heads' plain mean."""
    row = info["validation"].get("rows", {}).get(info["method"], {})
    if not row.get("confusion"):
        return []
    classes = info["classes"]
    lines = ["", f"{info['method']}, class by class; on the right how many cells of the class were called what:", ""]
    lines += [f"| class | F1 | sensitivity | {' | '.join(classes)} |", "|---" * (3 + len(classes)) + "|"]
    for name, calls in zip(classes, row["confusion"], strict=True):
        figures = (row[key].get(name) for key in ("f1", "sensitivity_by_class"))
        shown = " | ".join("-" if value is None else f"{100 * value:.2f}" for value in figures)
        lines.append(f"| {name} | {shown} | {' | '.join(map(str, calls))} |")
    error = info["validation"].get("calibration_error")
    if error is not None:
        lines += ["", f"Expected calibration error of the calibrated network: {error:.3f}."]
    return lines


def _scores(validation: dict[str, Any]) -> str:
    rows = validation.get("rows", {})
    if not rows:
        return "No figures."
    lines = ["| method | cells | weighted F1 | sensitivity | specificity | AUC |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        auc = "-" if row["auc"] is None else f"{100 * row['auc']:.2f}"
        lines.append(
            f"| {name} | {row['cells']} | {100 * row['f1_weighted']:.2f} | {100 * row['sensitivity']:.2f} | "
            f"{100 * row['specificity']:.2f} | {auc} |"
        )
    return "\n".join(lines)
