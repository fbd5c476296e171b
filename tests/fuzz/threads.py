"""Classes that run models, shared by eight threads: results must equal those of one thread.

Bit for bit, since a buffer shared by two threads changes few pixels, and rarely.
"""

from __future__ import annotations

import atexit
import copy
import queue
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

import numpy as np
import small_transformers
import torch
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from torch import Tensor

from baselines import boundary
from baselines.classical import BoxSegmenter, GrabCutSegmenter
from baselines.dummy import DummySegmenter
from baselines.exported import ExportedSegmenter
from baselines.fast_sam import MaskSearch
from baselines.fast_sam import build as build_fast_sam
from baselines.function import FunctionSegmenter
from baselines.interface import (
    BatchEncoder,
    LogitMasks,
    ModelOptions,
    Prepared,
    Prompts,
    Segmenter,
    SplitDecoder,
    SplitEncoder,
    StorableEmbedding,
)
from baselines.mobile_sam_fast import FastMobileSamSegmenter
from baselines.sam import SamSegmenter, random_weights
from baselines.tiny_sam import TinySamSegmenter
from mobilesam.distillation.students import build_student
from mobilesam.errors import BenchError
from mobilesam.everything.generator import AutomaticMaskGenerator, segment_boxes, segment_objects
from mobilesam.everything.mask_runs import measure, without_small_regions
from mobilesam.everything.point_grid import Crop
from mobilesam.export.runtime import Source
from mobilesam.export.runtime import Target as Runtime
from mobilesam.export.writer import export_model
from mobilesam.fast.decoder import FastDecoder
from mobilesam.fast.encoder import FastEncoder
from mobilesam.fast.inference import FastMobileSam, ModuleEncoder, Precision
from mobilesam.fast.kernels import computes_bf16
from mobilesam.fast.preview import Levels, rough_masks
from mobilesam.fast.upsampling import Span, Upsampler, upsample
from mobilesam.model.mini import MiniVitConfig, SamMiniConfig, build_sam_mini
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.model_files import ModelShape, save_model
from mobilesam.model.sam_heads import HeadsConfig
from mobilesam.model.state_dicts import pack, unpack
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.predictor import ImageNotSetError, MobileSam
from mobilesam.process_state import seeded
from mobilesam.prompts import NetworkPrompts

from .rounds import HangError
from .targets import Target

N_THREADS = 8
SIDE_PX = 128
LOW_PX = SIDE_PX // 4
GRID = SIDE_PX // 16
_CONFIG = TinyVitConfig(
    embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=SIDE_PX, n_classes=None
)
_TIMES = 3
# Far longer than any job: deadlocked threads use no processor time.
STUCK_S = 120.0

