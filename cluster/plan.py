"""From the command line to one task for each sample; what cannot work is refused before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wbcpipe.cluster.records import BundleChoice, SampleTask
from wbcpipe.cluster.selection import Condition, SampleFacts, list_facts, meets
from wbcpipe.errors import BundleError, BundleMismatchError, ConfigError, WbcpipeError
from wbcpipe.remote.locations import LocalLocation, ObjectLocation, parse_location
from wbcpipe.samples.cell_columns import CROP_SIDE_PX
from wbcpipe.samples.sample import Sample, check_sample_name, data_root
from wbcpipe.system.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.remote.object_store import ObjectStore
    from wbcpipe.samples.records import SampleKind, SampleRecord

__all__ = ["Plan", "Selection", "TaskOptions", "choose_samples", "plan_tasks", "resolve_data"]

#: Of a sample in a bucket without a result, to its state in conditions.
_STATES_OF_UPLOADS: Final = {
    "complete": "acquired",
    "incomplete": "acquiring",
    "damaged": "damaged",
}
#: Where the record of a sample does not say it: a common camera.
_COMMON_FRAME_PX: Final = 2048 * 2048


@dataclass(frozen=True)
class Selection:
    """Which samples: names, all of them, or those that meet conditions."""

    names: tuple[str, ...] = ()
    everything: bool = False
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class TaskOptions:
    """How to process each sample.

    Attributes:
        bundle: name or folder of a bundle, or ``auto``.
        lab: content of the laboratory's file for samples in a bucket.
        scratch: folder on the workers for copies; empty for their own.
        threads: of BLAS and of the network in each worker.
    """

    bundle: str = "auto"
    lab: str = ""
    scratch: str = ""
    threads: int = 1


@dataclass(frozen=True)
class Plan:
    """What to process.

    Attributes:
        tasks: one for each sample that can be tried.
        refused: samples that cannot, with the error.
        frame_px: pixels of the largest frame.
    """

    tasks: tuple[SampleTask, ...]
    refused: dict[str, WbcpipeError]
    frame_px: int


def resolve_data(text: str | None) -> tuple[str, ObjectStore | None]:
    """Return where the samples are, as workers are told it, and the store of a bucket.

    Args:
        text: of ``--data``; by default the data folder, see `samples.sample.data_root`.

    Raises:
        ConfigError: it is no folder and no URL of a bucket.
        RemoteStorageError: the bucket is not there, or refuses the access.
    """
    location = parse_location(text) if text else LocalLocation(data_root())
    if isinstance(location, ObjectLocation):
        try:
            from wbcpipe.remote.object_store import open_store
        except ImportError as error:
            raise ConfigError(
                f"samples in a bucket need obstore ({error}); install the extra: "
                f"`pip install wbcpipe[objects]`."
            ) from error
        return str(location), open_store(location)
    return str(data_root(location.path)), None


def choose_samples(
    data: str,
    store: ObjectStore | None,
    selection: Selection,
    say: Callable[[str], None] = lambda _text: None,
) -> list[str]:
    """Return the names of the samples to process, each once.

    A sample that is still scanned or uploaded is left out, unless its name or state asks for it.

    Args:
        data, store: see `resolve_data`.
        selection: which samples.
        say: called with a line about each sample that is left out.

    Raises:
        ConfigError: no sample is named, or none meets the conditions.
        SampleNameError: a name is refused.
    """
    if selection.names:
        return [check_sample_name(name) for name in dict.fromkeys(selection.names)]
    facts = list_facts(Path(data)) if store is None else _remote_facts(store, selection)
    by_state = any(one.key == "state" for one in selection.conditions)
    chosen = []
    for one in facts:
        if not meets(one, selection.conditions) or one.values["state"] == "created":
            continue
        if one.values["state"] == "acquiring" and not by_state:
            say(f"{one.name}: left out: it is not complete yet")
        else:
            chosen.append(one.name)
    if not chosen:
        what = "meets the conditions" if selection.conditions else "has images to process"
        raise ConfigError(f"{data}: no sample {what}; `wbcpipe status` lists the samples there.")
    return chosen


def _remote_facts(store: ObjectStore, selection: Selection) -> list[SampleFacts]:
    from wbcpipe.remote.samples import list_samples

    known = {"name", "state"}
    unknown = sorted({one.key for one in selection.conditions} - known)
    if unknown:
        raise ConfigError(
            f"--where: {', '.join(unknown)} cannot be compared for samples in a bucket; use name "
            f"and state (acquiring, acquired, reported or damaged)."
        )
    return [
        SampleFacts(
            one.name,
            {
                "name": one.name,
                "state": "reported" if one.results else _STATES_OF_UPLOADS[one.state],
            },
        )
        for one in list_samples(store)
    ]


def plan_tasks(
    names: Sequence[str],
    data: str,
    store: ObjectStore | None,
    options: TaskOptions,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> Plan:
    """Make one task for each sample whose images the bundle can read.

    Raises:
        BundleError: there is no such bundle.
        BundleMismatchError: the bundle fits none of the samples; nothing was written.
    """
    bundles = _Bundles(options.bundle)
    tasks: list[SampleTask] = []
    refused: dict[str, WbcpipeError] = {}
    frame_px = 0
    for done, name in enumerate(names, 1):
        try:
            record = _record(name, data, store)
            bundle = bundles.of_kind(record.kind)
            _check_fit(bundle, record)
        except WbcpipeError as error:
            refused[name] = error
        else:
            choice = BundleChoice(
                bundles.name(record.kind),
                bundle.info.name,
                bundle.info.sha256,
                bundle.calibration_digest,
                bundle.info.pixel_um,
            )
            tasks.append(
                SampleTask(
                    data,
                    name,
                    choice,
                    SOFTWARE,
                    lab=options.lab,
                    scratch=options.scratch,
                    threads=options.threads,
                )
            )
            frame_px = max(frame_px, _frame_px(record))
        progress("samples checked", done, len(names))
    unfit = [error for error in refused.values() if type(error) is BundleError]
    if not tasks and len(unfit) == len(names):
        raise BundleMismatchError(
            f"the bundle fits none of the {len(names)} samples: {unfit[0]}"
            if len(names) > 1
            else str(unfit[0])
        )
    return Plan(tuple(tasks), refused, frame_px or _COMMON_FRAME_PX)


class _Bundles:
    """Finds the bundle of each kind of sample, once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: dict[SampleKind, Bundle] = {}
        if name != "auto":
            self._found["scope"] = self._load(name, "scope")

    def of_kind(self, kind: SampleKind) -> Bundle:
        key: SampleKind = kind if self._name == "auto" else "scope"
        if key not in self._found:
            self._found[key] = self._load(self._name, kind)
        return self._found[key]

    def name(self, kind: SampleKind) -> str:
        """Return what a worker finds the bundle by: a shipped name, or an absolute path."""
        from wbcpipe.classify.models.bundle import shipped_bundles

        bundle = self.of_kind(kind)
        shipped = shipped_bundles().get(bundle.info.name)
        return bundle.info.name if shipped == bundle.path else str(bundle.path.absolute())

    @staticmethod
    def _load(name: str, kind: SampleKind) -> Bundle:
        from wbcpipe.classify.models.bundle import find_bundle

        return find_bundle(name, kind=kind)


