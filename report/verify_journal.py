"""Show that a signed differential is a replay of the journal, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.errors import SampleStateError
from wbcpipe.report.document import build_document, document_paths
from wbcpipe.report.reviewed_sample import replay_signature
from wbcpipe.report.rows import read_rows
from wbcpipe.report.signed_document import is_signed_content, signed_path
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.records import Part
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.system.files import file_errors, parse_json
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.differential_record import DifferentialRecord
    from wbcpipe.samples.review.entries import Entry
    from wbcpipe.samples.review.replay import ReviewState, Signature
    from wbcpipe.samples.sample import Sample

__all__ = ["JournalCheck", "SignatureCheck", "verify_journal"]


class SignatureCheck(Part):
    """One signature of a journal.

    Attributes:
        entry: its number in the journal.
        reader: who signed.
        time: of the signature, UTC.
        in_force: it was neither withdrawn nor amended.
        replayed: the journal gave the signed differential again; ``None`` where the cells are
            others now, or another version of wbcpipe wrote it.
        problems: what is wrong; empty if nothing is.
    """

    entry: int
    reader: str
    time: str
    in_force: bool
    replayed: bool | None
    problems: tuple[str, ...]


class JournalCheck(Part):
    """The result of replaying a journal.

    Attributes:
        sample: its name.
        entries: of the journal, each with the hash of the one before.
        head: ``id`` of the last one.
        torn_bytes: of a last line that a crash cut short; it was never acknowledged.
        signatures: all that were given.
    """

    sample: str
    entries: int
    head: str
    torn_bytes: int
    signatures: tuple[SignatureCheck, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong; empty if nothing is."""
        return tuple(problem for signature in self.signatures for problem in signature.problems)


def verify_journal(sample: Sample) -> JournalCheck:
    """Replay a sample's journal and compare each signed differential with the files.

    Nothing is changed.

    Raises:
        SampleStateError: there is no journal, or it is damaged; or the cells cannot be read.
    """
    path = journal_path(sample)
    if not path.exists():
        raise SampleStateError(f"{path}: not there; nobody has reviewed sample {sample.name!r}.")
    journal = Journal(path)
    entries, state = journal.entries(), journal.state()
    store = CellStore(sample.cells_path)
    rows = read_rows(store) if state.signatures else None
    return JournalCheck(
        sample=sample.name,
        entries=len(entries),
        head=state.head,
        torn_bytes=journal.torn_bytes(),
        signatures=tuple(
            _check_signature(sample, store, rows, entries, state, given)
            for given in state.signatures
        )
        if rows is not None
        else (),
    )


def _check_signature(
    sample: Sample,
    store: CellStore,
    rows: CellRows,
    entries: Sequence[Entry],
    state: ReviewState,
    given: Signature,
) -> SignatureCheck:
    in_force = state.signed is not None and state.signed.entry.id == given.entry.id
    paths = [signed_path(sample, given.entry.n), *([document_paths(sample)[0]] if in_force else [])]
    problems = [problem for path in paths if (problem := _compare_digest(path, given))]
    replayed: bool | None = None
    if rows.digest() == given.sign.basis.cells_sha256:
        document = build_document(sample, store, replay_signature(rows, entries, given))
        replayed = document.digest() == given.sign.differential
        if replayed:
            wanted = document.to_bytes()
            problems += [
                f"{path}: not the replay of the journal, byte for byte"
                for path in paths
                if not problems and path.read_bytes() != wanted
            ]
        elif given.sign.basis.software != VERSION:
            replayed = None
        else:
            problems.append(_difference(paths[0], document, given))
    elif in_force:
        problems.append(
            f"{sample.cells_path}: not the cells and classes that {given.entry.reader} signed"
        )
    return SignatureCheck(
        entry=given.entry.n,
        reader=given.entry.reader,
        time=given.entry.time,
        in_force=in_force,
        replayed=replayed,
        problems=tuple(problems),
    )


def _compare_digest(path: Path, given: Signature) -> str:
    """Return what is wrong with a file that should hold the signed differential.

    Empty if nothing is.
    """
    try:
        signed = is_signed_content(path, given)
    except SampleStateError as error:
        return str(error)
    if not signed:
        return (
            f"{path}: not the differential that {given.entry.reader} signed (entry {given.entry.n})"
        )
    return ""


def _difference(path: Path, document: DifferentialRecord, given: Signature) -> str:
    """Return in which keys the replay differs from what was signed, as far as the signed document
    is there.
    """
    text = (
        f"{path}: the journal gives another differential than the one signed (entry "
        f"{given.entry.n})"
    )
    try:
        with file_errors(path, "restore it"):
            signed = parse_json(path.read_text(encoding="utf-8"))
    except (SampleStateError, ValueError):
        return text
    now = document.content()
    keys = sorted(key for key in now if not isinstance(signed, dict) or signed.get(key) != now[key])
    return f"{text}; it differs in {', '.join(keys)}"
