"""Try the installed package as a user would, and run the quick tests: with any Python and versions.

    python .ci/smoke.py [--no-tests]

Needs the package with its extra ``test``. It prints the versions, runs the demo with four fields in
a folder of its own, verifies the sample, and runs ``pytest -m smoke``.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("wbcpipe", "numpy", "zarr", "torch", "openvino", "tifffile", "scikit-image", "pydantic")


def run(*words: str, folder: str) -> None:
    """Run a module of Python in a folder that does not hold the sources; end at its failure."""
    start_s = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, check=False)
    print(f"{time.monotonic() - start_s:6.1f} s  {' '.join(words)}", flush=True)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Run the demo and the quick tests."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in SHOWN]
    print(f"Python {platform.python_version()}, {platform.platform()}; {', '.join(versions)}")
    os.environ["CI"] = "true"  # no engine reports its use over the network
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WBCPIPE_DATA"] = str(Path(folder) / "data")
        run("wbcpipe", "doctor", folder=folder)
        run("wbcpipe", "run", "--sample", "demo", "--fields", "4", folder=folder)
        run("wbcpipe", "verify", "--sample", "demo", folder=folder)
        if "--no-tests" not in sys.argv[1:]:
            words = ["-m", "smoke", "-q", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"]
            # A warning of another version's is no failure of these tests.
            run("pytest", *words, "-W", "default", str(ROOT / "tests"), folder=str(ROOT))


if __name__ == "__main__":
    main()
