"""Backends that run MobileSAM's weights, for the inference benchmark and its page.

Every backend has an encoder and a decoder for points, on torch tensors in coordinates of the
network's input, so that all of them get the same input.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilesam.errors import UsageError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

    from mobilesam.export.runtime import Target
    from mobilesam.fast.inference import Precision

REFERENCE = "plain"
"""segment-anything's modules with our eager TinyViT, which equal the authors' code."""
AUTHORS = "authors"
"""The authors' own package, if it is installed."""
_KEEP = "+keep"


@dataclass(frozen=True, slots=True)
class Backend:
    """An implementation with its weights loaded.

    Attributes:
        encode: (1, 3, S, S) normalised pixels -> (1, C, S/16, S/16).
        decode: An embedding and foreground points (N, K, 2) -> logits of the single mask
            (N, 1, S/4, S/4).
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]


def _plain(sam: Sam) -> Backend:
    return _modules(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder)


def _modules(encoder: Any, prompts: Any, decoder: Any) -> Backend:
    """The three modules of a model with the interface of segment-anything."""
    import torch

    def decode(image: Tensor, points: Tensor) -> Tensor:
        sparse, dense = prompts(
            points=(points, torch.ones(points.shape[:2])), boxes=None, masks=None
        )
        logits, _ = decoder(
            image_embeddings=image,
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        found: Tensor = logits
        return found

    return Backend(encoder, decode)


def _in_batches(backend: Backend) -> Backend:
    """Decodes few prompts at a time, so that the allocator keeps the buffers."""
    import torch

    from baselines.sam import DECODE_BATCH
    from mobilesam.fast.kernels import strips

    def decode(image: Tensor, points: Tensor) -> Tensor:
        parts = strips(len(points), DECODE_BATCH)
        return torch.cat([backend.decode(image, points[first:last]) for first, last in parts])

    return Backend(backend.encode, decode)


def _folded(sam: Sam) -> Backend:
    """A step towards `fast`: folded weights and reordered products, in torch's own modules."""
    import torch

    from mobilesam.export.graphs import DecoderGraph
    from mobilesam.fast.inference import ModuleEncoder

    graph = DecoderGraph(sam)
    nothing = torch.zeros(1, 1, 2)

    def decode(image: Tensor, points: Tensor) -> Tensor:
        count = len(points)
        where = torch.cat([points, nothing.expand(count, -1, -1)], 1)
        labels = torch.ones(where.shape[:2], dtype=torch.long)
        labels[:, -1] = -1
        found: Tensor = graph(image, where, labels)[0][:, :1]
        return found

    device = torch.device("cpu")
    encoder: Any = sam.image_encoder
    return _in_batches(Backend(ModuleEncoder(encoder, torch.float32, device), decode))


def _ultralytics(sam: Sam) -> Backend:
    from baselines.fast_sam import build_ultralytics_mobile_sam

    theirs = build_ultralytics_mobile_sam(sam.state_dict())
    return _modules(theirs.image_encoder, theirs.prompt_encoder, theirs.mask_decoder)


def _authors(sam: Sam) -> Backend:
    try:
        package = importlib.import_module("mobile_sam")
    except ImportError as error:
        raise UsageError(
            f"the authors' package cannot be imported ({error}); install it, for instance "
            "pip install timm git+https://github.com/ChaoningZhang/MobileSAM"
        ) from error
    theirs = package.sam_model_registry["vit_t"]()
    theirs.load_state_dict(sam.state_dict())
    # It caches attention biases in `eval`, which was called before they were loaded.
    theirs.train().eval()
    return _modules(theirs.image_encoder, theirs.prompt_encoder, theirs.mask_decoder)


def _fast(precision: Precision, *, compiled: bool = False) -> Callable[[Sam], Backend]:
    def build(sam: Sam) -> Backend:
        import torch

        from mobilesam.fast.inference import FastMobileSam
        from mobilesam.prompts import NetworkPrompts

        fast = FastMobileSam(sam, precision, compile=compiled)

        def decode(image: Tensor, points: Tensor) -> Tensor:
            prompts = NetworkPrompts(points, torch.ones(points.shape[:2]))
            return fast.decode(image, prompts)[0]

        return Backend(fast.encode, decode)

    return build


def _exported(
    target: Target, precision: str = "fp32", *, int8: bool = False
) -> Callable[[Sam], Backend]:
    def build(sam: Sam) -> Backend:
        import tempfile

        from mobilesam.export.runtime import Source, current_threads, graph_file, open_graph
        from mobilesam.export.writer import export_model

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # The source is for the manifest, which is deleted with the folder.
            export_model(sam, folder, target, source=Source(kind="random"), int8=int8)
            encoder, decoder = (
                open_graph(
                    folder / graph_file(graph, target, int8=int8),
                    target,
                    threads=current_threads(),
                    precision=precision,
                )
                for graph in ("encoder", "decoder")
            )
        return _graphs(encoder, decoder)

    return build


