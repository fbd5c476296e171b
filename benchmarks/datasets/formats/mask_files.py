"""Images and mask files: binary masks, maps of object ids, or one file an object."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from baselines.interface import UInt8Array
from benchmarks.datasets import MAX_PIXELS
from benchmarks.datasets.formats.folder import (
    IMAGE_SUFFIXES,
    AnnotationParser,
    Entry,
    FolderDataset,
    FoundObject,
    ImageLoader,
    by_key,
    find_files,
    stem_below,
)
from benchmarks.datasets.formats.label_maps import read_label_map
from benchmarks.datasets.masks import encode_mask
from mobilesam.errors import DataError, UsageError

IMAGE_FOLDERS = ("images", "image", "img", "imgs", "jpegimages", "data_gt", "rgb")
MASK_FOLDERS = (
    "masks", "mask", "gt", "ground_truth", "groundtruth", "annotations", "instances", "inst",
    "labels", "segmentations", "boundary_gt",
)  # fmt: skip
_MASK_NAME = re.compile(
    r"[_.-](mask|gt|seg|segmentation|label|labels|instances?)([_.-]?\d+)?$", re.I
)
_TOP = 255


class MasksDataset(FolderDataset):
    """Images in `images/` and masks of the same names in `masks/`, or both in one folder.

    - A file whose pixels have one value besides 0 is a binary mask.
    - A file with several values is a map of object ids, each value an object.
    - Several files of an image, `NAME_1.png` or `NAME/1.png`, each hold their own objects; so do
      all files in `NAME/masks` if the image is `NAME/images/NAME.png`.

    Other usual names of the folders are known too (`img`, `gt`, `annotations`, ...), at any depth,
    and the folders may be given. `ignore` is a value of pixels that are neither object nor
    background. A grey level of 255 among others means soft edges or undecided pixels, so such a
    file is refused unless `ignore` leaves one value.
    """

    format_name = "masks"

    def __init__(
        self,
        root: Path,
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
        *,
        masks: Path | None = None,  # then `root` is the folder of the images
        ignore: int | None = None,
        ids_16_bit: bool = False,
    ) -> None:
        top = 65535 if ids_16_bit else 255
        if ignore is not None and not 0 < ignore <= top:
            raise UsageError(f"--ignore is a value of pixels, 1 to {top}; got {ignore}")
        for each in (root, masks):
            if each is not None and not each.is_dir():
                raise DataError(f"{each} is not a folder of images and masks")
        self._masks = None if masks is None else masks.absolute()
        self._ignore, self._ids_16_bit = ignore, ids_16_bit
        super().__init__(root, limit, max_pixels)

    @property
    def settings(self) -> str:
        """Ignored value, and whether ids may have 16 bits."""
        return f"{self._ignore} {self._ids_16_bit}"

    def parser(self) -> AnnotationParser:
        """Returns the function that reads the masks of an image."""
        return partial(_parse, self.max_pixels, self._ignore, ids_16_bit=self._ids_16_bit)

    def locate(self) -> Iterator[Entry]:
        """Finds images and masks, and pairs them by their names."""
        images, masks = (
            find_pairs(self.root)
            if self._masks is None
            else tuple(
                by_key(
                    (stem_below(path, folder), path) for path in find_files(folder, IMAGE_SUFFIXES)
                )
                for folder in (self.root, self._masks)
            )
        )
        of_image: dict[str, list[Path]] = {key: [] for key in images}
        for key, path in masks.items():
            found = _image_key(key, images)
            if found is None:
                name = self.relative(path)
                yield Entry(name, None, (), "the mask has no image of the same name")
            else:
                of_image[found].append(path)
        for key, path in images.items():
            files = tuple(of_image[key])
            yield Entry(self.relative(path), path, files, "" if files else "its mask is missing")


def find_pairs(root: Path) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
    """Image and mask files below a folder by path, without suffix and name of their folder."""
    images: list[tuple[str, Path]] = []
    masks: list[tuple[str, Path]] = []
    files = find_files(root, IMAGE_SUFFIXES)
    photos = {path.with_suffix("") for path in files if path.suffix.lower() in (".jpg", ".jpeg")}
    has_mask_folder = any(
        part.lower() in MASK_FOLDERS for path in files for part in path.relative_to(root).parts[:-1]
    )
    for path in files:
        parts = path.relative_to(root).with_suffix("").parts
        known = [
            index
            for index, part in enumerate(parts[:-1])
            if part.lower() in (*IMAGE_FOLDERS, *MASK_FOLDERS)
        ]
        # The innermost such folder says what the file is.
        folder = parts[known[-1]].lower() if known else ""
        key = "/".join(part for index, part in enumerate(parts) if index not in known[-1:])
        is_mask = folder in MASK_FOLDERS
        if not known and not has_mask_folder:  # images and masks in one folder
            is_png = path.suffix.lower() not in (".jpg", ".jpeg")
            is_mask = _MASK_NAME.search(path.stem) is not None or (
                is_png and path.with_suffix("") in photos
            )
        elif not known:
            is_mask = False
        (masks if is_mask else images).append((key, path))
    return by_key(images), by_key(masks)


def _image_key(key: str, images: Mapping[str, Path]) -> str | None:
    """The image of a mask: of the same path, of its folder, or of the longest beginning."""
    folder, _, name = key.rpartition("/")
    cuts = reversed([match.start() for match in re.finditer(r"[_.-]", name)])
    candidates = [
        key,
        folder,
        f"{folder}/{PurePosixPath(folder).name}",  # ID/masks/N.png of ID/images/ID.png
        *(f"{folder}/{name[:cut]}" if folder else name[:cut] for cut in cuts),
    ]
    return next((each for each in candidates if each in images), None)


def _parse(
    max_pixels: int, ignore: int | None, entry: Entry, load: ImageLoader, *, ids_16_bit: bool
) -> tuple[UInt8Array, Iterable[FoundObject]]:
    image = load(entry.image, None)
    found: list[tuple[Path, tuple[int, int], list[FoundObject]]] = []
    objects: list[FoundObject] = []
    for path in entry.files:
        try:
            size_hw, of_file = _read(path, max_pixels, ignore, ids_16_bit=ids_16_bit)
        except DataError as error:
            if len(entry.files) == 1:
                raise
            objects.append(FoundObject(path.name, problem=str(error)))
            continue
        found.append((path, size_hw, of_file))
    sizes = [size_hw for _, size_hw, _ in found]
    if sizes and image.shape[:2] not in sizes:
        image = load(entry.image, sizes[0])  # as stored, or the error about two sizes
    for path, size_hw, of_file in found:
        if size_hw == image.shape[:2]:
            objects += of_file
        else:
            problem = (
                f"the mask is {size_hw[1]}x{size_hw[0]} px, and its image "
                f"{image.shape[1]}x{image.shape[0]} px"
            )
            objects.append(FoundObject(path.name, problem=problem))
    return image, objects


def _read(
    path: Path, max_pixels: int, ignore: int | None, *, ids_16_bit: bool
) -> tuple[tuple[int, int], list[FoundObject]]:
    """Size and objects of one mask file."""
    labels = read_label_map(path, path.name, max_pixels, ids_16_bit=ids_16_bit)
    ignored = None
    if ignore is not None and (is_ignored := labels == ignore).any():
        ignored = encode_mask(is_ignored)
        labels[is_ignored] = 0
    values = [int(value) for value in np.unique(labels) if value > 0]
    if len(values) > 1 and values[-1] == _TOP and not ids_16_bit:
        raise DataError(
            f"{path.name} has values {', '.join(map(str, values[:4]))}, "
            f"... up to {_TOP}: a binary mask with soft edges, or undecided "
            "pixels? Threshold it, or name the value to leave out with --ignore"
        )
    size_hw = labels.shape[0], labels.shape[1]
    where = path.name
    objects = [
        FoundObject(
            f"{where}: object {value}", segmentation=encode_mask(labels == value), ignored=ignored
        )
        for value in values
    ]
    # An empty mask is counted as an object without a pixel.
    return size_hw, objects or [FoundObject(where, segmentation=encode_mask(labels > 0))]
