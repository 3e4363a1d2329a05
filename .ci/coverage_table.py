"""Print the coverage of each package, from the JSON report of coverage.py.

python .ci/coverage_table.py coverage.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path, PurePosixPath


def main(report: Path) -> None:
    """Print package, statements, missed ones, and percent; one line a package."""
    lines: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for name, file in json.loads(report.read_text(encoding="utf-8"))["files"].items():
        parts = PurePosixPath(name.replace("\\", "/")).parts
        below = parts[parts.index("wbcpipe") + 1 :] if "wbcpipe" in parts else parts
        package = below[0] if len(below) > 1 else "(root)"
        lines[package] += file["summary"]["num_statements"]
        missed[package] += file["summary"]["missing_lines"]
    for package in [*sorted(lines), "total"]:
        all_lines = lines.total() if package == "total" else lines[package]
        without = missed.total() if package == "total" else missed[package]
        percent = 100 * (1 - without / all_lines) if all_lines else 100.0
        print(f"{package:12} {all_lines:6} lines {without:5} missed {percent:6.1f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
