from __future__ import annotations

import numpy as np
import pytest

from mobilesam.errors import DataError
from mobilesam.inputs import check_image


def test_image_that_is_no_array_is_refused() -> None:
    with pytest.raises(DataError, match="not a list"):
        check_image([[0]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3)),
    ],
)
def test_array_that_is_no_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"\(H, W, 3\) uint8"):
        check_image(image)
