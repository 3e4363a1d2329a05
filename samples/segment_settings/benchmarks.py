"""The benchmarks that the settings name, each with the page of its results."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CANDIDATES",
    "CROWDED",
    "FOREIGN",
    "IMPORTED_STACKS",
    "LIGHT",
    "MASKS",
    "REGISTRATION",
    "SMEARS",
    "VIRTUAL",
]

#: Cells found on unseen virtual slides.
VIRTUAL: Final = "benchmarks/segment.py, docs/results/detection.md"
#: Cells found on 364 smears with boxes.
SMEARS: Final = "benchmarks/detection_bccd.py, docs/results/detection.md"
#: Red cells of other laboratories that look like white ones.
FOREIGN: Final = "benchmarks/foreign_fields.py, docs/results/foreign-fields.md"
#: The fit of the function that judges candidates.
CANDIDATES: Final = "benchmarks/train_candidates.py, docs/results/foreign-fields.md"
#: Crowded and small nuclei; tests/segment/detection/test_crowded.py holds the figures.
CROWDED: Final = "tests/segment/detection/test_crowded.py, docs/results/foreign-fields.md"
#: Masks against outlines that experts drew.
MASKS: Final = "benchmarks/drawn_masks.py, docs/results/generality.md"
#: Other stains, cameras, light and blur.
LIGHT: Final = "benchmarks/generality.py, docs/results/generality.md"
#: Channels under known displacements.
REGISTRATION: Final = "benchmarks/registration.py, docs/results/registration.md"
#: Imported stacks with known displacements.
IMPORTED_STACKS: Final = "tests/segment/test_stack_registration.py"
