"""Import torchvision without the compiler of torch.

A layer of torchvision, which no network here has, imports ``torch._dynamo`` for one function, and
that takes as long as torch itself. The function is looked up when it is called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torchvision

__all__ = ["torchvision"]

_COMPILER = "torch._dynamo.utils"


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


def _of_the_compiler(name: str) -> Any:
    """Look up what another version of torchvision takes from the compiler as well."""
    if name.startswith("__"):  # the import itself asks for these
        raise AttributeError(name)
    sys.modules.pop(_COMPILER, None)
    return getattr(importlib.import_module(_COMPILER), name)


if _COMPILER not in sys.modules:
    stand_in = ModuleType(_COMPILER)
    vars(stand_in).update(is_compile_supported=_is_compile_supported, __getattr__=_of_the_compiler)
    sys.modules[_COMPILER] = stand_in
    try:
        import torchvision
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]
else:
    import torchvision
