"""The tutorial runs as it is printed, from its folder of masks to the report."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from tutorial_page import COLUMNS, PAGE, execute

_NUMBER = re.compile(r"(< )?\d[\d,]*(\.\d+)?")
_ACCURACY = re.compile(r"\d+\.\d \[[\d.]+, [\d.]+\]")


def stable(text: str) -> str:
    """Text without values, the width of columns and what other work on the machine changes."""
    kept = [line for line in text.splitlines() if "noisy" not in line and "load" not in line]
    words = _NUMBER.sub("N", " ".join(kept)).replace("─", "")
    return " ".join(words.split())


@pytest.mark.slow
@pytest.mark.usefixtures("short_quick")
def test_the_page_prints_what_its_commands_print(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", COLUMNS)

    def call(command: list[str]) -> str:
        if command[0] == "python":
            runpy.run_path(command[1], run_name="__main__")
            return capsys.readouterr().out
        assert command[0] == "mobilesam-bench"
        done = run(*command[1:])
        assert done.code == 0, done.err
        printed: str = done.out
        return printed

    page = PAGE.read_text()
    outputs = list(execute(page, call))
    assert len(outputs) == 3
    for stored, now in outputs:
        assert stable(now) == stable(stored)
    _, (stored, now), _ = outputs
    # Masks of these models are the same on every machine.
    assert _ACCURACY.findall(now) == _ACCURACY.findall(stored) != []
    html = Path("report.html").read_text()
    assert all(name in html for name in ("colours", "ellipse", "kitchen.png"))
    assert "data:image/jpeg;base64" in html
    assert Path("run/predictions/coco-colours-box.json").is_file()
