"""Conditions of --where: what is understood, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.cluster.selection import SampleFacts, facts_of, meets, parse_where
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

FACTS = SampleFacts(
    "S1", {"name": "S1", "state": "reported", "cells": 200, "bundle": "mine", "pass": ("single",)}
)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("state=reported", True),
        ("state = reported and cells>=200", True),
        ("state=reported and cells > 200", False),
        ("name=S*", True),
        ('name!="S2"', True),
        ("pass=single", True),
        ("pass=fluorescence", False),
        ("bundle!='other model'", True),
        ("counted!=3", True),  # not known: nothing can be said but that it is not that
        ("counted<3", False),
        ("error=NoCellsError", False),
        ("error!=NoCellsError", True),
        ("name=android", False),
    ],
)
def test_conditions_are_met(text: str, met: bool) -> None:
    assert meets(FACTS, parse_where(text)) is met


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a condition is expected"),
        ("state", "a condition is expected"),
        ("state=reported or cells=1", "'and' is expected"),
        ("state=reported and", "a condition is expected"),
        ("state=finished", "there is no state 'finished'"),
        ("colour=red", "there is no key 'colour'"),
        ("cells=many", "compared with a number"),
        ("name<S2", "use = or !="),
        ("__import__('os')", "a condition is expected"),
        ("name=S1; rm -rf", "'and' is expected"),
        ("cells=99999999999", "compared with a number"),
    ],
)
def test_other_text_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_where(text)


def test_a_sample_with_fields_that_nobody_scans_is_acquired(
    tmp_path: Path, add_sample: Callable[[Path, str], Sample]
) -> None:
    sample = add_sample(tmp_path, "S1")
    sample.log("run_ended", command="segment", error="NoCellsError", reason="no cell")
    facts = facts_of(sample)
    assert facts.values["state"] == "acquired"
    assert facts.values["fields"] == 3
    assert meets(facts, parse_where("state=acquired and error=NoCellsError and pass=single"))
    with sample.lock("acquire"):
        assert facts_of(sample).values["state"] == "acquiring"
    sample.log("segmented", cells=3)
    assert not meets(facts_of(sample), parse_where("error=NoCellsError"))
