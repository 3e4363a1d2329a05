"""``sample.json`` of a sample taken on a scope: what it is, written first, and refused where a later call differs."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import platform
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.acquire.config.calibration_file import calibration_reference
from wbcpipe.acquire.config.fingerprint import changes, flat, picture_setup
from wbcpipe.acquire.config.micromanager_cfg import refuse_unsound
from wbcpipe.errors import ConfigError, DiskFullError, SampleStateError
from wbcpipe.samples.fields import MODALITIES, PASSES, fields_on_disk
from wbcpipe.system.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample

__all__ = ["FORMAT_VERSION", "TimeEstimate", "begin_sample", "check_disk", "check_sample", "time_estimate"]

FORMAT_VERSION: Final = 1
_PACKAGES: Final = ("wbcpipe", "pycromanager", "pymmcore", "mm-test-adapters", "numpy", "tifffile")
#: What a later call must repeat.
_IDENTITY: Final = ("kind", "protocol", "scope", "slot", "plan", "specimen")
#: Room left over for everything else that a run writes: log, tables, cells.
_SPARE_BYTES: Final = 64 * 2**20
#: Measured: what a frame costs beyond its exposure, and a rendered megapixel of the virtual scope on one core.
_FRAME_OVERHEAD_S: Final = 0.002
_RENDER_S_PER_MEGAPIXEL: Final = 0.06


def check_sample(
    sample: Sample,
    scope: Scope,
    plan: AcquisitionPlan,
    specimen: SpecimenPlan | None,
    *,
    pass_name: Pass = "single",
    slide: str = "",
) -> None:
    """See that the scope's files hold and that the sample on disk, if any, is the one meant; nothing is written.

    Args:
        sample: on disk or not.
        scope, plan, specimen: of the acquisition.
        pass_name: what is taken; the fluorescence pass needs the bright-field pass before it.
        slide: id of the physical slide, if it is known.

    Raises:
        SampleStateError: it is not; the text names what differs.
        ConfigError: the scope file and its .cfg do not hold; a virtual scope without a specimen, or a real one with.
    """
    refuse_unsound(scope)
    if scope.virtual and specimen is None:
        raise ConfigError(f"scope {scope.name!r} is virtual: it needs a specimen; give --specimen-seed.")
    if not scope.virtual and specimen is not None:
        raise ConfigError(f"scope {scope.name!r} is a real microscope: it takes no --specimen-seed or preparation.")
    if pass_name == "fluorescence" and not fields_on_disk(sample.raw_path("brightfield")):
        raise SampleStateError(
            f"sample {sample.name!r} has no bright-field pass; take it first, before the stain: --pass brightfield."
        )
    if not sample.exists():
        if any(folder.is_dir() and any(folder.iterdir()) for folder in map(sample.raw_path, PASSES)):
            raise SampleStateError(
                f"{sample.path} holds raw images but no sample.json; restore that file or choose another name."
            )
        return
    info = sample.info()
    if slide and info.get("slide", slide) != slide:
        raise SampleStateError(
            f"sample {sample.name!r} is of slide {info['slide']!r}, this call says {slide!r}: is the right slide on "
            "the stage? Choose another sample name for another slide."
        )
    before, now = dict(flat(_identity(info))), dict(flat(_identity(_wanted(scope, plan, specimen, pass_name))))
    for key in [*now, *(key for key in before if key not in now)]:
        if before.get(key) != now.get(key):
            raise SampleStateError(
                f"sample {sample.name!r} was begun with {key} = {before.get(key)!r}, this call says {now.get(key)!r}; "
                "repeat the first call's options, or choose another sample name."
            )
    _check_setup(sample, info, scope)


def _check_setup(sample: Sample, info: dict[str, Any], scope: Scope) -> None:
    """See that a scope would take pictures as those on disk were taken."""
    if "setup" not in info:
        # Begun by a version that kept only the file's checksum: what differs cannot be told.
        if info["scope"].get("sha256") != scope.sha256:
            raise SampleStateError(
                f"sample {sample.name!r} was begun with another {scope.path.name} (scope.sha256 = "
                f"{info['scope'].get('sha256')!r}), by a version that did not note its content; put the file back as "
                "it was, or choose another sample name."
            )
        return
    fixed, _ = changes(sample, info["setup"], picture_setup(scope))
    for key, (before, now) in fixed.items():
        raise SampleStateError(
            f"sample {sample.name!r} has pictures taken with {key} = {before!r}, {scope.path.name} and "
            f"{scope.config_path.name} now say {now!r}; put that back, or choose another sample name."
        )


def begin_sample(
    sample: Sample,
    scope: Scope,
    plan: AcquisitionPlan,
    specimen: SpecimenPlan | None,
    *,
    pass_name: Pass = "single",
    slide: str = "",
) -> dict[str, Any]:
    """Write ``sample.json``, or see that the one there means the same; how many fields are wanted is no part of it.

    Args:
        sample: where.
        scope, plan: of the acquisition.
        specimen: on a virtual scope, what lies on the stage.
        pass_name: what is taken; see `check_sample`.
        slide: id of the physical slide, by default the sample's name.

    Returns:
        The content of ``sample.json``.

    Raises:
        SampleStateError: the sample was begun otherwise; the text names what differs.
    """
    check_sample(sample, scope, plan, specimen, pass_name=pass_name, slide=slide)
    if sample.exists():
        return _brought_up_to_date(sample, scope)
    info = {
        "format_version": FORMAT_VERSION,
        "sample": sample.name,
        "slide": slide or sample.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": _software(),
        **_wanted(scope, plan, specimen, pass_name),
        "setup": picture_setup(scope),
        "modalities": list(MODALITIES),
        "pixel_um": scope.camera.image_pixel_um,
        "expected_cells_per_field": scope.expected_cells_per_field,
        "calibration": calibration_reference(scope, sample.path.parent),
        "quality": scope.quality.model_dump(exclude_none=True),
    }
    sample.begin(info)
    sample.log("begun", scope=scope.name, slot=plan.slot)
    return info


def _brought_up_to_date(sample: Sample, scope: Scope) -> dict[str, Any]:
    """The content of ``sample.json``, with what was put right in the scope's files before a picture hung on it."""
    info = sample.info()
    if "setup" not in info:
        return info
    now = picture_setup(scope)
    _, free = changes(sample, info["setup"], now)
    if free:
        info["setup"] = now
        write_json(sample.info_path, info)
        sample.log("setup_changed", **{key: list(pair) for key, pair in free.items()}, scope_sha256=scope.sha256)
    return info


