"""wbcpipe: from a slide under the microscope to a white-cell differential."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("wbcpipe")
