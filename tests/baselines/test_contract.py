"""What every registered model keeps to, whatever it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_transformers
import torch
import torch.nn.functional as F
from small_export import tiny_sam
from torch import nn

from baselines.interface import (
    BatchEncoder,
    Embedding,
    Masks,
    ModelOptions,
    Prompts,
    Segmenter,
    SplitDecoder,
    StorableEmbedding,
)
from baselines.registry import build, entries
from baselines.sam import DECODE_BATCH, SamSegmenter
from mobilesam.errors import DataError, UnsupportedError, UsageError
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.weights.cache import CACHE_ENV

# Half a minute an image is no unit test. The SAMs keep their adapter, prompt encoder and decoder,
# but get an encoder that only shrinks the picture; FastSAM-x is FastSAM-s with wider layers, and so
# are the larger EfficientViT-SAMs. Models of transformers are small ones of the same classes;
# MobileSAM and TinySAM are small, too, also as exported.
SAMS = ("sam-vit-h", "sam-vit-l", "sam-vit-b")
SMALL_TRANSFORMERS = {
    "sam2.1-t": "sam2",
    "sam3-tracker": "sam3_tracker",
    "sam-hq-vit-b": "sam_hq",
    "slimsam-77": "sam",
}
DOCUMENTED = "my-boxes"
MODELS = [
    *(
        name
        for name, entry in entries().items()
        if not entry.missing()
        and (name in SMALL_TRANSFORMERS or "hugging_face" not in entry.target)
        and (name == "efficientvit-sam-l0" or not name.startswith("efficientvit-sam"))
        and name != "fastsam-x"
    ),
    DOCUMENTED,
]
SIZES = {"landscape": (30, 50), "portrait": (50, 30), "pixel": (1, 1), "strip": (3, 64)}


class Shrink(nn.Module):
    """(1, 3, 1024, 1024) -> (1, 256, 64, 64): as many values, and as cheap as can be."""

    img_size = 1024

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 16).repeat(1, 86, 1, 1)[:, :256]


def documented() -> Segmenter:
    """The adapter that CONTRIBUTING.md shows, out of its text."""
    text = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)  # noqa: S102 - our own text
    model: Segmenter = names["build"](ModelOptions(DOCUMENTED))
    return model


@cache
def model_of(name: str) -> Segmenter:
    if name == DOCUMENTED:
        return documented()
    if name in SMALL_TRANSFORMERS:
        return small_transformers.build(SMALL_TRANSFORMERS[name], name)
    if name not in SAMS:
        return build(entries()[name], ModelOptions(name))
    shape = build(entries()[name], ModelOptions(name, device="meta"))
    torch.manual_seed(0)
    model = build_mobile_sam()
    model.image_encoder = Shrink()
    assert isinstance(shape, SamSegmenter)
    assert shape.model.prompt_encoder.embed_dim == model.prompt_encoder.embed_dim
    return type(shape)(model, ModelOptions(name), family="SAM")


@cache
def embedding_of(name: str, shape: str) -> Embedding:
    return model_of(name).encode(model_of(name).prepare(image_of(shape)))


@pytest.fixture(scope="module", autouse=True)
def small_mobilesam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_ENV, str(tmp_path_factory.mktemp("cache")))
        usual = "mobilesam.model.mobile_sam.build_mobile_sam"  # models of other shapes name them
        patch.setattr(usual, lambda *shape: build_mobile_sam(*shape) if shape else tiny_sam())
        patch.setattr("baselines.sam.build_mobile_sam", lambda _: tiny_sam())
        yield


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Segmenter:
    return model_of(request.param)


def image_of(shape: str) -> np.ndarray:
    height, width = SIZES[shape]
    rng = np.random.default_rng(7)
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    image[height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)] += 150
    return image


def prompts_of(model: Segmenter, boxes: list[list[float]]) -> Prompts:
    """The boxes, or their centres for a model that takes points alone."""
    corners = np.array(boxes, np.float32)
    if "boxes" in model.info.supports:
        return Prompts(boxes=corners)
    centres = (corners[:, None, :2] + corners[:, None, 2:]) / 2
    return Prompts(points=centres, labels=np.ones((len(boxes), 1), np.int64))


def ask(model: Segmenter, shape: str, prompts: Prompts, *, multimask: bool = False) -> Masks:
    embedding = embedding_of(model.info.name, shape)
    masks = model.decode(embedding, prompts, multimask=multimask)
    height, width = SIZES[shape]
    assert len(masks) == len(prompts)
    assert masks.masks.shape[2:] == (height, width)
    assert masks.masks.dtype == np.bool_
    assert masks.scores.dtype == np.float32
    assert np.isfinite(masks.scores).all()
    return masks


@pytest.mark.parametrize("shape", SIZES)
def test_masks_have_the_size_of_the_image(model: Segmenter, shape: str) -> None:
    height, width = SIZES[shape]
    ask(model, shape, prompts_of(model, [[0, 0, width, height]]))


def test_the_order_of_prompts_is_kept(model: Segmenter) -> None:
    boxes = [[5, 5, 25, 20], [30, 10, 48, 28], [5, 5, 25, 20], [12, 7, 37, 22]]
    forward = ask(model, "landscape", prompts_of(model, boxes))
    backward = ask(model, "landscape", prompts_of(model, boxes[::-1]))
    assert np.array_equal(forward.masks, backward.masks[::-1])
    np.testing.assert_allclose(forward.scores, backward.scores[::-1], atol=1e-5)
    assert np.array_equal(forward.masks[0], forward.masks[2])


def test_an_answer_does_not_depend_on_its_neighbours(model: Segmenter) -> None:
    boxes = [[5, 5, 25, 20], [30, 10, 48, 28], [12, 7, 37, 22]]
    together = ask(model, "landscape", prompts_of(model, boxes))
    for row, box in enumerate(boxes):
        alone = ask(model, "landscape", prompts_of(model, [box]))
        assert np.mean(alone.masks[0] != together.masks[row]) < 1e-3


@pytest.mark.parametrize(
    "box",
    [
        [-10, -10, 20, 15],
        [30, 20, 80, 60],
        [-5, -5, 90, 90],
        [200, 200, 240, 230],
        [10, 10, 11, 11],
    ],
    ids=["above-left", "below-right", "around", "outside", "one-pixel"],
)
def test_boxes_at_and_beyond_the_border(model: Segmenter, box: list[float]) -> None:
    ask(model, "landscape", prompts_of(model, [box]))


@pytest.mark.parametrize("n", [1, 2 * DECODE_BATCH + 1])
def test_any_number_of_prompts(model: Segmenter, n: int) -> None:
    rng = np.random.default_rng(n)
    low = rng.uniform(0, 20, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, 20, (n, 2))], axis=1)
    ask(model, "landscape", prompts_of(model, boxes.tolist()))


def test_no_prompts_give_an_empty_answer(model: Segmenter) -> None:
    one, none = prompts_of(model, [[5, 5, 25, 20]]), prompts_of(model, [[5, 5, 25, 20]])[:0]
    embedding = embedding_of(model.info.name, "landscape")
    for multimask in (False, True):
        expected = ask(model, "landscape", one, multimask=multimask)
        same_but_empty(ask(model, "landscape", none, multimask=multimask), expected)
    pairs = zip(model.decode_pair(embedding, none), model.decode_pair(embedding, one), strict=True)
    for found, expected in pairs:
        same_but_empty(found, expected)
    if isinstance(model, SplitDecoder):
        same_but_empty(
            model.postprocess(model.decode_logits(embedding, none)), ask(model, "landscape", one)
        )


def same_but_empty(found: Masks, one: Masks) -> None:
    assert found.masks.shape == (0, *one.masks.shape[1:])
    assert found.scores.shape == (0, *one.scores.shape[1:])
    assert (found.low_res_logits is None) == (one.low_res_logits is None)
    if found.low_res_logits is not None and one.low_res_logits is not None:
        assert found.low_res_logits.shape == (0, *one.low_res_logits.shape[1:])


@pytest.mark.parametrize("size_hw", [(3000, 1), (1, 3000)])
def test_an_image_that_is_too_thin_is_answered_or_refused(
    model: Segmenter, size_hw: tuple[int, int]
) -> None:
    image = np.zeros((*size_hw, 3), np.uint8)
    prompts = prompts_of(model, [[0, 0, size_hw[1], size_hw[0]]])
    # It works on the image as it is, or as a square.
    if not model.info.input_size_px or getattr(model, "_square", False):
        assert model.decode(model.encode(model.prepare(image)), prompts).masks.shape[2:] == size_hw
        return
    calls = [lambda: model.prepare(image)]
    if "everything" in model.info.supports:
        calls.append(lambda: model.everything(image))  # type: ignore[arg-type, return-value]
    for call in calls:
        with pytest.raises(DataError, match=r"3000.*too thin") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_batch_of_images_has_the_embeddings_of_each(model: Segmenter) -> None:
    if not isinstance(model, BatchEncoder):
        pytest.skip(f"{model.info.name} encodes one image at a time")
    assert isinstance(model, StorableEmbedding)
    shapes = ("landscape", "portrait")
    found = model.encode_batch([model.prepare(image_of(shape)) for shape in shapes])
    assert len(found) == len(shapes)
    for embedding, shape in zip(found, shapes, strict=True):
        alone = embedding_of(model.info.name, shape)
        assert (embedding.size_hw, embedding.model) == (SIZES[shape], model.info.name)
        arrays = model.embedding_arrays(embedding)
        for name, array in model.embedding_arrays(alone).items():
            scale = float(np.abs(array).max())
            np.testing.assert_allclose(arrays[name], array, rtol=0, atol=2e-5 * scale)
        prompts = prompts_of(model, [[1, 1, 2, 2]])
        masks = model.decode(embedding, prompts)
        np.testing.assert_allclose(masks.scores, model.decode(alone, prompts).scores, atol=1e-4)


def test_several_points_with_background(model: Segmenter) -> None:
    points = np.array([[[25, 15], [2, 2]], [[10, 10], [90, -4]]], np.float32)
    prompts = Prompts(points=points, labels=np.array([[1, 0], [1, 0]]))
    if "points" not in model.info.supports:
        with pytest.raises(UnsupportedError, match="takes no points"):
            ask(model, "landscape", prompts)
        return
    ask(model, "landscape", prompts)
    assert np.array_equal(points[1, 1], [90, -4])


def test_points_and_a_box_together(model: Segmenter) -> None:
    if not {"points", "boxes"} <= model.info.supports:
        pytest.skip(f"{model.info.name} takes {sorted(model.info.supports)} only")
    prompts = Prompts(
        points=np.array([[[25, 15]]], np.float32),
        labels=np.array([[1]]),
        boxes=np.array([[10, 5, 40, 25]], np.float32),
    )
    ask(model, "landscape", prompts)


def test_multimask_gives_one_or_three_candidates(model: Segmenter) -> None:
    prompts = prompts_of(model, [[5, 5, 25, 20], [30, 10, 48, 28]])
    assert ask(model, "landscape", prompts).masks.shape[1] == 1
    assert ask(model, "landscape", prompts, multimask=True).masks.shape[1] in (1, 3)


def test_the_same_question_has_the_same_answer(model: Segmenter) -> None:
    prompts = prompts_of(model, [[5, 5, 25, 20]])
    first, second = (ask(model, "landscape", prompts) for _ in range(2))
    assert np.array_equal(first.masks, second.masks)


def test_an_embedding_of_another_model_is_refused(model: Segmenter) -> None:
    """Trap 7: one model's embedding must not be answered as another's."""
    foreign = Embedding(None, (30, 50), "somebody-else")
    with pytest.raises(UsageError, match="made by somebody-else"):
        model.decode(foreign, prompts_of(model, [[5, 5, 25, 20]]))


def test_what_is_no_image_is_refused(model: Segmenter) -> None:
    with pytest.raises(DataError, match="uint8"):
        model.prepare(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]


def test_the_image_is_left_as_it_was(model: Segmenter) -> None:
    image = image_of("landscape")
    before = image.copy()
    model.encode(model.prepare(image))
    assert np.array_equal(image, before)


def test_info_says_what_it_is(model: Segmenter) -> None:
    info = model.info
    assert info.weights.kind == ("random" if model.modules() else "none")
    assert not info.weights.official
    assert info.decode_kind in ("decoder", "select", "classical")
    assert info.licence
    assert info.supports


@pytest.mark.parametrize("name", ["sam-vit-h", "fastsam-x"])
def test_large_models_are_built_as_shapes(name: str) -> None:
    shape = build(entries()[name], ModelOptions(name, device="meta"))
    assert shape.info.name == name
    assert all(tensor.is_meta for tensor in next(iter(shape.modules().values())).parameters())
