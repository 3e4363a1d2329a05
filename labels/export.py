"""Write the pictures of a sample's cells into a folder, for labelling with a file browser or a
spreadsheet.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image

from wbcpipe.errors import ImportDataError
from wbcpipe.report.cell_thumbnails import cell_strip, measure_contrast
from wbcpipe.samples.cell_columns import CLASSES, QcFlag
from wbcpipe.samples.cell_store import CELLS_PER_CHUNK, CellStore
from wbcpipe.system.files import make_folder, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.report.cell_thumbnails import Contrast
    from wbcpipe.samples.sample import Sample

__all__ = ["COLUMNS", "LABELS_FILE", "UNLABELLED", "LabelExport", "export_labels"]

LABELS_FILE: Final = "labels.csv"
UNLABELLED: Final = "unlabelled"
"""Folder of the cells without a label."""
COLUMNS: Final = (
    "file",
    "sample",
    "field",
    "y_px",
    "x_px",
    "predicted",
    "confidence",
    "label",
    "exported_label",
)
_FOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}")


class LabelExport(NamedTuple):
    """The result of `export_labels`.

    Attributes:
        cells: exported.
        labelled: those of them that have a label.
        left_out: cells cut by the border and debris: training does not use them.
    """

    cells: int
    labelled: int
    left_out: int


def export_labels(
    sample: Sample,
    out: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> LabelExport:
    """Write one picture per cell and, last, ``labels.csv``.

    A picture's folder is the cell's label, or ``unlabelled``; an empty folder is made for every
    class. Its name begins with the most probable class and its probability, so that a file browser
    sorts cells of one kind side by side.

    Args:
        sample: a segmented or imported sample.
        out: folder; one that holds this very export stays untouched.
        progress: called with (task, cells done, cells in all).

    Raises:
        ImportDataError: the folder holds another export.
        SampleStateError: the sample has no cells.
    """
    store = CellStore(sample.cells_path)
    flags, labels = store.column("qc_flags"), store.labels()
    chosen = np.flatnonzero((flags & int(QcFlag.BORDER | QcFlag.DEBRIS)) == 0)
    rows = _rows(store, sample.name, chosen)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    result = LabelExport(
        len(chosen), sum(bool(labels[index]) for index in chosen), len(store) - len(chosen)
    )
    if (out / LABELS_FILE).exists():
        if (out / LABELS_FILE).read_bytes() == text.getvalue().encode():
            return result  # complete; pictures may have been moved since
        raise ImportDataError(
            f"{out}: already holds {LABELS_FILE}; bring it back with `wbcpipe labels import {out} "
            f"--sample {sample.name}`, or give another --out."
        )
    contrast = None
    if store.attributes.kind != "stained-rgb" and len(chosen):
        contrast = measure_contrast(store, chosen.tolist(), wavelengths_nm={})
    for name in dict.fromkeys((UNLABELLED, *(store.attributes.classes or CLASSES))):
        if _FOLDER.fullmatch(name):
            make_folder(out / name)
    for done, (index, crop) in enumerate(_crops(store, chosen), 1):
        label = labels[index]
        folder = out / (label if _FOLDER.fullmatch(label) else UNLABELLED)
        make_folder(folder)
        with write_atomic(folder / str(rows[done - 1][0])) as handle:
            handle.write(_picture(crop, contrast))
        progress("cells exported", done, len(chosen))
    with write_atomic(out / LABELS_FILE) as handle:
        handle.write(text.getvalue().encode())
    return result


def _rows(store: CellStore, sample: str, chosen: NDArray[np.intp]) -> list[tuple[object, ...]]:
    """Return the lines of ``labels.csv`` for the chosen cells, in the order of `COLUMNS`."""
    predicted, confidence = _most_probable(store)
    suffix = ".png" if store.attributes.kind == "stained-rgb" else ".jpg"
    labels, fields = store.labels(), store.column("field_index")
    y_px, x_px = store.column("y_px"), store.column("x_px")
    rows: list[tuple[object, ...]] = []
    for index in chosen.tolist():
        guess = (
            f"{re.sub('[^A-Za-z0-9+-]', '-', predicted[index])}_{confidence[index]:.2f}_"
            if predicted
            else ""
        )
        place = (int(fields[index]), f"{y_px[index]:.2f}", f"{x_px[index]:.2f}")
        call = (predicted[index], f"{confidence[index]:.4f}") if predicted else ("", "")
        name = f"{guess}{sample}_cell-{index:06d}{suffix}"
        rows.append((name, sample, *place, *call, labels[index], labels[index]))
    return rows


def _most_probable(store: CellStore) -> tuple[list[str], NDArray[np.float32]]:
    """Return the most probable class of each cell and its mean probability.

    Nothing before classify.
    """
    if not store.is_classified():
        return [], np.zeros(0, np.float32)
    mean = store.column("probability").mean(axis=1)  # (N, K)
    classes = store.classification().classes
    return [classes[best] for best in mean.argmax(axis=1)], mean.max(axis=1)


def _crops(store: CellStore, rows: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    """Walk through the crops of some rows: (row, (M, side, side) uint16)."""
    for start in range(0, len(rows), CELLS_PER_CHUNK):
        some = rows[start : start + CELLS_PER_CHUNK].tolist()
        yield from zip(some, store.images_at(some), strict=True)


def _picture(crop: NDArray[np.uint16], contrast: Contrast | None) -> bytes:
    """Return a colour image as it was photographed (PNG), or the modalities side by side (JPEG)."""
    if contrast is not None:
        return cell_strip(crop, contrast)
    encoded = io.BytesIO()
    Image.fromarray((np.moveaxis(crop[:3], 0, -1) >> 8).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()
