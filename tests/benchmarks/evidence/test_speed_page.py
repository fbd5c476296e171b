"""The page on speed shows the committed results, and leaves out missing ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.pages import ROOT
from benchmarks.evidence.speed_page import (
    BACKENDS,
    EVALUATION,
    EVERYTHING,
    INFERENCE,
    NARROW,
    PAGE,
    RESULTS,
    page,
)
from mobilesam.errors import DataError

ENVIRONMENT = {
    "cpu": "A <cpu>",
    "cpu_features": ["avx2"],
    "threads": 2,
    "allocator": "glibc",
    "python": "3.11",
    "libraries": {"torch": "2.5"},
    "git_commit": "abcdef0123456789",
    "git_dirty": False,
}


def row(task: str, side: str, ms: float, ratio: float) -> dict[str, Any]:
    return {
        "task": task,
        "side": side,
        "ms": ms,
        "ratio": ratio,
        "ci95": [ratio - 0.1, ratio + 0.1],
        "page_faults": 12345,
        "max_difference": 1e-5,
    }


def inference(rows: list[dict[str, Any]], processes: int = 5) -> str:
    return json.dumps({"processes": processes, "rows": rows, "environment": ENVIRONMENT})


def test_the_committed_page_is_fresh() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(ROOT / RESULTS, ROOT / BACKENDS), (
        "docs/speed.md is stale: python -m benchmarks.evidence.speed_page"
    )


def test_committed_results_have_their_commit() -> None:
    for name in (INFERENCE, NARROW, *EVERYTHING, EVALUATION):
        found = json.loads((ROOT / RESULTS / name).read_text())
        assert found["environment"]["git_commit"], name


def test_steps_multiply_to_the_whole(tmp_path: Path) -> None:
    rows = [
        row("encoder", "plain", 1000, 1.0),
        row("encoder", "folded", 500, 2.0),
        row("encoder", "fast", 330, 3.0),
    ]
    (tmp_path / INFERENCE).write_text(inference(rows))
    text = page(tmp_path, tmp_path)
    assert "| 2.00 x |" in text
    assert "| 1.50 x |" in text
    assert "3.00 [2.90, 3.10]" in text
    assert "12,345" in text
    assert "missed; arithmetic" in text  # 3.00 of 4 by any backend
    assert "| decoder, 1 prompt | 1.5 |  |  | not measured |" in text
    assert "weights folded" in text.split("### Encoder")[1]
    assert "A &lt;cpu&gt; (avx2), 2 threads" in text


def test_intervals_and_ranges_are_named(tmp_path: Path) -> None:
    """An interval of five processes, a range of fewer, and a bootstrap of an older document."""
    plain, fast = row("encoder", "plain", 1000, 1.0), row("encoder", "fast", 330, 3.0)
    ranged = {**fast, "ci95": None, "range": [2.9, 3.1]}
    for rows, processes, beside, note in (
        ([plain, fast], 5, "[2.90, 3.10]", "95 % interval over 5 processes"),
        ([ranged], 4, "(range 2.90 to 3.10)", "fewer than 5 processes give no interval"),
        ([plain, fast], 3, "(2.90 to 3.10)", "No confidence interval: fewer than 5 processes"),
    ):
        (tmp_path / INFERENCE).write_text(inference(rows, processes))
        text = page(tmp_path, tmp_path)
        assert f"3.00 {beside}" in text
        assert text.count(note) == 2  # all sides, and step by step
        assert ("95 % interval" in text) == (processes == 5)


def test_spreads_of_images_come_from_their_times(tmp_path: Path) -> None:
    document = json.loads(everything({"grid": 0.3, "hierarchical": 0.3}, {"grid": 10.0,
                                      "hierarchical": 4.0}))  # fmt: skip
    side = document["sides"]["hierarchical"]
    for n, beside, note in (
        (5, "[2.02, 3.17]", "95 % interval over images"),
        (2, "(range 2.00 to 2.50)", "fewer than 5 give no interval"),
    ):
        side["seconds"] = [5.0, 4.0, 4.0, 4.0, 3.0][:n]
        side["times_quicker"] = 2.5
        side["times_quicker_ci95"] = [1.0, 9.0]  # of an older version
        (tmp_path / "hierarchical.json").write_text(json.dumps(document))
        text = page(tmp_path, tmp_path)
        assert f"| 2.50 {beside} |" in text
        assert note in text
        assert "9.00" not in text


def test_the_page_links_its_record() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    name = BACKENDS.name
    assert f"Records: [{name}](../results/runs/{name}/record.json)." in text


def test_missing_results_are_left_out(tmp_path: Path) -> None:
    assert "##" not in page(tmp_path, tmp_path)


def test_a_damaged_result_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "everything.json").write_text("{")
    with pytest.raises(DataError, match=r"everything\.json is no result"):
        page(tmp_path, tmp_path)


def everything(recalls: dict[str, float], seconds: dict[str, float]) -> str:
    sides = {
        side: {
            "median_s": seconds[side],
            "seconds": [seconds[side]] * 30,
            "times_quicker": 1.0,
            "times_quicker_ci95": [1.0, 1.0],
            "images": 30,
            "masks": 100,
            "ours_among_theirs": 1.0,
            "theirs_among_ours": 1.0,
            "average_recall": {"10": 0.1, "100": 0.2, "1000": recall},
            "peak_bytes": 10**9,
            "loaded_bytes": 10**8,
            "peak_of_theirs": 1.0,
        }
        for side, recall in recalls.items()
    }
    found = {
        "base": next(iter(sides)),
        "images": [f"{number}.jpg" for number in range(30)],
        "points_per_side": None,
        "sides": sides,
        "environment": ENVIRONMENT,
    }
    return json.dumps(found)


@pytest.mark.parametrize(
    ("kept", "outcome"), [(0.295, "0.005 | hierarchical | reached"), (0.28, "0.020 | hierarchical")]
)
def test_the_hierarchical_grid_has_results_of_its_own(
    tmp_path: Path, kept: float, outcome: str
) -> None:
    rows = [row("encoder", "plain", 1000, 1.0)]
    (tmp_path / INFERENCE).write_text(inference(rows))
    times = {"reference": 60.0, "grid": 10.0, "hierarchical": 4.0}
    former = everything({"reference": 0.3, "grid": 0.3, "hierarchical": 0.1}, times)
    (tmp_path / "everything.json").write_text(former)
    text = page(tmp_path, tmp_path)
    assert "hierarchical, against" not in text
    (tmp_path / "hierarchical.json").write_text(
        everything({"grid": 0.3, "hierarchical": kept}, times)
    )
    text = page(tmp_path, tmp_path)
    assert "| hierarchical, against our own grid | 2 | 2.50 | hierarchical | reached |" in text
    assert outcome in text
    assert ("missed" in text.split("AR@1000 lost")[1].splitlines()[0]) == (kept < 0.29)
