"""What a call costs over the bridge, and in this process, on the same core.

The virtual scope's 2048 x 2048 camera.

The other end is the tests' server, in Python; Micro-Manager's own, in Java, has its own speed.
"""

import argparse
import importlib.metadata
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pycromanager  # noqa: F401 - slow to import: not part of what opening costs

from wbcpipe.acquire.config.scope import Scope, load_scope
from wbcpipe.acquire.hardware.core_link import CoreLink

ROOT = Path(__file__).parents[1]


def median_ms(call: Callable[[], object], repeats: int) -> float:
    times_s = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - start_s)
    return 1000 * statistics.median(times_s)


def shutter(link: CoreLink) -> None:
    link.shutter.set_open(is_open=True)
    link.shutter.set_open(is_open=False)


def measure(scope: Scope) -> dict[str, float]:
    start_s = time.perf_counter()
    link = CoreLink(scope)
    opened_ms = 1000 * (time.perf_counter() - start_s)
    labels = itertools.cycle(["385nm", "550nm"])
    try:
        link.call("set_exposure", 1.0)
        return {
            "open": opened_ms,
            "read the focus position": median_ms(lambda: link.call("get_position"), 300),
            "read X and Y": median_ms(
                lambda: (link.call("get_x_position"), link.call("get_y_position")), 200
            ),
            "switch the light": median_ms(
                lambda: link.set_property("LED", "Label", next(labels)), 200
            ),
            "open and close the shutter": median_ms(lambda: shutter(link), 100),
            "expose 1 ms": median_ms(
                lambda: link.call_with_deadline(lambda: link.call("snap_image"), 5.0, "exposing"),
                50,
            ),
            "fetch a frame, 8 MiB": median_ms(lambda: link.call("get_image"), 30),
            "list the devices": median_ms(link.devices, 30),
        }
    finally:
        link.close()


def measure_bridge(scope: Scope) -> dict[str, float]:
    script = ROOT / "tests/acquire/hardware/bridge_server.py"
    command = [sys.executable, str(script), str(scope.config_path), "--port", "0"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        port = int(server.stdout.readline())
        micromanager = scope.micromanager.model_copy(update={"backend": "bridge", "port": port})
        try:
            return measure(scope.model_copy(update={"micromanager": micromanager}))
        finally:
            server.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    as_json = parser.parse_args().json
    scope = load_scope("demo")
    bridge, here = measure_bridge(scope), measure(scope)
    if as_json:
        packages = ("pycromanager", "pyjavaz", "pyzmq", "pymmcore")
        report = {
            "name": "bridge",
            "ratio": bridge["fetch a frame, 8 MiB"] / here["fetch a frame, 8 MiB"],
            "rows": [
                {"what": what, "bridge_ms": bridge[what], "headless_ms": here[what]}
                for what in here
            ],
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "cpu": platform.processor() or platform.machine(),
        }
        print(json.dumps(report))
        return
    print(f"{'':28} {'bridge':>9} {'headless':>9}  (ms, median)")
    for what in here:
        print(f"{what:28} {bridge[what]:9.2f} {here[what]:9.3f}")


if __name__ == "__main__":
    main()
