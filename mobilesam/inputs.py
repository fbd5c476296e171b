"""Converts and checks arguments; imports torch only to check a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mobilesam.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
Size = tuple[int, int]  # height and width in pixels
Device: TypeAlias = "torch.device | str"


def as_array(values: Any, name: str) -> Array:
    """Converts an array, nested list, tensor or data frame to an array of numbers.

    The array may share memory with the values; `name` is for the UsageError about values that are
    ragged or no numbers. Imports neither torch nor pandas.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point():
            values = values.float()  # NumPy has no bfloat16
    elif isinstance(values, (list, tuple)):
        values = [as_array(each, name) if hasattr(each, "detach") else each for each in values]
    try:
        found = np.asarray(values)
        if found.dtype == np.object_:  # such as a data frame with columns of several types
            found = found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} must be numbers in equal rows; {error}") from error
    if found.dtype.kind not in "biuf":
        raise UsageError(f"{name} must be numbers; got {found.dtype}")
    return found


def check_image(image: Any) -> Size:
    """Height and width of an (H, W, 3) uint8 RGB image; raises a DataError if it is not one."""
    if not isinstance(image, np.ndarray):
        raise DataError(f"an image must be a numpy array, not a {type(image).__name__}")
    problem = f"an image must be (H, W, 3) uint8 RGB; got {image.dtype} {image.shape}"
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise DataError(f"{problem}: repeat the grey channel three times")
    if image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"{problem}: give its three colours in the last dimension")
    if image.size == 0:
        raise DataError(f"{problem}: it has no pixel")
    if image.dtype != np.uint8:
        raise DataError(f"{problem}: give values from 0 to 255 as uint8")
    return int(image.shape[0]), int(image.shape[1])


def check_resized(size_hw: Size, resized_hw: Size) -> None:
    """Raises a DataError for an image that loses its shorter side when resized for the network."""
    if min(resized_hw) < 1:
        height, width = size_hw
        raise DataError(
            f"an image of {width} x {height} pixels is too thin to resize: the network would see "
            "none of its shorter side; crop it"
        )


def resized_hw(size_hw: Size, side: int) -> Size:
    """Height and width of an image whose longer side is resized to `side`, all in pixels."""
    scale = side / max(size_hw)
    height, width = (int(length * scale + 0.5) for length in size_hw)
    return height, width


def resize_image(image: UInt8Array, side: int) -> UInt8Array:
    """Resizes (H, W, 3) bilinearly with Pillow, as segment-anything's `ResizeLongestSide`."""
    from PIL import Image

    height, width = resized_hw((image.shape[0], image.shape[1]), side)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)


def resize_points(points: Array, size_hw: Size, side: int) -> npt.NDArray[np.float64]:
    """Points (..., 2) xy of an image, float64 in pixels of the image as resized."""
    scales = np.divide(resized_hw(size_hw, side), size_hw)[::-1]
    return np.asarray(points, np.float64) * scales


def usable_device(device: Device) -> torch.device:
    """Raises a UsageError unless torch can use a device, such as `cpu`, `cuda:1` or `meta`."""
    import torch

    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    # Raised by torch for an unknown name, a build without the backend, and a missing driver.
    except (AssertionError, ImportError, NotImplementedError, RuntimeError) as error:
        reason = str(error).split("\n")[0].split(". ")[0].rstrip(".")
        raise UsageError(
            f"device {str(device)!r} cannot be used here: {reason}; use cpu"
        ) from error
    return found