Job = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A class under test.

    Attributes:
        name: Short name.
        jobs: Makes calls of public methods of one object from a random generator; each call must
            always give the same result.
        lacking: Returns what this machine lacks for the case; empty if nothing.
        times: Number of calls of each job by eight threads in the test suite; 0 runs the case in
            the fuzzer only, for slow cases that resemble another one.
    """

    name: str
    jobs: Callable[[np.random.Generator], Sequence[Job]]
    lacking: Callable[[], str] = str
    times: int = _TIMES


def wrong_answers(
    jobs: Sequence[Job],
    *,
    times: int = _TIMES,
    watched: AbstractContextManager[Any] | None = None,
) -> list[int]:
    """Runs jobs in one thread, then several times each in eight threads.

    Args:
        jobs: Calls to run.
        times: Number of calls of each job by the eight threads.
        watched: Context entered while the jobs run in one thread.

    Returns:
        Indices of jobs with a different result, once for each such result.

    Raises:
        HangError: No thread has finished a job for `STUCK_S` seconds.
    """
    before, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-5)  # threads meet more often
    try:
        with watched or nullcontext():
            expected = [frozen(job()) for job in jobs]
        order = list(range(len(jobs))) * times
        found = _in_threads([jobs[index] for index in order])
    finally:
        torch.set_num_threads(before)
        sys.setswitchinterval(interval)
    pairs = zip(order, found, strict=True)
    return [index for index, answer in pairs if not same(answer, expected[index])]


def _in_threads(jobs: Sequence[Job]) -> list[Any]:
    """Results of jobs run by eight threads, in the order of the jobs.

    The threads are daemons: an endless one blocks neither this call nor the process.
    """
    waiting: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any, Exception | None]] = queue.SimpleQueue()
    for item in enumerate(jobs):
        waiting.put(item)

    def work() -> None:
        torch.set_num_threads(1)
        while not waiting.empty():
            try:
                index, job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, frozen(job()), None))
            except Exception as error:  # noqa: BLE001 - the caller raises it
                done.put((index, None, error))

    for _ in range(N_THREADS):
        Thread(target=work, daemon=True).start()
    answers: dict[int, Any] = {}
    while len(answers) < len(jobs):
        try:
            index, answer, error = done.get(timeout=STUCK_S)
        except queue.Empty:
            left = sorted(set(range(len(jobs))) - answers.keys())
            raise HangError(
                f"no thread has ended a job in {STUCK_S:g} s; left are {left}"
            ) from None
        if error is not None:
            raise error
        answers[index] = answer
    return [answers[index] for index in range(len(jobs))]


def frozen(answer: Any) -> Any:
    """A deep copy of a result, with tensors as arrays."""
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
    """Whether two results of `frozen` are equal, bit for bit."""
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
    """MobileSAM for 128 px with large weights in its heads, so that results depend on prompts."""
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
            lambda: upsample(logits, upsampler, 0.0),
            lambda: upsample(logits, upsampler, None),
            lambda: [(top, part.clone()) for top, part in upsampler.row_strips(one)],
            lambda: [part.clone() for part in upsampler.column_strips(one, rows, columns)],
            cleaned,
        ]

    return [job for _ in range(4) for job in jobs(_logits(rng, 1, 2, LOW_PX, LOW_PX))]


def _fast_encoder(dtype: torch.dtype, rng: np.random.Generator) -> list[Job]:
    encoder = FastEncoder(small_sam().image_encoder, dtype)
    return [
        partial(encoder, _logits(rng, count, 3, side, side))
        for side in (SIDE_PX, SIDE_PX // 2)
        for count in (1, 2, 1)
    ]


def _module_encoder(dtype: torch.dtype, rng: np.random.Generator) -> list[Job]:
    source = small_sam().image_encoder
    device = torch.device("cpu")
    encoder = ModuleEncoder(source, dtype, device)
    pixels = [_logits(rng, 1, 3, SIDE_PX, SIDE_PX) for _ in range(4)]
    return [
        *(partial(encoder, each) for each in pixels),
        # While another thread runs the source.
        lambda: ModuleEncoder(source, dtype, device)(pixels[0]),
        partial(torch.no_grad()(source), pixels[0]),
    ]


def _prompts(rng: np.random.Generator) -> list[NetworkPrompts]:
    """Prompts of all kinds, in pixels of the network's input."""
    found: list[NetworkPrompts] = []
    for count in (1, 5):
        boxes = torch.from_numpy(_boxes(rng, (SIDE_PX, SIDE_PX), count)).float()
        points = torch.from_numpy(rng.uniform(0, SIDE_PX, (count, 2, 2))).float()
        labels = torch.from_numpy(rng.integers(0, 2, (count, 2)))
        masks = _logits(rng, count, 1, LOW_PX, LOW_PX)
        found += [
            NetworkPrompts(boxes=boxes),
            NetworkPrompts(points, labels),
            NetworkPrompts(points, labels, boxes, masks),
        ]
    return found


