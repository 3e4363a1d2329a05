"""Segment TIFF fields of another program: `python segment_own_fields.py FOLDER DATA SAMPLE UM`.

Each TIFF is a stack of channels, the nuclear one last. UM is the size of a pixel in micrometres.
"""

import sys
from pathlib import Path

import wbcpipe
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import FieldImport

CHANNELS = ("color1", "color2", "color3", "fluorescence")


def main(folder: str, data: str, name: str, pixel_um: str) -> None:
    """Import the fields, find their cells, and print where these are."""
    files = sorted(Path(folder).glob("*.tif"))
    try:
        sample = wbcpipe.Sample.open(data, name)
        if not sample.exists():
            import_fields(files, sample, FieldImport("stack", float(pixel_um), CHANNELS))
        cells = wbcpipe.segment_sample(sample)
    except wbcpipe.WbcpipeError as error:  # one line: what, where, what to do
        sys.exit(str(error))
    print(f"{len(cells)} cells in {len(files)} fields")
    for y_px, x_px, field in zip(*map(cells.column, ("y_px", "x_px", "field_index")), strict=True):
        print(f"field {field}: row {y_px:.0f}, column {x_px:.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
