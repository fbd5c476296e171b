"""Trials of scale on small data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.evidence import scale
from benchmarks.records.instances import read_instances


def test_generated_shards_and_tables_have_their_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "N_SCENES", 2)
    monkeypatch.setattr(scale, "SIZE_HW", (48, 64))
    monkeypatch.setattr(scale, "IMAGES_PER_TAR", 3)
    paths = scale.write_shards(tmp_path / "shards", 5)
    assert [path.name for path in paths] == ["sa_000000.tar", "sa_000001.tar"]
    samples = list(Sa1bDataset(tmp_path / "shards").samples())
    assert [sample.image_id for sample in samples] == [0, 1, 2, 3, 4]
    scale.write_tables(tmp_path / "tables", 70, rows_per_file=40)
    frame = read_instances(tmp_path / "tables")
    assert (len(frame), frame["image_id"].nunique()) == (70, 7)


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes that start on a machine that is shared
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Forty times the rows; the figures of the full sizes are committed."""
    out = tmp_path / "found.json"
    peaks = []
    for rows in ("20000", "800000"):
        scale.main(["aggregate", "--data", str(tmp_path), "--rows", rows, "--out", str(out)])
        found = json.loads(out.read_text())
        assert found["n_rows"] == int(rows)
        assert found["ci95"][0] < found["miou"] < found["ci95"][1]
        peaks.append(found["peak_rss_bytes"])
    # All rows of the larger one as a table would be 100 MB more.
    assert peaks[1] - peaks[0] < 60e6
