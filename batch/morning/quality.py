"""Control charts of the microscopes of a batch, for the morning page."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from wbcpipe.batch.morning.records import QcChart, ScopeQuality
from wbcpipe.batch.qc.chart import chart_description, qc_chart_svg
from wbcpipe.batch.qc.night import quality_of_night
from wbcpipe.errors import WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["scope_names", "scope_quality"]


def scope_names(scopes: Iterable[str]) -> list[str]:
    """Return the names of scopes that a worklist names, each by its name or by the path of its
    file.

    >>> scope_names(["demo", "scopes/left.toml", "demo"])
    ['demo', 'left']
    """
    return list(
        dict.fromkeys(PurePath(text).stem if text.endswith(".toml") else text for text in scopes)
    )


def scope_quality(data: Path, scopes: Iterable[str], batch: str) -> Iterator[ScopeQuality]:
    """Yield the quality control of each scope that has figures; one that cannot be read says so.

    Args:
        data: data root.
        scopes: names or paths, as in a worklist.
        batch: name of the batch.
    """
    for name in scope_names(scopes):
        try:
            quality = quality_of_night(data, name, batch)
        except (WbcpipeError, OSError) as error:
            yield ScopeQuality(scope=name, passed=False, problem=str(error))
            continue
        if quality.charts:
            charts = tuple(
                QcChart(
                    title=line.info.title,
                    description=chart_description(line),
                    svg=qc_chart_svg(line),
                )
                for line in quality.charts
            )
            yield ScopeQuality(
                scope=name, passed=quality.passed, broken=quality.broken, charts=charts
            )
