"""Targets of a scan: how precisely a share must be known, and how many cells that takes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson
from wbcpipe.errors import ConfigError
from wbcpipe.report.differential import ADULT
from wbcpipe.samples.scan_outcome import PrecisionReached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "PrecisionTarget",
    "cells_for_expected_share",
    "cells_for_half_width",
    "check_targets",
    "half_width_percent",
    "parse_target",
    "precision_reached",
]

_MIN_HALF_WIDTH_PERCENT: Final = 0.5
_MAX_HALF_WIDTH_PERCENT: Final = 49.0


@dataclass(frozen=True)
class PrecisionTarget:
    """The precision asked for the share of one class.

    Attributes:
        name: of the class.
        half_width_percent: maximum half-width of its 95 % interval, in percentage points.
    """

    name: str
    half_width_percent: float


def parse_target(text: str) -> PrecisionTarget:
    """Parse ``NEU:5%``; the per cent sign is optional.

    Raises:
        ValueError: the text has another form, or the half-width is outside 0.5 to 49 %.

    >>> parse_target("NEU:5%")
    PrecisionTarget(name='NEU', half_width_percent=5.0)
    """
    name, colon, number = text.strip().partition(":")
    try:
        width = float(number.strip().removesuffix("%"))
    except ValueError:
        width = float("nan")
    if not name or not colon or width != width:
        raise ValueError(f"{text!r} is not a precision target: give CLASS:H%, for example NEU:5%")
    if not _MIN_HALF_WIDTH_PERCENT <= width <= _MAX_HALF_WIDTH_PERCENT:
        raise ValueError(
            f"{text!r}: a half-width of {width:g} % is out of range; give "
            f"{_MIN_HALF_WIDTH_PERCENT:g} to {_MAX_HALF_WIDTH_PERCENT:g} percentage points"
        )
    return PrecisionTarget(name.strip(), width)


def check_targets(targets: Sequence[PrecisionTarget], classes: Sequence[str], bundle: str) -> None:
    """Check that every target names a class of the bundle, once.

    Raises:
        ConfigError: a class is unknown or repeated; the text lists the classes.
    """
    names = [target.name for target in targets]
    for name in names:
        if name not in classes:
            raise ConfigError(
                f"precision {name}: the bundle {bundle!r} has the classes {', '.join(classes)}; "
                f"give one of these, or choose another bundle."
            )
        if names.count(name) > 1:
            raise ConfigError(
                f"precision {name} is given {names.count(name)} times; give each class once."
            )


def half_width_percent(count: int, total: int) -> float:
    """Return half of the 95 % Clopper-Pearson interval of ``count`` in ``total``, percentage
    points; 50 for none.

    >>> round(half_width_percent(120, 200), 2)
    7.0
    """
    low, high = clopper_pearson(count, total)
    return 50 * (high - low)


def cells_for_half_width(count: int, total: int, half_width: float) -> int:
    """Return how many cells give a share this precision, if the share stays as it is.

    Args:
        count: cells of the class so far.
        total: cells counted so far; with none, a share of one half is assumed, which needs the most
            cells.
        half_width: of the 95 % Clopper-Pearson interval, in percentage points.

    Returns:
        Number of cells; ``total`` if the precision is reached already.

    >>> cells_for_half_width(120, 200, 5.0)
    387
    >>> cells_for_half_width(0, 0, 5.0)
    402
    >>> cells_for_half_width(120, 200, 7.0)
    200
    """
    if total and half_width_percent(count, total) <= half_width:
        return total
    return _cells_for_share(count / total if total else 0.5, half_width, more_than=total)


def cells_for_expected_share(name: str, half_width: float) -> int:
    """Return how many cells a share may need for this precision, before any cell is counted.

    The share is assumed to lie between the lower end of the adult reference interval and twice its
    upper end; a class without an interval may have any share. The worst case counts: a share of one
    half needs the most cells.

    Args:
        name: of the class.
        half_width: of the 95 % Clopper-Pearson interval, in percentage points.

    >>> cells_for_expected_share("NEU", 5.0), cells_for_expected_share("EOS", 2.0)
    (402, 1063)
    """
    low, high = ADULT.percent.get(name, (0.0, 50.0))
    return _cells_for_share(min(max(50.0, low), 2 * high) / 100, half_width)


def _cells_for_share(share: float, half_width: float, more_than: int = 0) -> int:
    """Return the minimum number of cells above ``more_than`` whose interval is no wider than ``2 *
    half_width``.
    """

    def too_few(cells: int) -> bool:
        # The bounds are continuous in the count, so fractional counts are allowed.
        low, high = clopper_pearson(share * cells, cells)
        return 50 * (high - low) > half_width

    enough = more_than + 1
    while too_few(enough):
        enough *= 2
    few = max(more_than, enough // 2)
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if too_few(middle) else (few, middle)
    return enough


def precision_reached(
    targets: Sequence[PrecisionTarget], counts: Mapping[str, int]
) -> tuple[PrecisionReached, ...]:
    """Return the precision of each target with the cells counted per class."""
    total = sum(counts.values())
    return tuple(
        PrecisionReached(
            name=target.name,
            percent=round(100 * counts[target.name] / total, 4) if total else None,
            half_width_percent=round(half_width_percent(counts[target.name], total), 4),
            target_percent=target.half_width_percent,
        )
        for target in targets
    )
