"""The result of a check, for people and JSON."""

from __future__ import annotations

from pydantic import computed_field

from wbcpipe.samples.records import Part

__all__ = ["Damage", "SampleCheck"]


class Damage(Part):
    """A damaged or missing file.

    Attributes:
        file: its path within the sample's folder.
        problem: what is wrong with it.
        remedy: the command that makes it anew, or what is lost.
        can_be_made_anew: false where the file has the only copy of its content.
    """

    file: str
    problem: str
    remedy: str
    can_be_made_anew: bool


class SampleCheck(Part):
    """The result of checking one sample.

    Attributes:
        sample: its name.
        files: number of files that were checked.
        bytes: that were read.
        quick: pixels and cell images were not read.
        freed: raw fields that were freed here and so were not checked.
        freed_to: location of the bucket with them; empty if none were.
        damages: what was found, in the order of the stages.
    """

    sample: str
    files: int
    bytes: int
    quick: bool
    freed: int = 0
    freed_to: str = ""
    damages: tuple[Damage, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages
