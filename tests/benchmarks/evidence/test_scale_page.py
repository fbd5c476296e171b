"""The page on scale shows the committed results, and states which are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.pages import ROOT
from benchmarks.evidence.scale_page import PAGE, RESULTS, Assumed, Measured, estimate, page
from mobilesam.errors import DataError

ENVIRONMENT = {
    "cpu": "A <cpu>", "allocator": "glibc", "python": "3.11", "load_1min": 0.1,
    "threads": 1, "git_commit": "abcdef0123456789", "git_dirty": False,
}  # fmt: skip
RUN = {
    "n_images": 1000, "n_instances": 10_000, "seconds": 8.0, "cpu_ms_per_image": 8.0,
    "instances_per_s_and_core": 1250.0, "peak_rss_bytes": 400e6, "shard_bytes": 100e6,
    "out_bytes": 400_000,
}  # fmt: skip
STREAM: dict[str, Any] = {
    "what": "miou --chunk", "image_px": "640x480", "n_objects": 10, "runs": [RUN],
    "boundary": False,
    "memory_ratio": 1.02, "cost_ratio": 1.2, "environment": ENVIRONMENT,
}  # fmt: skip


def test_the_committed_page_is_fresh() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(ROOT / RESULTS), (
        "docs/scale.md is stale: python -m benchmarks.evidence.scale_page"
    )


def test_a_page_without_results_names_the_commands(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert text.count("Not measured yet") == 3
    assert "All of SA-1B" not in text


def test_targets_are_compared_with_the_figures(tmp_path: Path) -> None:
    (tmp_path / "stream.json").write_text(json.dumps(STREAM))
    text = page(tmp_path)
    assert "at least 1,000 instances a second and core: reached" in text
    assert "of the shortest (+2.0%): reached" in text
    assert "core time an image within 10% (+20.0%): missed" in text
    assert "All of SA-1B" in text


def test_an_invalid_result_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "stream.json").write_text("{}")
    with pytest.raises(DataError, match="no result of a trial"):
        page(tmp_path)


def test_the_slower_of_cores_and_gpus_decides() -> None:
    measured = Measured.of(STREAM)
    assert (measured.cpu_s, measured.row_bytes) == (0.008, 40)
    few, many = Assumed(cores_per_gpu=1), Assumed(cores_per_gpu=1000)
    assert estimate(measured, 1, few).bottleneck == "cores"
    found = estimate(measured, 8, many)
    assert found.bottleneck == "GPU"
    # 11 million images of 8 ms and 100 prompts of 181/99 ms each, on eight GPUs.
    assert found.hours == pytest.approx(11e6 * (0.008 + 100 * 0.181 / 99) / 8 / 3600)
    assert found.disk_bytes_per_s * found.hours * 3600 == pytest.approx(11e12)
    # Ten times the objects, 3.375 against 0.3072 megapixels.
    assert measured.cpu_s_of(few) == pytest.approx(0.008 * 10 * 3.375 / 0.3072)