def _record(name: str, data: str, store: ObjectStore | None) -> SampleRecord:
    """Read the record of a sample, whose upload is complete."""
    if store is None:
        return Sample.open(Path(data), name).record()
    from wbcpipe.remote.samples import read_sample_record

    return read_sample_record(store, name)


def _check_fit(bundle: Bundle, record: SampleRecord) -> None:
    """Refuse a bundle that reads what a sample has not.

    Raises:
        BundleError: modalities, planes, or the crops of imported cells differ.
    """
    from wbcpipe.classify.inference.classifier import planes_for

    info, inputs = bundle.info, record.inputs
    imported = inputs is not None and inputs.content == "cells"
    pixel_um = info.pixel_um
    side_px = CROP_SIDE_PX
    if inputs is not None and imported:
        pixel_um = inputs.crop_pixel_um or inputs.pixel_um
        side_px = inputs.side_px or CROP_SIDE_PX
    if record.modalities:
        planes_for(record.modalities, pixel_um, side_px, bundle, f"the images of {record.sample!r}")


def _frame_px(record: SampleRecord) -> int:
    plan, pixel_um = record.plan, record.pixel_um
    if plan is None or pixel_um is None:
        return _COMMON_FRAME_PX
    return round(plan.field_width_um / pixel_um) * round(plan.field_height_um / pixel_um)
