"""Reads image files of the usual bitmap formats as RGB."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from baselines.interface import UInt8Array
from benchmarks.datasets import MAX_PIXELS
from mobilesam.errors import DataError
from mobilesam.process_state import ignored_warnings

# Only plain bitmaps: some of Pillow's other readers start foreign programs.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
_ORIENTATION_TAG = 0x0112
# No bitmap needs more than four channels of 16 bits, besides a little for its headers.
_MAX_BYTES_PER_PIXEL = 8
_MAX_HEADER_BYTES = 2**24
_PILLOW_LIMIT = threading.Lock()
# Raised by Pillow's readers for damaged files, found by fuzzing.
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError,
    TypeError, OverflowError, MemoryError,
)  # fmt: skip


def load_image(
    source: Path | bytes,
    name: str,
    size_hw: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8Array:
    """Reads one image as (H, W, 3) uint8 RGB, a new array.

    The EXIF orientation is applied. Transparent pixels are composited on white. 16-bit grey keeps
    its upper eight bits. The first frame of an animation is used. If `size_hw`, the size of the
    annotations, matches the stored pixels but not the oriented image, the stored pixels are
    returned.

    Raises:
        DataError: Missing, empty, truncated, corrupt, not an image, too large (before it is
            decompressed), or not of `size_hw`.
    """
    if isinstance(source, bytes):
        data = source
    else:
        try:
            found = source.stat()
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"{name} is a folder, pipe or device, not an image")
            if found.st_size > _MAX_BYTES_PER_PIXEL * max_pixels + _MAX_HEADER_BYTES:
                raise DataError(
                    f"the image {name} has {found.st_size} bytes, more than {max_pixels:,} px can "
                    "need; make it smaller, or raise --max-pixels"
                )
            data = source.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: the name contains a null character
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"cannot read the image {name}: {reason}") from error
    if not data:
        raise DataError(f"the image {name} is empty (0 bytes); fetch it again")
    # Pillow warns about odd metadata and sizes; sizes are checked here.
    with ignored_warnings():
        pixels, orientation = _decode(data, name, max_pixels)
    # Orientations 5 to 8 swap the sides, the others only flip.
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    turned = turned[::rows, ::columns]
    if size_hw is None or turned.shape[:2] == size_hw:
        return np.ascontiguousarray(turned)
    if pixels.shape[:2] == size_hw:
        return pixels
    raise DataError(
        f"{name} is {turned.shape[1]}x{turned.shape[0]} px, but its annotations are for "
        f"{size_hw[1]}x{size_hw[0]} px; use the images that belong to these annotations"
    )


def small_jpeg(image: UInt8Array, side_px: int, quality: int) -> tuple[bytes, tuple[int, int]]:
    """JPEG file of an (H, W, 3) uint8 RGB image, made smaller if needed, and width and height."""
    height, width = image.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    buffer = BytesIO()
    picture = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue(), size


def files_state(files: Iterable[tuple[Path, str]]) -> str:
    """SHA-256 (hex) of folder, name, size and modification time of files in a fixed order."""
    digest = hashlib.sha256()
    folders: dict[Path, str] = {}
    for folder, name in files:
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        try:
            found = (folder / name).stat()
            state = f"{found.st_size} {found.st_mtime_ns}"
        except (OSError, ValueError):  # reported when the image is read
            state = "unreadable"
        line = json.dumps([folders[folder], name, state])
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def check_pixels(name: str, size_hw: tuple[int, int], max_pixels: int) -> None:
    """Raises `DataError` for an image of more than `max_pixels`."""
    height, width = size_hw
    if height * width > max_pixels:
        raise DataError(
            f"the image {name} has {width}x{height} px, more than {max_pixels:,}; make it smaller, "
            f"or allow it with --max-pixels {height * width}"
        )


@contextmanager
def opened_bitmap(data: bytes, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """Opens an image of at most `max_pixels`; Pillow's errors in the block become `DataError`."""
    try:
        with _PILLOW_LIMIT:  # Pillow's own limit is global; it is replaced while a header is read
            before = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = max_pixels
            try:
                opened = Image.open(BytesIO(data), formats=_FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = before
        with opened as picture:
            check_pixels(name, (picture.height, picture.width), max_pixels)
            yield picture
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image that can be read ({len(data)} bytes)") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"the image {name} has more than twice {max_pixels:,} px; make it smaller, or raise "
            "--max-pixels"
        ) from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"the image {name} is corrupt or cut off: {reason}") from error


def _decode(data: bytes, name: str, max_pixels: int) -> tuple[UInt8Array, int]:
    """Returns the stored pixels as RGB, and the EXIF orientation, 1 to 8."""
    with opened_bitmap(data, name, max_pixels) as picture:
        picture.load()
        pixels = _to_rgb(picture, name)
        try:
            orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
        except _BROKEN:
            orientation = 1
    is_valid = isinstance(orientation, int) and 1 <= orientation <= 8
    return pixels, orientation if is_valid else 1


def _to_rgb(picture: Image.Image, name: str) -> UInt8Array:
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        grey = np.clip(np.asarray(picture).astype(np.int64), 0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if picture.mode == "F":
        raise DataError(f"the image {name} holds floating-point pixels; save it with 8 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))
