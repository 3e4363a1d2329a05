"""Labels go out as pictures and come back as folders, tables or boxes.

They stay where cells are segmented again.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wbcpipe.errors import ImportDataError
from wbcpipe.labels.apply import import_labels
from wbcpipe.labels.export import LABELS_FILE, UNLABELLED, export_labels
from wbcpipe.pipeline import cli
from wbcpipe.samples.cell_attributes import LabelImport
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import FieldImport
from wbcpipe.segment.run import segment_sample

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def smear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the sample ``smear``: two fields with three and two violet nuclei on a light
    ground.
    """
    root = tmp_path_factory.mktemp("labels")
    pictures = root / "pictures"
    pictures.mkdir()
    for name, centres in {
        "left": ((90, 90), (90, 250), (230, 180)),
        "right": ((100, 200), (220, 110)),
    }.items():
        y, x = np.mgrid[:320, :340]
        rgb = np.full((320, 340, 3), (225, 215, 220), np.uint8)
        rgb += np.random.default_rng(len(centres)).integers(0, 6, rgb.shape, np.uint8)
        for cy, cx in centres:
            radius = np.hypot(y - cy, x - cx)
            rgb[radius < 42] = (200, 190, 225)
            rgb[radius < 30] = (95, 40, 140)
        Image.fromarray(rgb).save(pictures / f"{name}.png")
    sample = Sample.open(root, "smear")
    import_fields([pictures], sample, FieldImport("stained-rgb", 0.15))
    segment_sample(sample, pixel_um=0.1, jobs=1)
    return root


