"""Opens the microscope of a scope file.

The real one, or the virtual one with a specimen on its stage.

This is the only module that chooses between the two; no other module outside `simulation` needs the
virtual scope.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan

__all__ = ["load_driver", "open_for_staining", "open_microscope", "restore_truth", "specimen_for"]


def load_driver(specimen: SpecimenPlan | None) -> None:
    """Import what `open_microscope` needs, without touching a device."""
    importlib.import_module(
        "wbcpipe.acquire.hardware.microscope"
        if specimen is None
        else "wbcpipe.acquire.simulation.virtual_scope"
    )


def open_microscope(
    scope: Scope, specimen: SpecimenPlan | None = None, planned: PlannedPass | None = None, /
) -> Microscope:
    """Open the microscope of a scope.

    Args:
        scope: which microscope.
        specimen: what lies on the stage of a virtual scope; ``None`` on a real one.
        planned: the pass to take. A virtual slide then lies as in that pass, has the light of the
            fields on disk, and writes its ``truth.csv``.

    Raises:
        HardwareError: it does not open.
    """
    if specimen is None:
        from wbcpipe.acquire.hardware.microscope import CoreMicroscope

        return CoreMicroscope(scope)
    from wbcpipe.acquire.simulation.virtual_scope import VirtualScope

    return VirtualScope(scope, specimen, planned)


def open_for_staining(
    scope: Scope, specimen: SpecimenPlan | None = None, planned: PlannedPass | None = None, /
) -> Microscope:
    """Open the microscope for the first of two passes, as `open_microscope` does, if it can stain
    the slide after it.

    Raises:
        ConfigError: its devices cannot carry out the staining steps.
        HardwareError: it does not open.
    """
    from wbcpipe.acquire.hardware.microscope import CoreMicroscope
    from wbcpipe.acquire.procedures.checks import check_steps

    microscope = open_microscope(scope, specimen, planned)
    try:
        if isinstance(microscope, CoreMicroscope):
            staining = scope.staining
            check_steps(
                scope, microscope.link, (*staining.keyed_steps(), *staining.keyed_safe_state())
            )
    except BaseException:
        microscope.close()
        raise
    return microscope


def restore_truth(request: AcquisitionRequest) -> None:
    """Write what an earlier process did not: the ``truth.csv`` of a virtual slide that was killed.

    Args:
        request: of any pass; the truth is that of the last pass with fields on disk.
    """
    if request.specimen is None:
        return
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.field_truth import restore_field_truth
    from wbcpipe.samples.fields import passes_on_disk

    raw = request.sample.path / "raw"
    if not raw.is_dir():
        return
    name = next(
        (one for one in reversed(passes_on_disk(raw)) if any((raw / one).glob("field_*"))), None
    )
    if name is not None:
        planned = PlannedPass(request.sample, request.plan, name, request.slide_id)
        restore_field_truth(planned, request.specimen, request.scope)


def specimen_for(scope: Scope, seed: int | None, preparation: str | None) -> SpecimenPlan | None:
    """Return the specimen on a virtual scope's stage, ``None`` on a real one.

    Raises:
        ConfigError: a specimen is asked for on a real microscope, or the seed or preparation is not
            allowed.
    """
    if not scope.virtual:
        if seed is not None or preparation is not None:
            raise ConfigError(
                f"scope {scope.name!r} is a real microscope: --specimen-seed and "
                f"--specimen-preparation do not apply."
            )
        return None
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan

    try:
        return SpecimenPlan(7 if seed is None else seed, preparation or "blood-film")  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
