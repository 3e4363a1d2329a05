from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from wbcpipe.samples.fields import fields_on_disk, read_field, read_info
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import FieldImport

if TYPE_CHECKING:
    from pathlib import Path


def make(tmp_path: Path, name: str = "S") -> Sample:
    return Sample.open(tmp_path / "data", name)


def stamp(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file): (file.stat().st_mtime_ns, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file()
    }


def test_fields_become_ome_tiffs_that_do_not_overlap(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    assert import_fields([folder], sample, FieldImport("stained-rgb", 0.1)) == 4
    infos = [read_info(path) for path in fields_on_disk(sample.raw_path()).values()]
    assert [info.source for info in infos] == [
        "Lymphocytes/c.png",
        "blast/d.jpg",
        "neutrophil/a.jpg",
        "neutrophil/b.jpg",
    ]
    assert all(info.kind == "stained-rgb" and info.frames[3].derived for info in infos)
    places = np.array([(info.y_um, info.x_um) for info in infos])
    apart = np.abs(places[:, None] - places).max(-1)[~np.eye(4, dtype=bool)]
    assert apart.min() > 26.0
    frames, _ = read_field(fields_on_disk(sample.raw_path())[0])
    pixels = np.asarray(Image.open(folder / "Lymphocytes" / "c.png"))
    assert np.array_equal(frames[:3], np.moveaxis(pixels, -1, 0).astype(np.uint16) * 257)


def test_a_broken_import_of_fields_goes_on(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    import_fields([folder], sample, FieldImport("stained-rgb", 0.1))
    before = stamp(sample.raw_path())
    paths = fields_on_disk(sample.raw_path())
    first = paths[0].read_bytes()
    paths[0].unlink()
    import_fields([folder], sample, FieldImport("stained-rgb", 0.1))
    after = stamp(sample.raw_path())
    assert [after[str(paths[k])] for k in (1, 2, 3)] == [before[str(paths[k])] for k in (1, 2, 3)]
    assert len(paths[0].read_bytes()) == len(first)
    assert np.array_equal(read_field(paths[0])[0][0], read_field(paths[0])[0][0])
