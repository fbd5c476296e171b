"""FastSAM-x and FastSAM-s (arXiv 2306.12156): YOLOv8-seg with one class, then a pick among masks.

The network and its non-maximum suppression come from `ultralytics`, which is AGPL-3.0: this
module and `ultralytics_sam` alone import it, and only inside functions. Inference does not pass
through `YOLO.predict`, which sets itself up anew on every call.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import pickle
import platform
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines.interface import (
    Embedding,
    MaskRecord,
    Masks,
    ModelInfo,
    Prepared,
    Prompts,
    Segmenter,
    UInt8Array,
    check_image,
)
from baselines.mask_selection import FoundMasks, MaskSearch, select, snap_to_border
from baselines.options import Checkpoint, ModelOptions
from baselines.sam_like import synchronize_device, weights_info
from baselines.values import NOT_FINITE
from mobilesam.devices import usable_device
from mobilesam.errors import FOREIGN_ERRORS, UsageError, WeightsError
from mobilesam.inputs import check_resized
from mobilesam.logs import logger_level
from mobilesam.model.state_dicts import is_finite, read_head, require_finite
from mobilesam.process_state import seeded

INPUT_SIZE_PX = 1024
_STRIDE_PX = 32
# Held during the import, which changes the process temporarily; see `_contained_import`.
_IMPORTING = threading.Lock()
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# What unpickling a file that is truncated, or of another kind, is known to raise.
_UNPICKLING_ERRORS = (*FOREIGN_ERRORS, pickle.UnpicklingError, EOFError)


def build_x(options: ModelOptions) -> Segmenter:
    """FastSAM-x: YOLOv8x-seg, 26 bins a box side, 72,234,149 parameters."""
    return build("x", 26, options)


def build_s(options: ModelOptions) -> Segmenter:
    """FastSAM-s: YOLOv8s-seg, 16 bins a box side, 11,790,483 parameters."""
    return build("s", 16, options)


def build(
    scale: str, reg_max: int, options: ModelOptions, search: MaskSearch | None = None
) -> FastSamSegmenter:
    """Builds a FastSAM of any size.

    Args:
        scale: Letter of the YOLOv8 size: n, s, m, l or x.
        reg_max: Bins of the distribution that stands for a side of a box. A checkpoint brings its
            own; this is for random weights.
        options: Without a checkpoint the weights are random and seeded.
        search: None for FastSAM's own settings.

    Raises:
        WeightsError: The checkpoint is untrusted, unreadable, or of another architecture.
        UsageError: Unknown precision.
    """
    if options.checkpoint is None:
        make = partial(_random_network, scale, reg_max, options.seed)
    else:
        make = partial(_trained_network, scale, options.checkpoint)
    return FastSamSegmenter(make, options, search or MaskSearch())


class FastSamSegmenter(Segmenter):
    """FastSAM behind the interface.

    `encode` is all of FastSAM but the prompt: the network, non-maximum suppression, and masks at
    the image's own size, brought to the host; `decode` only picks among them there
    (see `baselines.mask_selection`). For the timer, `run_network` and `find_masks` are its halves.
    With random weights there is mostly nothing to find.

    Args:
        make: Makes the network as published, in evaluation mode, on the CPU, float32.
        options: What it is built from. The precision is `fp32` or `fp16`: 8 bits of mantissa
            cannot hold the coordinates of boxes in an image of 1024 pixels.
        search: How masks are found.
    """

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
            network.model[-1].stride = strides  # read as numbers, which the meta device has not
        else:
            # As ultralytics runs it: batch normalisation folded into the convolutions, and the
            # layout that x86 convolves fastest.
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
            weights=weights_info(options),
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
        """The network alone.

        Returns:
            (1, 37, A) boxes xywh in pixels of the network's input, confidence and 32 mask
            coefficients of all A anchors; and (1, 32, h/4, w/4) mask prototypes.
        """
        network = self._own_network()
        (rows, prototypes), _ = network(prepared.payload.to(self.device, self._dtype))
        return rows, prototypes

    def _own_network(self) -> Any:
        """The network of this thread; its last layer stores anchors for the last image's shape.

        Weights are shared between threads.
        """
        found = getattr(self._threads, "network", None)
        if found is None:
            tensors = (*self._network.parameters(), *self._network.buffers())
            found = copy.deepcopy(self._network, {id(each): each for each in tensors})
            self._threads.network = found
        return found

    @torch.inference_mode()
    def find_masks(self, output: tuple[Tensor, Tensor], prepared: Prepared) -> Embedding:
        """Non-maximum suppression, FastSAM's border rule, and masks at the image's own size.

        The rule works on the network's input, padding included, and before masks are cut to their
        boxes, as in the authors' code; the predictor in `ultralytics` applies it afterwards, to
        the boxes alone. Masks without a pixel are dropped.

        Raises:
            WeightsError: The output is not finite.
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
        found = FoundMasks(
            masks=drawn.view(torch.bool).cpu().numpy(),
            boxes=boxes.cpu().numpy(),
            scores=rows[:, 4].cpu().numpy(),
        )
        return Embedding(found.without_empty(), size, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Picks for each prompt among the masks found; C is 1, and `multimask` is ignored."""
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
        """The network as published, batch normalisation and all; made when first asked for.

        It is not the object that `encode` runs, in which the batch normalisations are folded away.
        """
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
    state = _read_state(checkpoint)
    bins = [value.shape[1] for name, value in state.items() if name.endswith(".dfl.conv.weight")]
    if len(bins) != 1:
        raise WeightsError(f"{checkpoint.path} holds no YOLOv8-seg; give the file of FastSAM")
    network = _random_network(scale, bins[0], seed=0)
    wanted = network.state_dict()
    wrong = [
        name
        for name in sorted(wanted.keys() | state.keys())
        if name not in wanted or name not in state or wanted[name].shape != state[name].shape
    ]
    if wrong:
        raise WeightsError(
            f"{checkpoint.path} is no FastSAM-{scale} (YOLOv8{scale}-seg, one class): {len(wrong)} "
            f"tensors differ, the first is {wrong[0]}; give the checkpoint of this very model"
        )
    network.load_state_dict(state)
    return network


def _read_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    path = checkpoint.path
    read_head(path)
    if not checkpoint.trusted:
        raise WeightsError(
            f"{path} is a pickle, which can run any code when loaded, and its sha256 "
            f"{checkpoint.sha256[:16]}... is not a published one; if you trust it, pass --trust"
        )
    try:
        # The path is absolute, so that ultralytics never takes it for a name to download.
        with logger_level("ultralytics", logging.CRITICAL):
            content, _ = import_ultralytics().load_pickle(path.resolve())
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"{path} needs the package {error.name!r}, so it is no FastSAM checkpoint; give the "
            "file of FastSAM"
        ) from error
    except _UNPICKLING_ERRORS as error:
        # Messages of ultralytics repeat the path, or name attributes of its code.
        raise WeightsError(
            f"{path} is truncated, damaged or no FastSAM checkpoint; fetch it again"
        ) from error
    model = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    if not isinstance(model, nn.Module):
        raise WeightsError(f"{path} holds no ultralytics model; give the file of FastSAM")
    state = dict(model.float().state_dict())
    require_finite(state, str(path))
    return state


@dataclass(frozen=True, slots=True)
class _Ultralytics:
    """All that is used of the AGPL-3.0 library."""

    network: Callable[..., Any]
    read_architecture: Callable[[str], dict[str, Any]]
    load_pickle: Callable[..., Any]
    letterbox: Callable[..., Any]
    suppress: Callable[..., Any]
    scale_boxes: Callable[..., Any]
    draw_masks: Callable[..., Any]


@cache
def import_ultralytics() -> _Ultralytics:
    """Imports ultralytics, once, without what its import does to the process."""
    with _IMPORTING:
        return _imported()


def _imported() -> _Ultralytics:
    # Its suppression is torchvision's if that has been imported by anyone, and slower otherwise.
    import torchvision  # noqa: F401

    with _contained_import():
        from ultralytics.data.augment import LetterBox
        from ultralytics.nn.tasks import SegmentationModel, torch_safe_load, yaml_model_load
        from ultralytics.utils import ops
        from ultralytics.utils.nms import non_max_suppression
    return _Ultralytics(
        network=SegmentationModel,
        read_architecture=yaml_model_load,
        load_pickle=torch_safe_load,
        letterbox=LetterBox,
        suppress=non_max_suppression,
        scale_boxes=ops.scale_boxes,
        draw_masks=ops.process_mask_native,
    )


@contextlib.contextmanager
def _contained_import() -> Iterator[None]:
    """Undoes what importing ultralytics does to the process, and keeps it off net, disk and stdout.

    It sets OMP_NUM_THREADS and OpenCV's threads, which would change measurements, changes how NumPy
    prints, writes a settings file into the home directory, and logs to stdout.
    """
    import cv2
    from PIL import Image

    environment, threads = dict(os.environ), cv2.getNumThreads()
    # It replaces these for everybody: its Image.open turns a broken file into a missing package.
    owners: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (Image, ("open",)),
        (torch, ("save",)),
        (cv2, ("imread", "imwrite", "imshow")),
    )
    replaced = [(owner, name, getattr(owner, name)) for owner, names in owners for name in names]
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
