"""Lines of JSON with a checksum: read as written, and never read when they were changed."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wbcpipe.batch.records import JournalEntry
from wbcpipe.batch.state.batch_folder import BatchFolder
from wbcpipe.system.files import json_bytes, json_line, parse_json, parse_json_line

if TYPE_CHECKING:
    from pathlib import Path

texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)
    )
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.text(string.ascii_lowercase + "_", min_size=1, max_size=8).filter(
    lambda name: name != "crc32c"
)
contents = st.dictionaries(names, values, min_size=1, max_size=5)


@given(values)
def test_any_content_is_read_as_it_was_written(content: Any) -> None:
    assert parse_json(json_bytes(content).decode()) == content


@given(contents)
def test_a_line_is_read_as_it_was_written(content: dict[str, Any]) -> None:
    line = json_line(content)
    assert line.count(b"\n") == 1
    assert parse_json_line(line) == content


@given(contents, st.data())
def test_a_line_that_was_cut_or_changed_is_refused(
    content: dict[str, Any], data: st.DataObject
) -> None:
    line = json_line(content).strip()
    at = data.draw(st.integers(0, len(line) - 1))
    changed = bytes([data.draw(st.integers(32, 126).filter(lambda byte: byte != line[at]))])
    for damaged in (line[:at], line[:at] + changed + line[at + 1 :]):
        with pytest.raises(ValueError):  # noqa: PT011 - what is wrong depends on the byte
            parse_json_line(damaged)


entries = st.builds(
    JournalEntry,
    time=st.datetimes().map(lambda time: time.isoformat() + "+00:00"),
    event=st.sampled_from(["scan_started", "interrupted", "finished", "quarantined"]),
    sample=st.sampled_from(["S1", "S2"]),
    reason=texts,
    attempt=st.integers(0, 9),
    figures=st.dictionaries(names, st.floats(0, 1e9), max_size=3),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(entries, min_size=1, max_size=5), data=st.data())
def test_a_batch_journal_is_read_as_written_without_the_line_that_a_crash_cut(
    tmp_path: Path, written: list[JournalEntry], data: st.DataObject
) -> None:
    folder = BatchFolder("night", tmp_path)
    folder.create()
    folder.journal_path.unlink(missing_ok=True)
    for entry in written:
        folder.append(entry)
    assert folder.journal() == written
    content = folder.journal_path.read_bytes()
    last = len(content.splitlines(keepends=True)[-1])
    cut = data.draw(st.integers(1, last))
    folder.journal_path.write_bytes(content[: len(content) - cut])
    kept = written if cut == 1 else written[:-1]  # without its end of line alone it is complete
    assert folder.journal() in (kept, written[:-1])
    folder.append(written[0])
    assert folder.journal()[-1] == written[0]