@pytest.fixture
def sample(smear: Path) -> Sample:
    """The sample without labels."""
    sample = Sample.open(smear, "smear")
    store = CellStore(sample.cells_path)
    assert len(store) == 5
    if any(store.labels()):
        store.write_labels([""] * 5, (), LabelImport(source="none", sha256="", cells=0, date=""))
    return sample


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_pictures_are_moved_into_the_folder_of_their_class(sample: Sample, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export_labels(sample, out) == (5, 0, 0)
    pictures = sorted((out / UNLABELLED).iterdir())
    assert len(pictures) == 5
    with Image.open(pictures[0]) as picture:
        assert picture.size == (224, 224)
    assert {path.name for path in out.iterdir() if path.is_dir()} >= {UNLABELLED, "NEU", "BAS"}
    (out / "blast").mkdir()
    pictures[1].rename(out / "NEU" / pictures[1].name)
    pictures[3].rename(out / "blast" / pictures[3].name)
    rows = rows_of(out / LABELS_FILE)
    rows[4]["label"] = "lymphocytes"
    write_rows(out / LABELS_FILE, rows)
    found = import_labels(sample, out)
    assert (found.changed, found.labelled, found.unmatched) == (3, 3, ())
    assert CellStore(sample.cells_path).labels() == ["", "NEU", "", "blast", "LYM"]
    assert found.classes == {"NEU": 1, "LYM": 1, "blast": 1}
    attributes = CellStore(sample.cells_path).attributes
    assert set(attributes.classes) >= {"NEU", "LYM", "blast"}
    assert attributes.labelled[-1].source == "out"
    assert import_labels(sample, out).changed == 0, "the same command again"
    assert len(CellStore(sample.cells_path).attributes.labelled) == len(attributes.labelled)
    with pytest.raises(ImportDataError, match=r"already holds labels.csv; bring it back"):
        export_labels(sample, out)
    second = tmp_path / "second"
    assert export_labels(sample, second) == (5, 3, 0)
    (taken,) = (second / "NEU").iterdir()
    taken.rename(second / UNLABELLED / taken.name)
    import_labels(sample, second)
    assert CellStore(sample.cells_path).labels()[1] == "", "a label is taken away"


def test_a_misspelt_folder_is_named_as_a_new_class(sample: Sample, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_labels(sample, out)
    pictures = sorted((out / UNLABELLED).iterdir())
    for picture, name in zip(pictures, ("Lymfocyte", "blast", "EOS"), strict=False):
        (out / name).mkdir(exist_ok=True)
        picture.rename(out / name / picture.name)
    words = ["labels", "import", str(out), "--sample", "smear", "--data", str(sample.path.parent)]
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == 0
    assert said.stdout.splitlines()[1:] == [
        "new class: Lymfocyte; did you mean LYM?",
        "new class: blast",
    ]
    again = CliRunner().invoke(cli, [*words, "--json"])
    assert json.loads(again.stdout)["new_classes"] == {}


def test_boxes_label_the_cells_in_them(sample: Sample, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "file,label,xmin,ymin,xmax,ymax\nleft.png,neutrophil,60,60,120,125\nleft.png,Eosinophil,210,50,290,130\n"
        "right.png,BAS,160,60,240,140\nright.png,MO,250,250,330,310\n"
    )
    found = import_labels(sample, boxes)
    store = CellStore(sample.cells_path)
    columns = store.column("field_index"), store.column("x_px"), store.labels()
    at = {(int(f), round(float(x))): label for f, x, label in zip(*columns, strict=True)}
    assert {label for label in at.values() if label} == {"NEU", "EOS", "BAS"}
    assert {key[0]: label for key, label in at.items() if label == "BAS"} == {1: "BAS"}
    assert found.unmatched == (f"{boxes}, line 5",)
    segment_sample(sample, pixel_um=0.12, jobs=1)
    again = CellStore(sample.cells_path)
    assert again.pixel_um == 0.12, "segmented again"
    assert sorted(filter(None, again.labels())) == ["BAS", "EOS", "NEU"]
    segment_sample(sample, pixel_um=0.1, jobs=1)
    assert sorted(filter(None, CellStore(sample.cells_path).labels())) == ["BAS", "EOS", "NEU"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "columns a, b; needed are those of `wbcpipe labels export`"),
        (
            "file,label,xmin,ymin,xmax,ymax\nleft.png,NEU,9,9,3,12\n",
            "line 2: box 9, 9, 3, 12; xmin < xmax",
        ),
        (
            "file,label,xmin,ymin,xmax,ymax\nleft.png,NEU,x,9,3,12\n",
            "line 2: xmin is 'x'; a number is needed",
        ),
        (
            "file,label,xmin,ymin,xmax,ymax\nother.png,NEU,1,2,3,4\n",
            "no field of the sample was imported from 'other",
        ),
        ("field,label,xmin,ymin,xmax,ymax\n0,,1,2,3,4\n", "line 2: no label; write one"),
        (
            "field,label,xmin,ymin,xmax,ymax\n0," + "N" * 65 + ",1,2,3,4\n",
            "at most 64 printable characters",
        ),
        ("field,label,xmin,ymin,xmax,ymax\n0,N\x1b[2J,1,2,3,4\n", "printable characters"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(
    sample: Sample, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(ImportDataError) as caught:
        import_labels(sample, tmp_path / "boxes.csv")
    assert message in str(caught.value)
    assert not any(CellStore(sample.cells_path).labels())


def test_folder_and_table_that_contradict_each_other_are_refused(
    sample: Sample, tmp_path: Path
) -> None:
    export_labels(sample, tmp_path / "out")
    rows = rows_of(tmp_path / "out" / LABELS_FILE)
    rows[0]["label"] = "EOS"
    write_rows(tmp_path / "out" / LABELS_FILE, rows)
    (tmp_path / "out" / UNLABELLED / rows[0]["file"]).rename(
        tmp_path / "out" / "NEU" / rows[0]["file"]
    )
    with pytest.raises(
        ImportDataError, match=r"lies in the folder 'NEU' and is labelled 'EOS'; choose one"
    ):
        import_labels(sample, tmp_path / "out")
    rows[0] |= {"label": "NEU", "sample": "other"}
    write_rows(tmp_path / "out" / LABELS_FILE, rows)
    with pytest.raises(ImportDataError, match=r"of sample 'other', not 'smear'"):
        import_labels(sample, tmp_path / "out")


@pytest.mark.usefixtures("sample")
def test_the_commands_speak_to_people_and_machines(smear: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    words = ["--sample", "smear", "--data", str(smear)]
    told = CliRunner().invoke(
        cli, ["labels", "export", "--out", out, *words], catch_exceptions=False
    )
    assert "5 cells in" in told.stdout
    assert f"wbcpipe labels import {out} --sample smear" in told.stdout
    done = CliRunner().invoke(
        cli, ["labels", "import", out, *words, "--json"], catch_exceptions=False
    )
    assert json.loads(done.stdout)["changed"] == 0
    assert (
        CliRunner().invoke(cli, ["labels", "import", str(tmp_path / "none"), *words]).exit_code == 2
    )
