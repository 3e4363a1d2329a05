"""``report.html``: one page that needs no other file, for a screen or A4 paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.report.cell_thumbnails import (
    cell_strip,
    choose_cells,
    data_uri,
    illumination_wavelengths,
    measure_contrast,
)
from wbcpipe.report.page_style import class_colours, page_environment
from wbcpipe.report.words import flag_words, review_words, training_warning, virtual_notice
from wbcpipe.samples.cell_columns import UNIDENTIFIED, flag_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.report.cell_thumbnails import Contrast
    from wbcpipe.report.reviewed_sample import ReviewedSample
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.differential_record import DifferentialRecord
    from wbcpipe.samples.sample import Sample

__all__ = ["CELLS_PER_GALLERY", "Gallery", "render_page"]

CELLS_PER_GALLERY: Final = 12
#: Names of the five classes in words; other classes are shown by their short name.
_WORDS: Final = {
    "NEU": "neutrophils",
    "LYM": "lymphocytes",
    "EOS": "eosinophils",
    "MO": "monocytes",
    "BAS": "basophils",
}
_TICKS: Final = (0, 1, 5, 10, 25, 50, 75, 100)


@dataclass(frozen=True)
class Thumbnail:
    """One cell on the page."""

    index: int
    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Cells under one heading."""

    title: str
    note: str
    thumbnails: tuple[Thumbnail, ...]


def render_page(
    sample: Sample,
    store: CellStore,
    reviewed: ReviewedSample,
    document: DifferentialRecord,
    *,
    content_id: str,
) -> str:
    """Return the page of a sample's cells.

    The sample's first field gives the wavelengths. ``content_id`` is written into the page: by it
    an unchanged page is recognised.
    """
    environment = page_environment()
    environment.filters["position"] = axis_position
    classes = reviewed.reviewed.classes
    return environment.get_template("report.html.j2").render(
        document=document,
        content_id=content_id,
        words=_WORDS,
        colours=class_colours(classes),
        ticks=_TICKS,
        flag_words=flag_words,
        modalities=document.provenance.modalities,
        review_words=review_words(document.verification),
        virtual_notice=virtual_notice(document),
        training_warning=training_warning(document.sample, document.model_checks),
        machine={
            line.name: line
            for line in document.verification.machine
            if document.verification.changed
        },
        galleries=_galleries(sample, store, reviewed),
        has_composite=sum("fluor" not in name.lower() for name in store.modalities) >= 3,
    )


def axis_position(percent: float) -> str:
    """Return the position of a percentage on the chart's square-root axis, in per cent of its
    width.

    >>> axis_position(25)
    '50.00'
    """
    return f"{10 * math.sqrt(min(max(percent, 0.0), 100.0)):.2f}"


def _galleries(sample: Sample, store: CellStore, reviewed: ReviewedSample) -> list[Gallery]:
    rows, shown = reviewed.rows, reviewed.reviewed
    counted = [index for index in range(len(rows)) if not shown.exclusion_reason[index]]
    contrast = measure_contrast(
        store, counted or list(range(len(rows))), wavelengths_nm=illumination_wavelengths(sample)
    )
    galleries: list[Gallery] = []

    def add(
        title: str, note: str, candidates: Sequence[int], *, lowest_first: bool = False
    ) -> None:
        if lowest_first:
            ranked = sorted(candidates, key=lambda index: (float(rows.confidence[index]), index))
            chosen = ranked[:CELLS_PER_GALLERY]
        else:
            chosen = choose_cells(candidates, rows.confidence, CELLS_PER_GALLERY)
        if chosen:
            shown = (
                f"all {len(chosen)}"
                if len(chosen) == len(candidates)
                else f"{len(chosen)} of {len(candidates)}"
            )
            crops = store.images_at(chosen)
            thumbnails = tuple(
                _thumbnail(reviewed, i, crop, contrast)
                for i, crop in zip(chosen, crops, strict=True)
            )
            galleries.append(Gallery(title, f"{shown}, {note}", thumbnails))

    for name in shown.classes:
        words = f"{name} · {_WORDS[name]}" if name in _WORDS else name
        add(
            words,
            "from the highest to the lowest probability",
            [i for i in counted if shown.now[i] == name],
        )
    identified = [i for i in counted if shown.now[i] != UNIDENTIFIED and not shown.looked[i]]
    add(
        "Counted with the lowest probability",
        "the lowest first: review these",
        identified,
        lowest_first=True,
    )
    add(
        "Unidentified",
        "not in the percentages",
        [i for i in counted if shown.now[i] == UNIDENTIFIED],
    )
    add(
        "Rejected",
        "not in the differential",
        [i for i in range(len(rows)) if shown.exclusion_reason[i]],
    )
    return galleries


def _thumbnail(
    reviewed: ReviewedSample, index: int, crop: NDArray[np.uint16], contrast: Contrast
) -> Thumbnail:
    rows, shown = reviewed.rows, reviewed.reviewed
    parts = [f"{rows.predicted_class[index]} {rows.confidence[index]:.2f}"]
    if len(rows.heads) > 1:
        parts.append(f"disagreement {rows.disagreement[index]:.2f}")
    parts.append(f"field {int(rows.columns['field_index'][index])}")
    parts += [name.replace("_", " ") for name in flag_names(int(rows.qc_flags[index]))]
    if shown.changed[index]:
        parts[0] = (
            f"{shown.now[index].replace('_', ' ')} ({shown.reader[index]}; the model: {parts[0]})"
        )
    if rows.label[index]:
        parts.append(f"labelled {rows.label[index]}")
    caption = " · ".join(parts)
    return Thumbnail(
        index=index,
        uri=data_uri(cell_strip(crop, contrast)),
        alt=f"Cell {index}: {caption}",
        caption=caption,
    )
