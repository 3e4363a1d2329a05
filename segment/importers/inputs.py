"""Options of an import, and the record of them in ``sample.json`` that tells one import from
another.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, get_args

from wbcpipe.errors import ImportDataError, SampleStateError
from wbcpipe.samples.cell_columns import CROP_SIDE_PX
from wbcpipe.samples.fields import MODALITIES, fields_on_disk
from wbcpipe.samples.records import ImportInputs, ImportKind, SampleRecord
from wbcpipe.samples.segment_settings.of_sample import merge_settings
from wbcpipe.system.user_files import printable
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.samples.records import SettingsFile
    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.segment_settings.settings import SegmentSettings

__all__ = ["NUCLEAR", "CellImport", "FieldImport", "refuse_other_inputs", "start_import"]

#: The modality in which nuclei are bright.
NUCLEAR: Final = "fluorescence"


@dataclass(frozen=True)
class FieldImport:
    """Options of an import of fields.

    Attributes:
        kind: ``stained-rgb`` (R, G, B become color1 to color3, and a nuclear density derived from
            them stands in for fluorescence) or ``stack`` (registered channels of any number).
        pixel_um: pixel size of the images; ``None`` for the one that the files give.
        modalities: channel names of a stack; ``None`` for color1, color2, ... and fluorescence as
            the last.
        skip_bad: leave out files that cannot be used; else one of them ends the import.
        settings: of the segmentation, where a file gives them.

    Raises:
        ImportDataError: an option has a value that is not allowed.
    """

    kind: ImportKind
    pixel_um: float | None
    modalities: Sequence[str] | None = None
    skip_bad: bool = False
    settings: SettingsFile | None = None

    def __post_init__(self) -> None:
        """Check kind and pixel size."""
        if self.kind not in get_args(ImportKind):
            raise ImportDataError(
                f"kind {self.kind!r} is not known; choose one of {', '.join(get_args(ImportKind))}."
            )
        if self.pixel_um is not None:
            _check_pixel_size(self.pixel_um, "pixel-um")

    @property
    def image_pixel_um(self) -> float:
        """The pixel size, once it is known."""
        if self.pixel_um is None:
            raise ValueError("the pixel size is not known yet; take that of the inspected files")
        return self.pixel_um

    @functools.cached_property
    def segment_settings(self) -> SegmentSettings:
        """The settings of the segmentation, given or default."""
        return merge_settings({} if self.settings is None else self.settings.segment)

    @property
    def takes_labels(self) -> bool:
        """Whether the images have labels."""
        return False

    @property
    def label_array_name(self) -> str | None:
        """Name of the label array of a ``.npz``; ``None`` to look for one."""
        return None

    @property
    def nuclear_channel(self) -> int:
        """Which channel of a stack is the nuclear one; -1 is the last."""
        return (
            list(self.modalities).index(NUCLEAR)
            if self.modalities and NUCLEAR in self.modalities
            else -1
        )

    @property
    def derived(self) -> tuple[str, ...]:
        """Modalities that are computed from the others."""
        return (NUCLEAR,) if self.kind == "stained-rgb" else ()

    def modality_names(self, channels: set[int]) -> tuple[str, ...]:
        """Return the channel names.

        Args:
            channels: numbers of channels of the images, a derived one included.

        Raises:
            ImportDataError: the images differ in their number of channels, or the names do not fit
                it.
        """
        if len(channels) != 1:
            raise ImportDataError(
                f"files with {' and '.join(map(str, sorted(channels)))} channels; import each "
                f"number of channels as a sample of its own."
            )
        (count,) = channels
        if self.kind == "stained-rgb":
            return MODALITIES
        if self.modalities is None:
            return (*(f"color{k}" for k in range(1, count)), NUCLEAR)
        if len(self.modalities) != count or len(set(self.modalities)) != count:
            raise ImportDataError(
                f"modalities {', '.join(self.modalities)}; {count} different names are needed, "
                f"one per channel."
            )
        return tuple(self.modalities)


@dataclass(frozen=True)
class CellImport(FieldImport):
    """Options of an import of single cells.

    Attributes:
        crop_pixel_um: pixel size of the crops.
        side_px: side of the crops.
        labels: take labels from manifest.csv, folder names or the stack's label array.
        label_array: name of the label array of a ``.npz``.

    Raises:
        ImportDataError: an option has a value that is not allowed.
    """

    crop_pixel_um: float = 0.1
    side_px: int = CROP_SIDE_PX
    labels: bool = True
    label_array: str | None = None

    @property
    def takes_labels(self) -> bool:
        """Whether the images have labels."""
        return self.labels

    @property
    def label_array_name(self) -> str | None:
        """Name of the label array of a ``.npz``; ``None`` to look for one."""
        return self.label_array

    def __post_init__(self) -> None:
        """Check kind and pixel sizes."""
        super().__post_init__()
        _check_pixel_size(self.crop_pixel_um, "crop-pixel-um")


def _check_pixel_size(pixel_um: float, option: str) -> None:
    if not 0.005 <= pixel_um <= 10:
        raise ImportDataError(
            f"--{option} {pixel_um:g}; allowed are 0.005 to 10 um: measure the size of a pixel."
        )


def start_import(
    sample: Sample, inputs: ImportInputs, options: FieldImport, paths: Sequence[Path]
) -> None:
    """Write ``sample.json`` of an imported sample, unless it is there already.

    Raises:
        SampleStateError: it is missing, but its fields or cells are there.
    """
    if sample.exists():
        return
    if fields_on_disk(sample.raw_path()) or sample.cells_path.exists():
        raise SampleStateError(
            f"{sample.path}: holds fields or cells but no sample.json; restore that file, or "
            f"choose another --sample."
        )
    sample.write(
        SampleRecord(
            sample=sample.name,
            kind=inputs.kind,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            software={"wbcpipe": VERSION},
            modalities=inputs.modalities,
            pixel_um=inputs.pixel_um,
            derived=options.derived,
            source=tuple(printable(str(path)) for path in paths),
            inputs=inputs,
            segment_file=options.settings,
        )
    )


def refuse_other_inputs(sample: Sample, inputs: ImportInputs) -> None:
    """Raise `SampleStateError` where the sample holds anything but these inputs."""
    if sample.exists() and sample.record().inputs != inputs:
        raise SampleStateError(
            f"{sample.path}: already holds other data, or these imported with other options; "
            f"choose another --sample."
        )
