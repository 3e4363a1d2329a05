"""Which samples to process: by name, all of them, or those that meet conditions."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple

from wbcpipe.errors import ConfigError
from wbcpipe.report.status import SampleStatus, sample_names, sample_status
from wbcpipe.samples.sample import Sample
from wbcpipe.system.files import parse_json_line
from wbcpipe.system.locks import try_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["KEYS", "Condition", "SampleFacts", "facts_of", "list_facts", "meets", "parse_where"]

Value = str | float | None

#: Key of a condition to what it compares.
KEYS: Final[dict[str, str]] = {
    "name": "name of the sample; * stands for any characters",
    "state": "created, acquiring, acquired, segmented, classified, reported or damaged",
    "kind": "scope, stained-rgb or stack",
    "scope": "name of the scope",
    "protocol": "one-pass or two-pass",
    "pass": "a pass with fields on disk: single, brightfield or fluorescence",
    "bundle": "the model that classified the cells",
    "verification": "preliminary, verified or corrected",
    "quality": "passed or failed: the quality gates of the report",
    "error": "class of the error that ended the last command, such as NoCellsError",
    "fields": "fields taken",
    "missing": "fields that could not be taken",
    "cells": "cells found",
    "counted": "identified cells in the report",
}
_NUMBERS: Final = ("fields", "missing", "cells", "counted")
_STATES: Final = (
    "created",
    "acquiring",
    "acquired",
    "segmented",
    "classified",
    "reported",
    "damaged",
)
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
_CONDITION: Final = re.compile(
    r"""\s*(?P<key>[a-z]+)\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>"[^"]*"|'[^']*'|[^\s"'<>=!]+)\s*"""
)
_LOG_TAIL_BYTES: Final = 1 << 16


class Condition(NamedTuple):
    """A condition on a sample, such as ``cells >= 100``."""

    key: str
    sign: str
    value: str


@dataclass(frozen=True)
class SampleFacts:
    """What conditions compare.

    Attributes:
        name: of the sample.
        values: of the keys of `KEYS`; a text, a number, several texts, or ``None`` if unknown.
    """

    name: str
    values: dict[str, Value | tuple[str, ...]]


def parse_where(text: str) -> tuple[Condition, ...]:
    """Parse conditions that ``and`` joins.

    Raises:
        ConfigError: the text is no such list; the error says what is allowed.

    >>> [tuple(one) for one in parse_where("state=acquired and cells >= 100")]
    [('state', '=', 'acquired'), ('cells', '>=', '100')]
    """
    found, start = [], 0
    while True:
        match = _CONDITION.match(text, start)
        if match is None:
            raise _refused(text, f"a condition is expected at {text[start : start + 20]!r}")
        found.append(_checked(text, Condition(match["key"], match["sign"], match["value"])))
        start = match.end()
        if start == len(text):
            return tuple(found)
        joint = re.compile(r"and\b").match(text, start)
        if joint is None:
            raise _refused(text, f"'and' is expected at {text[start : start + 20]!r}")
        start = joint.end()


def _checked(text: str, condition: Condition) -> Condition:
    key, sign, value = condition.key, condition.sign, condition.value.strip("\"'")
    if key not in KEYS:
        raise _refused(text, f"there is no key {key!r}")
    if key in _NUMBERS:
        if not re.fullmatch(r"\d{1,9}", value):
            raise _refused(text, f"{key!r} is compared with a number, not with {value!r}")
    elif sign not in ("=", "!="):
        raise _refused(text, f"{key!r} is text: use = or !=")
    if key == "state" and value not in _STATES:
        raise _refused(text, f"there is no state {value!r}")
    return Condition(key, sign, value)


def _refused(text: str, reason: str) -> ConfigError:
    return ConfigError(
        f"--where {text[:80]!r} is refused: {reason}; write conditions such as "
        f'"state=acquired and cells>=100", with the keys {", ".join(KEYS)}.'
    )


def meets(facts: SampleFacts, conditions: tuple[Condition, ...]) -> bool:
    """Return whether a sample meets all conditions; what is not known of it meets ``!=`` alone."""
    return all(_meets(facts.values.get(one.key), one) for one in conditions)


def _meets(found: Value | tuple[str, ...], condition: Condition) -> bool:
    if condition.key in _NUMBERS:
        if not isinstance(found, (int, float)):
            return condition.sign == "!="
        return _COMPARE[condition.sign](float(found), float(condition.value))
    texts = found if isinstance(found, tuple) else (str(found or ""),)
    same = any(fnmatchcase(one, condition.value) for one in texts)
    return same if condition.sign == "=" else not same


def list_facts(root: Path) -> list[SampleFacts]:
    """Return what is known of each sample of a data folder, by name."""
    return [facts_of(Sample.open(root, name)) for name in sample_names(root)]


def facts_of(sample: Sample) -> SampleFacts:
    """Return what is known of a sample; a damaged one has the state ``damaged``."""
    status = sample_status(sample)
    record = sample.record() if status.state != "damaged" else None
    scope = record.scope if record is not None else None
    passes = tuple(name for name, fields in status.passes.items() if fields)
    if record is not None and record.protocol == "one-pass" and status.fields_taken:
        passes = ("single",)
    return SampleFacts(
        status.name,
        {
            "name": status.name,
            "state": _state(sample, status),
            "kind": status.kind,
            "scope": scope.name if scope else "",
            "protocol": record.protocol if record else "",
            "pass": passes,
            "bundle": status.bundle,
            "verification": status.verification,
            "quality": {True: "passed", False: "failed", None: ""}[status.passed],
            "error": _last_error(sample),
            "fields": status.fields_taken,
            "missing": status.fields_missing,
            "cells": status.cells,
            "counted": status.counted,
        },
    )


def _state(sample: Sample, status: SampleStatus) -> str:
    """Return the state; a sample with fields that no process holds is acquired."""
    if status.state != "acquiring" or not status.fields_taken:
        return status.state
    with try_lock(sample.path / ".sample.lock") as free:
        return "acquired" if free else "acquiring"


def _last_error(sample: Sample) -> str:
    """Return the class of the error that ended the last command; empty if it ended well."""
    try:
        with (sample.path / "log.jsonl").open("rb") as handle:
            handle.seek(max(0, handle.seek(0, 2) - _LOG_TAIL_BYTES))
            lines = handle.read().split(b"\n")
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            event = parse_json_line(line)
        except ValueError:
            continue
        return str(event.get("error", "")) if event.get("event") == "run_ended" else ""
    return ""
