"""The model card that lies in each bundle, for people."""

from __future__ import annotations

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
    lines += ["", "## On cells kept from training", "", _scores(validation)]
    lines += [
        "",
        "## Calibration",
        "",
        f"Fitted on {calibration['cells']} of those cells. Temperatures of the heads: "
        f"{', '.join(f'{t:g}' for t in calibration['temperatures'])}; weights: "
        f"{', '.join(f'{w:g}' for w in calibration['weights'])}; of the fused probability: "
        f"{calibration['fused_temperature']:g}. Calls below a confidence of {calibration['threshold']:g} are "
        f"`unidentified` ({100 * calibration['unidentified_share']:.1f} % of those cells"
        + (
            f"; {100 * calibration['accept_accuracy']:.2f} % of the accepted calls were right)."
            if calibration["accept_accuracy"] is not None
            else ")."
        ),
        "",
        "## Limits",
        "",
        "Cells of other kinds than the classes above are given one of them, or `unidentified`. Pictures of another "
        "stain, microscope or laboratory need a validation of their own before any figure here is believed for them.",
    ]
    return "\n".join(lines) + "\n"


def _heads(info: dict[str, Any]) -> str:
    count = len(info["calibration"]["temperatures"])
    return f"{count} heads" if count > 1 else "one head"


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
