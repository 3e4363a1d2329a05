"""Precision targets: what they refuse, and how many cells they need."""

from __future__ import annotations

import pytest

from wbcpipe.errors import ConfigError
from wbcpipe.scan.targets import (
    PrecisionTarget,
    cells_for_half_width,
    check_targets,
    half_width_percent,
    parse_target,
    precision_reached,
)


@pytest.mark.parametrize(
    "text", ["NEU", "NEU:", ":5%", "NEU:five", "NEU:0.4%", "NEU:50", "NEU:-5", "NEU:nan"]
)
def test_a_bad_precision_says_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"for example NEU:5%|give 0\.5 to 49 percentage points"):
        parse_target(text)


def test_an_unknown_class_is_named_with_those_there_are() -> None:
    classes = ("NEU", "LYM", "EOS")
    check_targets([parse_target("NEU:5%"), parse_target("EOS:2")], classes, "mine")
    with pytest.raises(
        ConfigError, match=r"precision NUE: the bundle 'mine' has the classes NEU, LYM, EOS;"
    ):
        check_targets([parse_target("NUE:5%")], classes, "mine")
    with pytest.raises(ConfigError, match="NEU is given 2 times"):
        check_targets([parse_target("NEU:5%"), parse_target("NEU:3%")], classes, "mine")


@pytest.mark.parametrize("share", [0.0, 0.004, 0.03, 0.3, 0.65, 1.0])
@pytest.mark.parametrize("half_width", [0.5, 2.0, 5.0, 20.0])
def test_the_predicted_number_of_cells_is_just_enough(share: float, half_width: float) -> None:
    count = round(share * 1000)
    needed = cells_for_half_width(count, 1000, half_width)
    if half_width_percent(count, 1000) <= half_width:
        assert needed == 1000
        return
    assert needed > 1000
    # At the same share (rounded to whole cells) the interval is as wide as asked for, within a
    # cell's worth.
    assert half_width_percent(round(share * needed), needed) == pytest.approx(half_width, rel=0.02)


def test_precision_is_told_in_words() -> None:
    (reached,) = precision_reached([PrecisionTarget("NEU", 5.0)], {"NEU": 120, "LYM": 76})
    assert str(reached) == "NEU 61.2 % +- 7.0 (target 5)"
    assert not reached.met
    (nothing,) = precision_reached([PrecisionTarget("NEU", 5.0)], {"NEU": 0, "LYM": 0})
    assert (nothing.percent, nothing.half_width_percent) == (None, 50.0)
