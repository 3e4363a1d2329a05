"""Classify a sample with two bundles and compare: `python compare_bundles.py DATA SAMPLE BUNDLE`.

The sample keeps the classes of its first bundle.
"""

import sys
from collections import Counter

import wbcpipe


def main(data: str, name: str, other: str) -> None:
    """Print how many cells each pair of classes has."""
    sample = wbcpipe.Sample.open(data, name)
    first = wbcpipe.classify_sample(sample)
    before = wbcpipe.CellStore(sample.cells_path).predicted_classes()
    second = wbcpipe.classify_sample(sample, other)
    after = wbcpipe.CellStore(sample.cells_path).predicted_classes()
    wbcpipe.classify_sample(sample)

    print(f"{first.bundle} and {second.bundle}, {first.cells} cells:")
    for (one, two), cells in Counter(zip(before, after, strict=True)).most_common():
        print(f"{one} -> {two}: {cells}" + ("" if one == two else "  differs"))
    for doubt in second.doubts:
        print(f"{second.bundle}: {doubt}")


if __name__ == "__main__":
    main(*sys.argv[1:])
