from __future__ import annotations

import torch
import torch.nn.functional as F

from mobilesam.fast.winograd import prepared


def test_a_tile_of_the_output_is_that_of_the_direct_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    tile = torch.randn(5, 6, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(7, 5, 3, 3, generator=generator, dtype=torch.float64)
    wide, (into, back) = prepared(weight, like=weight)
    found = back @ torch.einsum("ki,kio->ko", into @ tile.flatten(1).T, wide)
    torch.testing.assert_close(found.T.view(7, 4, 4), F.conv2d(tile, weight))
