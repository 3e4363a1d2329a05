"""Make a further result of a sample its current one; the one before stays as a further result."""

from __future__ import annotations

import shutil
from typing import Final

from wbcpipe.cluster.workspace import inputs_digest, utc_now
from wbcpipe.errors import SampleStateError
from wbcpipe.report.document import document_paths, read_document
from wbcpipe.report.stage import write_documents
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.results import (
    ResultBasis,
    ResultRecord,
    check_result,
    completed_results,
    find_result,
    publish_folder,
    result_path,
    seal_result,
    software_release,
)
from wbcpipe.samples.review.signed import refuse_if_signed
from wbcpipe.samples.sample import Sample
from wbcpipe.system.files import make_folder, remove_tree, rename
from wbcpipe.system.version import SOFTWARE

__all__ = ["basis_of_current", "promote_result"]

_FILES: Final = ("sample.json", "scan.json", "truth.csv")


def promote_result(sample: Sample, result_id: str) -> ResultRecord | None:
    """Make a further result the current one.

    The current result is kept as a further one first. Cells and classes are exchanged, and the
    report is written again, with what readers did to the cells: their journal stays with the
    sample, and is carried over to the cells of another segmentation. The caller holds the sample's
    lock. A call that was broken off is completed by the next one.

    Returns:
        The marker of the result that was current; ``None`` if there was none.

    Raises:
        SampleStateError: there is no such result, a file of it was changed, or the sample is
            signed.
    """
    record = find_result(sample, result_id)
    if record is None:
        known = ", ".join(one.result_id for one in completed_results(sample)) or "none"
        raise SampleStateError(
            f"sample {sample.name!r} has no result {result_id} (complete are: {known}); `wbcpipe "
            f"process` makes one."
        )
    # The signature is of the present cells: only the one who signed may take it back.
    refuse_if_signed(sample.cells_path)
    folder = result_path(sample, result_id)
    check_result(folder, record)
    kept = _keep_current(sample)
    aside, old = (sample.cells_path.with_name(f"cells.zarr.{name}") for name in ("promoted", "old"))
    for leftover in (aside, old):
        remove_tree(leftover)
    shutil.copytree(folder / "cells.zarr", aside)
    CellStore(aside)
    if sample.cells_path.exists():
        rename(sample.cells_path, old)
    rename(aside, sample.cells_path)
    remove_tree(old)
    sample.log("result_promoted", result=result_id, kept=kept.result_id if kept else "")
    write_documents(sample)
    return kept


def basis_of_current(sample: Sample) -> ResultBasis | None:
    """Return what the current result of a sample rests on; ``None`` without classified cells.

    Raises:
        SampleStateError: the cells are damaged.
    """
    if not sample.cells_path.is_dir():
        return None
    store = CellStore(sample.cells_path)
    if not store.is_classified():
        return None
    found, origin = store.classification(), store.attributes.provenance
    return ResultBasis(
        inputs_sha256=inputs_digest(sample),
        bundle=found.bundle,
        bundle_sha256=found.sha256,
        calibration_digest=found.calibration_digest,
        pixel_um=store.pixel_um,
        detector=str(origin.get("detector", "")),
        software=software_release(str(origin.get("software", SOFTWARE))),
    )


def _keep_current(sample: Sample) -> ResultRecord | None:
    """Copy the current result to a folder of its own, unless it is there."""
    basis = basis_of_current(sample)
    if basis is None or not document_paths(sample)[0].is_file():
        return None
    cells = read_document(sample).provenance.cells.sha256
    for record in completed_results(sample):
        place = Sample(sample.name, result_path(sample, record.result_id))
        if read_document(place).provenance.cells.sha256 == cells:
            return record  # it was promoted before
    if (known := find_result(sample, basis.result_id)) is not None:
        return known
    target = result_path(sample, basis.result_id)
    aside = target.with_name(f".{target.name}.kept")
    remove_tree(aside)
    make_folder(aside)
    for name in (*_FILES, *(path.name for path in document_paths(sample))):
        if (sample.path / name).is_file():
            shutil.copyfile(sample.path / name, aside / name)
    shutil.copytree(sample.cells_path, aside / "cells.zarr")
    record = seal_result(aside, sample, basis, utc_now())
    publish_folder(aside, target)
    return record