def _wanted(scope: Scope, plan: AcquisitionPlan, specimen: SpecimenPlan | None, pass_name: Pass) -> dict[str, Any]:
    return {
        "kind": "scope",
        "protocol": "single" if pass_name == "single" else "two-pass",
        "scope": {"name": scope.name, "sha256": scope.sha256, "virtual": scope.virtual},
        "slot": plan.slot,
        "plan": plan.model_dump(mode="json"),
        "specimen": None if specimen is None else asdict(specimen),
    }


def _identity(info: dict[str, Any]) -> dict[str, Any]:
    # Samples of version 0.1 do not name their protocol: they are of a single pass.
    identity: dict[str, Any] = {"protocol": "single", **{key: info[key] for key in _IDENTITY if key in info}}
    # What the scope's files are called, and all that does not shape pictures, may change: see `setup`.
    return {**identity, "scope": {"virtual": info["scope"]["virtual"]}}


def _software() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def check_disk(
    path: Path, scope: Scope, n_fields: int, *, pass_name: Pass = "single", then: Mapping[Pass, int] | None = None
) -> None:
    """See that ``n_fields`` more fields fit on the disk.

    Args:
        path: of the sample; it need not exist yet.
        scope: for the size of a frame.
        n_fields: to come.
        pass_name: which frames each of them has.
        then: fields of later passes, for which there must be room as well.

    Raises:
        DiskFullError: they do not; nothing was written.
    """
    there = path
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    to_come = {pass_name: n_fields, **(then or {})}
    needed = sum(number * scope.field_bytes(PASSES[name]) for name, number in to_come.items())
    needed += _SPARE_BYTES if any(to_come.values()) else 0
    if needed > free:
        passes = ", ".join(f"{number} of {name}" for name, number in to_come.items())
        what = f"{n_fields} fields" if len(to_come) == 1 else f"the fields of all passes ({passes})"
        raise DiskFullError(
            f"{path}: {what} need {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; free space, ask "
            "for fewer fields, or give another disk with --data."
        )


@dataclass(frozen=True)
class TimeEstimate:
    """What some fields will cost.

    Attributes:
        seconds: of the run, start and focusing included.
        disk_bytes: of their files.
    """

    seconds: float
    disk_bytes: int


def time_estimate(scope: Scope, plan: AcquisitionPlan, n_fields: int, *, pass_name: Pass = "single") -> TimeEstimate:
    """Estimate what taking the first ``n_fields`` of a plan costs: exposures, moves, settling, focusing, rendering."""
    fields = plan.fields()[:n_fields]
    modalities = [scope.modalities.named(name) for name in PASSES[pass_name]]
    frame_s = sum(modality.exposure_ms + modality.settle_ms for modality in modalities) / 1000
    height_px, width_px = scope.camera.image_px
    megapixels = height_px * width_px / 1e6
    render_s = _RENDER_S_PER_MEGAPIXEL if scope.virtual else 0.0
    field_s = frame_s + len(modalities) * (_FRAME_OVERHEAD_S + megapixels * render_s) + scope.stage.settle_ms / 1000
    travel_um = sum(math.hypot(b.x_um - a.x_um, b.y_um - a.y_um) for a, b in itertools.pairwise(fields))
    focus_s = 0.0
    if scope.focus.method != "fixed":
        exposure_s = scope.modalities.named(scope.focus.modality).exposure_ms / 1000
        focus_frame_s = exposure_s + _FRAME_OVERHEAD_S + render_s * min(scope.focus.window_px**2 / 1e6, megapixels)
        coarse = scope.focus.coarse_points**2
        fine = 12 + n_fields * plan.field_width_um * plan.field_height_um / scope.focus.spacing_um**2
        travel_um += 2 * sum(high - low for low, high in (plan.x_um, plan.y_um))
        focus_s = focus_frame_s * (2 * scope.focus.range_um / scope.focus.coarse_step_um + 6 * coarse + 4 * fine)
    seconds = 2.0 + focus_s + travel_um / scope.stage.speed_um_s + len(fields) * field_s
    return TimeEstimate(round(seconds, 1), len(fields) * scope.field_bytes(PASSES[pass_name]))
