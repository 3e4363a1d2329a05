"""Which microscopes a batch uses is said, and a virtual one is named as such."""

from __future__ import annotations

from pathlib import Path

import pytest

from wbcpipe.batch.records import WorklistRow
from wbcpipe.batch.state.microscopes import check_core_logs, microscope_lines, virtual_scopes
from wbcpipe.errors import ConfigError

SHIPPED = Path(__file__).parents[3] / "hardware_configs"


def rows(*scopes: str) -> list[WorklistRow]:
    return [
        WorklistRow(sample=f"S{number}", slide=f"S{number}", slot="A", scope=scope)
        for number, scope in enumerate(scopes)
    ]


def test_each_microscope_has_a_line_and_a_virtual_one_is_named() -> None:
    some = rows("demo", "squid-daheng", "demo", "no-such-scope")
    virtual, real = microscope_lines(some)
    assert (
        virtual
        == "microscope demo (VIRTUAL: it draws its images, no real slide is scanned): 2 slides"
    )
    assert real.startswith("microscope squid-daheng (")
    assert real.endswith("): 1 slide")
    assert "VIRTUAL" not in real
    assert virtual_scopes(some) == ("demo",)


def test_a_core_log_that_cannot_be_written_is_refused_before_the_night(tmp_path: Path) -> None:
    check_core_logs(rows("demo"), tmp_path / "core.log")
    with pytest.raises(ConfigError, match="the core's log cannot be written there"):
        check_core_logs(rows("demo"), tmp_path / "core.log" / "below")
    bridge = tmp_path / "bridge.toml"
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    bridge.write_text(text.replace('backend = "headless"', 'backend = "bridge"'), encoding="utf-8")
    (tmp_path / "demo.cfg").write_bytes((SHIPPED / "demo.cfg").read_bytes())
    with pytest.raises(
        ConfigError, match="uses a running Micro-Manager, which keeps the log of its core"
    ):
        check_core_logs(rows("demo", str(bridge)), tmp_path / "core.log")