def _fast_decoder(rng: np.random.Generator) -> list[Job]:
    sam = small_sam()
    decoder = FastDecoder(sam.prompt_encoder, sam.mask_decoder)
    embeddings = [_logits(rng, 1, 256, GRID, GRID) for _ in range(2)]
    sides = [decoder.prepare(each) for each in embeddings]
    jobs: list[Job] = [partial(decoder.prepare, each) for each in embeddings]
    return jobs + [
        partial(decoder, side, given, multimask="both") for side in sides for given in _prompts(rng)
    ]


def _fast_mobile_sam(precision: Precision, rng: np.random.Generator) -> list[Job]:
    fast = FastMobileSam(small_sam(), precision)
    embedding = _logits(rng, 1, 256, GRID, GRID)
    pixels = _logits(rng, 1, 3, SIDE_PX, SIDE_PX)
    unpadded = FastMobileSam(small_sam(), precision, skip_padding=True)
    wide = pixels.clone()
    wide[:, :, SIDE_PX // 2 :] = 0
    logits, scores = _logits(rng, 2, 3, LOW_PX, LOW_PX), _logits(rng, 2, 3)
    return [
        partial(rough_masks, logits, scores, (SIDE_PX, SIDE_PX), SIDE_PX, Levels(0.0, 1.0, 0.5)),
        partial(fast.encode, pixels),
        partial(unpadded.encode, wide),
        partial(fast.prepare, embedding),
        *(partial(fast.decode, embedding, given, multimask=True) for given in _prompts(rng)),
    ]


def _predictor(rng: np.random.Generator) -> list[Job]:
    model = MobileSam(small_sam())
    image = _image(rng)
    model.set_image(image)
    size_hw = image.shape[:2]
    other = _image(rng)
    embeddings = [model.encode(other), model.encode(_image(rng))]
    plain = MobileSam(model.model, model.network)
    jobs: list[Job] = [
        model.get_image_embedding,
        partial(model.encode, other),
        partial(model.encode_batch, [other, image]),
        lambda: [model.is_image_set, model.features, model.original_size, model.input_size],
    ]
    for _ in range(3):
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
                partial(model.decode_logits, embedding, Prompts(boxes=boxes), multimask="both"),
                partial(plain.decode, embedding, boxes=boxes),
            ]
    return jobs


