"""``sample.json`` of a sample taken on a scope: written first; later calls must agree with it."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import platform
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.config.calibration_file import calibration_reference
from wbcpipe.acquire.config.fingerprint import changed_settings, flatten, imaging_settings
from wbcpipe.acquire.config.micromanager_cfg import check_configuration
from wbcpipe.acquire.label.check import check_label_reader
from wbcpipe.errors import ConfigError, DiskFullError, SampleStateError
from wbcpipe.samples.fields import MODALITIES, PASSES, fields_on_disk
from wbcpipe.samples.records import PlanRecord, SampleRecord, ScopeReference, SpecimenRecord
from wbcpipe.samples.segment_settings.of_sample import record_scope_settings
from wbcpipe.system.file_kinds import is_file, kind_of_special
from wbcpipe.system.shell import shell_word

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.records import LabelRecord
    from wbcpipe.samples.sample import Sample

__all__ = ["check_disk_space", "check_sample", "create_sample_record", "estimate_seconds"]

#: What a user gives for an entry of the record.
_OPTIONS: Final = {
    "protocol": "--protocol {}",
    "slot": "--slot {}",
    "specimen.seed": "--specimen-seed {}",
    "specimen.preparation": "--specimen-preparation {}",
    "plan.overlap": "--overlap {} (of `wbcpipe acquire`)",
}
_REPEAT: Final = "repeat the first call's options"
_PACKAGES: Final = ("wbcpipe", "pycromanager", "pymmcore", "mm-test-adapters", "numpy", "tifffile")
#: Disk space for everything else that a run writes: log, tables, cells.
_SPARE_BYTES: Final = 64 * 2**20
#: Measured: time of a frame beyond its exposure, and of a rendered megapixel of the virtual scope
#: on one core.
_FRAME_OVERHEAD_S: Final = 0.002
_RENDER_S_PER_MEGAPIXEL: Final = 0.06


def check_sample(request: AcquisitionRequest) -> None:
    """Check the scope's files, and that a sample on disk belongs to the request.

    Nothing is written.

    Args:
        request: The pass; the fluorescence pass needs the bright-field pass before it.

    Raises:
        SampleStateError: The sample on disk is another one; the text names what differs.
        ConfigError: The scope file and its .cfg do not match; a virtual scope without a specimen,
            or a real one with.
    """
    sample, scope, specimen, pass_name = (
        request.sample,
        request.scope,
        request.specimen,
        request.pass_name,
    )
    check_configuration(scope)
    check_label_reader(scope)
    if scope.virtual and specimen is None:
        raise ConfigError(
            f"scope {scope.name!r} is virtual: it needs a specimen; give --specimen-seed."
        )
    if not scope.virtual and specimen is not None:
        raise ConfigError(
            f"scope {scope.name!r} is a real microscope: it takes no --specimen-seed or "
            f"preparation."
        )
    if pass_name == "fluorescence" and not fields_on_disk(sample.raw_path("brightfield")):
        raise SampleStateError(
            f"sample {sample.name!r} has no bright-field pass; take it first, before the stain: "
            f"--pass brightfield."
        )
    if is_file(sample.path) or (kind_of_special(sample.path) or "a folder") != "a folder":
        raise SampleStateError(
            f"{sample.path}: this is no folder, and samples are folders; move it away, or choose "
            f"another sample name."
        )
    if not sample.exists():
        if any(
            folder.is_dir() and any(folder.iterdir()) for folder in map(sample.raw_path, PASSES)
        ):
            raise SampleStateError(
                f"{sample.path} holds raw images but no sample.json; restore that file or choose "
                f"another name."
            )
        return
    _check_record(request)


def _check_record(request: AcquisitionRequest) -> None:
    """Refuse a sample on disk of another slide, plan or setup."""
    sample, scope, slide = request.sample, request.scope, request.slide
    record = sample.record()
    if slide and record.slide is not None and record.slide != slide:
        raise SampleStateError(
            f"sample {sample.name!r} is of slide {record.slide!r}, this call says {slide!r}: is "
            f"the right slide on the stage? Choose another sample name for another slide."
        )
    # The names of the scope's files may change, and what does not affect images: see
    # `imaging_settings`.
    parts = {"kind", "protocol", "slot", "plan", "specimen"}
    before, now = (
        dict(
            flatten(
                one.model_dump(
                    mode="json", include={**dict.fromkeys(parts, True), "scope": {"virtual"}}
                )
            )
        )
        for one in (record, _new_record(request))
    )
    keys = [*now, *(key for key in before if key not in now)]
    if differing := [key for key in keys if before.get(key) != now.get(key)]:
        key = differing[0]
        options = " ".join(
            _OPTIONS[name].format(shell_word(str(before[name])))
            for name in differing
            if name in _OPTIONS and before.get(name) is not None
        )
        raise SampleStateError(
            f"sample {sample.name!r} was created with {key} = {before.get(key)!r}, this call "
            f"says {now.get(key)!r}; {f'give {options}' if options else _REPEAT}, or choose "
            f"another sample name."
        )
    if record.imaging_settings is None:
        raise SampleStateError(
            f"{sample.info_path}: key 'imaging_settings' is missing, so this sample was not taken "
            f"on a scope; choose another sample name."
        )
    for change in changed_settings(sample, record.imaging_settings, imaging_settings(scope)):
        if change.in_use:
            raise SampleStateError(
                f"sample {sample.name!r} has images taken with {change.key} = {change.before!r}, "
                f"{scope.path.name} and {scope.config_path.name} now say {change.now!r}; change it "
                f"back, or choose another sample name."
            )


def create_sample_record(
    request: AcquisitionRequest, label: LabelRecord | None = None
) -> SampleRecord:
    """Write ``sample.json``, or check that the one on disk belongs to the request.

    Args:
        request: The pass.
        label: What was read on the slide's label.

    Raises:
        SampleStateError: The sample was created with other options; the text names what differs.
    """
    sample, scope = request.sample, request.scope
    check_sample(request)
    if sample.exists():
        return _update_settings(sample, scope)
    record = _new_record(request).model_copy(
        update={
            "slide": request.slide_id,
            "label": label,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "software": _software(),
            "imaging_settings": imaging_settings(scope),
            "calibration": calibration_reference(scope, sample.path.parent),
        }
    )
    sample.write(record)
    sample.log("sample_started", scope=scope.name, slot=request.plan.slot)
    return record


def _update_settings(sample: Sample, scope: Scope) -> SampleRecord:
    """Return the sample's record, with the settings of the segmentation, and those of imaging that
    were corrected before an image was taken with them.
    """
    record, now = sample.record(), imaging_settings(scope)
    assert record.imaging_settings is not None
    changes = changed_settings(sample, record.imaging_settings, now)
    if changes:
        record = record.model_copy(update={"imaging_settings": now})
        sample.write(record)
        values = {change.key: [change.before, change.now] for change in changes}
        sample.log("imaging_settings_changed", **values, scope_sha256=scope.sha256)
    record_scope_settings(sample, scope.segment)
    return sample.record()


def _new_record(request: AcquisitionRequest) -> SampleRecord:
    scope, plan, specimen = request.scope, request.plan, request.specimen
    return SampleRecord(
        sample=request.sample.name,
        protocol="one-pass" if request.pass_name == "single" else "two-pass",
        scope=ScopeReference(name=scope.name, sha256=scope.sha256, virtual=scope.virtual),
        slot=plan.slot,
        plan=PlanRecord.model_validate(plan.model_dump()),
        specimen=None if specimen is None else SpecimenRecord(**asdict(specimen)),
        modalities=MODALITIES,
        pixel_um=scope.camera.image_pixel_um,
        expected_cells_per_field=scope.expected_cells_per_field,
        quality=scope.quality.model_dump(exclude_none=True),
        segment=scope.segment.overrides(),
    )


def _software() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def check_disk_space(path: Path, scope: Scope, to_take: Mapping[Pass, int]) -> None:
    """Check that more fields fit on the disk.

    Args:
        path: Folder of the sample; it need not exist yet.
        scope: For the size of a frame.
        to_take: Number of fields to take in each pass.

    Raises:
        DiskFullError: They do not fit; nothing was written.
    """
    free = shutil.disk_usage(
        next(folder for folder in (path, *path.parents) if folder.exists())
    ).free
    needed = sum(number * scope.field_bytes(PASSES[name]) for name, number in to_take.items())
    needed += _SPARE_BYTES if any(to_take.values()) else 0
    if needed > free:
        passes = ", ".join(f"{number} of {name}" for name, number in to_take.items())
        what = (
            f"{sum(to_take.values())} fields"
            if len(to_take) == 1
            else f"the fields of all passes ({passes})"
        )
        raise DiskFullError(
            f"{path}: {what} need {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; free "
            f"space, ask for fewer fields, or give another disk with --data."
        )


def estimate_seconds(
    scope: Scope, plan: AcquisitionPlan, n_fields: int, *, pass_name: Pass = "single"
) -> float:
    """Estimate the time of the first ``n_fields`` of a pass: start, exposures, moves, settling,
    focusing, rendering.
    """
    fields = plan.fields()[:n_fields]
    taken = [scope.modalities.named(name) for name in PASSES[pass_name]]
    frame_s = (
        sum(modality.exposure_ms + modality.settle_ms + scope.light.settle_ms for modality in taken)
        / 1000
    )
    height_px, width_px = scope.camera.image_px
    megapixels = height_px * width_px / 1e6
    render_s = _RENDER_S_PER_MEGAPIXEL if scope.virtual else 0.0
    field_s = (
        frame_s
        + len(taken) * (_FRAME_OVERHEAD_S + megapixels * render_s)
        + scope.stage.settle_ms / 1000
    )
    travel_um = sum(
        math.hypot(b.x_um - a.x_um, b.y_um - a.y_um) for a, b in itertools.pairwise(fields)
    )
    focus_s = 0.0
    if scope.focus.method != "fixed":
        exposure_s = scope.modalities.named(scope.focus.modality).exposure_ms / 1000
        focus_frame_s = (
            exposure_s
            + _FRAME_OVERHEAD_S
            + render_s * min(scope.focus.window_px**2 / 1e6, megapixels)
        )
        coarse = scope.focus.coarse_points**2
        fine = (
            12 + n_fields * plan.field_width_um * plan.field_height_um / scope.focus.spacing_um**2
        )
        travel_um += 2 * sum(high - low for low, high in (plan.x_um, plan.y_um))
        focus_s = focus_frame_s * (
            2 * scope.focus.range_um / scope.focus.coarse_step_um + 6 * coarse + 4 * fine
        )
    return round(2.0 + focus_s + travel_um / scope.stage.speed_um_s + len(fields) * field_s, 1)
