"""Every class that runs a model, shared by eight threads: the answers must be those of one thread.

Bit for bit, since a buffer that two threads compute in changes few pixels, and seldom.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from torch import Tensor

from baselines.classical import BoxSegmenter, GrabCutSegmenter
from baselines.dummy import DummySegmenter
from baselines.exported import ExportedSegmenter
from baselines.fast_sam import FastSamSegmenter
from baselines.fast_sam import build as build_fast_sam
from baselines.interface import LogitMasks, Prompts, Segmenter
from baselines.mask_selection import MaskSearch
from baselines.mobile_sam_fast import FastMobileSamSegmenter
from baselines.options import ModelOptions
from baselines.sam_like import SamSegmenter
from mobilesam.everything.filters import measure, without_small_regions
from mobilesam.everything.generator import AutomaticMaskGenerator, segment_boxes
from mobilesam.everything.point_grid import Crop
from mobilesam.export.runtime import Source
from mobilesam.export.runtime import Target as Runtime
from mobilesam.export.writer import export_model
from mobilesam.fast.decoder import FastDecoder
from mobilesam.fast.encoder import FastEncoder
from mobilesam.fast.inference import FastMobileSam, module_encoder
from mobilesam.fast.upsampling import Span, Upsampler, pictures
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.predictor import MobileSam

from .targets import Target

N_THREADS = 8
SIDE_PX = 128
LOW_PX = SIDE_PX // 4
GRID = SIDE_PX // 16
_CONFIG = TinyVitConfig(
    embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=SIDE_PX, n_classes=None
)
_TIMES = 3

Job = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A class under test.

    Attributes:
        name: Short.
        jobs: Makes calls of its public methods on one object from a generator; each must give the
            same answer whenever it is called.
    """

    name: str
    jobs: Callable[[np.random.Generator], Sequence[Job]]


def wrong_answers(jobs: Sequence[Job], *, times: int = _TIMES) -> list[int]:
    """Runs jobs in one thread, and then several times each in eight.

    Args:
        jobs: What is called.
        times: How often each is called by the eight threads.

    Returns:
        Indices of the jobs whose answer was another one, once for every such answer.
    """
    before, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-5)  # threads meet more often
    try:
        expected = [frozen(job()) for job in jobs]
        order = list(range(len(jobs))) * times
        with ThreadPoolExecutor(N_THREADS, initializer=partial(torch.set_num_threads, 1)) as pool:
            found = list(pool.map(lambda index: frozen(jobs[index]()), order))
    finally:
        torch.set_num_threads(before)
        sys.setswitchinterval(interval)
    pairs = zip(order, found, strict=True)
    return [index for index, answer in pairs if not same(answer, expected[index])]


def frozen(answer: Any) -> Any:
    """A copy of an answer that no later call can change."""
    if isinstance(answer, Tensor):
        return answer.detach().clone().numpy()
    if isinstance(answer, np.ndarray):
        return answer.copy()
    if isinstance(answer, Mapping):
        return {key: frozen(value) for key, value in answer.items()}
    if isinstance(answer, (list, tuple)):
        return [frozen(each) for each in answer]
    if is_dataclass(answer) and not isinstance(answer, type):
        return [frozen(getattr(answer, field.name)) for field in fields(answer)]
    return copy.deepcopy(answer)


def same(found: Any, expected: Any) -> bool:
    """Whether two answers of `frozen` are equal, bit for bit."""
    if isinstance(expected, np.ndarray):
        return (found.dtype, found.shape) == (expected.dtype, expected.shape) and (
            found.tobytes() == expected.tobytes()
        )
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            same(found[key], value) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