def _torch_image(model: MobileSam, image: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    found: Tensor = model.transform.apply_image_torch(pixels)
    return found


def _own_predictors(precision: Precision, rng: np.random.Generator) -> list[Job]:
    """A predictor for each call, copied or new, all with the same network."""
    model = MobileSam(small_sam(), FastMobileSam(small_sam(), precision))
    model.set_image(_image(rng))

    def job(image: np.ndarray, box: np.ndarray, *, is_copy: bool, is_tensor: bool) -> Any:
        own = copy.copy(model) if is_copy else MobileSam(model.model, model.network)
        if is_tensor:
            own.set_torch_image(_torch_image(own, image), image.shape[:2])
        else:
            own.set_image(image, "RGB")
        answers = [own.predict(box=box), own.get_image_embedding(), own.input_size]
        kept = own.features, own.original_size, own.input_size
        own.reset_image()
        refused = _error(own.predict, box=box)
        own.features, own.original_size, own.input_size = kept
        own.is_image_set = True
        return [*answers, refused, own.predict_torch(None, None, torch.tensor(box)[None].float())]

    jobs: list[Job] = []
    for number in range(4):
        image = _image(rng)
        (box,) = _boxes(rng, image.shape, 1)
        choices = {"is_copy": number % 2 == 0, "is_tensor": number > 1}
        jobs.append(partial(job, image, box, **choices))
    return jobs


def shared_predictor(make: Callable[[], MobileSam], rng: np.random.Generator) -> list[Job]:
    """Jobs that set images on one shared predictor: each result must be that of one image.

    Args:
        make: Makes the predictor.
        rng: Generator of the images.

    Returns:
        Jobs that return whether their result is that of a single image.
    """
    model, single = make(), MobileSam(small_sam())
    box = np.array([2.0, 3.0, 17.0, 16.0])
    network_box = torch.tensor([[4.0, 6.0, 90.0, 70.0]])
    # Of different shapes, and two of one shape.
    images = [_image(rng, 20, 60) for _ in range(3)]
    images.append(255 - images[0])

    def ask(predictor: MobileSam, method: str) -> Any:
        if method == "predict":
            return frozen(predictor.predict(box=box))
        if method == "predict_torch":
            return frozen(predictor.predict_torch(None, None, network_box))
        return frozen(predictor.get_image_embedding())

    methods = ("predict", "predict_torch", "get_image_embedding")
    whole: dict[str, list[Any]] = {each: [] for each in methods}
    for image in images:
        for setting in (0, 1):
            _set(single, image, setting)
            for method in methods:
                whole[method].append(ask(single, method))

    def job(image: np.ndarray, setting: int, method: str) -> bool:
        _set(model, image, setting)
        try:
            found = ask(model, method)
        except ImageNotSetError:  # another thread has unset it
            return True
        return any(same(found, each) for each in whole[method])

    def unset(image: np.ndarray) -> bool:
        model.reset_image()
        model.set_image(image)
        return True

    return [
        *(partial(unset, image) for image in images[:2]),
        *(
            partial(job, image, setting, method)
            for image in images
            for setting, method in ((0, "predict"), (1, "predict_torch"), (0, methods[2]))
        ),
    ]


def _set(model: MobileSam, image: np.ndarray, setting: int) -> None:
    if setting == 0:
        model.set_image(image)
    else:
        model.set_torch_image(_torch_image(model, image), image.shape[:2])


def _error(call: Callable[..., Any], *given: Any, **named: Any) -> str:
    """The message of the error that a call must raise."""
    try:
        call(*given, **named)
    except BenchError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("no error was raised")


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
    images = [first, np.ascontiguousarray(255 - first[::-1])]
    jobs: list[Job] = [partial(each.generate, image) for each in generators for image in images]
    points = rng.uniform(0, 1, (3, 2))
    generators.append(
        AutomaticMaskGenerator(model, points_per_side=None, point_grids=[points], **options)
    )
    jobs += [partial(generators[0].find, images[0]), *(each.grids for each in generators)]
    detector = DummySegmenter("dummy", {}).everything
    for image in images:
        jobs += [
            partial(segment_boxes, model, image, _boxes(rng, image.shape, 3)),
            partial(segment_objects, model, image, detector, output_mode="coco_rle"),
        ]
    return [*jobs, partial(generators[0].generate, images[0])]


def _adapter(make: Callable[[], Segmenter], rng: np.random.Generator) -> list[Job]:
    """Calls of all methods of the interface that the model has."""
    model = make()
    # The library of the second takes a second an image to upsample masks.
    n_images = {"FastSAM": 2, "SlimSAM": 1}.get(model.info.family, 3)
    images = [
        rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        for size in ((40, 640), (620, 38), (60, 90))[:n_images]
    ]
    jobs: list[Job] = []
    for image in images:
        prepared = model.prepare(image)
        embedding = model.encode(prepared)
        boxes = _boxes(rng, image.shape, 3).astype(np.float32)
        logits = model.decode(embedding, Prompts(boxes=boxes)).low_res_logits
        points = rng.uniform(0, 1, (3, 1, 2)) * image.shape[1::-1]
        asked = [Prompts(boxes=boxes)]
        if "points" in model.info.supports:
            asked.append(Prompts(points=points, labels=np.ones((3, 1), np.int64)))
        if logits is not None:
            masks = rng.normal(0, 4, (3, 1, *logits.shape[2:]))
            asked.append(Prompts(boxes=boxes, mask_inputs=masks.astype(np.float32)))
        jobs.append(partial(_whole, model, image, asked[0]))
        if "everything" in model.info.supports and any(image is each for each in images[:2]):
            jobs.append(partial(boundary.everything, model, image))
        for prompts in asked:
            jobs += [
                partial(model.decode, embedding, prompts, multimask=True),
                partial(model.decode, embedding, prompts),
            ]
            if isinstance(model, SplitDecoder):
                jobs.append(partial(_apart, model, embedding, prompts))
        if isinstance(model, StorableEmbedding):
            jobs.append(partial(_stored, model, embedding, asked[0]))
        if isinstance(model, SplitEncoder):
            output = model.run_network(prepared)
            jobs += [
                partial(model.run_network, prepared),
                # The same output for all threads: it must not be written to.
                partial(_found, model, output, prepared),
            ]
    return [*jobs, partial(_described, model, rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))]


