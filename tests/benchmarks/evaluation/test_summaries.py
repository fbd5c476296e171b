"""Means of instance rows, against numbers worked out by hand."""

from __future__ import annotations

import time

import pytest

from benchmarks.evaluation.stopwatch import Stopwatch
from benchmarks.evaluation.summaries import clicks_needed, summarise
from benchmarks.prompts.protocols import find_protocols
from benchmarks.records.instances import InstanceRow
from benchmarks.records.record import WeightsRow


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


def test_means_over_instances_images_sizes_and_categories() -> None:
    rows = [
        row(1.0, image_id=1, area=32.0**2 - 1),
        row(0.5, image_id=1, area=32.0**2, category="dog"),
        row(0.0, image_id=2, area=96.0**2, category="dog"),
    ]
    found = summarise(rows, "data", WeightsRow(kind="none"), n_left_out=4)
    assert found.miou == pytest.approx(0.5)
    assert found.miou_per_image == pytest.approx((0.75 + 0.0) / 2)
    assert found.boundary_miou == pytest.approx(0.25)
    assert (found.by_size.small, found.by_size.medium, found.by_size.large) == (1.0, 0.5, 0.0)
    assert {each.category: (each.n_instances, each.miou) for each in found.by_category} == {
        "cat": (1, 1.0),
        "dog": (2, 0.25),
    }
    assert (found.n_images, found.n_instances, found.n_left_out) == (2, 3, 4)


def test_a_dataset_without_categories_has_none() -> None:
    assert summarise([row(1.0, category="")], "data", WeightsRow(kind="none")).by_category == ()


def test_clicks_until_an_iou_is_reached() -> None:
    *_, protocol = find_protocols(["clicks-3"])
    curve = {
        "clicks-1": [row(0.9), row(0.2), row(0.1)],
        "clicks-2": [row(0.8), row(0.85), row(0.2)],
        "clicks-3": [row(0.9), row(0.95), row(0.3)],
    }
    found = clicks_needed(protocol, curve)
    assert found is not None
    assert found.noc85 == pytest.approx((1 + 2 + 3) / 3)
    assert found.failed85 == pytest.approx(1 / 3)
    assert found.noc90 == pytest.approx((1 + 3 + 3) / 3)
    assert found.budget == 3
    (box,) = find_protocols(["box"])
    assert clicks_needed(box, curve) is None


def test_the_stopwatch_charges_what_is_nested_to_the_inner_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Stopwatch()
    now += 1
    with clock("data"):
        now += 2
        with clock("model"):
            now += 10
        now += 3
    with clock("scoring"):
        now += 4
    found = clock.row("m", "d")
    assert (found.data_s, found.model_s, found.scoring_s, found.wall_s) == (5, 10, 4, 20)
    assert found.overhead == pytest.approx(0.5)


def test_a_failure_inside_a_stage_leaves_the_stopwatch_in_order() -> None:
    clock = Stopwatch()
    with pytest.raises(ValueError, match="x"), clock("model"):
        raise ValueError("x")
    with clock("data"):
        pass
    assert clock.row("m", "d").writing_s == 0
