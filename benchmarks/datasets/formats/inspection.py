"""Reads a whole dataset without a model: what it contains, and everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from benchmarks.datasets import parsing
from benchmarks.datasets.dataset import Dataset, UnreadableImage

SIZE_CLASSES = {"small": 32**2, "medium": 96**2, "large": float("inf")}
"""COCO's classes by area in pixels, with their upper limits."""


@dataclass(slots=True)
class Inspection:
    """Contents and defects of a dataset.

    Attributes:
        sizes: Number of images by width and height in pixels.
        per_image: Number of images by their number of objects.
        categories: Number of objects by the name of the class, the most frequent first.
        areas: Number of objects by COCO's size class.
        left_out: Number of unused annotations by reason.
        problems: What is wrong, one line each: unusable images, malformed annotations,
            likely mistakes.
    """

    n_images: int = 0
    n_unusable: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    per_image: Counter[int] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    areas: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(SIZE_CLASSES, 0)))
    left_out: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def n_objects(self) -> int:
        """Number of usable objects."""
        return self.areas.total()


def inspect(dataset: Dataset) -> Inspection:
    """Reads all images and masks of a dataset, one image in memory at a time."""
    found = Inspection()
    for sample in dataset.samples():
        found.n_images += 1
        if isinstance(sample, UnreadableImage):
            found.n_unusable += 1
            found.problems.append(f"{sample.name}: {sample.reason}")
            continue
        height, width = sample.image.shape[:2]
        found.sizes[width, height] += 1
        found.per_image[len(sample.instances)] += 1
        for each in sample.instances:
            found.categories[each.category] += 1
            found.areas[next(n for n, top in SIZE_CLASSES.items() if each.area_px < top)] += 1
    found.left_out = {reason: n for reason, n in dataset.left_out.items() if n}
    found.problems += dataset.problems
    n_more = found.left_out.get(parsing.MALFORMED, 0) - len(dataset.problems)
    if n_more > 0:
        found.problems.append(f"{n_more} more malformed annotations")
    found.problems += dataset.doubts
    return found