def _whole(model: Segmenter, image: np.ndarray, prompts: Prompts) -> Any:
    embedding = boundary.encode(model, image)
    size_hw = embedding.size_hw
    return [
        boundary.decode(model, embedding, prompts, size_hw),
        boundary.decode_pair(model, embedding, prompts, size_hw),
        boundary.best_mask(model, embedding, prompts, size_hw),
    ]


def _stored(model: Any, embedding: Any, prompts: Prompts) -> Any:
    arrays = boundary.embedding_arrays(model, model.info.name, embedding)
    return [arrays, model.decode(model.embedding_from(arrays, embedding.size_hw), prompts)]


def _found(model: Any, output: Any, prepared: Prepared) -> Any:
    return [model.find_masks(output, prepared), output]


def _bright_pixels(image: np.ndarray, prompts: Prompts) -> np.ndarray:
    return np.repeat(image[None, ..., 0] > 99, len(prompts), axis=0)


def _described(model: Segmenter, image: np.ndarray) -> Any:
    """Description of a model, and its errors for invalid calls."""
    model.synchronize()
    prepared = model.prepare(image)
    embedding = model.encode(prepared)
    batch = []
    if isinstance(model, BatchEncoder):
        batch = model.encode_batch([prepared, prepared])
    prompts = Prompts(
        points=np.zeros((1, 1, 2)),
        labels=np.ones((1, 1), np.int64),
        mask_inputs=np.zeros((1, 1, LOW_PX, LOW_PX), np.float32),
    )
    known = {"points", "masks"} <= model.info.supports
    said = [
        "" if known else _error(model.require, prompts),
        _error(model.check_embedding, replace(embedding, model="another")),
    ]
    if known:
        model.require(prompts)
    if "everything" not in model.info.supports:
        said.append(_error(model.everything, image))
    shapes = {
        part: [(name, tuple(each.shape)) for name, each in module.named_parameters()]
        for part, module in model.modules().items()
    }
    probes = {part: len(calls) for part, calls in model.probes().items()}
    return [said, shapes, batch, probes, boundary.mask_frame(model, embedding.size_hw)]


def _apart(model: Any, embedding: Any, prompts: Prompts) -> Any:
    found: LogitMasks = model.decode_logits(embedding, prompts)
    return [found.logits, found.scores, model.postprocess(found)]


@cache
def _sam_adapter(precision: str) -> Segmenter:
    options = ModelOptions("mobilesam", precision=precision)
    model = SamSegmenter(small_sam(), options, family="SAM")
    model.points_per_side = 2
    return model


@cache
def _tinysam_adapter() -> Segmenter:
    model = TinySamSegmenter(small_sam(), ModelOptions("tinysam"), family="TinySAM")
    model.points_per_side = 2
    return model


@cache
def _transformers_adapter() -> Segmenter:
    return small_transformers.build("sam", "slimsam-small")


def _lacks_transformers() -> str:
    return "" if find_spec("transformers") else "transformers is not installed"


