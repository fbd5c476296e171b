"""Number of clicks until an IoU is reached, against a plain loop over `SamPredictor`."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from segment_anything import SamPredictor

from baselines.registry import build
from benchmarks import api
from benchmarks.config.from_options import one_trained
from benchmarks.config.options import ModelArguments
from benchmarks.datasets.dataset import Sample
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.evaluation.summaries import count_clicks
from benchmarks.prompts.protocols import find_protocols
from benchmarks.records.record import load_record

CEILING = 6
THRESHOLDS = (0.8, 0.9)


def depth(errors: npt.NDArray[np.bool_], clicked: list[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """Distance of wrong pixels from right ones and from the border; 0 where clicked."""
    found = ndimage.distance_transform_edt(np.pad(errors, 1))[1:-1, 1:-1]
    for x, y in clicked:
        found[y, x] = 0
    return np.asarray(found)


def plain_curve(
    predictor: SamPredictor, truth: npt.NDArray[np.bool_], ceiling: int, *, multimask: bool
) -> list[float]:
    """IoUs after 1 to `ceiling` clicks on one object of the image that the predictor holds."""
    mask, logits = np.zeros_like(truth), None
    points: list[tuple[int, int]] = []
    labels: list[int] = []
    ious: list[float] = []
    for _ in range(ceiling):
        missed, wrong = depth(truth & ~mask, points), depth(mask & ~truth, points)
        if max(missed.max(), wrong.max()) > 0:
            label = int(missed.max() >= wrong.max())
            deepest = missed if label else wrong
            y, x = np.unravel_index(deepest.argmax(), deepest.shape)
            points.append((int(x), int(y)))
            labels.append(label)
            masks, scores, low_res = predictor.predict(
                np.array(points, np.float32),
                np.array(labels),
                mask_input=logits,
                multimask_output=multimask,
            )
            best = int(scores.argmax())
            mask, logits = masks[best], low_res[best][None]
        ious.append((mask & truth).sum() / (mask | truth).sum())
    return ious


def number_of_clicks(curve: list[float], threshold: float) -> int:
    """Clicks until the threshold, or all of them."""
    return next((n for n, iou in enumerate(curve, 1) if iou >= threshold), len(curve))


def test_clicks_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    dataset = SyntheticDataset(n_images=3, seed=1, size_hw=(120, 160))
    result = api.evaluate(
        "sam-mini", dataset, ["noc", "noc-multi"], noc=THRESHOLDS, noc_ceiling=CEILING,
        out=tmp_path, quiet=True, boundary=False,
    )  # fmt: skip
    model = one_trained(ModelArguments(models="sam-mini"), "test")
    predictor = SamPredictor(getattr(build(model.entry, model.options), "model"))  # noqa: B009
    curves: dict[str, list[list[float]]] = {"clicks": [], "clicks-multi": []}
    rows = result.instances.set_index(["image_id", "annotation_id", "protocol"])["iou"]
    for sample in dataset.samples():
        assert isinstance(sample, Sample)
        predictor.set_image(sample.image)
        for instance, (kind, of_kind) in product(sample.instances, curves.items()):
            of_kind.append(
                plain_curve(predictor, instance.mask(), CEILING, multimask=kind == "clicks-multi")
            )
            key = sample.image_id, instance.annotation_id
            found = [rows[*key, f"{kind}-{n}"] for n in range(1, CEILING + 1)]
            assert found == pytest.approx(of_kind[-1], abs=1e-6)
    for kind, of_kind in curves.items():
        (last,) = (row for row in result.record.miou if row.protocol == f"{kind}-{CEILING}")
        assert last.clicks is not None
        for each, threshold in zip(last.clicks.thresholds, THRESHOLDS, strict=True):
            clicks = [number_of_clicks(curve, threshold) for curve in of_kind]
            assert len(set(clicks)) > 2
            assert each.noc == pytest.approx(np.mean(clicks))
            assert each.ci95 is not None
            assert each.ci95[0] < each.noc < each.ci95[1]
            assert each.n_failed == sum(max(curve) < threshold for curve in of_kind)


def test_the_committed_numbers_are_those_of_its_instances() -> None:
    folder = Path(__file__).resolve().parents[3] / "results" / "runs" / "photos-clicks"
    tables = sorted((folder / "instances.parquet").glob("*.parquet"))
    found = count_clicks(tables, find_protocols(["noc", "noc-multi"]))
    rows = [row for row in load_record(folder).miou if row.clicks]
    assert {row.protocol: row.clicks for row in rows} == {
        protocol: clicks for (_, protocol), clicks in found.items()
    }
    assert {row.n_instances for row in rows} == {143}
