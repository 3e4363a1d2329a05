"""The positions of a slide's fields; nothing moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError, model_validator

from wbcpipe.acquire.config.ranges import MAX_FOCUS_POINTS, MAX_PLANNED_FIELDS
from wbcpipe.errors import ConfigError, StageLimitError
from wbcpipe.samples.records import PlanRecord

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample

__all__ = ["AcquisitionPlan", "PlannedField", "PlannedPass"]


@dataclass(frozen=True)
class PlannedField:
    """A planned field.

    Attributes:
        index: Number in the plan, from 0.
        x_um, y_um: Stage position of the image's centre.
    """

    index: int
    x_um: float
    y_um: float


class AcquisitionPlan(PlanRecord):
    """The plan of a slot, as its sample records it, with the positions of its fields."""

    @model_validator(mode="after")
    def _one_field_at_least(self) -> Self:
        if self.columns < 1 or self.rows < 1:
            raise ValueError(
                f"the area of {self.x_um[1] - self.x_um[0]:g} x {self.y_um[1] - self.y_um[0]:g} "
                f"um is smaller than a field of {self.field_width_um:g} x {self.field_height_um:g} "
                f"um; enlarge the slot's scan area"
            )
        if self.n_fields > MAX_PLANNED_FIELDS:
            raise ValueError(
                f"the area of {self.x_um[1] - self.x_um[0]:g} x {self.y_um[1] - self.y_um[0]:g} "
                f"um holds {self.columns} x {self.rows} = {self.n_fields} fields of "
                f"{self.field_width_um:g} x {self.field_height_um:g} um; a plan has at most "
                f"{MAX_PLANNED_FIELDS}: reduce 'slots.{self.slot}', or "
                "correct 'camera.pixel_um' and 'camera.roi_px'"
            )
        return self

    @property
    def n_fields(self) -> int:
        """Number of fields, without laying them out."""
        return self.columns * self.rows

    @classmethod
    def from_scope(cls, scope: Scope, slot: str, *, overlap: float = 0.1) -> Self:
        """Return the plan over the scan area of a slot.

        Raises:
            ConfigError: There is no such slot, its area is smaller than a field or has too many
                fields or focus points, or the overlap is not 0 to 0.5.
            StageLimitError: The scan area exceeds the stage's limits.
        """
        if not 0 <= overlap <= 0.5:
            raise ConfigError(
                f"the overlap {overlap:g} is not allowed: give 0 to 0.5, a fraction of a field's "
                f"side."
            )
        area = scope.slot(slot)
        for axis, scanned, reach in (
            ("x", area.x_um, scope.stage.x_um),
            ("y", area.y_um, scope.stage.y_um),
        ):
            if scanned[0] < reach[0] or scanned[1] > reach[1]:
                raise StageLimitError(
                    f"{scope.path}: slot {slot!r} scans {axis} from {scanned[0]:g} to "
                    f"{scanned[1]:g} um, the stage reaches {reach[0]:g} to {reach[1]:g} um; "
                    f"correct 'slots.{slot}.{axis}_um' or 'stage.{axis}_um'."
                )
        _check_focus_points(scope, slot)
        width_um, height_um = scope.field_um
        try:
            return cls(
                slot=slot,
                field_width_um=width_um,
                field_height_um=height_um,
                overlap=overlap,
                x_um=area.x_um,
                y_um=area.y_um,
            )
        except ValidationError as error:
            raise ConfigError(
                f"{scope.path}: slot {slot!r}: {error.errors()[0]['ctx']['error']}."
            ) from error

    def fields(self) -> tuple[PlannedField, ...]:
        """Return all fields of the area in order: from the corner of lowest x and y, row by row,
        back and forth.
        """
        pitch_x_um = self.field_width_um * (1 - self.overlap)
        pitch_y_um = self.field_height_um * (1 - self.overlap)
        planned: list[PlannedField] = []
        for row in range(self.rows):
            for step in range(self.columns):
                column = self.columns - 1 - step if row % 2 else step
                # Rounded to a nanometre: what is written to a file then reads the same everywhere.
                x_um = round(self.x_um[0] + self.field_width_um / 2 + column * pitch_x_um, 3)
                y_um = round(self.y_um[0] + self.field_height_um / 2 + row * pitch_y_um, 3)
                planned.append(PlannedField(len(planned), x_um, y_um))
        return tuple(planned)


def _check_focus_points(scope: Scope, slot: str) -> None:
    """Refuse a focus surface of more points than a slide's time allows, before it is laid out."""
    area, spacing_um = scope.slot(slot), scope.focus.spacing_um
    points = (area.x_um[1] - area.x_um[0]) * (area.y_um[1] - area.y_um[0]) / spacing_um**2
    if scope.focus.method != "fixed" and points > MAX_FOCUS_POINTS:
        raise ConfigError(
            f"{scope.path}: slot {slot!r}: 'focus.spacing_um' of {spacing_um:g} um makes "
            f"{points:.0f} focus points; at most {MAX_FOCUS_POINTS} are allowed: enlarge it, or "
            f"reduce 'slots.{slot}'."
        )


@dataclass(frozen=True)
class PlannedPass:
    """One pass over the planned fields of a sample.

    Attributes:
        sample, plan, pass_name: of the pass.
        slide: id of the slide; a virtual slide has it on its label.
    """

    sample: Sample
    plan: AcquisitionPlan
    pass_name: Pass
    slide: str = ""
