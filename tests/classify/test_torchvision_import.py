"""torchvision is imported without torch's compiler, and gets what else it may want of that."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from wbcpipe.classify import torchvision_import
assert "torch._dynamo.utils" not in sys.modules
# Another version of torchvision, which takes more of the compiler.
sys.modules["torch._dynamo.utils"] = torchvision_import.stand_in
from torch._dynamo.utils import counters, is_compile_supported
assert sys.modules["torch._dynamo.utils"] is not torchvision_import.stand_in
assert is_compile_supported("cpu") in (True, False)
"""


def test_what_another_version_takes_of_the_compiler_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