@cache
def _mini_adapter() -> Segmenter:
    """SAM with a plain vision transformer, as `sam-mini` has."""
    with seeded(3):
        sam = build_sam_mini(
            SamMiniConfig(
                MiniVitConfig(
                    (8, 8, 16), 16, 1, 2, refine_depth=1, image_size_px=SIDE_PX, cell_colors=True
                ),
                HeadsConfig(64, num_heads=2, mlp_dim=16, depth=1, iou_hidden=16, mask_in_chans=4),
            )
        )
    model = SamSegmenter(sam, ModelOptions("sam-mini"), family="SAM")
    model.points_per_side = 2
    return model


class _SmallFast(FastMobileSamSegmenter):
    """The adapter around `small_sam`, where its own constructor builds the full size."""

    def __init__(self, precision: Precision) -> None:
        options = ModelOptions("mobilesam-fast", precision=precision)
        SamSegmenter.__init__(self, small_sam(), options, family="SAM")
        self._batch, self.points_per_side = 8, 3
        self._fast = FastMobileSam(small_sam(), precision)


@cache
def _folder() -> Path:
    """A folder that is removed when the process ends."""
    made = tempfile.TemporaryDirectory(prefix="threads-")
    atexit.register(made.cleanup)
    return Path(made.name)


@cache
def _exported_files(target: Runtime) -> Path:
    folder, source = _folder() / target, Source(kind="random")
    # Parity with torch is tested elsewhere, and takes half of the time.
    with mock.patch("mobilesam.export.writer._compared", return_value=()):
        export_model(small_sam(), folder, target, source=source, int8=target == "onnx")
    return folder


@cache
def _exported(target: Runtime, *, int8: bool = False, precision: str = "fp32") -> Segmenter:
    options = ModelOptions(f"mobilesam-{target}", precision=precision)
    model = ExportedSegmenter(_exported_files(target), options, target, int8=int8)
    model.threads = 1
    return model


@cache
def _fast_sam(precision: str) -> Segmenter:
    # With random weights all confidences are low.
    search = MaskSearch(confidence=0.0, nms_iou=0.5, max_masks=20)
    return build_fast_sam("n", 4, ModelOptions("fastsam-n", precision=precision), search)


def _stored_weights(rng: np.random.Generator) -> list[Job]:
    """Weights stored as int8, which each call loads and runs."""
    state = {name: value.clone() for name, value in small_sam().state_dict().items()}
    kept = frozenset({"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"})
    matrices = {
        name: 0 for name, value in state.items() if value.ndim in (2, 4) and name not in kept
    }
    packed = pack(state, matrices, kept)
    shape = ModelShape("mobilesam", _CONFIG, HeadsConfig(channels=_CONFIG.neck_channels), {})
    path = _folder() / "small.safetensors"
    save_model(path, shape, packed)
    image = _image(rng)

    def load(precision: Precision) -> Any:
        return MobileSam.from_checkpoint(path, precision=precision).encode(image)

    precisions: tuple[Precision, ...] = ("fp32", "bf16") if computes_bf16() else ("fp32",)
    return [
        partial(pack, state, matrices, kept),
        partial(unpack, packed, "small"),
        *(partial(load, each) for each in precisions),
    ]


def _random_weights(rng: np.random.Generator) -> list[Job]:
    """Models with seeded random weights, which each call builds."""

    def build(seed: int) -> Any:
        found = random_weights(lambda: build_mobile_sam(_CONFIG), ModelOptions("small", seed=seed))
        return found.state_dict()

    student = partial(build_student, _CONFIG, HeadsConfig(channels=_CONFIG.neck_channels))
    seeds = [int(each) for each in rng.integers(0, 2**31, 3)]
    return [
        *(partial(build, seed) for seed in seeds),
        lambda: student(seeds[0]).state_dict(),
    ]


def _random_detectors(rng: np.random.Generator) -> list[Job]:
    def build(seed: int) -> Any:
        model = build_fast_sam("n", 4, ModelOptions("fastsam-n", seed=seed))
        return model.modules()["all"].state_dict()

    return [partial(build, int(seed)) for seed in rng.integers(0, 2**31, 2)]


