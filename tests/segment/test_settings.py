"""Overridden settings: they change the result as they say, are recorded, and make it anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import ndimage

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import field_path
from wbcpipe.samples.records import SettingsFile
from wbcpipe.samples.segment_settings.of_sample import record_settings_file
from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.segment.cli import segment
from wbcpipe.segment.deduplicate import deduplicate
from wbcpipe.segment.detection.detect import detect_cells
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.inputs import CellImport
from wbcpipe.segment.nucleus_candidates import nucleus_score
from wbcpipe.segment.registration.edges import edge_map
from wbcpipe.segment.registration.register import align, identity
from wbcpipe.segment.run import segment_sample
from wbcpipe.segment.stage import SampleSegmenter
from wbcpipe.segment.stain_filter import density_in_nuclei
from wbcpipe.segment.stain_separation import scale_16bit
from wbcpipe.segment.view.field_view import FieldViewer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.sample import Sample

PIXEL_UM = 0.1


def settings(**tables: Any) -> SegmentSettings:
    return SegmentSettings.model_validate(tables)


def file(**tables: Any) -> SettingsFile:
    return SettingsFile(name="tuned.toml", segment=settings(**tables).overrides())


def content(store: CellStore) -> list[bytes]:
    return [np.asarray(store.column(name)).tobytes() for name in ("y_um", "x_um", "area_um2")] + [
        store.images()[:].tobytes(),
        store.masks()[:].tobytes(),
        store.column("qc_flags").tobytes(),
    ]


# What a setting changes


def test_a_smaller_least_nucleus_takes_a_platelet_for_a_cell(
    draw: Callable[..., NDArray[np.float32]],
) -> None:
    disks = [(300, 400, 35, 20000.0), (100, 100, 13, 20000.0)]  # 38 um2, 5 um2
    frame = (draw((600, 800), disks) + 900).astype(np.uint16)
    assert len(detect_cells(frame, PIXEL_UM, "fluorescence", level=20000.0)) == 1
    small = settings(detection={"fluorescence": {"min_nucleus_um2": 3.0}}).detection
    found = detect_cells(frame, PIXEL_UM, "fluorescence", level=20000.0, settings=small)
    assert len(found) == 2
    assert (found.quality & QcFlag.DEBRIS).tolist() == [QcFlag.DEBRIS, 0]
    smaller = {"min_nucleus_um2": 3.0, "debris_nucleus_um2": 4.0}
    small = settings(detection={"fluorescence": smaller}).detection
    found = detect_cells(frame, PIXEL_UM, "fluorescence", level=20000.0, settings=small)
    assert (found.quality & QcFlag.DEBRIS).tolist() == [0, 0]


def test_a_search_as_wide_as_the_displacement_registers_it() -> None:
    rng = np.random.default_rng(3)
    scene = ndimage.gaussian_filter(rng.normal(0, 1, (420, 420)), 2.0)
    scene = 20000 * np.exp(0.5 * scene / scene.std())
    shift_px = 24  # coarse pixels of 0.4 um: 9.6 um
    first, second = scene[40:340, 40:340], scene[40:340, 40 - shift_px : 340 - shift_px]
    flat = np.ones((2, 2), np.float32)
    edges = [edge_map(plane.astype(np.float32), flat) for plane in (first, second)]
    start = identity(2, (1200, 1200))
    narrow = align(edges, start, PIXEL_UM, reference=0)
    wide = settings(registration={"field_wide_search_um": 14.0}).registration
    found = align(edges, start, PIXEL_UM, reference=0, settings=wide)
    assert narrow.trusted.tolist() == [True, False]
    assert found.trusted.tolist() == [True, True]
    assert found.shift_px[1] == pytest.approx([0.0, 4.0 * shift_px], abs=1.0)


def test_views_as_far_apart_as_the_stage_errs_are_one_cell() -> None:
    at = np.array([100.0, 105.0])
    arguments = (at, at, np.array([0, 1]), np.zeros(2, np.uint16), np.zeros(2))
    assert deduplicate(*arguments).tolist() == [True, True]  # 7.1 um apart
    wide = settings(duplicates={"same_um": 8.0}).duplicates
    assert deduplicate(*arguments, settings=wide).sum() == 1


def test_lower_odds_accept_what_was_no_nucleus() -> None:
    rng = np.random.default_rng(5)
    density = np.abs(rng.normal(0.01, 0.004, (3, 300, 300))).astype(np.float32)
    y, x = np.indices((300, 300))
    disk = np.hypot(y - 150, x - 150) < 32
    density[:, disk] += np.array([0.31, 0.31, 0.31], np.float32)[:, None]  # greyer than nuclei
    default = SegmentSettings().detection.stain
    assert not density_in_nuclei(density, PIXEL_UM).any()
    lower = settings(detection={"stain": {"min_log_odds": -15.0}}).detection.stain
    assert density_in_nuclei(density, PIXEL_UM, None, lower)[disk].mean() > 0.1
    other = settings(detection={"stain": {"score_constant": 0.0}}).detection.stain
    measures = np.zeros((1, 6))
    assert nucleus_score(measures, other) - nucleus_score(measures, default) == pytest.approx(8.25)


# What happens to a sample


def test_stricter_flags_are_recorded_and_make_the_cells_anew(
    copy_run: Callable[[str], Sample], unbroken: CellStore
) -> None:
    sample = copy_run("flags")
    before = segment_sample(sample, pixel_um=PIXEL_UM, jobs=1)
    assert content(before) == content(unbroken)
    default = SegmentSettings()
    assert before.attributes.provenance["settings"] == default.model_dump(mode="json")
    assert before.attributes.provenance["settings_sha256"] == default.digest()
    statistics = sample.work_path / "slide_statistics.npz"
    field = sample.work_path / "fields" / "field_00000.npz"
    of_statistics, of_field = statistics.stat().st_mtime_ns, field.stat().st_mtime_ns
    assert np.count_nonzero(before.column("qc_flags") & QcFlag.BLURRED) < len(before) / 2

    record_settings_file(sample, file(quality={"blurred_um": 0.01}))
    after = segment_sample(sample, pixel_um=PIXEL_UM, jobs=1)
    assert (after.column("qc_flags") & QcFlag.BLURRED).all()
    assert after.attributes.provenance["settings"]["quality"]["blurred_um"] == 0.01  # type: ignore[call-overload, index]
    assert after.attributes.provenance["settings_sha256"] != default.digest()
    # The statistics do not rest on flags: they are kept, the fields are not.
    assert statistics.stat().st_mtime_ns == of_statistics
    assert field.stat().st_mtime_ns != of_field

    record_settings_file(sample, None)
    assert content(segment_sample(sample, pixel_um=PIXEL_UM, jobs=1)) == content(unbroken)


def test_settings_of_the_sample_alone_keep_the_fields(
    copy_run: Callable[[str], Sample], unbroken: CellStore
) -> None:
    sample = copy_run("duplicates")
    segment_sample(sample, pixel_um=PIXEL_UM, jobs=1)
    field = sample.work_path / "fields" / "field_00000.npz"
    of_field = field.stat().st_mtime_ns
    record_settings_file(sample, file(duplicates={"same_um": 0.1, "same_cut_um": 0.1}))
    assert len(segment_sample(sample, pixel_um=PIXEL_UM, jobs=1)) > len(unbroken)
    assert field.stat().st_mtime_ns == of_field


def test_another_registration_makes_the_statistics_anew(
    copy_run: Callable[[str], Sample],
) -> None:
    sample = copy_run("registration")
    first = SampleSegmenter(sample)
    first.estimate_statistics(range(6))
    record_settings_file(sample, file(registration={"slide_search_um": 0.5}))
    second = SampleSegmenter(sample)
    second.estimate_statistics(range(6))
    assert second.statistics.settings_sha256 != first.statistics.settings_sha256
    assert second.statistics.digest() != first.statistics.digest()


def test_processes_work_with_the_settings_of_the_sample(copy_run: Callable[[str], Sample]) -> None:
    given = settings(quality={"blurred_um": 0.01})
    one = segment_sample(copy_run("one"), pixel_um=PIXEL_UM, jobs=1, settings=given)
    two = segment_sample(copy_run("two"), pixel_um=PIXEL_UM, jobs=2, settings=given)
    assert (two.column("qc_flags") & QcFlag.BLURRED).all()
    assert content(two) == content(one)


@pytest.mark.usefixtures("unbroken")
def test_a_field_is_shown_with_settings_that_are_only_tried(
    copy_run: Callable[[str], Sample],
) -> None:
    sample = copy_run("tried")
    tried = settings(detection={"fluorescence": {"min_nucleus_um2": 400.0}})
    assert len(FieldViewer(sample).load(0).cells) > 0
    assert not FieldViewer(sample, settings=tried).load(0).cells
    assert sample.record().segment_file is None


def test_imported_cells_are_made_with_the_given_settings_and_no_others(
    tmp_path: Path, sample_of: Callable[[str], Sample]
) -> None:
    rng = np.random.default_rng(0)
    rgb = np.full((240, 240, 3), 235, np.uint8) - rng.integers(0, 6, (240, 240, 3)).astype(np.uint8)
    y, x = np.indices((240, 240))
    rgb[np.hypot(y - 120, x - 120) < 60] = (205, 190, 215)
    rgb[np.hypot(y - 120, x - 120) < 34] = (110, 60, 150)
    path = tmp_path / "cell.npy"
    np.save(path, np.concatenate([scale_16bit(rgb), 65535 - scale_16bit(rgb)[1:2]]))
    plain = CellImport("stack", PIXEL_UM)
    tuned = CellImport("stack", PIXEL_UM, settings=file(masks={"cytoplasm_reach_um": 0.5}))
    one, other = sample_of("plain"), sample_of("tuned")
    areas = [
        float(import_cells([path], sample, options).column("area_um2")[0])
        for sample, options in ((one, plain), (other, tuned))
    ]
    assert areas[1] < 0.8 * areas[0]
    stored = CellStore(other.cells_path).attributes.provenance
    assert stored["settings_sha256"] == tuned.segment_settings.digest()
    assert other.record().segment_file == tuned.settings
    import_cells([path], other, tuned)
    with pytest.raises(SampleStateError, match="imported with other options"):
        import_cells([path], other, plain)


@pytest.fixture
def sample_of(tmp_path: Path) -> Callable[[str], Sample]:
    from wbcpipe.samples.sample import Sample

    return lambda name: Sample.open(tmp_path, name)


# The command line


def test_the_command_tries_keeps_and_forgets_settings(
    copy_run: Callable[[str], Sample], tmp_path: Path
) -> None:
    sample = copy_run("cli")
    for index in range(1, 6):
        field_path(sample.raw_path(), index).unlink()
    tuned = tmp_path / "tuned.toml"
    tuned.write_text("[segment.quality]\nblurred_um = 0.01\n")

    def call(*arguments: object) -> str:
        options = ["--sample", "cli", "--data", sample.path.parent, *arguments]
        result = CliRunner().invoke(segment, [*map(str, options)])
        assert result.exit_code == 0, result.output
        return result.output

    call("--preview", 0, "--settings", tuned, "--out", tmp_path / "field.png")
    assert sample.record().segment_file is None
    assert not sample.cells_path.exists()
    assert "with the settings of tuned.toml" in call("--settings", tuned)
    flags = CellStore(sample.cells_path).column("qc_flags")
    assert (flags & QcFlag.BLURRED).all()
    assert "with the settings of tuned.toml" in call()  # kept
    assert "with the settings" not in call("--reset-settings")
    assert not (CellStore(sample.cells_path).column("qc_flags") & QcFlag.BLURRED).all()
    both = ["--sample", "cli", "--settings", str(tuned), "--reset-settings"]
    result = CliRunner().invoke(segment, [*both, "--data", str(sample.path.parent)])
    assert result.exit_code == 2
    assert "exclude each other" in result.output
