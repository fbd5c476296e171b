"""Static quantisation of the encoder: calibration, ranges, and the graph that is exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.modeling import Sam
from small_export import tiny_sam

from mobilesam.errors import DataError, UsageError
from mobilesam.export.quantized import (
    SHIPPED,
    Int8EncoderGraph,
    Ranges,
    calibrate,
    find_ranges,
)


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, (40, 64, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def ranges(sam: Sam) -> Ranges:
    return calibrate(sam, images(2))


@torch.inference_mode()
def test_rounding_changes_the_embedding_by_little(sam: Sam, ranges: Ranges) -> None:
    pixels = sam.preprocess(torch.from_numpy(images(1)[0]).permute(2, 0, 1)[None].float())
    graph = Int8EncoderGraph(sam, ranges).eval()
    float_one, rounded = sam.image_encoder.eval()(pixels), graph(pixels)
    error = (rounded - float_one).norm() / float_one.norm()
    # Trained weights have 0.03; these are random, and few channels average little.
    assert 1e-3 < error < 0.2


def test_ranges_are_means_of_extremes(sam: Sam, ranges: Ranges) -> None:
    assert ranges.n_images == 2
    one, other = (calibrate(sam, [image]) for image in images(2))
    for name, found in ranges.layers.items():
        wanted = (one.layers[name].low + other.layers[name].low) / 2
        assert found.low == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert {
        "layers.1.blocks.0.attn.q",
        "layers.2.blocks.0.mlp.fc2",
        "neck.2",
    } <= ranges.layers.keys()
    # The first convolution and depthwise ones stay in float.
    assert not {"patch_embed.seq.0", "layers.1.blocks.0.local_conv"} & ranges.layers.keys()


def test_ranges_belong_to_weights(sam: Sam, ranges: Ranges) -> None:
    assert ranges.fits(sam.image_encoder)
    other = tiny_sam()
    other.image_encoder.neck[0].weight.data *= 1.1
    assert not ranges.fits(other.image_encoder)
    with pytest.raises(UsageError, match="those in this package are of other weights; give a fold"):
        find_ranges(sam, None)


def test_shipped_ranges_are_complete() -> None:
    shipped = Ranges.model_validate_json(SHIPPED.read_bytes())
    assert all(each.low < 0 < each.high for each in shipped.layers.values())
    assert sum(each.weight_rms is None for each in shipped.layers.values()) == 3 * 10


def test_folders_for_calibration(sam: Sam, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent is not a folder"):
        find_ranges(sam, tmp_path / "absent")
    with pytest.raises(UsageError, match=r"no image \(.bmp, .*\) in"):
        find_ranges(sam, tmp_path)
    for index, image in enumerate(images(3)):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    assert find_ranges(sam, tmp_path, 2).n_images == 2
    assert find_ranges(sam, tmp_path).n_images == 3
    with pytest.raises(UsageError, match="at least 1 image, not 0"):
        find_ranges(sam, tmp_path, 0)
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"calibration: cannot read .*0\.png"):
        find_ranges(sam, tmp_path)
