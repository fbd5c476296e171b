from __future__ import annotations

import numpy as np
import pytest

from baselines.interface import MaskRecord, Masks
from mobilesam.errors import WeightsError


def test_masks_of_the_wrong_type_or_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="bool"):
        Masks(np.zeros((1, 1, 2, 2), np.uint8), np.zeros((1, 1), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scores"):
        Masks(np.zeros((1, 1, 2, 2), np.bool_), np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_masks_that_are_not_finite_are_refused(value: float) -> None:
    masks, scores = np.zeros((2, 1, 2, 2), np.bool_), np.ones((2, 1), np.float32)
    logits = np.zeros((2, 1, 3, 3), np.float32)
    Masks(masks, scores, logits)
    bad_scores, bad_logits = scores.copy(), logits.copy()
    bad_scores[1, 0] = bad_logits[1, 0, 2, 0] = value
    calls = (
        lambda: Masks(masks, bad_scores),
        lambda: Masks(masks, scores, bad_logits),
        lambda: MaskRecord(masks[0, 0], value, np.zeros(4, np.float32)),
    )
    for call in calls:
        with pytest.raises(WeightsError, match="NaN or infinity") as caught:
            call()
        assert "\n" not in str(caught.value)
