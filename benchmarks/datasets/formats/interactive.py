"""Datasets of interactive segmentation in the layout in which they are usually distributed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from baselines.interface import Int64Array, UInt8Array
from benchmarks.datasets import MAX_PIXELS
from benchmarks.datasets.formats.folder import (
    IMAGE_SUFFIXES,
    AnnotationParser,
    Entry,
    FolderDataset,
    FoundObject,
    ImageLoader,
    find_files,
    stem_below,
)
from benchmarks.datasets.images import opened_bitmap
from benchmarks.datasets.masks import encode_mask
from benchmarks.datasets.parsing import read_file
from mobilesam.errors import DataError, foreign_call


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of a dataset, and what the values of its masks mean, as in the code of RITM.

    A mask is one object, the pixels above the value `above`; those of the value `ignore` count in
    no score. With a `split`, a file that lists the images, masks are MATLAB files of SBD, with the
    id of the object at each pixel.
    """

    images: str
    masks: str
    above: int = 0
    ignore: int | None = None
    split: str | None = None


LAYOUTS = {
    "grabcut": Layout("data_GT", "boundary_GT", above=128, ignore=128),
    "berkeley": Layout("images", "masks", above=128, ignore=128),
    "davis345": Layout("img", "gt"),
    "sbd": Layout("img", "inst", split="val.txt"),
    "coco-mval": Layout("img", "gt"),
}
"""GrabCut (50 images), Berkeley (100 objects), DAVIS-345 (345 frames), SBD, COCO_MVal (800)."""


class InteractiveDataset(FolderDataset):
    """One of the datasets of `LAYOUTS`, in its folder."""

    def __init__(
        self, name: str, root: Path, limit: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._layout = LAYOUTS[name]
        self.format_name = name
        super().__init__(root, limit, max_pixels)
        self.name = name

    def parser(self) -> AnnotationParser:
        """Returns the function that reads the mask of an image."""
        return partial(_parse, self._layout, self.max_pixels)

    def locate(self) -> Iterator[Entry]:
        """Finds images and masks, which have the same names."""
        layout = self._layout
        for part in filter(None, (layout.images, layout.masks, layout.split)):
            if not (self.root / part).exists():
                parts = f"{layout.images}/ and {layout.masks}/"
                wanted = f"{layout.split}, {parts}" if layout.split else parts
                raise DataError(
                    f"{self.root / part} does not exist; --dataset {self.format_name} needs the "
                    f"folder with {wanted} as --root"
                )
        suffixes = (".mat",) if layout.split else IMAGE_SUFFIXES
        images, masks = (
            {
                stem_below(path, self.root / folder): path
                for path in find_files(self.root / folder, of)
            }
            for folder, of in ((layout.images, IMAGE_SUFFIXES), (layout.masks, suffixes))
        )
        names: Iterable[str] = [*images, *(name for name in masks if name not in images)]
        if layout.split:
            text = read_file(self.root / layout.split).decode(errors="replace")
            names = dict.fromkeys(filter(None, map(str.strip, text.splitlines())))
        for name in names:
            image, mask = images.get(name), masks.get(name)
            missing = "its image is missing" if image is None else "its mask is missing"
            problem = missing if image is None or mask is None else ""
            shown = next((self.relative(path) for path in (image, mask) if path), name)
            yield Entry(shown, image, () if mask is None else (mask,), problem)


def _parse(
    layout: Layout, max_pixels: int, entry: Entry, load: ImageLoader
) -> tuple[UInt8Array, Iterable[FoundObject]]:
    (path,) = entry.files
    if layout.split:
        labels = _read_sbd(path)
        masks = {f"object {value}": labels == value for value in np.unique(labels[labels > 0])}
    else:
        labels = _read_levels(path, max_pixels)
        masks = {"object": labels > layout.above}
    is_ignored = labels == layout.ignore
    ignored = encode_mask(is_ignored) if is_ignored.any() else None
    image = load(entry.image, (labels.shape[0], labels.shape[1]))
    return image, [
        FoundObject(f"{path.name}: {name}", segmentation=encode_mask(mask), ignored=ignored)
        for name, mask in masks.items()
    ]


def _read_levels(path: Path, max_pixels: int) -> Int64Array:
    """Largest of the three colours of each pixel, (H, W)."""
    with opened_bitmap(read_file(path), path.name, max_pixels) as picture:
        if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise DataError(f"{path.name} has pixels of mode {picture.mode}; save it with 8 bits")
        levels: Int64Array = np.asarray(picture.convert("RGB")).max(axis=2).astype(np.int64)
    return levels


def _read_sbd(path: Path) -> Int64Array:
    """Ids of objects, (H, W), of a file of SBD."""
    from scipy.io import loadmat

    def convert(error: Exception) -> DataError:
        return DataError(f"{path.name} is no file of SBD with GTinst: {error}")

    with foreign_call(convert):
        labels = loadmat(path)["GTinst"][0, 0]["Segmentation"]
        return np.asarray(labels).astype(np.int64)