def _graphs(encoder: Any, decoder: Any) -> Backend:
    import numpy as np
    import torch

    from baselines.exported import DECODE_BATCH
    from mobilesam.export.runtime import box_points
    from mobilesam.fast.kernels import strips

    def encode(pixels: Tensor) -> Tensor:
        return torch.from_numpy(encoder({"pixels": pixels.numpy()})[0])

    def decode(image: Tensor, points: Tensor) -> Tensor:
        found = []
        for first, last in strips(len(points), DECODE_BATCH):
            batch = points[first:last]
            points_and_corners, labels = box_points(
                batch.numpy(), np.ones(batch.shape[:2], np.int64), None
            )
            inputs = {"embedding": image.numpy(), "points": points_and_corners, "labels": labels}
            found.append(torch.from_numpy(decoder(inputs)[0][:, :1]))
        return torch.cat(found)

    return Backend(encode, decode)


_BUILDERS: dict[str, Callable[[Sam], Backend]] = {
    REFERENCE: _plain,
    AUTHORS: _authors,
    "ultralytics": _ultralytics,
    "batches": lambda sam: _in_batches(_plain(sam)),
    "folded": _folded,
    "fast": _fast("fp32"),
    "bf16": _fast("bf16"),
    "compiled": _fast("fp32", compiled=True),
    "compiled-bf16": _fast("bf16", compiled=True),
    "onnx": _exported("onnx"),
    "onnx-int8": _exported("onnx", int8=True),
    "openvino": _exported("openvino"),
    "openvino-bf16": _exported("openvino", "bf16"),
}


def names() -> tuple[str, ...]:
    """All backends; each also with `+keep`, in a process that keeps freed buffers."""
    return (*_BUILDERS, *(f"{name}{_KEEP}" for name in _BUILDERS))


def default_names() -> tuple[str, ...]:
    """The reference, and the other backends that this machine and installation can run."""
    import importlib.util

    from mobilesam.export.runtime import PACKAGES
    from mobilesam.fast.kernels import computes_bf16

    chosen = [REFERENCE, "ultralytics", "fast"]
    if importlib.util.find_spec("mobile_sam") is not None:
        chosen.insert(1, AUTHORS)
    exporting = importlib.util.find_spec("onnx") is not None
    runtimes = [name for name, need in PACKAGES.items() if importlib.util.find_spec(need)]
    chosen += runtimes if exporting else []
    if computes_bf16():
        chosen += ["bf16", *(["openvino-bf16"] if "openvino" in chosen else [])]
    return tuple(chosen)


def build(name: str, sam: Sam) -> Backend:
    """Builds a backend from a loaded model.

    Raises:
        UsageError: The name is unknown, or a package is missing.
        UnsupportedError: The processor does not support the precision.
    """
    from mobilesam.fast.allocator import keep_buffers

    if name.endswith(_KEEP):
        keep_buffers()
    builder = _BUILDERS.get(name.removesuffix(_KEEP))
    if builder is None:
        raise UsageError(f"unknown backend {name!r}; choose from {', '.join(_BUILDERS)}")
    return builder(sam)


def inference_task(backend: str, weights: str | None) -> Callable[[str], Callable[[], Tensor]]:
    """Task for the timing process: calls of a backend by phase, `encoder` or `decoder-N`.

    Inputs have a fixed seed. All backends decode the same embedding: the reference encoder's, or
    noise with random weights.

    Args:
        backend: One of `names`.
        weights: Checkpoint, or None for random weights of seed 0.
    """
    import torch

    from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = load_mobile_sam(Path(weights)) if weights else build_mobile_sam()
        # Outside of the inference mode, in which exporters cannot trace.
        built = build(backend, sam)

    def find_call(phase: str) -> Callable[[], Tensor]:
        draw = torch.Generator().manual_seed(0)
        size = int(sam.image_encoder.img_size)
        pixels = torch.randn(1, 3, size, size, generator=draw)
        embedding = torch.randn(1, 256, size // 16, size // 16, generator=draw)
        n_prompts = 1 if phase == "encoder" else int(phase.removeprefix("decoder-"))
        points = size * torch.rand(n_prompts, 1, 2, generator=draw)

        def encode() -> Tensor:
            with torch.inference_mode():
                return built.encode(pixels)

        def decode() -> Tensor:
            with torch.inference_mode():
                return built.decode(embedding, points)

        if phase == "encoder":
            return encode
        if weights:
            with torch.inference_mode():
                embedding = sam.image_encoder(pixels)
        return decode

    return find_call
