"""The commands ``wbcpipe segment``, ``wbcpipe view`` and ``wbcpipe import``."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from wbcpipe.cli.options import OutputFile, data_option, json_option, options_into, sample_option
from wbcpipe.cli.progress import Reporter
from wbcpipe.samples.cell_columns import CROP_PIXEL_UM, QcFlag, nuclear_index
from wbcpipe.samples.records import ImportKind
from wbcpipe.samples.sample import Sample, data_root
from wbcpipe.samples.segment_settings.of_sample import (
    read_settings_file,
    record_settings_file,
    settings_of,
    with_settings_file,
)
from wbcpipe.system.files import make_folder, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.records import SettingsFile
    from wbcpipe.samples.segment_settings.settings import SegmentSettings

__all__ = ["import_", "segment", "view"]

_paths_argument = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
_kind_option = click.option(
    "--kind",
    type=click.Choice(get_args(ImportKind)),
    required=True,
    help="Colour images, or stacks of channels.",
)
_pixel_option = click.option(
    "--pixel-um",
    type=float,
    help="Pixel size of the images, in um [as the files give it: OME-TIFF, ImageJ].",
)
_skip_bad_option = click.option(
    "--skip-bad",
    is_flag=True,
    help="Import the other files where some cannot be used; they are named.",
)
_settings_option = click.option(
    "--settings",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file of settings for another camera or stain; see `wbcpipe settings`.",
)
_modality_option = click.option(
    "--modality",
    "modalities",
    multiple=True,
    metavar="NAME",
    help="Name of a channel of a stack; give one per channel.",
)


@dataclass(frozen=True)
class SegmentOptions:
    """Options of ``wbcpipe segment``; see its help."""

    name: str
    data: Path | None
    pixel_um: float
    preview: int | None
    out: Path | None
    jobs: int | None
    detector: str
    settings: Path | None
    reset_settings: bool
    as_json: bool


@click.command()
@sample_option
@data_option
@click.option(
    "--pixel-um",
    type=float,
    default=CROP_PIXEL_UM,
    show_default=True,
    help="Pixel size of the crops, in um.",
)
@click.option(
    "--preview",
    type=click.IntRange(min=0),
    metavar="FIELD",
    help="Draw this field as a PNG and stop.",
)
@click.option(
    "--out",
    type=OutputFile(),
    metavar="PNG",
    help="File of the preview [SAMPLE_field_00042.png].",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Number of processes [one per core, fewer for few fields].",
)
@click.option(
    "--detector",
    default="own",
    show_default=True,
    metavar="NAME",
    help="Nucleus detector: own, cellpose, stardist or MODULE:FUNCTION.",
)
@_settings_option
@click.option(
    "--reset-settings",
    is_flag=True,
    help="Forget the settings that --settings gave this sample before.",
)
@json_option
@options_into(SegmentOptions)
def segment(options: SegmentOptions) -> None:
    """Stage 2 of 4: register the frames of each field, find the white cells, and cut them out.

    \b
    In:   raw/<pass>/field_*.ome.tif, from `wbcpipe acquire` or `wbcpipe import fields`
    Out:  cells.zarr, one row per cell; a cell in two overlapping fields is one row

    An interrupted command resumes when it is run again, and gives the same cells. `--pixel-um` must
    be the pixel size of the model; `wbcpipe bundles` shows it.

    `--detector` selects another nucleus detector. `cellpose` and `stardist` must be installed; they
    download their weights. MODULE:FUNCTION is a Python function of the nuclear channel (float32)
    and its pixel size in um that returns a label image, such as `mylab.nuclei:find`. `wbcpipe run`
    always uses the built-in detector.

    `--settings` gives sizes, contrasts and limits for another camera or stain, as the tables
    [segment...] of a scope file. They are kept in sample.json for every later command, and go
    before those of the scope file. What rests on a changed setting is computed again. With
    `--preview` they are tried on one field, and the sample is not changed.

    `--preview` draws one field: its registered channels, the outlines of nuclei and cells, flags,
    and classes where they are known. It does not change the sample, and works before the sample is
    segmented.

    Next: `wbcpipe classify`.

    \b
    Examples:
      wbcpipe segment --sample demo
      wbcpipe segment --sample demo --preview 3 --out field3.png
      wbcpipe segment --sample demo --preview 3 --settings tuned.toml
    """
    sample = Sample.open(data_root(options.data), options.name)
    record = sample.record()  # refuses a sample that does not exist, before the lock creates it
    given = _settings_file(options)
    if options.preview is not None:
        tried = None
        if given is not None or options.reset_settings:
            tried = settings_of(with_settings_file(record, given))
        _preview(sample, options.preview, options, tried)
        return
    if options.out is not None:
        raise click.UsageError("--out names the file of the preview; give --preview FIELD, too.")
    from wbcpipe.segment.run import segment_sample

    if given is not None or options.reset_settings:
        with sample.lock("segment"):
            record_settings_file(sample, given)
    with Reporter(quiet=options.as_json) as reporter:
        reporter.say(f"segmenting {sample.name}{_settings_note(sample)}")
        store = segment_sample(
            sample,
            pixel_um=options.pixel_um,
            progress=reporter.update,
            jobs=options.jobs or 0,
            detector=options.detector,
        )
    _print_store(sample, store, as_json=options.as_json)


def _settings_file(options: SegmentOptions) -> SettingsFile | None:
    """Read the file of ``--settings``; ``None`` without one."""
    if options.settings is None:
        return None
    if options.reset_settings:
        raise click.UsageError("--settings and --reset-settings exclude each other; give one.")
    return read_settings_file(options.settings)


def _settings_note(sample: Sample) -> str:
    """Return a clause on the settings that are not default; empty if all are."""
    record = sample.record()
    names = ["the scope file"] if record.segment else []
    names += [record.segment_file.name] if record.segment_file else []
    return f" with the settings of {' and '.join(names)}" if names else ""


def _preview(
    sample: Sample, index: int, options: SegmentOptions, settings: SegmentSettings | None
) -> None:
    from wbcpipe.segment.view.field_view import FieldViewer
    from wbcpipe.segment.view.preview import preview_png

    out = options.out or Path(f"{sample.name}_field_{index:05d}.png")
    with Reporter(quiet=options.as_json) as reporter:
        reporter.say(f"drawing field {index} of {sample.name}")
        viewer = FieldViewer(
            sample, pixel_um=options.pixel_um, settings=settings, progress=reporter.update
        )
        view = viewer.load(index)
        picture = preview_png(view, title=f"{sample.name}, field {index}")
    make_folder(out.parent)
    with write_atomic(out) as handle:
        handle.write(picture)
    if options.as_json:
        click.echo(
            json.dumps(
                {"sample": sample.name, "field": index, "cells": len(view.cells), "path": str(out)}
            )
        )
    else:
        click.echo(f"{sample.name}, field {index}: {len(view.cells)} cells drawn in {out}")


@click.command()
@sample_option
@data_option
@click.option(
    "--field",
    "index",
    type=click.IntRange(min=0),
    metavar="N",
    help="Field to show first [the first].",
)
@click.option(
    "--pixel-um",
    type=float,
    default=0.1,
    show_default=True,
    help="Pixel size of masks before segmentation, in um.",
)
def view(name: str, data: Path | None, index: int | None, pixel_um: float) -> None:
    """Show the fields of a sample in napari: registered channels, cells, nuclei, classes.

    Press N and P for the next and the previous field. The sample is not changed. This command needs
    napari: pip install 'wbcpipe[view]'. Without it, `wbcpipe segment --preview` draws a field as a
    PNG.

    \b
    Examples:
      wbcpipe view --sample demo
      wbcpipe view --sample demo --field 12
    """
    from wbcpipe.segment.view.field_view import FieldViewer
    from wbcpipe.segment.view.layers import open_viewer

    sample = Sample.open(data_root(data), name)
    with Reporter() as reporter:
        reporter.say(f"loading {sample.name}")
        viewer = FieldViewer(sample, pixel_um=pixel_um, progress=reporter.update)
    open_viewer(viewer, viewer.fields[0] if index is None else index, title=sample.name)


@click.group("import")
def import_() -> None:
    """Import images of other origin.

    \b
    fields  images of fields of view; `wbcpipe segment` finds the cells
    cells   images of single cells, each with its cell in the middle

    The R, G and B planes of a stained smear become color1 to color3. A nuclear density, computed
    from them, takes the place of fluorescence; it is marked as derived in every file and report.

    \b
    Examples:
      wbcpipe import cells photographs/ --sample lab1 --kind stained-rgb --pixel-um 0.1
      wbcpipe import fields smear/*.jpg --sample lab2 --kind stained-rgb --pixel-um 0.075
      wbcpipe import cells flow.npz --sample flow --kind stack --pixel-um 0.5 --crop-pixel-um 0.5
    """


@dataclass(frozen=True)
class ImportFieldsOptions:
    """Options of ``wbcpipe import fields``; see its help."""

    paths: tuple[Path, ...]
    name: str
    kind: ImportKind
    pixel_um: float | None
    modalities: tuple[str, ...]
    skip_bad: bool
    settings: Path | None
    data: Path | None
    as_json: bool


@dataclass(frozen=True)
class ImportCellsOptions(ImportFieldsOptions):
    """Options of ``wbcpipe import cells``; see its help."""

    crop_pixel_um: float
    side_px: int
    labels: bool
    label_array: str | None


@import_.command("cells")
@_paths_argument
@sample_option
@_kind_option
@_pixel_option
@click.option(
    "--crop-pixel-um",
    type=float,
    default=0.1,
    show_default=True,
    help="Pixel size of the crops, in um.",
)
@click.option(
    "--side-px",
    type=click.IntRange(16, 2048),
    default=224,
    show_default=True,
    help="Side of the crops, in pixels.",
)
@click.option(
    "--labels/--no-labels",
    default=True,
    help="Take labels from manifest.csv, folder names or the stack.",
)
@click.option(
    "--label-array",
    metavar="NAME",
    help="Array of labels in a .npz [label, labels or the only text array].",
)
@_modality_option
@_skip_bad_option
@_settings_option
@data_option
@json_option
@options_into(ImportCellsOptions)
def cells(options: ImportCellsOptions) -> None:
    """Import images of single cells straight to cells.zarr.

    Each cell is in the middle of its image.

    PATHS are files and folders. `stained-rgb` takes colour images (JPEG, PNG, TIFF, BMP). `stack`
    takes channels: .tif, .npy, .npz with an array `images` of shape (cells, channels, y, x), or a
    folder in the layout of BSCCM: give `--modality` for each channel to take, the one that shows
    the nuclei last.

    Labels come from manifest.csv (columns file, label) in the given folder, else from the names of
    its sub-folders. neutrophil, lymphocyte, eosinophil, monocyte, basophil and their common short
    forms become NEU, LYM, EOS, MO, BAS. Any other name is a class of its own.

    \b
    Example:
      wbcpipe import cells pbc5/ --sample pbc5 --kind stained-rgb --pixel-um 0.1
    """
    from wbcpipe.segment.importers.cells import import_cells
    from wbcpipe.segment.importers.inputs import CellImport

    sample = Sample.open(data_root(options.data), options.name)
    what = CellImport(
        options.kind,
        options.pixel_um,
        options.modalities or None,
        options.skip_bad,
        None if options.settings is None else read_settings_file(options.settings),
        crop_pixel_um=options.crop_pixel_um,
        side_px=options.side_px,
        labels=options.labels,
        label_array=options.label_array,
    )
    notes: list[str] = []
    with Reporter(quiet=options.as_json) as reporter:
        say = _teller(reporter, notes)
        store = import_cells(options.paths, sample, what, jobs=0, progress=reporter.update, say=say)
    _print_store(sample, store, as_json=options.as_json, notes=notes)


@import_.command("fields")
@_paths_argument
@sample_option
@_kind_option
@_pixel_option
@_modality_option
@_skip_bad_option
@_settings_option
@data_option
@json_option
@options_into(ImportFieldsOptions)
def fields(options: ImportFieldsOptions) -> None:
    """Import fields of view as OME-TIFF files in raw/single, ready for `wbcpipe segment`.

    Cells are recognised by their size, so `--pixel-um` must be right. Measure it: a red cell is
    about 7.5 um wide. The images of one sample may differ in width and height, but not in pixel
    size. PATHS are image files (OME-TIFF with or without a pyramid among them), OME-Zarr stores
    (NGFF 0.4 and 0.5), and folders of them.

    \b
    Example:
      wbcpipe import fields smear/ --sample lab2 --kind stained-rgb --pixel-um 0.075
      wbcpipe segment --sample lab2
    """
    from wbcpipe.segment.importers.fields import import_fields
    from wbcpipe.segment.importers.inputs import FieldImport

    sample = Sample.open(data_root(options.data), options.name)
    what = FieldImport(
        options.kind,
        options.pixel_um,
        options.modalities or None,
        options.skip_bad,
        None if options.settings is None else read_settings_file(options.settings),
    )
    notes: list[str] = []
    with Reporter(quiet=options.as_json) as reporter:
        count = import_fields(
            options.paths, sample, what, progress=reporter.update, say=_teller(reporter, notes)
        )
    raw = sample.raw_path()
    if options.as_json:
        result = {
            "sample": sample.name,
            "fields": count,
            "path": str(raw),
            "kind": options.kind,
            "notes": notes,
        }
        click.echo(json.dumps(result))
    else:
        click.echo(
            f"{sample.name}: {count} fields in {raw}; next: wbcpipe segment --sample {sample.name}"
        )


def _teller(reporter: Reporter, notes: list[str]) -> Callable[[str], None]:
    """Return what shows each decision of an import, and keeps it for ``--json``."""

    def tell(line: str) -> None:
        notes.append(line)
        reporter.say(line)

    return tell


def _registration(store: CellStore) -> dict[str, dict[str, float]]:
    """Return the median shift and error (px) of each channel of an imported stack, by its name."""
    if store.attributes.kind != "stack" or not store.attributes.field_quality:
        return {}
    import numpy as np

    nuclear = nuclear_index(store.modalities)
    others = [name for k, name in enumerate(store.modalities) if k != nuclear]
    shifts, errors = store.column("shift_px"), store.column("shift_residual_px")
    return {
        name: {
            "y_px": round(float(np.median(shifts[:, k, 0])), 3),
            "x_px": round(float(np.median(shifts[:, k, 1])), 3),
            "error_px": round(float(np.median(errors[:, k])), 3),
        }
        for k, name in enumerate(others)
    }


def _print_store(
    sample: Sample, store: CellStore, *, as_json: bool, notes: Sequence[str] = ()
) -> None:
    counts = Counter(store.labels())
    labels = {label: counts[label] for label in store.attributes.classes if counts[label]}
    derived = list(store.attributes.derived)
    if as_json:
        result = {
            "sample": sample.name,
            "cells": len(store),
            "path": str(store.path),
            "modalities": list(store.modalities),
            "derived": derived,
            "pixel_um": store.pixel_um,
            "labels": labels,
            "registration": _registration(store),
            "notes": list(notes),
        }
        click.echo(json.dumps(result))
        return
    click.echo(f"{sample.name}: {len(store)} cells in {store.path}")
    if labels:
        click.echo("labels: " + ", ".join(f"{label} {count}" for label, count in labels.items()))
    for name, figures in _registration(store).items():
        y_px, x_px, error_px = (figures[key] for key in ("y_px", "x_px", "error_px"))
        click.echo(
            f"registration of {name}: {x_px:+.2f} px right, {y_px:+.2f} px down, error "
            f"{error_px:.2f} px"
        )
    is_stack = store.attributes.kind == "stack"
    if is_stack and (
        unregistered := int((store.column("qc_flags") & QcFlag.UNREGISTERED.value > 0).sum())
    ):
        click.echo(f"{unregistered} of {len(store)} cells: the channels could not be registered")
    if derived:
        click.echo(f"derived, not seen by a camera: {', '.join(derived)}")