@cache
def small_sam() -> Sam:
    """MobileSAM for 128 px, with heads whose weights are large enough to tell prompts apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = build_mobile_sam(_CONFIG)
        for name, parameter in model.mask_decoder.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
    return model


def _image(rng: np.random.Generator, least: int = 20, most: int = 200) -> np.ndarray:
    height, width = rng.integers(least, most, 2)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _boxes(rng: np.random.Generator, size_hw: Sequence[int], count: int) -> np.ndarray:
    size = np.array(size_hw[1::-1])
    low = rng.uniform(0, 0.5, (count, 2)) * size
    return np.concatenate([low, low + rng.uniform(0.2, 0.5, (count, 2)) * size], axis=1)


def _logits(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(0, 4, shape).astype(np.float32))


def _upsampler(rng: np.random.Generator) -> list[Job]:
    size_hw = (int(rng.integers(300, 700)), int(rng.integers(300, 700)))
    longest = max(size_hw)
    inner = tuple(max(1, round(SIDE_PX * side / longest)) for side in size_hw)
    upsampler = Upsampler((LOW_PX, LOW_PX), (SIDE_PX, SIDE_PX), (inner[0], inner[1]), size_hw)
    crop = Crop((0, 0, size_hw[1], size_hw[0]), 0)
    rows, columns = Span(3, size_hw[0] - 5), Span(7, size_hw[1] - 2)

    def jobs(logits: Tensor) -> list[Job]:
        one = logits[0, 0]

        def cleaned() -> Any:
            found = measure(one, upsampler, crop, size_hw, threshold=0.0, offset=1.0)
            assert found is not None
            return [found, without_small_regions(found.runs, 20)]

        return [
            lambda: pictures(logits, upsampler, 0.0),
            lambda: pictures(logits, upsampler, None),
            lambda: [(top, part.clone()) for top, part in upsampler.row_strips(one)],
            lambda: [part.clone() for part in upsampler.column_strips(one, rows, columns)],
            cleaned,
        ]

    return [job for _ in range(4) for job in jobs(_logits(rng, 1, 2, LOW_PX, LOW_PX))]


def _fast_encoder(rng: np.random.Generator) -> list[Job]:
    encoder = FastEncoder(small_sam().image_encoder)
    return [
        partial(encoder, _logits(rng, count, 3, side, side))
        for side in (SIDE_PX, SIDE_PX // 2)
        for count in (1, 2, 1)
    ]


def _module_encoder(rng: np.random.Generator) -> list[Job]:
    encoder = module_encoder(small_sam().image_encoder, torch.float32, torch.device("cpu"))
    return [partial(encoder, _logits(rng, 1, 3, SIDE_PX, SIDE_PX)) for _ in range(4)]


def _prompts(rng: np.random.Generator) -> list[dict[str, Tensor]]:
    """Prompts of every kind, in pixels of the network's input."""
    found: list[dict[str, Tensor]] = []
    for count in (1, 5):
        boxes = torch.from_numpy(_boxes(rng, (SIDE_PX, SIDE_PX), count)).float()
        points = torch.from_numpy(rng.uniform(0, SIDE_PX, (count, 2, 2))).float()
        labels = torch.from_numpy(rng.integers(0, 2, (count, 2)))
        masks = _logits(rng, count, 1, LOW_PX, LOW_PX)
        clicks = {"points": points, "labels": labels}
        found += [{"boxes": boxes}, clicks, {**clicks, "boxes": boxes, "mask_inputs": masks}]
    return found


def _fast_decoder(rng: np.random.Generator) -> list[Job]:
    sam = small_sam()
    decoder = FastDecoder(sam.prompt_encoder, sam.mask_decoder)
    embeddings = [_logits(rng, 1, 256, GRID, GRID) for _ in range(2)]
    sides = [decoder.prepare(each) for each in embeddings]
    jobs: list[Job] = [partial(decoder.prepare, each) for each in embeddings]
    return jobs + [
        partial(decoder, side, **given, multimask="both")
        for side in sides
        for given in _prompts(rng)
    ]


def _fast_mobile_sam(rng: np.random.Generator) -> list[Job]:
    fast = FastMobileSam(small_sam())
    embedding = _logits(rng, 1, 256, GRID, GRID)
    pixels = _logits(rng, 1, 3, SIDE_PX, SIDE_PX)
    return [
        partial(fast.encode, pixels),
        partial(fast.prepare, embedding),
        *(partial(fast.decode, embedding, **given, multimask=True) for given in _prompts(rng)),
    ]


