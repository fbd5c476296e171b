"""Reads a picture of any usual kind as RGB, or says in one line why it cannot."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from baselines.interface import UInt8Array
from mobilesam.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are unpacked (300 MB as RGB)."""

# Only plain bitmaps: some of Pillow's other readers start foreign programs.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")

_ORIENTATION_TAG = 0x0112

# What Pillow's readers raise on broken files, found by fuzzing them.
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError,
    TypeError, OverflowError, MemoryError,
)  # fmt: skip


def load_image(
    source: Path | bytes, name: str, size_hw: tuple[int, int] | None = None
) -> UInt8Array:
    """Reads one picture as RGB.

    The EXIF orientation is applied. Transparent pixels are laid over white, as a viewer shows
    them. 16-bit grey keeps its upper eight bits. Of an animation the first frame is taken.

    Args:
        source: The file, or its bytes.
        name: What to call it in an error.
        size_hw: Height and width that its annotations were made for. Where they fit the stored
            pixels but not the turned picture, the stored pixels are what was annotated.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        DataError: Missing, empty, cut off, corrupt, not a picture, too large, or not of `size_hw`.
    """
    data = _read(source, name)
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of sizes; what matters of it is checked here.
        warnings.simplefilter("ignore")
        pixels, orientation = _decode(data, name)
    turned = _turn(pixels, orientation)
    if size_hw is None or turned.shape[:2] == size_hw:
        return np.ascontiguousarray(turned)
    if pixels.shape[:2] == size_hw:
        return pixels
    raise DataError(
        f"{name} is {turned.shape[1]}x{turned.shape[0]} px, but its annotations are for "
        f"{size_hw[1]}x{size_hw[0]} px; use the images that belong to these annotations"
    )


def _read(source: Path | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        data = source
    else:
        try:
            data = source.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the image {name}: {error.strerror}") from error
    if not data:
        raise DataError(f"the image {name} is empty (0 bytes); fetch it again")
    return data


def _decode(data: bytes, name: str) -> tuple[UInt8Array, int]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(
                    f"the image {name} has {picture.width}x{picture.height} px, more than "
                    f"{MAX_PIXELS:,}; make it smaller"
                )
            picture.load()
            return _to_rgb(picture, name), _orientation(picture)
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image that can be read ({len(data)} bytes)") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"the image {name} has more than {MAX_PIXELS:,} px") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"the image {name} is corrupt or cut off: {reason}") from error


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or the metadata is broken."""
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turn(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """Undoes the camera's orientation: 5 to 8 swap the sides, the others only flip."""
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return turned[::rows, ::columns]


def _to_rgb(picture: Image.Image, name: str) -> UInt8Array:
    from PIL import Image

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
