"""Does memory stay flat over a long scan?

Resident size every 500 fields, with a virtual specimen and without one.

    python benchmarks/memory.py [--fields 2000] [--bare] [--json]

One process takes fields of 128 px on the real core, in hardware sequences, as `soak.py` does. With
``--bare`` the frames are the demo camera's own: what grows then is wbcpipe's, not the specimen's.
The ratio is the last size over that at a third of the way, when caches are warm.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from soak import rss_mb, write_scope

from wbcpipe import __version__
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.config.scope import Scope, load_scope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.samples.sample import Sample

SIDE_PX = 128
EVERY = 500
LOT = 100


def bare_scope(scope: Scope) -> Scope:
    """The scope with its camera's own pixels, which are all alike: so nothing judges what they
    show.
    """
    parts = {"focus": {"method": "fixed"}, "frame_checks": {"enabled": False}}
    changed = {
        name: getattr(scope, name).model_copy(update=change) for name, change in parts.items()
    }
    return scope.model_copy(update={"virtual": False, **changed})


def measure(n_fields: int, folder: Path, *, bare: bool) -> list[dict[str, Any]]:
    write_scope(folder, SIDE_PX, n_fields, "auto")
    scope = load_scope(folder / "soak.toml")
    specimen = None if bare else SpecimenPlan(7)
    scope = bare_scope(scope) if bare else scope
    rows = []
    began_s = time.monotonic()
    plan = AcquisitionPlan.from_scope(scope, "A")
    with AcquisitionSession(
        AcquisitionRequest(Sample.open(folder, "long"), scope, plan, specimen)
    ) as session:
        for taken in range(LOT, n_fields + 1, LOT):
            session.take(range(taken))
            if taken == LOT or taken % EVERY == 0:
                gc.collect()
                seconds = round(time.monotonic() - began_s, 1)
                rows.append(
                    {
                        "fields": taken,
                        "resident_mb": round(rss_mb(os.getpid()) or 0.0, 1),
                        "seconds": seconds,
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fields", type=int, default=600)
    parser.add_argument(
        "--bare", action="store_true", help="no specimen: the demo camera's own frames"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.fields, Path(folder), bare=options.bare)
    third = next(row for row in rows if row["fields"] >= options.fields / 3)
    ratio = rows[-1]["resident_mb"] / third["resident_mb"]
    if options.json:
        versions = {"wbcpipe": __version__, "python": platform.python_version()}
        print(
            json.dumps(
                {
                    "name": "memory",
                    "ratio": ratio,
                    "rows": rows,
                    "bare": options.bare,
                    "versions": versions,
                }
            )
        )
        return
    for row in rows:
        print(f"{row['fields']:6} fields {row['resident_mb']:8.1f} MB {row['seconds']:8.1f} s")
    print(f"at the end {ratio:.3f} times what it was after {third['fields']} fields")


if __name__ == "__main__":
    main()
