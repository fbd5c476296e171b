"""Models of Hugging Face transformers: the same masks as the library's own pipeline."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.fast_sam import import_ultralytics
from baselines.interface import LogitMasks, ModelOptions, Prompts
from baselines.registry import build, entries
from benchmarks.latency.parameters import count
from mobilesam.errors import DataError, UsageError, WeightsError, WeightsUnavailableError

transformers = pytest.importorskip("transformers")
import small_transformers  # noqa: E402

from baselines import hugging_face  # noqa: E402
from baselines.hugging_face import HuggingFaceSegmenter  # noqa: E402

NAMES = [name for name, entry in entries().items() if "hugging_face" in entry.target]
HW = (90, 140)
POINTS = np.array([[[30.0, 20.0], [100.0, 70.5]], [[5.0, 80.0], [139.0, 0.0]]], np.float32)
LABELS = np.array([[1, 0], [1, 1]])
BOXES = np.array([[10.0, 12.5, 80.0, 60.0], [0.0, 0.0, 140.0, 90.0]], np.float32)


@cache
def adapter_and_pipeline(kind: str) -> tuple[HuggingFaceSegmenter, Any]:
    """A small model of a class with random weights, and the library's processor for it."""
    processor_class = small_transformers.SMALL[kind]()[2]
    model = small_transformers.build(kind, "small")
    assert isinstance(model, HuggingFaceSegmenter)
    return model, processor_class(small_transformers.image_processor(kind)())


@cache
def embedding_of(kind: str) -> Any:
    model, _ = adapter_and_pipeline(kind)
    return model.encode(model.prepare(image()))


def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (*HW, 3), dtype=np.uint8)


