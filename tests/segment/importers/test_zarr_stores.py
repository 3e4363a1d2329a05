"""OME-Zarr of both versions, pyramids of OME-TIFF, and single cells in the layout of BSCCM."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr

from wbcpipe.errors import ImportDataError
from wbcpipe.pipeline import cli
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import FieldImport

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 96
Y, X = np.mgrid[:SIDE, :SIDE] - SIDE / 2


def stack(seed: int = 0) -> NDArray[np.uint16]:
    """Three bright fields and a nucleus, (4, Y, X)."""
    noise = np.random.default_rng(seed).integers(0, 200, (4, SIDE, SIDE))
    cell = 40_000 - 15_000 * (np.hypot(Y, X) < 30)
    return (np.stack([cell, cell, cell, 500 + 30_000 * (np.hypot(Y, X) < 14)]) + noise).astype(
        np.uint16
    )


def write_ome_zarr(
    path: Path, version: str, images: dict[str, NDArray[Any]], axes: str = "cyx"
) -> None:
    """Write images of 0.2 um a pixel, each with a halved copy, in groups.

    In the root where the name is empty.
    """
    root = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    for name, image in images.items():
        group = root.require_group(name) if name else root
        scale = [1.0] * (image.ndim - 2)
        datasets = []
        for level, pixels in enumerate((image, image[..., ::2, ::2])):
            array = group.create_array(str(level), shape=pixels.shape, dtype=pixels.dtype)
            array[...] = pixels
            transform = {"type": "scale", "scale": [*scale, 200 * 2**level, 200 * 2**level]}
            datasets.append({"path": str(level), "coordinateTransformations": [transform]})
        kinds = {"c": "channel", "t": "time"}
        described = [
            {
                "name": axis,
                "type": kinds.get(axis, "space"),
                **({"unit": "nanometer"} if axis in "yx" else {}),
            }
            for axis in axes
        ]
        multiscales: Any = [{"version": version, "axes": described, "datasets": datasets}]
        if version == "0.5":
            group.attrs["ome"] = {"version": version, "multiscales": multiscales}
        else:
            group.attrs["multiscales"] = multiscales


def fields_of(
    path: Path, folder: Path, kind: str = "stack"
) -> list[tuple[NDArray[np.uint16], float]]:
    sample = Sample.open(folder / "data", "S")
    import_fields([path], sample, FieldImport(kind, None))  # type: ignore[arg-type]
    found = [read_field(file) for file in fields_on_disk(sample.raw_path()).values()]
    return [(frames, info.pixel_um) for frames, info in found]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_stack(version: str, tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a.ome.zarr", version, {"": stack()})
    ((frames, pixel_um),) = fields_of(tmp_path / "a.ome.zarr", tmp_path)
    np.testing.assert_array_equal(frames, stack())
    assert pixel_um == pytest.approx(0.2)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_several_images_of_one_store_in_their_order(version: str, tmp_path: Path) -> None:
    images = {"10": stack(3)[None], "2": stack(2)[None], "labels": stack(9)[None]}
    write_ome_zarr(tmp_path / "folder" / "a.zarr", version, images, axes="tcyx")
    found = fields_of(tmp_path / "folder", tmp_path)
    assert len(found) == 2
    for (frames, _), seed in zip(found, (2, 3), strict=True):
        np.testing.assert_array_equal(frames, stack(seed))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_smear_in_colour(version: str, tmp_path: Path) -> None:
    rgb = (stack()[:3] >> 8).astype(np.uint8)
    write_ome_zarr(tmp_path / "a.zarr", version, {"": rgb})
    ((frames, _),) = fields_of(tmp_path / "a.zarr", tmp_path, kind="stained-rgb")
    assert len(frames) == 4, "the nuclear density is derived"
    np.testing.assert_array_equal(frames[:3], rgb.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("image", "axes", "kind", "reason"),
    [
        (np.zeros((2, 4, 16, 16), np.uint16), "tcyx", "stack", "t 2; save one plane"),
        (np.zeros((4, 16, 16), np.int32), "cyx", "stack", "int32; values of 8 or 16 bits"),
        (
            np.zeros((4, 16, 16), np.uint8),
            "cyx",
            "stained-rgb",
            "4 channels; a stained smear has 3",
        ),
        (np.zeros((16, 16, 4), np.uint8), "yxc", "stack", "y and x must be the last"),
        (np.full((2, 16, 16), np.nan, np.float32), "cyx", "stack", "not finite"),
    ],
    ids=["time", "type", "colours", "axes", "nan"],
)
def test_what_is_not_read(
    image: NDArray[Any], axes: str, kind: str, reason: str, tmp_path: Path
) -> None:
    write_ome_zarr(tmp_path / "a.zarr", "0.5", {"": image}, axes=axes)
    with pytest.raises(ImportDataError, match=reason):
        fields_of(tmp_path / "a.zarr", tmp_path, kind)


def test_stores_without_images(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(ImportDataError, match="without an image"):
        fields_of(tmp_path / "empty.zarr", tmp_path)
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    with pytest.raises(ImportDataError, match=r"broken\.zarr: not readable as Zarr"):
        fields_of(tmp_path / "broken.zarr", tmp_path)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((1, 12_000, 12_000), "megapixels"), ((10**6, 4096, 4096), "GB of images")],
)
def test_a_store_that_declares_too_much(
    shape: tuple[int, ...], reason: str, tmp_path: Path
) -> None:
    write_ome_zarr(tmp_path / "a.zarr", "0.5", {"": np.zeros((2, 16, 16), np.uint8)})
    path = tmp_path / "a.zarr" / "0" / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shape": shape}))
    with pytest.raises(ImportDataError, match=reason):
        fields_of(tmp_path / "a.zarr", tmp_path)


def test_a_changed_store_is_another_import(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a.zarr", "0.5", {"": stack()})
    fields_of(tmp_path / "a.zarr", tmp_path)
    fields_of(tmp_path / "a.zarr", tmp_path)
    write_ome_zarr(tmp_path / "a.zarr", "0.5", {"": stack(1)})
    with pytest.raises(Exception, match="other"):
        fields_of(tmp_path / "a.zarr", tmp_path)


@pytest.mark.parametrize("kind", ["stack", "stained-rgb"])
def test_pyramids_of_ome_tiff(kind: str, tmp_path: Path) -> None:
    full = (
        stack()
        if kind == "stack"
        else np.ascontiguousarray(np.moveaxis(stack()[:3] >> 8, 0, -1)).astype(np.uint8)
    )
    colour = "minisblack" if kind == "stack" else "rgb"
    half = full[:, ::2, ::2] if kind == "stack" else full[::2, ::2]
    metadata = {
        "axes": "CYX" if kind == "stack" else "YXS",
        "PhysicalSizeX": 0.2,
        "PhysicalSizeY": 0.2,
    }
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", bigtiff=True) as file:
        file.write(full, subifds=1, tile=(32, 32), metadata=metadata, photometric=colour)
        file.write(half, subfiletype=1, tile=(32, 32), photometric=colour)
    ((frames, pixel_um),) = fields_of(tmp_path / "a.ome.tif", tmp_path, kind)
    expected = full if kind == "stack" else np.moveaxis(full.astype(np.uint16) * 257, -1, 0)
    np.testing.assert_array_equal(frames[: len(expected)], expected)
    assert pixel_um == pytest.approx(0.2)


CHANNELS = ("Brightfield", "DPC_Right", "Fluor_500-550")


def write_bsccm(root: Path, cells: int = 48, side: int = 64, label: bool = True) -> None:
    """Write cells in the layout of BSCCM: large round nuclei (LYM), and small ones beside a second
    (NEU).
    """
    root.mkdir()
    metadata = {
        "name": "BSCCM",
        "led_array": {"channel_names": ["Brightfield", "DPC_Left", "DPC_Right"]},
        "fluorescence": {"channel_names": ["Fluor_690-", "Fluor_500-550"]},
    }
    (root / "BSCCM_global_metadata.json").write_text(json.dumps(metadata))
    images = zarr.open_group(root / "BSCCM_images.zarr", mode="w", zarr_format=2)
    y, x = np.mgrid[:side, :side] - side / 2
    rng = np.random.default_rng(1)
    with (root / "BSCCM_index.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["global_index", "batch", "data_path", *(["label"] if label else [])])
        for number in range(cells):
            lymphocyte = number % 2 == 0
            place = f"batch_0/slide_{number % 3}"
            nucleus = (
                np.hypot(y, x) < 11
                if lymphocyte
                else (np.hypot(y, x - 7) < 6) | (np.hypot(y, x + 7) < 6)
            )
            cell = np.hypot(y, x) < 18
            led = np.stack(
                [3000 - 700 * cell - 500 * nucleus, 2000 + 300 * cell, 2000 - 300 * cell]
            )
            fluor = np.stack([np.full((side, side), 150), 200 + 2500 * nucleus])
            for group, planes in (("led_array", led), ("fluor", fluor)):
                noisy = (planes + rng.integers(0, 60, planes.shape)).astype(np.uint16)
                array = images.create_array(
                    f"{place}/{group}/cell_{number + 7}", shape=noisy.shape, dtype="uint16"
                )
                array[...] = noisy
            table.writerow(
                [
                    number + 7,
                    0,
                    place,
                    *(["lymphocyte" if lymphocyte else "neutrophil"] if label else []),
                ]
            )


def run(*words: str) -> None:
    cli.main(args=[str(word) for word in words], prog_name="wbcpipe", standalone_mode=False)


# Trains a network: a whole second of loading torch, and several of its epoch.
def test_cells_of_bsccm_are_imported_trained_on_and_called(tmp_path: Path) -> None:
    write_bsccm(tmp_path / "BSCCM-tiny")
    data = ["--data", str(tmp_path / "data")]
    chosen = [word for name in CHANNELS for word in ("--modality", name)]
    sizes = ["--pixel-um", "0.45", "--crop-pixel-um", "0.45", "--side-px", "64"]
    run(
        "import",
        "cells",
        str(tmp_path / "BSCCM-tiny"),
        "--sample",
        "B1",
        "--kind",
        "stack",
        *chosen,
        *sizes,
        *data,
    )
    store = CellStore(Sample.open(tmp_path / "data", "B1").cells_path)
    assert store.modalities == CHANNELS
    assert len(store) == 48
    assert sorted(set(store.column("label"))) == ["LYM", "NEU"]
    nuclei = store.images(0, 2)[:, 2]
    assert nuclei[0, 32, 32] > 2000, "a lymphocyte's nucleus is in the middle"
    assert nuclei[1, 32, 32] < 1000 < nuclei[1, 32, 39]
    few = ["--epochs", "1", "--batch-size", "16", "--side", "32", "--set", "start_side=32"]
    run("train", "B1", "--method", "mm-mimo", "--out", str(tmp_path / "models" / "b"), *few, *data)
    run("classify", "--sample", "B1", "--bundle", str(tmp_path / "models" / "b" / "b"), *data)
    called = CellStore(store.path)
    assert called.column("probability").shape == (48, 3, 2)
    np.testing.assert_allclose(called.column("probability").sum(axis=2), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "chosen", "reason"),
    [
        (
            lambda _root: None,
            (),
            "which channels to take is not given.*Brightfield, DPC_Left, DPC_Right, Fluor_690-",
        ),
        (lambda _root: None, ("Brightfield", "Fluor_1"), "there is no channel 'Fluor_1'"),
        (
            lambda root: (root / "BSCCM_global_metadata.json").write_text("[]"),
            CHANNELS,
            "no lists 'channel_names'",
        ),
        (
            lambda root: (root / "BSCCM_index.csv").write_text("a,b\n"),
            CHANNELS,
            "the column 'data_path' is missing",
        ),
        (
            lambda root: (root / "BSCCM_index.csv").write_text(
                "global_index,data_path\n7,../../x\n"
            ),
            CHANNELS,
            "line 2: no cell",
        ),
        (
            lambda root: (root / "BSCCM_index.csv").write_text(
                "global_index,data_path\n999,batch_0/slide_0\n"
            ),
            CHANNELS,
            "cell 999: its images are not there",
        ),
    ],
    ids=["none", "unknown", "metadata", "columns", "path", "cell"],
)
def test_what_is_no_bsccm(spoil: Any, chosen: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    write_bsccm(tmp_path / "B", cells=2)
    spoil(tmp_path / "B")
    words = [word for name in chosen for word in ("--modality", name)]
    with pytest.raises(ImportDataError, match=reason):
        run(
            *(
                "import",
                "cells",
                str(tmp_path / "B"),
                "--sample",
                "B1",
                "--kind",
                "stack",
                "--pixel-um",
                "0.45",
            ),
            *("--data", str(tmp_path / "data"), *words),
        )
