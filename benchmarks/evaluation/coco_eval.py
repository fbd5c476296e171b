"""COCO's evaluation (pycocotools) of masks in memory, without its output."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.datasets.detections import GroundTruthMask
from benchmarks.datasets.masks import Rle
from benchmarks.records.record import BySize

AGNOSTIC = 1
"""Category of all masks if recall does not depend on categories."""
_SILENT = threading.Lock()


@dataclass(frozen=True, slots=True)
class FoundMask:
    """A predicted mask at the size of its image; ids are those of the ground truth."""

    image_id: int
    category_id: int
    rle: Rle
    score: float

    def to_result(self) -> dict[str, Any]:
        """Entry of a COCO results file, without `bbox`, whose area pycocotools would use."""
        return {
            "image_id": self.image_id,
            "category_id": self.category_id,
            "segmentation": dict(self.rle),
            "score": self.score,
        }


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's AP, fractions; None where there is nothing to find."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    by_size: BySize


@dataclass(frozen=True, slots=True)
class AverageRecall:
    """Recall at each limit of masks an image, as `AveragePrecision`; by size at the last limit."""

    at: tuple[float | None, ...]
    by_size: BySize


def average_precision(
    sizes_hw: Mapping[int, tuple[int, int]],
    truth: Sequence[GroundTruthMask],
    found: Sequence[FoundMask],
) -> AveragePrecision:
    """Computes COCO's AP of masks: IoU 0.5 to 0.95, by category, 100 masks a category of an image.

    The images in `sizes_hw` are evaluated, the ground truth on others is ignored; the order of the
    found masks among equal scores counts.
    """
    evaluation = _evaluate(sizes_hw, truth, found)
    with _silence():
        evaluation.summarize()
    ap, ap50, ap75, *sizes = map(_known, evaluation.stats[:6])
    return AveragePrecision(ap, ap50, ap75, _by_size(sizes))


def average_recall(
    sizes_hw: Mapping[int, tuple[int, int]],
    truth: Sequence[GroundTruthMask],
    found: Sequence[FoundMask],
    limits: Sequence[int],
) -> AverageRecall:
    """Computes COCO's AR of masks for IoU 0.5 to 0.95, without regard to categories.

    It is read from the array of recalls, since the summary of pycocotools has fixed limits.
    Arguments are those of `average_precision`, and ascending limits of masks per image: the best
    of each image by score are taken.
    """
    evaluation = _evaluate(sizes_hw, truth, found, limits)
    recall = evaluation.eval["recall"]  # (IoU thresholds, 1, sizes, limits); -1: nothing to find
    every, *sizes = range(len(evaluation.params.areaRngLbl))
    at = tuple(_known(recall[:, 0, every, limit].mean()) for limit in range(len(limits)))
    return AverageRecall(at, _by_size([_known(recall[:, 0, size, -1].mean()) for size in sizes]))


def _known(value: float) -> float | None:
    """The value, or None for COCO's -1, which stands for no objects."""
    return None if value < 0 else float(value)


def _by_size(values: Sequence[float | None]) -> BySize:
    small, medium, large = values
    return BySize(small=small, medium=medium, large=large)


def _evaluate(
    sizes_hw: Mapping[int, tuple[int, int]],
    truth: Sequence[GroundTruthMask],
    found: Sequence[FoundMask],
    agnostic_limits: Sequence[int] | None = None,
) -> Any:
    """A `COCOeval` that has accumulated; without limits by category and with COCO's own limits."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    inside = [mask for mask in truth if mask.image_id in sizes_hw]
    categories = {mask.category_id for mask in inside} | {mask.category_id for mask in found}
    with _silence():
        expected = COCO()
        expected.dataset = {
            "images": [{"id": key, "height": h, "width": w} for key, (h, w) in sizes_hw.items()],
            "categories": [{"id": category} for category in sorted(categories)],
            "annotations": [
                {
                    "id": number,  # numbered anew: an id of 0 would be read as "no match"
                    "image_id": mask.image_id,
                    "category_id": mask.category_id,
                    "segmentation": dict(mask.rle),
                    "area": mask.area_px,
                    "iscrowd": int(mask.is_crowd),
                }
                for number, mask in enumerate(inside, start=1)
            ],
        }
        expected.createIndex()
        results = [mask.to_result() for mask in found]
        # An empty list is more than `loadRes` can take; an index of nothing is the same.
        evaluation = COCOeval(expected, expected.loadRes(results) if results else COCO(), "segm")
        if agnostic_limits is not None:
            evaluation.params.useCats = 0
            evaluation.params.maxDets = list(agnostic_limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discards what pycocotools prints on standard output, in one thread at a time."""
    with _SILENT, contextlib.redirect_stdout(io.StringIO()):
        yield
