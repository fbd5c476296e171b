"""The trials run, small; the page says what they found and copes with what is not there yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.evidence import scale_trial as trial
from benchmarks.evidence import scale_trial_data as trial_data
from benchmarks.evidence.extrapolation import Assumed, Measured, cpu_s_of, estimate
from benchmarks.evidence.scale_page import PAGE, RESULTS, ROOT, page
from benchmarks.records.instances import read_instances
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


def test_a_page_without_results_says_how_to_measure(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert text.count("Not measured yet") == 3
    assert "All of SA-1B" not in text


def test_aims_are_judged_by_the_figures(tmp_path: Path) -> None:
    (tmp_path / "stream.json").write_text(json.dumps(STREAM))
    text = page(tmp_path)
    assert "at least 1,000 instances a second and core: reached" in text
    assert "of the shortest (+2.0%): reached" in text
    assert "core time an image within 10% (+20.0%): missed" in text
    assert "All of SA-1B" in text


def test_a_file_that_is_no_result_is_told(tmp_path: Path) -> None:
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
    assert cpu_s_of(measured, few) == pytest.approx(0.008 * 10 * 3.375 / 0.3072)


def test_generated_shards_and_tables_are_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_data, "N_SCENES", 2)
    monkeypatch.setattr(trial_data, "SIZE_HW", (48, 64))
    monkeypatch.setattr(trial_data, "IMAGES_PER_TAR", 3)
    paths = trial_data.write_shards(tmp_path / "shards", 5)
    assert [path.name for path in paths] == ["sa_000000.tar", "sa_000001.tar"]
    samples = list(Sa1bDataset(tmp_path / "shards").samples())
    assert [sample.image_id for sample in samples] == [0, 1, 2, 3, 4]
    trial_data.write_tables(tmp_path / "tables", 70, rows_per_file=40)
    frame = read_instances(tmp_path / "tables")
    assert (len(frame), frame["image_id"].nunique()) == (70, 7)


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes that start on a machine that is shared
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Forty times the rows and images; the figures of the full sizes are committed."""
    out = tmp_path / "found.json"
    peaks = []
    for rows in ("20000", "800000"):
        trial.main(["aggregate", "--data", str(tmp_path), "--rows", rows, "--out", str(out)])
        found = json.loads(out.read_text())
        assert found["n_rows"] == int(rows)
        assert found["ci95"][0] < found["miou"] < found["ci95"][1]
        peaks.append(found["peak_rss_bytes"])
    # All rows of the larger one as a table would be 100 MB more.
    assert peaks[1] - peaks[0] < 60e6
