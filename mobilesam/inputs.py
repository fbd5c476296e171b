"""Converts and checks arguments; does not import torch, which exported models do not need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mobilesam.errors import DataError, UsageError


def as_array(values: Any, name: str) -> npt.NDArray[Any]:
    """Converts numbers to an array, without importing torch or pandas.

    Args:
        values: An array, a nested list, a tensor on any device, or a data frame.
        name: Name of the values, for an error.

    Returns:
        An array of a numeric or boolean dtype; it may share memory with `values`.

    Raises:
        UsageError: The values are ragged, or not numbers.
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


def check_resized(size_hw: tuple[int, int], resized_hw: tuple[int, int]) -> None:
    """Checks that an image has at least one pixel a side at the network's size.

    Args:
        size_hw: Height and width of the image, in pixels.
        resized_hw: Height and width after resizing for the network, in pixels.

    Raises:
        DataError: A resized side is less than one pixel long.
    """
    if min(resized_hw) < 1:
        height, width = size_hw
        raise DataError(
            f"an image of {width} x {height} pixels is too thin to resize: the network would see "
            "none of its shorter side; crop it"
        )
