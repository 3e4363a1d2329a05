"""Cells as GeoJSON, as QuPath 0.4 and later imports objects: one file for each field."""

from __future__ import annotations

import json
import math
import uuid
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.exchange.images.cell_outlines import outlines_of_field
from wbcpipe.exchange.images.measurements import read_measurements
from wbcpipe.report.rows import read_rows
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import complete_fields, read_passes_info
from wbcpipe.samples.freed import refuse_if_freed
from wbcpipe.system.files import make_folder, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.exchange.images.measurements import Measurements
    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.sample import Sample

__all__ = ["export_geojson"]

#: Colour of each class, red, green, blue: those of Okabe and Ito, which colour-blind people tell
#: apart.
_COLOURS: Final = {
    "NEU": (0, 114, 178),
    "LYM": (0, 158, 115),
    "EOS": (213, 94, 0),
    "MO": (230, 159, 0),
    "BAS": (204, 121, 167),
}
_OTHER: Final = (128, 128, 128)
_NAMESPACE: Final = uuid.UUID("0e5f6f4e-9c3f-5f0e-8a55-3d2d0c1f7b11")


def export_geojson(sample: Sample, out: Path) -> int:
    """Write ``field_00042.geojson`` of each field into a folder; return the number of cells.

    Raises:
        SampleStateError: the cells are not classified.
        FrameFileError: a field is damaged.
        DiskFullError: no space left.
    """
    refuse_if_freed(sample, "export the cells of its fields")
    store = CellStore(sample.cells_path)
    rows, measurements = read_rows(store), read_measurements(store)
    raw, cells = sample.path / "raw", 0
    make_folder(out)
    for index in complete_fields(raw):
        info = read_passes_info(raw, index)
        features = [
            _feature(
                sample.name,
                rows,
                measurements,
                row,
                [[round(float(x), 2), round(float(y), 2)] for y, x in outline],
            )
            for row, outline in outlines_of_field(store, info)
        ]
        with write_atomic(out / f"field_{index:05d}.geojson") as handle:
            handle.write(
                json.dumps(
                    {"type": "FeatureCollection", "features": features}, allow_nan=False
                ).encode()
            )
        cells += len(features)
    return cells


def _feature(
    sample: str, rows: CellRows, measurements: Measurements, row: int, ring: list[list[float]]
) -> dict[str, Any]:
    name = rows.predicted_class[row]
    values = measurements.values[row].tolist()
    measured = {
        f"{column} {unit}".strip(): round(value, 6)
        for column, unit, value in zip(measurements.names, measurements.units, values, strict=True)
        if math.isfinite(value)
    }
    probability = dict(zip(rows.classes, rows.probability[row].mean(axis=0).tolist(), strict=True))
    measured |= {f"probability {label}": round(value, 6) for label, value in probability.items()}
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{sample} {row}")),
        "geometry": {
            "type": "Polygon",
            "coordinates": [ring if ring[0] == ring[-1] else [*ring, ring[0]]],
        },
        "properties": {
            "objectType": "detection",
            "name": f"cell {row}",
            "classification": {"name": name, "color": list(_COLOURS.get(name, _OTHER))},
            "measurements": measured,
        },
    }