def _predictor(rng: np.random.Generator) -> list[Job]:
    model = MobileSam(small_sam())
    image = _image(rng)
    model.set_image(image)
    size_hw = image.shape[:2]
    other = _image(rng)
    embeddings = [model.encode(other), model.encode(_image(rng))]
    jobs: list[Job] = [
        model.get_image_embedding,
        partial(model.encode, other),
        partial(model.encode_batch, [other, image]),
    ]
    for _ in range(4):
        (box,) = _boxes(rng, size_hw, 1)
        point = rng.uniform(0, 1, (1, 2)) * size_hw[::-1]
        mask = _logits(rng, 1, LOW_PX, LOW_PX).numpy()
        network_box = torch.from_numpy(_boxes(rng, (SIDE_PX, SIDE_PX), 3)).float()
        network_points = torch.from_numpy(rng.uniform(0, SIDE_PX, (3, 2, 2))).float()
        labels = torch.from_numpy(rng.integers(0, 2, (3, 2)))
        masks = _logits(rng, 3, 1, LOW_PX, LOW_PX)
        jobs += [
            partial(model.predict, box=box),
            partial(model.predict, point_coords=point, point_labels=[1], return_logits=True),
            partial(model.predict, box=box, mask_input=mask, multimask_output=False),
            partial(model.predict_torch, None, None, network_box),
            partial(model.predict_torch, network_points, labels),
            partial(model.predict_torch, network_points, labels, network_box, masks),
        ]
        for embedding in embeddings:
            boxes = _boxes(rng, embedding.size_hw, 3)
            jobs += [
                partial(model.decode, embedding, boxes=boxes),
                partial(model.decode_logits, embedding, boxes=boxes, multimask="both"),
            ]
    return jobs


def _generator(rng: np.random.Generator) -> list[Job]:
    model = MobileSam(small_sam())
    options = {"pred_iou_thresh": -100.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.9}
    generators = [
        AutomaticMaskGenerator(model, points_per_side=4, **options),
        AutomaticMaskGenerator(model, points_per_side=4, hierarchical=True, **options),
        AutomaticMaskGenerator(model, points_per_side=2, crop_n_layers=1, **options),
    ]
    # Of one size, so that what is kept for a size is shared.
    first = _image(rng, 150, 300)
    images = [first, 255 - first, np.ascontiguousarray(first[::-1])]
    jobs: list[Job] = [partial(each.generate, image) for each in generators for image in images]
    jobs.append(partial(generators[0].find, images[0]))
    return jobs + [
        partial(segment_boxes, model, image, _boxes(rng, image.shape, 3)) for image in images
    ]


def _adapter(make: Callable[[], Segmenter], rng: np.random.Generator) -> list[Job]:
    """Calls of the whole interface, as far as the model has it."""
    model = make()
    detects = isinstance(model, FastSamSegmenter)
    images = [
        rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        for size in ((40, 640), (620, 38), (60, 90), (90, 70))[: 2 if detects else 4]
    ]
    jobs: list[Job] = []
    for image in images:
        prepared = model.prepare(image)
        embedding = model.encode(prepared)
        boxes = _boxes(rng, image.shape, 3).astype(np.float32)
        points = rng.uniform(0, 1, (3, 1, 2)) * image.shape[1::-1]
        asked = [Prompts(boxes=boxes)]
        if "points" in model.info.supports:
            asked.append(Prompts(points=points, labels=np.ones((3, 1), np.int64)))
        if "masks" in model.info.supports:
            masks = rng.normal(0, 4, (3, 1, LOW_PX, LOW_PX))
            asked.append(Prompts(boxes=boxes, mask_inputs=masks.astype(np.float32)))
        jobs.append(partial(_whole, model, image, asked[0]))
        if "everything" in model.info.supports and any(image is each for each in images[:2]):
            jobs.append(partial(model.everything, image))
        for prompts in asked:
            jobs += [
                partial(model.decode, embedding, prompts, multimask=True),
                partial(model.decode_pair, embedding, prompts),
            ]
            if isinstance(model, (SamSegmenter, ExportedSegmenter)):
                jobs.append(partial(_apart, model, embedding, prompts))
        if isinstance(model, (SamSegmenter, ExportedSegmenter)):
            jobs.append(partial(_stored, model, embedding, asked[0]))
    return jobs


