"""How far each sample is, read off the disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from wbcpipe.acquire.staining.workflow import staining_state
from wbcpipe.errors import SampleNameError, SampleStateError
from wbcpipe.report.document import count_fields
from wbcpipe.report.rows import read_rows
from wbcpipe.report.stage import document_paths, read_document
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import fields_on_disk
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SampleStatus", "list_samples", "sample_status"]


@dataclass(frozen=True)
class SampleStatus:
    """One sample.

    Attributes:
        name: sample name.
        state: the last stage done: ``begun``, ``acquiring``, ``segmented``, ``classified``, ``reported``; or
            ``damaged``.
        kind: where its pictures come from.
        fields_taken: fields whose frames are all on disk.
        passes: of a sample that is taken in two passes, each pass and the fields on disk of it; else empty.
        staining: between them: ``begun`` (and not known to have ended), ``incubating``, ``stained``, or empty.
        fields_planned: positions in the plan; ``None`` where there is no plan.
        fields_missing: fields that could not be taken.
        fields_empty: fields that showed bare glass and were skipped.
        cells: cells in ``cells.zarr``; ``None`` before segment.
        bundle: the model that called them; ``None`` before classify.
        counted: identified cells in the report; ``None`` before report.
        passed: whether the report's quality gates passed; ``None`` before report.
        problem: what is wrong with a damaged sample, or a report that is older than its cells.
    """

    name: str
    state: str
    kind: str = ""
    fields_taken: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    staining: str = ""
    fields_planned: int | None = None
    fields_missing: int = 0
    fields_empty: int = 0
    cells: int | None = None
    bundle: str | None = None
    counted: int | None = None
    passed: bool | None = None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """As one object for machines."""
        return asdict(self)


def list_samples(root: Path) -> list[SampleStatus]:
    """The samples below a data root, by name; folders without ``sample.json`` are none."""
    if not root.is_dir():
        return []
    found = []
    for path in sorted(root.iterdir()):
        if (path / "sample.json").is_file():
            try:
                sample = Sample.open(root, path.name)
            except SampleNameError:
                continue  # a folder that no command would accept
            found.append(sample_status(sample))
    return found


def sample_status(sample: Sample) -> SampleStatus:
    """Look how far one sample is; a damaged one is described, not raised."""
    facts: dict[str, Any] = {"name": sample.name}
    try:
        facts["state"] = _state(sample, facts)
    except (SampleStateError, OSError, KeyError, TypeError, ValueError) as error:
        facts |= {"state": "damaged", "problem": f"{error}"}
    return SampleStatus(**facts)


def _state(sample: Sample, facts: dict[str, Any]) -> str:
    """Fill in ``facts`` as far as the sample goes; its last finished stage."""
    record = sample.record()
    fields = count_fields(sample, record)
    facts |= {
        "kind": record.kind,
        "fields_taken": fields.taken,
        "fields_planned": fields.planned,
        "fields_missing": len(fields.missing),
        "fields_empty": len(fields.empty),
    }
    if record.protocol == "two-pass":
        facts["passes"] = {name: len(fields_on_disk(sample.raw_path(name))) for name in ("brightfield", "fluorescence")}
        facts["staining"] = staining_state(sample)
        if facts["staining"] == "begun":
            facts["problem"] = (
                "staining was begun and did not end: look at the slide; the next command says how to go on"
            )
    if not sample.cells_path.exists():
        some = fields.taken or fields.missing or fields.empty or any(facts.get("passes", {}).values())
        return "acquiring" if some else "begun"
    store = CellStore(sample.cells_path)
    facts["cells"] = len(store)
    if not store.is_classified():
        return "segmented"
    facts["bundle"] = str(store.attributes["classified"].get("bundle", ""))
    if not document_paths(sample)[0].is_file():
        return "classified"
    document = read_document(sample)
    if document.provenance.cells.sha256 != read_rows(store).digest():
        facts["problem"] = "the report is older than the calls; run `wbcpipe report` again"
        return "classified"
    facts |= {"counted": document.cells.counted, "passed": document.quality.passed}
    return "reported"
