"""FastSAM-x and FastSAM-s (arXiv 2306.12156): YOLOv8-seg with one class, then mask selection.

The networks and their non-maximum suppression come from `ultralytics`, which is AGPL-3.0: this
module alone imports it, and only inside functions. Inference does not use `YOLO.predict`, which
sets itself up again in every call. The selection has the semantics of the authors' code without
its faults: prompts keep their order and number, arguments are not changed, and points outside the
image are on no mask.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import platform
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines.interface import (
    BoolArray,
    Checkpoint,
    Embedding,
    Float32Array,
    Int64Array,
    MaskRecord,
    Masks,
    ModelInfo,
    ModelOptions,
    Prepared,
    Prompts,
    Segmenter,
    UInt8Array,
    WeightsInfo,
    check_image,
)
from baselines.pixels import point_pixels
from baselines.sam import synchronize_device
from mobilesam.errors import NOT_FINITE, UsageError, WeightsError, foreign_call
from mobilesam.inputs import check_resized, usable_device
from mobilesam.model.state_dicts import is_finite, read_head, require_finite
from mobilesam.process_state import logger_level, seeded

INPUT_SIZE_PX = 1024
_STRIDE_PX = 32
# Held during the import, which changes the process temporarily; see `_contained_import`.
_IMPORTING = threading.Lock()
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class MaskSearch:
    """Parameters of the search for masks in the network's output; the defaults are FastSAM's."""

    confidence: float = 0.4  # detections at or below this are dropped
    nms_iou: float = 0.9  # of two boxes that overlap by more, the less confident is dropped
    max_masks: int = 300  # of an image
    # Edges of boxes nearer than this to the border of the network's input move onto it; 0 disables
    # this.
    border_px: float = 20
    # A box that overlaps by more than this with the whole input becomes the whole input; 1 disables
    # this.
    full_iou: float = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class FoundMasks:
    """All masks of one image; M may be 0."""

    masks: BoolArray  # (M, H, W)
    boxes: Float32Array  # (M, 4) xyxy in pixels of the image
    scores: Float32Array  # (M,) confidence
    areas: Int64Array = field(init=False)  # (M,) pixels of each mask

    def __post_init__(self) -> None:
        # One call per mask is many times faster than one call with `axis`.
        areas = np.array([np.count_nonzero(mask) for mask in self.masks], np.int64)
        object.__setattr__(self, "areas", areas)


def snap_to_border(boxes: Tensor, input_hw: Sequence[int], search: MaskSearch) -> Tensor:
    """(M, 4) xyxy boxes in pixels of the network's input after FastSAM's rule for its border."""
    height, width = input_hw
    near = search.border_px
    x0, y0, x1, y1 = boxes.unbind(1)
    x0, y0 = x0.masked_fill(x0 < near, 0), y0.masked_fill(y0 < near, 0)
    x1, y1 = x1.masked_fill(x1 > width - near, width), y1.masked_fill(y1 > height - near, height)
    snapped = torch.stack((x0, y0, x1, y1), 1)
    # Where the limit is 0, boxes may still reach beyond the input.
    overlap = (x1.clamp(max=width) - x0.clamp(min=0)) * (y1.clamp(max=height) - y0.clamp(min=0))
    union = width * height + (x1 - x0) * (y1 - y0) - overlap
    full = boxes.new_tensor((0, 0, width, height))
    return torch.where((overlap / union > search.full_iou)[:, None], full, snapped)


def select(found: FoundMasks, prompts: Prompts) -> tuple[BoolArray, Float32Array]:
    """Selects masks for every prompt: (N, H, W) bool, and (N,) float32 scores.

    Points: masks are visited from large to small; one that contains a foreground point is merged
    into the result, one that contains a background point is erased from it; of several points in a
    mask, the last one decides. The score is the highest confidence among the merged masks.

    A box: the mask whose IoU with the box is highest, and its confidence.

    Both: as for the box, but only among masks that contain no background point and, if the prompt
    has foreground points, at least one of them. (The authors' code does not combine them.)

    Where nothing fits, the mask is empty and its score 0.
    """
    n_masks, height, width = found.masks.shape
    masks = np.zeros((len(prompts), height, width), np.bool_)
    scores = np.zeros(len(prompts), np.float32)
    allowed = np.ones((len(prompts), n_masks), np.bool_)
    if prompts.points is not None and prompts.labels is not None:
        pixels, inside = point_pixels(prompts.points, (height, width))
        # Whether mask M of prompt N contains point K.
        held = (found.masks[:, pixels[..., 1], pixels[..., 0]] & inside).transpose(1, 0, 2)
        foreground = prompts.labels == 1
        if prompts.boxes is None:
            _merge(found, held, foreground, (masks, scores))
        wants_any = foreground.any(axis=1, keepdims=True)
        allowed &= (held & foreground[:, None]).any(axis=2) | ~wants_any
        allowed &= ~(held & ~foreground[:, None]).any(axis=2)
    if prompts.boxes is not None:
        # Half to even, then cut to the image: a box outside, or thinner than a pixel, gets empty.
        limits = (width, height, width, height)
        rounded = np.clip(np.rint(prompts.boxes), 0, limits).astype(np.int64)
        for row, (x0, y0, x1, y1) in enumerate(rounded):
            among = np.flatnonzero(allowed[row])
            if not len(among) or x0 == x1 or y0 == y1:
                continue
            common = np.array([np.count_nonzero(found.masks[i, y0:y1, x0:x1]) for i in among])
            union = (y1 - y0) * (x1 - x0) + found.areas[among] - common
            best = int(np.argmax(common / union))
            if common[best]:
                masks[row] = found.masks[among[best]]
                scores[row] = found.scores[among[best]]
    return masks, scores


def _merge(
    found: FoundMasks, held: BoolArray, foreground: BoolArray, into: tuple[BoolArray, Float32Array]
) -> None:
    """Merges and erases the masks that contain a point."""
    masks, scores = into
    large_to_small = np.argsort(-found.areas, kind="stable")
    # Of merging and erasing the same mask repeatedly, only the last has an effect.
    last_held = held.shape[2] - 1 - held[..., ::-1].argmax(axis=2)
    merges = np.take_along_axis(foreground, last_held, axis=1)
    touched: BoolArray = np.any(held, axis=2)
    for row, merged in enumerate(masks):
        for each in large_to_small[touched[row, large_to_small]]:
            if merges[row, each]:
                merged |= found.masks[each]
                scores[row] = max(scores[row], found.scores[each])
            else:
                np.greater(merged, found.masks[each], out=merged)  # merged and not mask
        if scores[row] and not merged.any():
            scores[row] = 0


def build(
    scale: str, reg_max: int, options: ModelOptions, search: MaskSearch | None = None
) -> FastSamSegmenter:
    """Builds FastSAM of a YOLOv8 size: n, s, m, l or x.

    A checkpoint has its own `reg_max`, the number of bins of the distribution over a side of a box.
    """
    if options.checkpoint is None:
        make = partial(_random_network, scale, reg_max, options.seed)
    else:
        make = partial(_trained_network, scale, options.checkpoint)
    return FastSamSegmenter(make, options, search or MaskSearch())


build_x = partial(build, "x", 26)  # 72,234,149 parameters
build_s = partial(build, "s", 16)  # 11,790,483 parameters


class FastSamSegmenter(Segmenter):
    """FastSAM behind the interface, in `fp32` or `fp16`.

    `encode` runs the network and non-maximum suppression, and copies masks at the image's own size
    to the host (`run_network` and `find_masks`, which are timed separately); `decode` only selects
    among them. With random weights there is mostly nothing to find. The mantissa of bf16 is too
    short for the coordinates of boxes in an image of 1024 pixels.

    Args:
        make: Makes the network as published, in evaluation mode, on the CPU, float32.
        options: Options of the model.
        search: Parameters of the search for masks.
    """

    keeps = "detections of a confidence above 0.4"

    def __init__(
        self, make: Callable[[], nn.Module], options: ModelOptions, search: MaskSearch
    ) -> None:
        if options.precision not in _DTYPES:
            raise UsageError(
                f"{options.name} runs in {' or '.join(_DTYPES)}, not in {options.precision!r}"
            )
        self.device = usable_device(options.device)
        self.search = search
        self._dtype = _DTYPES[options.precision]
        self._make = make
        self._published: nn.Module | None = None
        self._publishing = threading.Lock()
        network: Any = make()
        if self.device.type == "meta":
            strides = network.model[-1].stride
            self._published = network = network.to(self.device, self._dtype)
            network.model[-1].stride = strides  # its values are read, so it must not be on meta
        else:
            # As in ultralytics: batch normalisation folded into the convolutions, and the fastest
            # layout for convolutions on x86.
            network = network.fuse(verbose=False).to(self.device, self._dtype)
            if self.device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
                network = network.to(memory_format=torch.channels_last)
        self._network = network
        self._threads = threading.local()
        self.info = ModelInfo(
            name=options.name,
            family="FastSAM",
            input_size_px=INPUT_SIZE_PX,
            licence="AGPL-3.0-only",
            weights=WeightsInfo.of(options.checkpoint),
            decode_kind="select",
            supports=frozenset(("points", "boxes", "everything")),
        )

    def prepare(self, image: UInt8Array) -> Prepared:
        """Resizes the longest side to 1024 and pads with grey to a multiple of 32 either way.

        The payload is (1, 3, h, w) float32 in [0, 1] on the host.
        """
        size = check_image(image)
        scale = INPUT_SIZE_PX / max(size)
        check_resized(size, (round(size[0] * scale), round(size[1] * scale)))
        letterbox = import_ultralytics().letterbox(INPUT_SIZE_PX, auto=True, stride=_STRIDE_PX)
        boxed = np.ascontiguousarray(letterbox(image=np.ascontiguousarray(image)))
        pixels = torch.from_numpy(boxed).permute(2, 0, 1).contiguous()
        return Prepared(pixels[None].float().div_(255), size)

    def encode(self, prepared: Prepared) -> Embedding:
        """Finds all masks of the image; payload is a `FoundMasks` on the host."""
        return self.find_masks(self.run_network(prepared), prepared)

    @torch.inference_mode()
    def run_network(self, prepared: Prepared) -> tuple[Tensor, Tensor]:
        """Runs the network on A anchors.

        Returns (1, 37, A), boxes xywh in pixels of its input, confidence and 32 mask coefficients,
        and (1, 32, h/4, w/4), the mask prototypes.
        """
        # Each thread has a network, whose last layer stores anchors; weights are shared.
        network = getattr(self._threads, "network", None)
        if network is None:
            tensors = (*self._network.parameters(), *self._network.buffers())
            network = copy.deepcopy(self._network, {id(each): each for each in tensors})
            self._threads.network = network
        (rows, prototypes), _ = network(prepared.payload.to(self.device, self._dtype))
        return rows, prototypes

    @torch.inference_mode()
    def find_masks(self, output: tuple[Tensor, Tensor], prepared: Prepared) -> Embedding:
        """Non-maximum suppression, FastSAM's border rule, and masks at the image's own size.

        The rule is applied to the network's input, padding included, before masks are cut to their
        boxes, as in the authors' code; the predictor in `ultralytics` applies it afterwards, to
        the boxes only. Masks without a pixel are dropped.
        """
        # Non-maximum suppression drops NaN silently, and would return no masks.
        if not all(is_finite(each) for each in output):
            raise WeightsError(NOT_FINITE)
        library, search, size = import_ultralytics(), self.search, prepared.size_hw
        input_hw = prepared.payload.shape[2:]
        rows = library.suppress(
            output[0].float(), search.confidence, search.nms_iou, max_det=search.max_masks, nc=1
        )[0]
        boxes = snap_to_border(rows[:, :4], input_hw, search)
        boxes = library.scale_boxes(input_hw, boxes, size)
        drawn = library.draw_masks(output[1][0], rows[:, 6:], boxes, size)
        values = (drawn.view(torch.bool), boxes, rows[:, 4])
        found = FoundMasks(*(each.cpu().numpy() for each in values))
        if not found.areas.all():
            keep = found.areas > 0
            found = FoundMasks(found.masks[keep], found.boxes[keep], found.scores[keep])
        return Embedding(found, size, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Selects masks for each prompt; C is 1, and `multimask` is ignored."""
        del multimask
        self.check_embedding(embedding)
        self.require(prompts)
        masks, scores = select(embedding.payload, prompts)
        return Masks(masks[:, None], scores[:, None])

    def everything(self, image: UInt8Array) -> list[MaskRecord]:
        """All masks found, the most confident first."""
        found: FoundMasks = self.encode(self.prepare(image)).payload
        return [
            MaskRecord(mask, float(score), box)
            for mask, score, box in zip(found.masks, found.scores, found.boxes, strict=True)
        ]

    def modules(self) -> Mapping[str, nn.Module]:
        """The network as published, made when first needed: `encode` runs a folded one."""
        with self._publishing:
            if self._published is None:
                self._published = self._make().to(self.device, self._dtype)
            return {"all": self._published}

    def probes(self) -> Mapping[str, Sequence[Callable[[], object]]]:
        """One square image, for comparison with published FLOPs; `prepare` pads to less."""
        network = self.modules()["all"]
        side = INPUT_SIZE_PX
        pixels = torch.zeros(1, 3, side, side, device=self.device, dtype=self._dtype)
        return {"all": (lambda: network(pixels),)}

    def synchronize(self) -> None:
        """Waits for CUDA, MPS or XPU; returns at once on the CPU."""
        synchronize_device(self.device)


def _random_network(scale: str, reg_max: int, seed: int) -> nn.Module:
    library = import_ultralytics()
    architecture = library.read_architecture(f"yolov8{scale}-seg.yaml")
    architecture["reg_max"] = reg_max
    with seeded(seed):
        network: nn.Module = library.network(architecture, ch=3, nc=1, verbose=False)
    return network.eval()


def _trained_network(scale: str, checkpoint: Checkpoint) -> nn.Module:
    """The architecture of the installed `ultralytics` with the checkpoint's tensors in it."""
    path = checkpoint.path
    read_head(path)
    if not checkpoint.trusted:
        raise WeightsError(
            f"{path} is a pickle, which can run any code when loaded, and its sha256 "
            f"{checkpoint.sha256[:16]}... is not a published one; if you trust it, pass --trust"
        )

    def convert(error: Exception) -> WeightsError:
        # Messages of ultralytics repeat the path, or name attributes of its code.
        if isinstance(error, ModuleNotFoundError):
            return WeightsError(
                f"{path} needs the package {error.name!r}, so it is no FastSAM checkpoint; give "
                "the file of FastSAM"
            )
        problem = "is truncated, damaged or no FastSAM checkpoint; fetch it again"
        return WeightsError(f"{path} {problem}")

    library = import_ultralytics()
    with foreign_call(convert), logger_level("ultralytics", logging.CRITICAL):
        # The path is absolute, so that ultralytics never takes it for a name to download.
        content, _ = library.load_pickle(path.resolve())
    model = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    if not isinstance(model, nn.Module):
        raise WeightsError(f"{path} holds no ultralytics model; give the file of FastSAM")
    state = dict(model.float().state_dict())
    require_finite(state, str(path))
    bins = [value.shape[1] for name, value in state.items() if name.endswith(".dfl.conv.weight")]
    if len(bins) != 1:
        raise WeightsError(f"{path} holds no YOLOv8-seg; give the file of FastSAM")
    network = _random_network(scale, bins[0], seed=0)
    wanted, found = (
        {(name, value.shape) for name, value in each.items()}
        for each in (network.state_dict(), state)
    )
    wrong = sorted({name for name, _ in wanted ^ found})
    if wrong:
        raise WeightsError(
            f"{path} is no FastSAM-{scale} (YOLOv8{scale}-seg, one class): {len(wrong)} "
            f"tensors differ, the first is {wrong[0]}; give the checkpoint of this very model"
        )
    network.load_state_dict(state)
    return network


@cache
def import_ultralytics() -> SimpleNamespace:
    """Imports the functions used of the AGPL-3.0 library, without what its import changes."""
    # Its suppression is torchvision's if that has been imported, and slower otherwise.
    import torchvision  # noqa: F401

    with _IMPORTING, _contained_import():
        from ultralytics.data.augment import LetterBox
        from ultralytics.nn.tasks import SegmentationModel, torch_safe_load, yaml_model_load
        from ultralytics.utils import ops
        from ultralytics.utils.nms import non_max_suppression
    return SimpleNamespace(
        network=SegmentationModel,
        read_architecture=yaml_model_load,
        load_pickle=torch_safe_load,
        letterbox=LetterBox,
        suppress=non_max_suppression,
        scale_boxes=ops.scale_boxes,
        draw_masks=ops.process_mask_native,
    )


def build_ultralytics_mobile_sam(state: Mapping[str, Tensor]) -> Any:
    """The MobileSAM inside `ultralytics`, from a state dict in the authors' layout."""
    import_ultralytics()  # without its side effects on this process
    from ultralytics.models.sam.build import build_mobile_sam as build

    model = build()
    model.load_state_dict(state)
    # Again, since attention biases are cached when `eval` is called.
    return model.train().eval()


@contextlib.contextmanager
def _contained_import() -> Iterator[None]:
    """Undoes changes that importing ultralytics makes to the process, without network or stdout.

    It sets OMP_NUM_THREADS and OpenCV's threads, which would change measurements, changes how NumPy
    prints, writes a settings file into the home directory, and logs to stdout.
    """
    import cv2
    from PIL import Image

    environment, threads = dict(os.environ), cv2.getNumThreads()
    # It replaces these functions: its Image.open reports a broken file as a missing package.
    replaced: list[tuple[Any, str, Any]] = [
        (Image, "open", Image.open),
        (torch, "save", torch.save),
        *((cv2, name, getattr(cv2, name)) for name in ("imread", "imwrite", "imshow")),
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(sys.stderr),
        np.printoptions(),
        warnings.catch_warnings(),
    ):
        os.environ.setdefault("YOLO_CONFIG_DIR", folder)
        os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
        try:
            yield
        finally:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
            cv2.setNumThreads(threads)
            for owner, name, original in replaced:
                setattr(owner, name, original)
            logger = logging.getLogger("ultralytics")
            logger.handlers.clear()
            logger.setLevel(logging.WARNING)
            logger.propagate = True