def _whole(model: Segmenter, image: np.ndarray, prompts: Prompts) -> Any:
    prepared = model.prepare(image)
    return [prepared, model.decode(model.encode(prepared), prompts)]


def _stored(model: Any, embedding: Any, prompts: Prompts) -> Any:
    arrays = model.embedding_arrays(embedding)
    return [arrays, model.decode(model.embedding_from(arrays, embedding.size_hw), prompts)]


def _apart(model: Any, embedding: Any, prompts: Prompts) -> Any:
    found: LogitMasks = model.decode_logits(embedding, prompts)
    return [found.logits, found.scores, model.postprocess(found)]


@cache
def _sam_adapter() -> Segmenter:
    options = ModelOptions("mobilesam")
    model = SamSegmenter(small_sam(), options, family="SAM", licence="Apache-2.0")
    model.points_per_side = 4
    return model


class _SmallFast(FastMobileSamSegmenter):
    """The adapter around `small_sam`, where its own constructor builds the full size."""

    def __init__(self) -> None:
        options = ModelOptions("mobilesam-fast")
        SamSegmenter.__init__(self, small_sam(), options, family="SAM", licence="Apache-2.0")
        self._batch, self.points_per_side = 8, 4
        self._fast = FastMobileSam(small_sam())


@cache
def _exported(target: Runtime) -> Segmenter:
    with tempfile.TemporaryDirectory(prefix="threads-") as folder:
        export_model(small_sam(), Path(folder), target, source=Source(kind="random"))
        model = ExportedSegmenter(Path(folder), ModelOptions(f"mobilesam-{target}"), target)
        model.threads = 1
        model.decode(  # its third graph is opened when it is first asked for
            model.encode(model.prepare(np.zeros((9, 9, 3), np.uint8))),
            Prompts(boxes=np.array([[1, 1, 5, 5]]), mask_inputs=np.zeros((1, 1, LOW_PX, LOW_PX))),
        )
    return model


@cache
def _fast_sam() -> Segmenter:
    # Random weights are sure of nothing.
    search = MaskSearch(confidence=0.0, nms_iou=0.5, max_masks=20)
    return build_fast_sam("n", 4, ModelOptions("fastsam-n"), search)


CASES = (
    Case("upsampler", _upsampler),
    Case("fast encoder", _fast_encoder),
    Case("module encoder", _module_encoder),
    Case("fast decoder", _fast_decoder),
    Case("fast mobile sam", _fast_mobile_sam),
    Case("predictor", _predictor),
    Case("mask generator", _generator),
    Case("sam adapter", partial(_adapter, _sam_adapter)),
    Case("fast adapter", partial(_adapter, cache(_SmallFast))),
    Case("onnx adapter", partial(_adapter, partial(_exported, "onnx"))),
    Case("openvino adapter", partial(_adapter, partial(_exported, "openvino"))),
    Case("fastsam adapter", partial(_adapter, _fast_sam)),
    Case("grabcut adapter", partial(_adapter, lambda: GrabCutSegmenter(ModelOptions("grabcut")))),
    Case("box adapter", partial(_adapter, lambda: BoxSegmenter(ModelOptions("box")))),
    Case("dummy adapter", partial(_adapter, lambda: DummySegmenter("dummy", {}))),
)


def _check(case: Case, seed: int, folder: Path) -> None:
    del folder
    wrong = wrong_answers(case.jobs(np.random.default_rng(seed)))
    assert not wrong, f"{case.name}, seed {seed}: other answers in threads of jobs {wrong}"


THREADS = tuple(
    Target(
        f"threads: {case.name}",
        lambda: st.integers(0, 2**32 - 1),
        partial(_check, case),
        inputs_a_round=5,
    )
    for case in CASES
)
