"""The notebook of the documentation runs, and prints what is stored in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytest.importorskip("nbclient", reason="needs the extra dev")
from quickstart_notebook import NOTEBOOK, execute

_NUMBER = re.compile(r"-?\d+\.\d+|NaN")
# As the fixture `short_quick`, in the process of the notebook.
SHORT = """
from dataclasses import replace
from benchmarks.config import run_config
from benchmarks.latency.timer import StopRule

quick = run_config.PROFILES["quick"]
short = replace(quick, rule=StopRule(2, 0.0, 1.0, 0.0), n_prompts=(1,))
run_config.PROFILES["quick"] = short
"""


def texts(notebook: Any) -> list[str]:
    """The text of all outputs of the code cells."""
    return [
        output.data["text/plain"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


@pytest.mark.slow
def test_the_notebook_prints_what_is_stored_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    stored, now = nbformat.read(NOTEBOOK, as_version=4), execute(tmp_path, SHORT)
    before, after = texts(stored), texts(now)
    words = [[_NUMBER.sub("N", text).split() for text in each] for each in (before, after)]
    assert words[0] == words[1]
    assert len(before) >= 7
    for text, again in zip(before, after, strict=True):
        if "phase" not in text:
            values, others = (
                [float(value) for value in _NUMBER.findall(each)] for each in (text, again)
            )
            # Other processors compute MobileSAM's masks with other last digits.
            assert others == pytest.approx(values, abs=0.03)


def test_the_notebook_is_small_and_holds_its_pictures() -> None:
    stored = nbformat.read(NOTEBOOK, as_version=4)
    kinds = [
        kind
        for cell in stored.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.data
    ]
    assert sum(kind.startswith("image/") for kind in kinds) >= 3
    assert NOTEBOOK.stat().st_size < 400_000
