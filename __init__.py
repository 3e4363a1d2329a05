"""wbcpipe: from a slide under the microscope to a white-cell differential."""

from importlib import import_module
from typing import TYPE_CHECKING

from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.classify.stage import classify_sample
    from wbcpipe.pipeline import run
    from wbcpipe.report.stage import write_report
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.sample import Sample
    from wbcpipe.segment.run import segment_sample

__all__ = [
    "CellStore",
    "Sample",
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
    "CellStore": "wbcpipe.samples.cell_store",
    "Sample": "wbcpipe.samples.sample",
    "classify_sample": "wbcpipe.classify.stage",
    "load_scope": "wbcpipe.acquire.config.scope",
    "run": "wbcpipe.pipeline",
    "segment_sample": "wbcpipe.segment.run",
    "write_report": "wbcpipe.report.stage",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'wbcpipe' has no attribute {name!r}; it has {', '.join(__all__)}")
