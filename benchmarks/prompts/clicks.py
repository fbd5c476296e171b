"""Clicks of a simulated user, who corrects the largest error of a prediction."""

from __future__ import annotations

import numpy as np

from baselines.interface import BoolArray, Float32Array
from benchmarks.datasets.masks import deepest_pixel
from mobilesam.errors import DataError


def next_click(
    prediction: BoolArray, reference: BoolArray, clicked: Float32Array | None = None
) -> tuple[int, int, int] | None:
    """Chooses the next click by the usual protocol of interactive segmentation (RITM, SAM).

    The click goes to the pixel deepest inside either kind of error region, false negatives (in the
    reference only) or false positives (in the prediction only); see `deepest_pixel`. Ties: false
    negatives first. As in RITM, no pixel is clicked twice: a clicked pixel is excluded, but still
    counts as part of its error region.

    Args:
        prediction: (H, W) bool.
        reference: (H, W) bool.
        clicked: (K, 2) xy of the clicks so far, in pixels; None before the first click.

    Returns:
        x, y and label: 1 (foreground) for a false negative, 0 (background) for a false positive.
        None if no pixel is wrong, or if all wrong pixels have been clicked.

    Raises:
        DataError: The masks differ in shape, or are not boolean.
    """
    is_bool = prediction.dtype == np.bool_ and reference.dtype == np.bool_
    if prediction.shape != reference.shape or not is_bool:
        raise DataError(
            f"a click needs two bool masks of one shape; got {prediction.dtype} "
            f"{prediction.shape}, {reference.dtype} {reference.shape}"
        )
    # For booleans, a > b computes a & ~b in one pass.
    missed = deepest_pixel(reference > prediction, clicked)
    wrong = deepest_pixel(prediction > reference, clicked)
    if wrong is not None and (missed is None or wrong[2] > missed[2]):
        return wrong[0], wrong[1], 0
    return None if missed is None else (missed[0], missed[1], 1)
