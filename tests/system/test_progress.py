"""A run that is called by a program calls back, logs, and asks nobody by itself."""

from __future__ import annotations

import pytest

from wbcpipe.errors import AcquisitionError
from wbcpipe.system.progress import CallbackReporter


def test_callbacks_are_called() -> None:
    heard: list[object] = []
    reporter = CallbackReporter(
        progress=lambda *step: heard.append(step), message=heard.append, operator=heard.append
    )
    reporter.start_phase("loading the model")
    reporter.update("fields", 1, 4, text="field 1")
    reporter.say("taking fields")
    reporter.confirm("Stain the slide.")
    assert heard == [("fields", 1, 4), "taking fields", "Stain the slide."]


def test_what_nobody_asked_to_hear_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "wbcpipe"):
        CallbackReporter().say("taking fields")
        CallbackReporter().update("fields", 1, 4)
    assert [record.getMessage() for record in caplog.records] == ["taking fields"]


def test_without_an_operator_nobody_is_asked() -> None:
    with pytest.raises(AcquisitionError, match=r"an operator is needed .*: Stain the slide\. Give"):
        CallbackReporter().confirm("Stain the slide.")
