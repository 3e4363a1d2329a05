"""Packages that a computer may lack: the microscope's core on an analysis PC, torch at the scope.

`pip install wbcpipe` brings all of them; docs/how-to/installation.md says how to do without.
"""

from __future__ import annotations

import importlib.util
from typing import Final, NamedTuple

from wbcpipe.errors import MissingPackageError

__all__ = ["BRIDGE", "CLASSIFICATION", "CORE", "OptionalPackages", "is_installed", "require"]


class OptionalPackages(NamedTuple):
    """Packages that are needed together.

    Attributes:
        modules: what is imported.
        install: command that installs them.
    """

    modules: tuple[str, ...]
    install: str


#: Micro-Manager's core in a process of wbcpipe, for the virtual microscope too.
CORE: Final = OptionalPackages(
    ("pymmcore", "mm_test_adapters", "pycromanager", "zmq"),
    "pip install 'pymmcore==12.5.1.75.*' 'mm-test-adapters==75.*' pycromanager pyzmq",
)
#: What talks to a Micro-Manager that runs.
BRIDGE: Final = OptionalPackages(("pycromanager", "zmq"), "pip install pycromanager pyzmq")
#: What computes the network. OpenVINO may be missing: torch takes over.
CLASSIFICATION: Final = OptionalPackages(
    ("torch", "torchvision"), "pip install torch torchvision openvino"
)


def require(packages: OptionalPackages, purpose: str) -> None:
    """Check that packages are installed; nothing is imported.

    Args:
        packages: `CORE`, `BRIDGE` or `CLASSIFICATION`.
        purpose: what needs them, as the subject of a sentence.

    Raises:
        MissingPackageError: one is not installed; the text has the command that installs it.
    """
    for module in packages.modules:
        if not is_installed(module):
            raise MissingPackageError(
                f"{purpose} needs the package {module.replace('_', '-')}, which is not installed "
                f"here: {packages.install} (documentation, page Installation)."
            )


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be found."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it was removed from `sys.modules` by name, as a test does
        return False
