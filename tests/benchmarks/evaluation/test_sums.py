"""Many instance tables summed up without holding their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.evaluation import sums as sums_module
from benchmarks.evaluation.aggregate import RowContext, summary_of
from benchmarks.evaluation.summaries import by_protocol, summarise
from benchmarks.evaluation.sums import PerImage, sum_up
from benchmarks.records.instances import InstanceRow, write_instances
from benchmarks.records.record import WeightsRow
from mobilesam.errors import DataError

WEIGHTS = WeightsRow(kind="none")


def rows_of(n_images: int, seed: int) -> list[InstanceRow]:
    rng = np.random.default_rng(seed)
    return [
        InstanceRow(
            image_id=image,
            annotation_id=10 * image + number,
            model=model,
            protocol=protocol,
            reference="ground-truth",
            iou=float(rng.random()),
            boundary_iou=float(rng.random()),
            score=0.5,
            area=float(rng.integers(1, 20_000)),
            category=("", "cat", "dog")[int(rng.integers(3))],
        )
        for model in ("a", "b")
        for image in range(n_images)
        for number in range(int(rng.integers(1, 6)))
        for protocol in ("box", "center")
    ]


@pytest.mark.parametrize("batch_rows", [7, 1_000_000])
def test_the_summary_of_sums_is_that_of_the_rows(
    tmp_path: Path, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums_module, "BATCH_ROWS", batch_rows)
    rows = rows_of(40, 0)
    files = [
        write_instances(rows[start : start + 50], tmp_path / f"{start:05d}.parquet")
        for start in range(0, len(rows), 50)  # the rows of an image lie in two files, too
    ]
    found = sum_up(files)
    assert len(found) == 4
    context = RowContext("d", WEIGHTS, None, None, 0, None, None)
    for (model, protocol, reference), sums in found.items():
        mine = [row for row in rows if row.model == model]
        expected = summarise(by_protocol(mine)[reference][protocol], "d", WEIGHTS)
        made = summary_of((model, protocol, reference), sums, context)
        for name in ("miou", "ci95", "miou_per_image", "boundary_miou", "boundary_ci95"):
            assert getattr(made, name) == pytest.approx(getattr(expected, name), abs=1e-12), name
        assert made.n_by_size == expected.n_by_size
        assert made.by_size.model_dump() == pytest.approx(expected.by_size.model_dump())
        assert [(c.category, c.n_instances) for c in made.by_category] == [
            (c.category, c.n_instances) for c in expected.by_category
        ]
        assert (made.n_images, made.n_instances) == (expected.n_images, expected.n_instances)


def test_an_image_that_comes_in_pieces_is_one_image() -> None:
    sums = PerImage(1)
    sums.add(np.array([5, 3, 5]), np.array([1.0, 2.0, 3.0]))
    sums.add(np.array([5]), np.array([10.0]))
    counts, (totals,) = sums.finish()
    assert counts.tolist() == [1, 3]
    assert totals.tolist() == [2, 14]
    assert sums.limits(0) == (1, 10)


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x\.parquet"):
        sum_up([path])
