"""Exit codes: one for each error, with the meaning that the documentation shows."""

from __future__ import annotations

import pytest

from wbcpipe import errors, pipeline
from wbcpipe.errors import WbcpipeError

ERRORS = [getattr(errors, name) for name in errors.__all__]
pytestmark = pytest.mark.usefixtures("stop_handlers")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_error_has_a_meaning_and_subclasses_a_builtin(error: type[WbcpipeError]) -> None:
    assert str(error.__doc__).partition("\n\n")[0].rstrip().endswith(".")
    builtins = [base for base in error.__mro__ if base.__module__ == "builtins"]
    assert error is WbcpipeError or len(builtins) > 3, "subclasses a builtin beside Exception"


def test_exit_codes_differ() -> None:
    codes = [error.exit_code for error in ERRORS]
    assert len(set(codes)) == len(codes)


def test_an_error_is_one_line_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        pipeline.main(["acquire", "--slide", "../x"])
    assert end.value.code == 10
    text = capsys.readouterr().err
    assert text.startswith("wbcpipe: sample name '../x' is refused")
    assert text.count("\n") == 1


def test_a_wrong_option_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        pipeline.main(["run", "--nonsense"])
    assert end.value.code == 2
    assert "No such option" in capsys.readouterr().err


def test_a_defect_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(pipeline.cli, "main", fail)
    with pytest.raises(SystemExit) as end:
        pipeline.main([])
    assert end.value.code == 1
    assert "a defect in wbcpipe itself: ZeroDivisionError: planted" in capsys.readouterr().err
