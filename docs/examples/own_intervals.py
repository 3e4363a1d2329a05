"""Write a report with own reference intervals: `python own_intervals.py DATA SAMPLE`."""

import sys
from pathlib import Path

import wbcpipe

INTERVALS = """
source = "St Elsewhere, adults, 2026"
[percent]
NEU = [42, 72]
LYM = [20, 45]
"""


def main(data: str, name: str) -> None:
    """Count the cells against these intervals, and print what lies outside them."""
    sample = wbcpipe.Sample.open(data, name)
    reference = Path(data) / "our-intervals.toml"
    reference.write_text(INTERVALS, encoding="utf-8")
    found = wbcpipe.write_report(sample, reference=reference, wbc_1e9_per_l=6.2)
    print(f"{found.tally.identified} cells; intervals: {found.reference.source}")
    for line in found.classes:
        absolute = line.concentration_1e9_per_l or 0
        print(f"{line.name}: {line.percent or 0:.1f} %, {absolute:.2f} x 10^9/L, {line.flag}")
    print(sample.path / "report.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
