"""A small scope on the real Micro-Manager core, and samples to fill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from wbcpipe.acquire.config import load_scope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.specimen import Specimen, SpecimenPlan
from wbcpipe.samples import Sample

if TYPE_CHECKING:
    from wbcpipe.acquire.config import Scope

SHIPPED = Path(__file__).parents[2] / "hardware_configs"
SENSOR_PX = 256


class ScopeMaker(Protocol):
    """Writes a scope of a small sensor, with texts of its two files replaced."""

    def __call__(self, *replacements: tuple[str, str], focus: str = "fixed") -> Scope: ...


@pytest.fixture(scope="session", autouse=True)
def _real_core() -> None:
    """The real core must be there: these tests prove nothing against a stand-in."""
    from wbcpipe.acquire.mmcore import interface_versions
    from wbcpipe.errors import HardwareError

    try:
        core, adapters = interface_versions()
    except HardwareError as error:
        pytest.fail(str(error))
    if core != adapters:
        pytest.fail(
            f"pymmcore speaks device interface {core}, mm-test-adapters {adapters}: "
            "pip install 'pymmcore==12.5.1.75.*' 'mm-test-adapters==75.*'"
        )


@pytest.fixture
def specimen() -> SpecimenPlan:
    return SpecimenPlan(7)


@pytest.fixture
def make_scope(tmp_path: Path, specimen: SpecimenPlan) -> ScopeMaker:
    def make(*replacements: tuple[str, str], focus: str = "fixed") -> Scope:
        toml = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
        cfg = (SHIPPED / "demo.cfg").read_text(encoding="utf-8")
        focus_um = Specimen(specimen).focus_um(0.0, 0.0)
        changes = [
            ("[2048, 2048]", f"[{SENSOR_PX}, {SENSOR_PX}]"),
            ("Size,2048", f"Size,{SENSOR_PX}"),
            ("[-2500.0, 2500.0]", "[-60.0, 60.0]"),
            ('config = "demo.cfg"', 'config = "small.cfg"'),
            ('method = "surface"', f'method = "{focus}"'),
            ("fixed_um = 0.0", f"fixed_um = {focus_um:.2f}"),
            ("retry_wait_s = 0.5", "retry_wait_s = 0.0"),
            # A field of 26 um often shows no cell, and most tests count fields.
            ("skip_empty = true", "skip_empty = false"),
            *replacements,
        ]
        for old, new in changes:
            assert old in toml + cfg, old
            toml, cfg = toml.replace(old, new), cfg.replace(old, new)
        (tmp_path / "small.toml").write_text(toml, encoding="utf-8")
        (tmp_path / "small.cfg").write_text(cfg, encoding="utf-8")
        return load_scope(tmp_path / "small.toml")

    return make


@pytest.fixture
def small_scope(make_scope: ScopeMaker) -> Scope:
    return make_scope()


@pytest.fixture
def small_plan(small_scope: Scope) -> AcquisitionPlan:
    return AcquisitionPlan.from_scope(small_scope, "A")


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample.at(tmp_path / "data", "S1")
