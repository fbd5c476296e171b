"""Pictures for the report's gallery: where images come from, and masks as outlines."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baselines.interface import BoolArray, UInt8Array
from benchmarks.datasets import photos
from benchmarks.datasets.images import load_image
from benchmarks.datasets.masks import tight_box
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.records.statistics import Float64Array
from mobilesam.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
_QUALITIES = ((640, 82), (512, 78), (416, 72), (320, 62), (224, 50))
"""Longest side in pixels and JPEG quality, best first: the first that fits the budget is taken."""
_STEP_PX = 1.6
"""Distance of neighbouring points of an outline, in pixels of the picture that is shown."""
_SPACING_PX = 0.7
"""Distance of neighbouring points of a contour of a bool mask, in pixels of the image."""
_NUMBER = re.compile(r"(\d+)$")
_SYNTHETIC = re.compile(
    r"synthetic:seed=(\d+),n=(\d+)(?:,size=(\d+)x(\d+))?(?:,objects=(\d+)-(\d+))?"
)


def scenes_of(dataset: str, fingerprint: str) -> SyntheticDataset | None:
    """The dataset of drawn scenes of that name, to be rendered again; None for any other name.

    Raises:
        DataError: This version draws other scenes than those that were measured.
    """
    match = _SYNTHETIC.fullmatch(dataset)
    if match is None:
        return None
    seed, n, height, width, fewest, most = (None if g is None else int(g) for g in match.groups())
    options: dict[str, tuple[int, int]] = {}
    if height is not None and width is not None:
        options["size_hw"] = (height, width)
    if fewest is not None and most is not None:
        options["n_objects"] = (fewest, most)
    scenes = SyntheticDataset(n or 0, seed or 0, **options)
    if scenes.fingerprint != fingerprint:
        raise DataError(f"{dataset} was drawn by another version of this suite; measure it anew")
    return scenes


def photos_of(dataset: str, fingerprint: str) -> Path | None:
    """Folder of the packaged photos if a dataset has their name; None for any other name.

    Raises:
        DataError: The photos in this version differ from those that were measured.
    """
    if dataset != photos.PHOTOS:
        return None
    if not photos.is_packaged(fingerprint):
        raise DataError(
            f"the photos were measured with another version of this suite; measure {dataset} anew"
        )
    return photos.images_folder()


class Images:
    """Images of a dataset by their id: from a folder, or drawn again.

    A file belongs to the image whose id its name ends with, as in COCO (`000000000139.jpg`) and
    in SA-1B (`sa_223750.jpg`).

    Args:
        folder: Holds the files; None for drawn scenes.
        scenes: The drawn scenes; None for files.

    Raises:
        DataError: The folder cannot be read, or two files end with the same number.
    """

    def __init__(self, folder: Path | None, scenes: SyntheticDataset | None) -> None:
        self._scenes = scenes
        self._files = {} if folder is None else _numbered(folder)

    def get(self, image_id: int, size_hw: tuple[int, int]) -> tuple[str, UInt8Array]:
        """Name and (H, W, 3) uint8 RGB pixels of an image.

        Raises:
            DataError: There is no such file, it cannot be read, or is not of the size of its masks.
        """
        if self._scenes is not None:
            return f"scene_{image_id:06d}.png", self._scenes.scene(image_id).image
        path = self._files.get(image_id)
        if path is None:
            raise DataError(f"no file in the folder ends with its number, {image_id}")
        return path.name, load_image(path, path.name, size_hw)


def _numbered(folder: Path) -> dict[int, Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise DataError(f"--images {folder}: {error.strerror or error}") from error
    found: dict[int, Path] = {}
    for path in paths:
        match = _NUMBER.search(path.stem)
        if match is None:
            continue
        if int(match[1]) in found:
            raise DataError(
                f"--images {folder}: {found[int(match[1])].name} and {path.name} end with the same "
                "number, so that it is not clear which of them was measured"
            )
        found[int(match[1])] = path
    return found


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the page holds it.

    Attributes:
        name: File name.
        uri: JPEG as a data URI.
        width_px: Of the JPEG.
        height_px: Of the JPEG.
        scale: Pixels of the JPEG per pixel of the original.
    """

    name: str
    uri: str
    width_px: int
    height_px: int
    scale: float


