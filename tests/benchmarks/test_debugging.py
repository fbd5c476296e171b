"""Error texts, and tracebacks with `--debug`."""

from __future__ import annotations

import pytest

from benchmarks.debugging import (
    DEBUG_VARIABLE,
    collected_tracebacks,
    debugging,
    format_error,
    is_debugging,
)
from mobilesam.errors import DataError


@pytest.mark.parametrize(
    ("error", "text"),
    [(DataError("no file"), "no file"), (KeyError("x"), "KeyError: 'x'")],
)
def test_the_type_of_unexpected_errors_is_named(error: Exception, text: str) -> None:
    assert format_error(error) == text


def test_tracebacks_are_shown_while_debugging(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> str:
        try:
            raise DataError("no file")
        except DataError as error:
            return format_error(error)

    fail()
    assert capsys.readouterr().err == ""
    with debugging(wanted=True):
        assert is_debugging()
        fail()
        shown = capsys.readouterr().err
        assert shown.startswith("Traceback")
        assert shown.endswith("no file\n")
        with collected_tracebacks() as texts:
            fail()
        assert texts == [shown]
        assert capsys.readouterr().err == ""
    assert not is_debugging()


def test_debugging_of_the_whole_process_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "yes")
    with debugging(wanted=True):
        pass
    assert is_debugging()