def pipeline(kind: str, prompts: dict[str, Any], *, multimask: bool) -> tuple[Any, Any, Any]:
    """Masks, scores and logits as the library's documentation computes them."""
    model, processor = adapter_and_pipeline(kind)
    inputs = processor(images=image(), return_tensors="pt", **prompts)
    sizes = [inputs.pop(name, None) for name in ("original_sizes", "reshaped_input_sizes")]
    inputs = {
        name: value.float() if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with torch.no_grad():
        found = model.model(**inputs, multimask_output=multimask)
    sizes = [size for size in sizes if size is not None]
    (masks,) = processor.post_process_masks(found.pred_masks, *sizes)
    return masks.numpy(), found.iou_scores[0].numpy(), found.pred_masks[0].numpy()


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("asked", ["points", "boxes", "both"])
@pytest.mark.parametrize("kind", small_transformers.SMALL)
def test_masks_are_those_of_the_documented_pipeline(kind: str, asked: str, multimask: bool) -> None:
    given: dict[str, Any] = {}
    prompts: dict[str, Any] = {}
    if asked != "boxes":
        given |= {"points": POINTS, "labels": LABELS}
        prompts |= {"input_points": [POINTS.tolist()], "input_labels": [LABELS.tolist()]}
    if asked != "points":
        given["boxes"] = BOXES
        prompts["input_boxes"] = [BOXES.tolist()]
    masks, scores, logits = pipeline(kind, prompts, multimask=multimask)

    model, _ = adapter_and_pipeline(kind)
    embedding = embedding_of(kind)
    found = model.decode(embedding, Prompts(**given), multimask=multimask)
    assert found.low_res_logits is not None
    np.testing.assert_allclose(found.low_res_logits, logits, atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    assert (found.masks != masks).mean() < 1e-4


@pytest.mark.parametrize("kind", small_transformers.SMALL)
def test_each_prompt_can_have_a_mask_of_its_own(kind: str) -> None:
    model, _ = adapter_and_pipeline(kind)
    embedding = embedding_of(kind)
    side = model._mask_hw[0]
    masks = np.random.default_rng(5).normal(size=(2, 1, side, side)).astype(np.float32)
    together = model.decode(embedding, Prompts(boxes=BOXES, mask_inputs=masks))
    for index in range(2):
        prompt = Prompts(boxes=BOXES[index : index + 1], mask_inputs=masks[index : index + 1])
        alone = model.decode(embedding, prompt)
        np.testing.assert_allclose(alone.scores[0], together.scores[index], atol=1e-5)
    bare = model.decode(embedding, Prompts(boxes=BOXES))
    assert not np.allclose(bare.low_res_logits, together.low_res_logits, atol=1e-4)


@pytest.mark.parametrize("kind", small_transformers.SMALL)
def test_consecutive_calls_with_boxes_give_the_same(kind: str) -> None:
    """The library once changed its weights in a call with boxes (transformers issue 42172)."""
    model, _ = adapter_and_pipeline(kind)
    embedding = embedding_of(kind)
    first = model.decode(embedding, Prompts(boxes=BOXES))
    second = model.decode(embedding, Prompts(boxes=BOXES))
    assert np.array_equal(first.masks, second.masks)
    assert np.array_equal(first.scores, second.scores)


def test_an_unstable_single_mask_is_the_best_of_three() -> None:
    model, _ = adapter_and_pipeline("sam2")
    embedding = embedding_of("sam2")
    single = model.decode(embedding, Prompts(boxes=BOXES))
    several = model.decode(embedding, Prompts(boxes=BOXES), multimask=True)
    decoder = model.model.mask_decoder
    decoder.dynamic_multimask_via_stability = False
    try:
        plain = model.decode(embedding, Prompts(boxes=BOXES))
    finally:
        decoder.dynamic_multimask_via_stability = True
    best = several.scores.argmax(1)
    for row in range(2):
        logits = plain.low_res_logits[row, 0]
        stable = (logits > 0.05).sum() >= 0.98 * (logits > -0.05).sum()
        wanted = plain.scores[row, 0] if stable else several.scores[row, best[row]]
        assert single.scores[row, 0] == pytest.approx(wanted)
    assert single.object_scores is not None
    assert single.object_scores.shape == (2,)
    assert "stability" in model.info.note


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_the_image_path(name: str) -> None:
    model = build(entries()[name], entries()[name].options(device="meta"))
    parameters = [each for part in model.modules().values() for each in part.parameters()]
    assert sum(each.numel() for each in parameters) == entries()[name].parameters


@pytest.mark.parametrize("name", ["sam2.1-t", "sam-hq-vit-b", "slimsam-77", "edgetam"])
def test_all_parameters_are_used(name: str) -> None:
    rows = {row.component: row for row in count(build(entries()[name], ModelOptions(name, "meta")))}
    assert rows["all"].used == rows["all"].total
    assert rows["image_encoder"].flops > 10**10


def test_metas_checkpoint_has_the_same_weights_under_other_names(tmp_path: Path) -> None:
    """ultralytics keeps the names of Meta's checkpoint."""
    import_ultralytics()  # without its side effects on the tests that follow
    from ultralytics.models.sam.build import _build_sam2

    model_class, config, _ = small_transformers.small_sam2()
    theirs = _build_sam2(
        encoder_embed_dim=8,
        encoder_stages=[1, 1, 2, 1],
        encoder_num_heads=1,
        encoder_global_att_blocks=[3],
        encoder_window_spec=[8, 4, 14, 7],
        encoder_backbone_channel_list=[64, 32, 16, 8],
    )
    torch.manual_seed(1)
    state = {name: torch.randn_like(value) * 0.1 for name, value in theirs.state_dict().items()}
    path = tmp_path / "sam2.1_hiera_small.pt"
    torch.save({"model": state}, path)
    ours = hugging_face._load(model_class, config, path)
    theirs.load_state_dict(state)
    pixels = torch.randn(1, 3, 1024, 1024)
    with torch.no_grad():
        found = ours.get_image_embeddings(pixels)
        wanted = theirs.forward_image(pixels)["backbone_fpn"]
    wanted[2] = wanted[2] + state["no_mem_embed"].reshape(1, -1, 1, 1)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    model_class, config, _ = small_transformers.small_sam2()
    state = model_class(config).state_dict()
    del state["mask_decoder.iou_token.weight"]
    path = tmp_path / "part.pt"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"1 missing keys, such as mask_decoder\.iou_token"):
        hugging_face._load(model_class, config, path)


def test_a_local_folder_is_a_model(tmp_path: Path) -> None:
    model, processor = adapter_and_pipeline("sam2")
    model.model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    name = f"hf:{tmp_path}"
    again = hugging_face.build_any(ModelOptions(name))
    assert again.info.name == name
    prepared = again.prepare(image())
    one = again.decode(again.encode(prepared), Prompts(boxes=BOXES))
    two = model.decode(model.encode(prepared), Prompts(boxes=BOXES))
    np.testing.assert_allclose(one.low_res_logits, two.low_res_logits, atol=1e-5)


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    transformers.ViTConfig().save_pretrained(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(UsageError, match=r"is a vit model; hf: takes checkpoints of .*sam2"):
        hugging_face.build_any(ModelOptions(f"hf:{tmp_path}"))


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match="neither a folder on this machine"):
        hugging_face.build_any(ModelOptions(f"hf:{tmp_path}/nothing"))


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_an_image_lies_in_the_mask_input_as_in_the_logits(kind: str) -> None:
    model, _ = adapter_and_pipeline(kind)
    frame = model.mask_frame(HW)
    embedding = model.encode(model.prepare(image()))
    logits = model.decode_logits(embedding, Prompts(boxes=BOXES[:1])).logits
    assert tuple(logits.shape[-2:]) == frame.input_hw
    drawn = torch.full_like(logits, -10.0)
    rows, columns = (length // 2 for length in frame.image_hw)
    drawn[..., :rows, :columns] = 10.0
    mask = model.postprocess(LogitMasks(drawn, torch.ones(1, 1), HW)).masks[0, 0]
    wanted = np.zeros(HW, bool)
    wanted[: HW[0] // 2, : HW[1] // 2] = True
    assert (mask != wanted).mean() < 0.06


@pytest.mark.parametrize("kind", small_transformers.SMALL)
def test_an_embedding_of_another_shape_is_refused(kind: str) -> None:
    model, _ = adapter_and_pipeline(kind)
    embedding = embedding_of(kind)
    arrays = dict(model.embedding_arrays(embedding))
    again = model.embedding_from(arrays, HW)
    for mine, theirs in zip(again.payload, embedding.payload, strict=True):
        assert torch.equal(mine, theirs)
    first = arrays["features0"]
    for wrong in (
        {},
        {**arrays, "features0": first[:, :, :-1]},
        {**arrays, "features0": first.astype(np.float64)},
        {**arrays, "more": first},
        {f"x{key}": value for key, value in arrays.items()},
    ):
        with pytest.raises(DataError, match=r"not an embedding of small: wanted \(1, .*float32"):
            model.embedding_from(wrong, HW)