def shrink(images: Mapping[int, tuple[str, UInt8Array]], budget_bytes: int) -> dict[int, Picture]:
    """Downscales and compresses images until all of them fit.

    Args:
        images: Name and pixels by image id.
        budget_bytes: Most characters of all data URIs together; the coarsest setting is taken
            where none is enough.
    """
    found: dict[int, Picture] = {}
    for side_px, quality in _QUALITIES:
        found = {}
        used = 0
        for image_id, (name, pixels) in images.items():
            found[image_id] = _picture(name, pixels, side_px, quality)
            used += len(found[image_id].uri)
            if used > budget_bytes:
                break
        else:
            return found
    return {i: _picture(name, pixels, *_QUALITIES[-1]) for i, (name, pixels) in images.items()}


def _picture(name: str, pixels: UInt8Array, side_px: int, quality: int) -> Picture:
    from PIL import Image

    height, width = pixels.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(name, uri, *size, scale)


def mask_path(mask: BoolArray, scale: float) -> str:
    """Outline of an (H, W) bool mask as the `d` of an SVG path, holes included (even-odd).

    Args:
        mask: At the image's own size.
        scale: Pixels of the picture per pixel of the image.

    Returns:
        Coordinates in pixels of the picture, to a tenth; empty for an empty mask.
    """
    from skimage.measure import find_contours

    box = tight_box(mask)
    if box is None:
        return ""
    x0, y0, x1, y1 = box
    # A frame of background closes outlines that the image's border would cut open.
    padded = np.pad(mask[y0:y1, x0:x1], 1).astype(np.float32)
    parts = []
    for contour in find_contours(padded, 0.5):
        outline = _corners(contour[:-1], scale)
        if len(outline) < 3:
            continue
        # Row r of the padded crop is the centre of pixel row r + y0 - 1.
        points = (outline[:, ::-1] + (x0 - 0.5, y0 - 0.5)) * scale
        parts.append("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points.tolist()) + "Z")
    return "".join(parts)


def _corners(outline: Float64Array, scale: float) -> Float64Array:
    """A closed outline with fewer points: none on a line, none much nearer than a pixel shown.

    Args:
        outline: (N, 2) points, each half a pixel or so from the next.
        scale: Pixels of the picture per pixel of the image.
    """
    step = max(1, round(_STEP_PX / scale / _SPACING_PX))
    # Long straight runs, such as the edges of a box, keep their corners.
    corners = outline[_bends(outline)]
    outline = corners if len(corners) * step <= len(outline) else outline[::step]
    return outline[_bends(outline)]


def _bends(outline: Float64Array) -> BoolArray:
    """Which points of a closed outline do not lie on the line between their neighbours."""
    back, ahead = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
    found: BoolArray = np.abs(back[:, 0] * ahead[:, 1] - back[:, 1] * ahead[:, 0]) > 1e-9
    return found


def view_box(masks: Sequence[BoolArray], picture: Picture) -> tuple[float, float, float, float]:
    """The part of a picture around some masks: x, y, width and height, in its own shape.

    Args:
        masks: (H, W) bool at the image's own size; where all are empty, the whole is shown.
        picture: The picture.
    """
    boxes = [box for box in map(tight_box, masks) if box is not None]
    whole = (0.0, 0.0, float(picture.width_px), float(picture.height_px))
    if not boxes:
        return whole
    x0, y0 = (picture.scale * min(box[i] for box in boxes) for i in (0, 1))
    x1, y1 = (picture.scale * max(box[i] for box in boxes) for i in (2, 3))
    shape = picture.width_px / picture.height_px
    height = max(1.5 * (y1 - y0), 1.5 * (x1 - x0) / shape, picture.height_px / 6)
    if height >= picture.height_px:
        return whole
    width = shape * height
    left = min(max(0.0, (x0 + x1 - width) / 2), picture.width_px - width)
    top = min(max(0.0, (y0 + y1 - height) / 2), picture.height_px - height)
    return left, top, width, height
