from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from wbcpipe import pipeline
from wbcpipe.samples.fields import fields_on_disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.sample import Sample
    from wbcpipe.tests.remote.conftest import FakeS3

    WriteSample = Callable[..., Sample]

pytestmark = pytest.mark.usefixtures("stop_handlers")
URL = "s3://laboratory/site-1"


@pytest.fixture(autouse=True)
def _normal_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process must not become one of low priority."""
    monkeypatch.setattr("wbcpipe.system.process_limits.set_background_priority", lambda: None)


@pytest.fixture
def sync(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; returns its exit code, standard output and standard error."""

    def run(*arguments: str, data: str = "data") -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            pipeline.main(["sync", *arguments, "--data", str(tmp_path / data)])
        out, err = capsys.readouterr()
        return int(str(end.value.code)), out, err

    return run


def test_samples_are_pushed_freed_and_brought_back(
    s3: FakeS3,
    write_sample: WriteSample,
    sync: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    sample = write_sample()
    write_sample("S2", ended=False)
    code, out, err = sync("--all", "--to", URL)
    assert (code, out) == (0, "")
    assert "S1: 6 files in the bucket, complete (6 sent now" in err
    assert "S2: 4 files in the bucket, so far; its scan has not ended" in err
    code, out, _ = sync("--all", "--to", URL, "--free-local", "--yes", "--json")
    found = json.loads(out)
    assert [one["free"] and one["free"]["freed"] for one in found["samples"]] == [2, None]
    assert found["requests"]["puts"] == 0
    assert list(fields_on_disk(sample.raw_path())) == [0]
    code, out, _ = sync("S1", "--from", URL, "--json")
    assert (code, json.loads(out)["samples"][0]["files"]) == (0, 2)
    assert len(fields_on_disk(sample.raw_path())) == 3
    code, _, err = sync("--all", "--from", URL, data="elsewhere")
    assert code == 0
    assert "S1: 6 files brought back" in err
    assert not (tmp_path / "elsewhere" / "S2").exists(), "it is not complete"
    assert s3.objects


def test_fields_are_removed_only_after_yes(
    s3: FakeS3,
    write_sample: WriteSample,
    sync: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sample = write_sample()
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _text: "n")
    code, _, err = sync("S1", "--to", URL, "--free-local")
    assert code == 130
    assert len(fields_on_disk(sample.raw_path())) == 3
    assert not s3.objects
    code, _, err = sync("S1", "--to", URL, "--free-local", "--json")
    assert (code, "give --yes" in err) == (2, True)


def test_a_damaged_sample_does_not_stop_those_that_are_brought_back(
    s3: FakeS3, write_sample: WriteSample, sync: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    for name in ("S1", "S2", "S3"):
        write_sample(name)
    write_sample("S4", ended=False)
    sync("--all", "--to", URL)
    s3.objects["site-1/S1/manifests/raw-1.json"] = b"{"
    field = "site-1/S2/raw/raw/single/field_00001.ome.tif"
    s3.objects[field] = s3.objects[field][:-1]
    code, _, err = sync("--all", "--from", URL, data="elsewhere")
    assert code == 75
    assert "2 of 3 samples were not brought back: S1, S2" in err
    assert "S3: 6 files brought back" in err
    assert "S4: left out: it is not complete yet" in err
    assert len(fields_on_disk(tmp_path / "elsewhere" / "S3" / "raw" / "single")) == 3
    code, out, _ = sync("S1", "S3", "--from", URL, "--json", data="elsewhere")
    assert code == 75
    assert [bool(one["error"]) for one in json.loads(out)["samples"]] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("S1", "--to", "s3://unknown/x"), (71, "there is no such bucket")),
        (("S1", "--to", "ftp://host/x"), (21, "its scheme is not known")),
        (("S1", "--to", "somewhere"), (21, "is a folder")),
        (("S9", "--to", URL), (11, "no sample 'S9'")),
        (("../x", "--to", URL), (10, "is refused")),
        (("S9", "--from", URL), (74, "no sample 'S9' with a manifest")),
        (("S1",), (2, "give either --to URL or --from URL")),
        (("--to", URL), (2, "give the names of samples, or --all")),
        (("S1", "--from", URL, "--watch"), (2, "belong to --to")),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    arguments: tuple[str, ...],
    expected: tuple[int, str],
    s3: FakeS3,
    write_sample: WriteSample,
    sync: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    code, text = expected
    write_sample()
    before = sorted(tmp_path.rglob("*"))
    found, out, err = sync(*arguments)
    assert (found, out) == (code, "")
    assert text in err
    assert code == 2 or err.count("\n") == 1
    assert not s3.objects
    assert sorted(tmp_path.rglob("*")) == before


def test_no_secret_is_in_a_message_a_log_or_a_record(
    s3: FakeS3,
    write_sample: WriteSample,
    sync: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "TOKENCANARY")
    write_sample()
    shown = list(sync("S1", "--to", URL, "--free-local", "--yes", "--json"))
    monkeypatch.setenv("WBCPIPE_DEBUG", "1")
    for key in ("READERKEYCANARY", "OTHERKEYCANARY"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        write_sample(f"X-{key[:3]}")
        shown += sync("--all", "--to", URL)
        shown += sync("S1", "--to", "s3://key:PASSWORDCANARY@laboratory/x")
    assert shown[0] == 0
    assert shown[3] == 73
    assert "Traceback" in str(shown[5])
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for content in (*files, *s3.objects.values(), str(shown).encode(), caplog.text.encode()):
        assert b"CANARY" not in content