def _lacks_bf16() -> str:
    return "" if computes_bf16() else "this processor does not compute in bf16"


def _openvino_lacks_bf16() -> str:
    import openvino

    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "" if "BF16" in can else "OpenVINO does not compute in bf16 on this processor"


CASES = (
    Case("upsampler", _upsampler),
    Case("fast encoder", partial(_fast_encoder, torch.float32)),
    Case("fast encoder, bf16", partial(_fast_encoder, torch.bfloat16)),
    Case("module encoder", partial(_module_encoder, torch.float32)),
    Case("module encoder, bf16", partial(_module_encoder, torch.bfloat16)),
    Case("fast decoder", _fast_decoder),
    Case("fast mobile sam", partial(_fast_mobile_sam, "fp32")),
    Case("fast mobile sam, bf16", partial(_fast_mobile_sam, "bf16"), _lacks_bf16),
    Case("predictor", _predictor, times=1),
    Case("own predictors", partial(_own_predictors, "fp32")),
    Case("own predictors, bf16", partial(_own_predictors, "bf16"), _lacks_bf16),
    Case("shared predictor", partial(shared_predictor, lambda: MobileSam(small_sam()))),
    Case("mask generator", _generator, times=1),
    Case("int8 weights", _stored_weights, times=1),
    Case("random weights", _random_weights, times=1),
    Case("random weights, fastsam", _random_detectors, times=0),
    Case("sam adapter", partial(_adapter, partial(_sam_adapter, "fp32")), times=1),
    Case("sam adapter, bf16", partial(_adapter, partial(_sam_adapter, "bf16")), times=0),
    Case("tinysam adapter", partial(_adapter, _tinysam_adapter), times=1),
    Case(
        "transformers adapter",
        partial(_adapter, _transformers_adapter),
        _lacks_transformers,
        times=1,
    ),
    Case("mini adapter", partial(_adapter, _mini_adapter), times=1),
    Case("fast adapter", partial(_adapter, partial(cache(_SmallFast), "fp32")), times=1),
    Case(
        "fast adapter, bf16",
        partial(_adapter, partial(cache(_SmallFast), "bf16")),
        _lacks_bf16,
        times=0,
    ),
    Case("onnx adapter", partial(_adapter, partial(_exported, "onnx")), times=1),
    Case("onnx adapter, int8", partial(_adapter, partial(_exported, "onnx", int8=True)), times=1),
    Case("openvino adapter", partial(_adapter, partial(_exported, "openvino")), times=1),
    Case(
        "openvino adapter, bf16",
        partial(_adapter, partial(_exported, "openvino", precision="bf16")),
        _openvino_lacks_bf16,
        times=0,
    ),
    Case("fastsam adapter", partial(_adapter, partial(_fast_sam, "fp32")), times=1),
    Case("fastsam adapter, fp16", partial(_adapter, partial(_fast_sam, "fp16")), times=0),
    Case(
        "grabcut adapter",
        partial(_adapter, lambda: GrabCutSegmenter(ModelOptions("grabcut"))),
        times=1,
    ),
    Case("box adapter", partial(_adapter, lambda: BoxSegmenter(ModelOptions("box")))),
    Case("dummy adapter", partial(_adapter, lambda: DummySegmenter("dummy", {}))),
    Case("function adapter", partial(_adapter, lambda: FunctionSegmenter(_bright_pixels))),
)


def _check(case: Case, seed: int, folder: Path) -> None:
    del folder
    wrong = wrong_answers(case.jobs(np.random.default_rng(seed)))
    assert not wrong, f"{case.name}, seed {seed}: different results in threads of jobs {wrong}"


THREADS = tuple(
    Target(
        f"threads: {case.name}",
        lambda: st.integers(0, 2**32 - 1),
        partial(_check, case),
        inputs_a_round=5,
    )
    for case in CASES
    if not case.lacking()
)
