"""Cells as AnnData: measurements, probabilities, classes and where they come from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.errors import MissingPackageError
from wbcpipe.exchange.images.measurements import read_measurements
from wbcpipe.report.rows import read_rows
from wbcpipe.samples.cell_columns import flag_names
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.system.file_kinds import check_target
from wbcpipe.system.files import rename, sync_file
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

__all__ = ["export_anndata"]


def export_anndata(sample: Sample, out: Path) -> int:
    """Write an ``.h5ad`` file; return the number of cells.

    ``X`` has the measurements, ``obs`` class, label, flags and field,
    ``obsm["probability_<head>"]`` the probabilities in the order of ``uns["classes"]``,
    ``obsm["spatial"]`` the stage position (x, y) in um, ``uns`` the provenance.

    Raises:
        MissingPackageError: anndata is not installed.
        SampleStateError: the cells are not classified.
    """
    try:
        import anndata
        import pandas as pd
    except ImportError as error:
        raise MissingPackageError(
            "AnnData files need the package anndata, which is not installed; run `pip install "
            "'wbcpipe[anndata]'`."
        ) from error
    check_target(out)
    store = CellStore(sample.cells_path)
    rows = read_rows(store)
    measured = read_measurements(store)
    index = [f"{sample.name}_{row}" for row in range(len(rows))]
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical([sample.name] * len(rows)),
            "field_index": rows.columns["field_index"],
            "predicted_class": pd.Categorical(rows.predicted_class),
            "label": pd.Categorical(rows.label),
            "confidence": rows.confidence,
            "disagreement": rows.disagreement,
            "counted": [not reason for reason in rows.exclusion_reason],
            "exclusion_reason": pd.Categorical(rows.exclusion_reason),
            "qc_flags": [" ".join(flag_names(int(flags))) for flags in rows.qc_flags],
        },
        index=index,
    )
    var = pd.DataFrame({"unit": measured.units, "meaning": measured.meanings}, index=measured.names)
    obsm = {f"probability_{head}": rows.probability[:, k] for k, head in enumerate(rows.heads)}
    obsm["spatial"] = np.stack([rows.columns["x_um"], rows.columns["y_um"]], -1).astype(np.float64)
    uns = {
        "classes": list(rows.classes),
        "modalities": list(store.modalities),
        "pixel_um": store.pixel_um,
        "software": f"wbcpipe {VERSION}",
        "cells_sha256": rows.digest(),
        "classification": json.dumps(rows.classification.model_dump(mode="json")),
        "provenance": json.dumps(dict(store.attributes.provenance)),
        "sample": json.dumps(sample.record().content()),
    }
    table = anndata.AnnData(X=measured.values, obs=obs, var=var, obsm=obsm, uns=uns)
    aside = out.with_name(f".{out.name}.partial")
    try:
        table.write_h5ad(aside, compression="gzip")
        sync_file(aside)
        rename(aside, out)
    finally:
        aside.unlink(missing_ok=True)
    return len(rows)
