"""Stage 1 of 4. In: a slide on a microscope. Out: one OME-TIFF a field, under ``raw/single``.

The plan says where the fields lie, the scope file what the microscope is; a worker process drives it.
"""

from wbcpipe.acquire.config import Scope, list_scopes, load_scope
from wbcpipe.acquire.frames import MODALITIES, FieldInfo, fields_on_disk, read_field, read_info
from wbcpipe.acquire.plan import AcquisitionPlan, PlannedField
from wbcpipe.acquire.record import begin_sample, time_estimate
from wbcpipe.acquire.worker import AcquisitionRequest, AcquisitionWorker

__all__ = [
    "MODALITIES",
    "AcquisitionPlan",
    "AcquisitionRequest",
    "AcquisitionWorker",
    "FieldInfo",
    "PlannedField",
    "Scope",
    "begin_sample",
    "fields_on_disk",
    "list_scopes",
    "load_scope",
    "read_field",
    "read_info",
    "time_estimate",
]
