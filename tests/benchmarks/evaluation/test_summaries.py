"""Summaries of instance tables, against numbers worked out by hand and against all rows at once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation import summaries
from benchmarks.evaluation.summaries import ImageSums, count_clicks, sum_tables
from benchmarks.prompts.protocols import NOC_IOUS, find_protocols
from benchmarks.records.instances import InstanceRow, parquet_file, to_frame, write_instances
from benchmarks.records.record import MiouRow, WeightsRow
from benchmarks.records.statistics import clustered_mean, cut
from mobilesam.errors import DataError


def row(iou: float, **changes: object) -> InstanceRow:
    values: dict[str, object] = {
        "image_id": 1,
        "annotation_id": 1,
        "model": "m",
        "protocol": "box",
        "reference": "ground-truth",
        "iou": iou,
        "boundary_iou": iou / 2,
        "score": 0.5,
        "area": 100.0,
        "category": "cat",
    }
    return InstanceRow.model_validate(values | changes)


def blank(model: str = "m", protocol: str = "box") -> MiouRow:
    weights = WeightsRow(kind="none")
    return MiouRow(
        model=model, dataset="d", protocol=protocol, reference="ground-truth", weights=weights
    )


def summarize(rows: Sequence[InstanceRow]) -> MiouRow:
    (sums,) = sum_tables([io.BytesIO(parquet_file(InstanceRow, rows))]).values()
    return sums.summarize(blank())


def test_means_over_instances_images_sizes_and_categories() -> None:
    found = summarize(
        [
            row(1.0, image_id=1, area=32.0**2 - 1),
            row(0.5, image_id=1, area=32.0**2, category="dog"),
            row(0.0, image_id=2, area=96.0**2, category="dog"),
        ]
    )
    assert found.miou == pytest.approx(0.5)
    assert found.miou_per_image == pytest.approx((0.75 + 0.0) / 2)
    assert found.boundary_miou == pytest.approx(0.25)
    assert (found.by_size.small, found.by_size.medium, found.by_size.large) == (1.0, 0.5, 0.0)
    assert {each.category: (each.n_instances, each.miou) for each in found.by_category} == {
        "cat": (1, 1.0),
        "dog": (2, 0.25),
    }
    assert (found.n_images, found.n_instances) == (2, 3)


def test_a_dataset_without_categories_has_none() -> None:
    assert summarize([row(1.0, category="")]).by_category == ()


def test_clicks_until_an_iou_is_reached() -> None:
    curve = {
        "clicks-1": [0.9, 0.2, 0.1],
        "clicks-2": [0.8, 0.85, 0.2],
        "clicks-3": [0.9, 0.95, 0.3],
    }
    rows = [row(iou, protocol=name) for name, ious in curve.items() for iou in ious]
    table = parquet_file(InstanceRow, rows)
    # A table that is given twice has the same means.
    tables = [io.BytesIO(table), io.BytesIO(table)]
    found = count_clicks(tables, find_protocols(["clicks-3", "box"]))["m", "clicks-3"]
    assert found.noc85 == pytest.approx((1 + 2 + 3) / 3)
    assert found.failed85 == pytest.approx(1 / 3)
    assert found.noc90 == pytest.approx((1 + 3 + 3) / 3)
    assert found.budget == 3
    assert [each.iou for each in found.thresholds] == list(NOC_IOUS)
    assert [each.n_failed for each in found.thresholds] == [2, 2, 2, 4]
    assert all(each.ci95 is None for each in found.thresholds), "both tables are of one image"
    assert count_clicks(tables, find_protocols(["box"])) == {}


def test_intervals_of_clicks_are_over_images() -> None:
    """Equal to `clustered_mean` of the number of clicks of each instance."""
    rng = np.random.default_rng(0)
    ious = np.sort(rng.random((4, 60)), axis=0)  # after 1 to 4 clicks, of 60 instances
    images = np.repeat(np.arange(12), 5)
    rows = [
        row(float(iou), image_id=int(image), annotation_id=n, protocol=f"clicks-multi-{step}")
        for step, of_step in enumerate(ious, 1)
        for n, (image, iou) in enumerate(zip(images, of_step, strict=True))
    ]
    # In two tables, of which each has all rows of its images.
    tables = [
        io.BytesIO(parquet_file(InstanceRow, [each for each in rows if each.image_id % 2 == part]))
        for part in (0, 1)
    ]
    found = count_clicks(tables, find_protocols(["clicks-multi-4"]), [0.6])["m", "clicks-multi-4"]
    (noc,) = found.thresholds
    clicks = np.where((ious >= 0.6).any(axis=0), (ious >= 0.6).argmax(axis=0) + 1, 4)
    expected = clustered_mean(clicks.astype(np.float64), images)
    assert noc.noc == pytest.approx(expected.mean)
    assert noc.ci95 == pytest.approx(cut(expected.ci95, (1.0, 4.0)))
    assert noc.n_failed == (ious < 0.6).all(axis=0).sum()
    assert (found.noc85, found.failed90) == (None, None)


def random_rows(n_images: int, seed: int) -> list[InstanceRow]:
    rng = np.random.default_rng(seed)
    return [
        row(
            float(rng.random()),
            image_id=image,
            annotation_id=10 * image + number,
            model=model,
            protocol=protocol,
            boundary_iou=float(rng.random()),
            area=float(rng.integers(1, 20_000)),
            category=("", "cat", "dog")[int(rng.integers(3))],
        )
        for model in ("a", "b")
        for image in range(n_images)
        for number in range(int(rng.integers(1, 6)))
        for protocol in ("box", "center")
    ]


@pytest.mark.parametrize("batch_rows", [7, 1_000_000])
def test_summaries_of_sums_equal_summaries_of_all_rows(
    tmp_path: Path, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "BATCH_ROWS", batch_rows)
    rows = random_rows(40, 0)
    files = [
        write_instances(rows[start : start + 50], tmp_path / f"{start:05d}.parquet")
        for start in range(0, len(rows), 50)  # rows of one image may be in two files
    ]
    found = sum_tables(files)
    assert len(found) == 4
    for (model, protocol), frame in to_frame(rows).groupby(["model", "protocol"]):
        made = found[model, protocol, "ground-truth"].summarize(blank(model, protocol))
        assert made.miou == pytest.approx(frame.iou.mean(), abs=1e-12)
        assert made.boundary_miou == pytest.approx(frame.boundary_iou.mean(), abs=1e-12)
        assert made.miou_per_image == pytest.approx(frame.groupby("image_id").iou.mean().mean())
        for interval, column in ((made.ci95, "iou"), (made.boundary_ci95, "boundary_iou")):
            own = clustered_mean(frame[column].to_numpy(), frame.image_id.to_numpy())
            expected = cut(own.ci95, (0, 1))
            assert interval == pytest.approx(expected, abs=1e-12)
        sizes = pd.cut(frame.area, [0, 32**2, 96**2, 1e9], right=False)
        assert list(made.n_by_size.model_dump().values()) == sizes.value_counts(sort=False).tolist()
        assert list(made.by_size.model_dump().values()) == pytest.approx(
            frame.iou.groupby(sizes, observed=False).mean().tolist()
        )
        by_category = frame[frame.category != ""].groupby("category").iou
        assert [c.category for c in made.by_category] == list(by_category.groups)
        assert [c.miou for c in made.by_category] == pytest.approx(by_category.mean().tolist())
        assert (made.n_images, made.n_instances) == (frame.image_id.nunique(), len(frame))


def test_the_mean_of_one_table_equals_that_of_its_rows_exactly() -> None:
    rows = [row(iou) for iou in np.random.default_rng(1).random(1000)]
    assert summarize(rows).miou == np.mean([each.iou for each in rows])
    assert summarize([row(0.1)] * 7).miou == 0.1


def test_an_image_that_is_added_in_parts_is_one_image() -> None:
    sums = ImageSums(1)
    sums.add(np.array([5, 3, 5]), np.array([1.0, 2.0, 3.0]))
    sums.add(np.array([5]), np.array([10.0]))
    counts, (totals,) = sums.finish()
    assert counts.tolist() == [1, 3]
    assert totals.tolist() == [2, 14]
    assert sums.limits(0) == (1, 10)


def test_a_file_that_is_not_a_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x\.parquet"):
        sum_tables([path])
