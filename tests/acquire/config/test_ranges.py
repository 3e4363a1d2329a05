"""Every number of a scope file is finite and has a range, and a plan is checked before it is laid
out.
"""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from wbcpipe.acquire.config.scope import Scope, load_scope
from wbcpipe.acquire.doctor import check_offline
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = Path(__file__).parents[3] / "hardware_configs"
DEMO = (SHIPPED / "demo.toml").read_text(encoding="utf-8")


def _numbers(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Yield each int and float of an annotation, with the limits that stand at it."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from _numbers(inner, (*more, *metadata))
    elif annotation in (int, float):
        yield Annotated[annotation, *metadata] if metadata else annotation
    else:
        for part in get_args(annotation):
            yield from _numbers(part, metadata if type(None) in get_args(annotation) else ())


def _fields(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        key = f"{place}.{name}" if place else name
        models = [
            part
            for part in _parts(field.annotation)
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        for inner in models:
            yield from _fields(inner, key)
        if not models:
            for number in _numbers(field.annotation, tuple(field.metadata)):
                yield key, number


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


@pytest.mark.parametrize(
    ("key", "number"), [pytest.param(key, number, id=key) for key, number in _fields(Scope)]
)
def test_every_number_has_a_range(key: str, number: Any) -> None:
    adapter = TypeAdapter[float](number)
    for value in (float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 10**400):
        with pytest.raises(ValidationError):
            print(key, adapter.validate_python(value))


def test_the_walk_finds_the_numbers() -> None:
    keys = [key for key, _ in _fields(Scope)]
    assert {
        "camera.pixel_um",
        "camera.stage_affine",
        "stage.x_um",
        "slots.z_um",
        "focus.device_offset",
    } - {*keys} == {"slots.z_um"}
    assert len(keys) > 90


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "pixel_um = 0.1 ",
            "pixel_um = nan ",
            r"'camera\.pixel_um': must be 0\.001 to 100 um \(got nan\)",
        ),
        (
            "pixel_um = 0.1 ",
            "pixel_um = -0.1665 ",
            r"'camera\.pixel_um': must be 0\.001 to 100 um \(got -0\.1665\)",
        ),
        (
            "exposure_ms = 20.0",
            "exposure_ms = 1e300",
            r"'modalities\.fluorescence\.exposure_ms': must be 0\.001 to 600000 ms \(",
        ),
        ("spacing_um = 500.0", "spacing_um = 0.001", r"'focus\.spacing_um'"),
        (
            "x_um = [27500.0, 32500.0]",
            "x_um = [0.0, 4e7]",
            r"'slots\.B\.x_um\.1': must be -500000 to 500000 um \(got 40000000",
        ),
        ("x_um = [27500.0, 32500.0]", "x_um = [0.0, 1e15]", r"'slots\.B\.x_um\.1'"),
        ("[[1.0, 0.0], [0.0, 1.0]]", "[[1.0, nan], [0.0, 1.0]]", r"'camera\.stage_affine"),
        (
            "coarse_step_um = 10.0",
            "coarse_step_um = 0.01",
            r"'focus': a search .* takes 6006 frames, at most 1000",
        ),
        ("retries = 2", "retries = inf", r"'reliability\.retries'"),
        (
            "retries = 2",
            f"retries = 0x{'f' * 5000}",
            r"'reliability\.retries': .* \(got a number of too many digits\)",
        ),
        ("retries = 2", f"retries = {'9' * 400}", r"\(got 9{77}\.\.\.\)"),
    ],
    ids=lambda text: text.split("\n")[0][:24],
)
def test_a_number_out_of_range_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in DEMO
    path = tmp_path / "wrong.toml"
    path.write_text(DEMO.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        load_scope(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"[-2500.0, 2500.0]": "[-39000.0, 39000.0]"},
            r"423 x 423 = 178929 fields .* at most 100000",
        ),
        (
            {"pixel_um = 0.1 ": "pixel_um = 0.001 "},
            r"fields of 2\.048 x 2\.048 um; a plan has at most 100000",
        ),
        (
            {"bits = 16": "bits = 16\nroi_px = [0, 0, 8, 8]"},
            r"reduce 'slots\.A', or correct 'camera\.pixel_um'",
        ),
        (
            {"spacing_um = 500.0": "spacing_um = 1.0"},
            r"'focus\.spacing_um' of 1 um makes 25000000 focus points",
        ),
    ],
    ids=["slot", "pixel", "region", "focus points"],
)
def test_a_plan_without_end_is_told_at_once(
    tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    text, cfg = DEMO, (SHIPPED / "demo.cfg").read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "huge.toml").write_text(text, encoding="utf-8")
    (tmp_path / "demo.cfg").write_text(cfg, encoding="utf-8")
    scope = load_scope(tmp_path / "huge.toml")
    tracemalloc.start()
    try:
        checks = check_offline(scope, "A", 60, tmp_path)
        used_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert used_bytes < 20_000_000, "the fields and points of that plan were laid out"
    failed = [check.detail for check in checks if check.status == "fail"]
    assert len(failed) == 1
    assert re.search(words, failed[0])
    with pytest.raises(ConfigError, match=words):
        AcquisitionPlan.from_scope(scope, "A")


def test_the_number_of_fields_is_that_of_the_plan() -> None:
    plan = AcquisitionPlan.from_scope(load_scope("demo"), "A")
    assert plan.n_fields == len(plan.fields()) == 729
