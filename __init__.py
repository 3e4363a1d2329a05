"""wbcpipe: from a slide under the microscope to a white-cell differential.

The names below load on first use. docs/how-to/python.md shows how to use them.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.classify.stage import ClassificationSummary, ClassifyOptions, classify_sample
    from wbcpipe.errors import WbcpipeError
    from wbcpipe.pipeline import ModelChoice, run
    from wbcpipe.report.differential import Differential
    from wbcpipe.report.stage import write_report
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.sample import Sample
    from wbcpipe.scan.request import ScanRequest
    from wbcpipe.segment.run import segment_sample
    from wbcpipe.system.progress import CallbackReporter

__all__ = [
    "CallbackReporter",
    "CellStore",
    "ClassificationSummary",
    "ClassifyOptions",
    "Differential",
    "ModelChoice",
    "Sample",
    "ScanRequest",
    "WbcpipeError",
    "__version__",
    "classify_sample",
    "load_scope",
    "run",
    "segment_sample",
    "write_report",
]

__version__ = VERSION

#: Each loads on first use: `import wbcpipe` and `wbcpipe --help` load neither torch nor zarr.
_HOMES = {
    "CallbackReporter": "wbcpipe.system.progress",
    "CellStore": "wbcpipe.samples.cell_store",
    "ClassificationSummary": "wbcpipe.classify.stage",
    "ClassifyOptions": "wbcpipe.classify.stage",
    "Differential": "wbcpipe.report.differential",
    "ModelChoice": "wbcpipe.pipeline",
    "Sample": "wbcpipe.samples.sample",
    "ScanRequest": "wbcpipe.scan.request",
    "WbcpipeError": "wbcpipe.errors",
    "classify_sample": "wbcpipe.classify.stage",
    "load_scope": "wbcpipe.acquire.config.scope",
    "run": "wbcpipe.pipeline",
    "segment_sample": "wbcpipe.segment.run",
    "write_report": "wbcpipe.report.stage",
}

# A program that configures no logging sees no line of wbcpipe.
logging.getLogger("wbcpipe").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'wbcpipe' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
