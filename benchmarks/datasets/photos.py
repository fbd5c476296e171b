"""The packaged photos: 18 images of COCO val2017 under CC BY 2.0, with annotations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks.datasets import MAX_PIXELS
from benchmarks.datasets.coco import CocoDataset, coco_fingerprint
from benchmarks.datasets.parsing import read_file
from mobilesam.errors import DataError

PHOTOS = "photos"
"""Name of the dataset, on the command line and in tables."""
N_PHOTOS = 18
LICENCE = "CC BY 2.0"
SHOWN = (208901, 343937, 475678)
"""Image ids of figures: an airplane, a snowboarder, suitcases."""

FOLDER = Path(__file__).parent / "photos"
_ATTRIBUTION_ROW = re.compile(r"^\| (\d+)\.jpg \| (https://\S+?=(\d+)) \|", re.MULTILINE)


def open_photos(limit: int | None = None, max_pixels: int = MAX_PIXELS) -> CocoDataset:
    """Opens the packaged photos as a COCO dataset; see `CocoDataset` for the arguments."""
    images, annotations = images_folder(), _packaged("instances_photos.json")
    _packaged("ATTRIBUTION.md")
    if limit is not None and limit >= N_PHOTOS:
        limit = None
    dataset = CocoDataset(images, annotations, limit, max_pixels, name=PHOTOS)
    for image_id in dataset.image_ids:
        _packaged(f"images/{image_id:012d}.jpg")
    return dataset


def images_folder() -> Path:
    """Returns the folder of the image files."""
    return _packaged("images")


def is_packaged(fingerprint: str) -> bool:
    """Whether a fingerprint belongs to the packaged photos, with any limit."""
    data = read_file(_packaged("instances_photos.json"))
    limits = (None, *range(1, N_PHOTOS))
    return any(coco_fingerprint(data, limit) == fingerprint for limit in limits)


def source_of(image_id: int) -> str:
    """Returns the address of a photo's page at Flickr, which names its author."""
    return _page_and_number(image_id)[0]


def attribution(image_ids: Iterable[int]) -> str:
    """Returns the credit line of photos, as required by their licence, with Flickr numbers."""
    numbers = ", ".join(_page_and_number(image_id)[1] for image_id in image_ids)
    return (
        f"Photos: COCO val2017 (Flickr {numbers}), {LICENCE}; authors: "
        "benchmarks/datasets/photos/ATTRIBUTION.md"
    )


def _page_and_number(image_id: int) -> tuple[str, str]:
    text = read_file(_packaged("ATTRIBUTION.md")).decode(errors="replace")
    for name, page, number in _ATTRIBUTION_ROW.findall(text):
        if int(name) == image_id:
            return page, number
    raise DataError(
        f"ATTRIBUTION.md of the packaged photos does not list photo {image_id}; install "
        "mobilesam-bench again"
    )


def _packaged(name: str) -> Path:
    path = FOLDER / name
    if not path.exists():
        raise DataError(
            f"photos/{name} is missing from this installation of mobilesam-bench ({path}); "
            "install it again"
        )
    return path
