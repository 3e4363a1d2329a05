"""The virtual specimen and the microscope that looks at it.

In: a :class:`SpecimenPlan` and the true state of the core (:class:`OpticalState`). Out: frames as a camera would
give them, and the ground truth.
"""

from wbcpipe.acquire.specimen.biology import BIOLOGY, Biology
from wbcpipe.acquire.specimen.microscope import VirtualMicroscope
from wbcpipe.acquire.specimen.optics import UNMOVED, OpticalState, Seating, reseated
from wbcpipe.acquire.specimen.plan import CELL_CLASSES, Preparation, SpecimenPlan, class_frequencies
from wbcpipe.acquire.specimen.slide import ObjectKind, Specimen, SpecimenObject
from wbcpipe.acquire.specimen.truth import TRUTH_COLUMNS, TruthRow, truth_rows, write_truth

__all__ = [
    "BIOLOGY",
    "CELL_CLASSES",
    "TRUTH_COLUMNS",
    "UNMOVED",
    "Biology",
    "ObjectKind",
    "OpticalState",
    "Preparation",
    "Seating",
    "Specimen",
    "SpecimenObject",
    "SpecimenPlan",
    "TruthRow",
    "VirtualMicroscope",
    "class_frequencies",
    "reseated",
    "truth_rows",
    "write_truth",
]
