"""The benchmark of segment everything: turns, matching, and what is compared with what."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pytest

from benchmarks.datasets.masks import encode_mask
from benchmarks.evidence import speed_everything as everything

SECONDS = {"reference": 12.0, "grid": 2.0, "hierarchical": 1.0}
PEAKS = {"reference": 3000, "grid": 1000, "hierarchical": 1000}


def records(side: str, image: np.ndarray) -> list[dict[str, Any]]:
    """The reference finds two masks, the grid the same, the hierarchical mode one of them."""
    found = []
    for left in (0, image.shape[1] // 2):
        mask = np.zeros(image.shape[:2], np.bool_)
        mask[:, left : left + image.shape[1] // 2] = True
        found.append({"segmentation": encode_mask(mask), "predicted_iou": 0.9})
    return found[:1] if side == "hierarchical" else found


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    taken: list[str] = []

    def fake(_: argparse.Namespace, side: str, image: np.ndarray) -> dict[str, Any]:
        taken.append(side)
        return {
            "seconds": SECONDS[side],
            "loaded_bytes": 10,
            "peak_bytes": PEAKS[side],
            "records": records(side, image),
        }

    monkeypatch.setattr(everything, "_in_fresh_process", fake)
    return taken


def arguments(scenes: Any, **changes: Any) -> argparse.Namespace:
    given: dict[str, Any] = {
        "images": scenes.images,
        "annotations": scenes.annotations,
        "limit": 3,
        "base_limit": None,
        "points_per_side": None,
        "sides": everything.DEFAULT_SIDES,
    }
    return argparse.Namespace(**(given | changes))


def test_ratios_matches_and_memory(scenes: Any, turns: list[str]) -> None:
    found = everything.compare(arguments(scenes))["sides"]
    assert len(turns) == 9
    assert found["grid"]["times_quicker"] == 6
    assert found["grid"]["ours_among_theirs"] == found["grid"]["theirs_among_ours"] == 1
    assert found["grid"]["peak_of_theirs"] == pytest.approx(1 / 3)
    assert found["hierarchical"]["ours_among_theirs"] == 1
    assert found["hierarchical"]["theirs_among_ours"] == 0.5


def test_few_images_have_a_range_and_five_an_interval(
    scenes: Any, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = everything.compare(arguments(scenes))["sides"]["grid"]  # three images
    assert found["times_quicker_ci95"] is None
    assert found["times_quicker_range"] == (6, 6)
    five = everything.ratios_of_images([1.0, 1.0, 1.0, 1.0, 1.0], [6.0, 6.2, 5.8, 6.1, 5.9, 99.0])
    spread = everything.spread_of_images(five)
    assert spread is not None
    assert not spread.is_range
    assert 5.5 < spread.bounds[0] < 6 < spread.bounds[1] < 6.5


def test_the_order_rotates(scenes: Any, turns: list[str]) -> None:
    everything.compare(arguments(scenes))
    assert turns[::3] == ["reference", "grid", "hierarchical"]


def test_the_slow_side_may_have_the_first_images_alone(scenes: Any, turns: list[str]) -> None:
    found = everything.compare(arguments(scenes, base_limit=1))["sides"]
    assert (turns.count("reference"), turns.count("grid")) == (1, 3)
    assert [found[side]["images"] for side in everything.DEFAULT_SIDES] == [1, 3, 3]
    assert found["grid"]["times_quicker"] == 6
    assert found["grid"]["masks"] == 2


def test_nothing_matches_nothing() -> None:
    assert everything.matched([], records("grid", np.zeros((4, 4, 3), np.uint8))) == (0, 0)
