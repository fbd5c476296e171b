"""Images for the paper's figures, each with a point, a box, its source and its licence."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from baselines.interface import BoolArray, Prompts, UInt8Array
from benchmarks.datasets import MAX_PIXELS, photos
from benchmarks.datasets.dataset import Dataset, UnreadableImage
from benchmarks.datasets.images import load_image
from benchmarks.datasets.masks import center_point
from mobilesam.errors import DataError, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class FigureImage:
    """An (H, W, 3) uint8 RGB image with one prompt of points and one of a box.

    Attributes:
        name: Short name, for the figure.
        licence: Licence under which it may be shown; None if unknown.
        chosen: How the prompts were chosen.
        references: (H, W) bool ground truth of all objects, the prompted one first; may be empty.
        packaged_id: Image id of a photo of `benchmarks.datasets.photos`, whose author must be
            credited wherever it is shown; None for other images.
    """

    name: str
    image: UInt8Array
    source: str
    licence: str | None
    point: Prompts
    box: Prompts
    chosen: str
    references: tuple[BoolArray, ...] = ()
    packaged_id: int | None = None

    def prompts(self, kind: str) -> Prompts | None:
        """The `point` or the `box`; None for segment everything."""
        return {"point": self.point, "box": self.box}.get(kind)

    def shown_references(self, kind: str) -> tuple[BoolArray, ...]:
        """The prompted object, or all objects for segment everything."""
        return self.references if kind == "everything" else self.references[:1]

    @property
    def sha256(self) -> str:
        """Hash (hex) of the pixels and their shape."""
        digest = hashlib.sha256(repr(self.image.shape).encode())
        digest.update(np.ascontiguousarray(self.image).tobytes())
        return digest.hexdigest()


class _Photo(NamedTuple):
    source: str
    licence: str
    point: tuple[int, int]
    box: tuple[int, int, int, int]


PHOTOS = {
    "astronaut": _Photo(
        "NASA, https://flic.kr/p/r9qvLn, as shipped in scikit-image (skimage.data.astronaut)",
        "public domain",
        (225, 115),
        (278, 340, 508, 512),
    ),
    "chelsea": _Photo(
        "Stefan van der Walt, as shipped in scikit-image (skimage.data.chelsea)",
        "CC0-1.0",
        (177, 116),
        (26, 0, 398, 300),
    ),
    "coffee": _Photo(
        "Rachel Michetti, Pikolo Espresso Bar, as shipped in scikit-image (skimage.data.coffee)",
        "CC0-1.0",
        (362, 283),
        (172, 12, 414, 306),
    ),
}
"""Photos in the wheel of scikit-image that its notes declare free of copyright, with prompts."""


def photo_image(name: str) -> FigureImage:
    """One of `PHOTOS`, read from the installed scikit-image."""
    from benchmarks.datasets.synthetic import load_photos

    if name not in PHOTOS:
        near = difflib.get_close_matches(name, PHOTOS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(PHOTOS)}"
        raise UsageError(f"unknown photo {name!r}; {hint}")
    found = load_photos((name,))
    if not found:
        raise DataError(f"scikit-image here lacks {name}.png; install its wheel, or give --image")
    photo = PHOTOS[name]
    return FigureImage(
        name=name,
        image=found[0],
        source=photo.source,
        licence=photo.licence,
        point=_point_prompt(*photo.point),
        box=Prompts(boxes=np.array([photo.box], np.float32)),
        chosen="by hand, before any model was asked",
    )


def file_image(
    path: Path,
    point: Prompts | None = None,
    box: Prompts | None = None,
    max_pixels: int = MAX_PIXELS,
) -> FigureImage:
    """An image of the user; prompts that are not given are for the centre."""
    image = load_image(path, str(path), None, max_pixels)
    height, width = image.shape[:2]
    given = {"point": point, "box": box}
    for prompts in given.values():
        if prompts is not None:
            check_inside(prompts, (height, width), path.name)
    # At least a pixel wide, however small the image.
    corners = (width / 4, height / 4, max(3 * width / 4, 1), max(3 * height / 4, 1))
    origins = [f"{kind}: given" for kind in given if given[kind] is not None]
    origins += [f"{kind}: the image's centre" for kind in given if given[kind] is None]
    return FigureImage(
        name=path.stem,
        image=image,
        source=f"file {path.name}",
        licence=None,
        point=point or _point_prompt(width // 2, height // 2),
        box=box or Prompts(boxes=np.array([corners], np.float32)),
        chosen="; ".join(origins),
    )


def dataset_images(
    dataset: Dataset, n: int, only: Collection[int] | None = None
) -> Iterator[FigureImage | UnreadableImage]:
    """The first `n` images of a dataset, each with prompts for its object of the largest area.

    Only those whose ids are in `only`, if it is given. Yields the error of an unreadable image.
    """
    samples = (each for each in dataset.samples() if only is None or each.image_id in only)
    for sample in islice(samples, n):
        if isinstance(sample, UnreadableImage):
            yield sample
            continue
        masks = [instance.mask() for instance in sample.instances]
        first = int(np.argmax([np.count_nonzero(mask) for mask in masks]))
        instance = sample.instances[first]
        source, licence = f"{dataset.name}, {sample.name}", None
        packaged = dataset.name == photos.PHOTOS
        if packaged:
            source, licence = f"{source}, {photos.source_of(sample.image_id)}", photos.LICENCE
        elif dataset.name.startswith("synthetic:"):
            licence = "Apache-2.0, rendered by mobilesam-bench"
        yield FigureImage(
            name=Path(sample.name).stem,
            image=sample.image,
            source=source,
            licence=licence,
            point=_point_prompt(*center_point(masks[first])),
            box=Prompts(boxes=instance.box[None]),
            chosen=f"largest object (annotation {instance.annotation_id}): its centre, its box",
            references=(masks[first], *masks[:first], *masks[first + 1 :]),
            packaged_id=sample.image_id if packaged else None,
        )


def check_inside(prompts: Prompts, size_hw: tuple[int, int], name: str) -> None:
    """Checks that the points of a prompt lie in an image and that its box touches it."""
    height, width = size_hw
    where = f"outside the image of {width} x {height} pixels ({name})"
    if prompts.points is not None:
        for x, y in prompts.points[0].tolist():
            if not (0 <= x < width and 0 <= y < height):
                raise UsageError(f"point {x:g},{y:g} lies {where}")
    if prompts.boxes is not None:
        x0, y0, x1, y1 = prompts.boxes[0].tolist()
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise UsageError(f"box {x0:g},{y0:g},{x1:g},{y1:g} lies {where}")


def _point_prompt(x: float, y: float) -> Prompts:
    return Prompts(points=np.array([[[x, y]]], np.float32), labels=np.ones((1, 1), np.int64))


def prompts_text(prompts: Prompts, *, whole: bool = False) -> str:
    """One prompt as text: `point 12,34`, `points 1,2 and 3,4 (not)`, `box 1,2,3,4`."""

    def numbers(values: Sequence[float]) -> str:
        return ",".join(f"{round(value) if whole else value:g}" for value in values)

    if prompts.boxes is not None:
        return f"box {numbers(prompts.boxes[0].tolist())}"
    assert prompts.points is not None  # noqa: S101 - Prompts holds one or the other
    assert prompts.labels is not None  # noqa: S101 - they come together
    pairs = zip(prompts.points[0].tolist(), prompts.labels[0].tolist(), strict=True)
    texts = [numbers(xy) + ("" if label else " (not)") for xy, label in pairs]
    return f"point{'s' * (len(texts) > 1)} {' and '.join(texts)}"
