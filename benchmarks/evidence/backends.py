"""Backends that run MobileSAM's weights, for the inference benchmark and its page.

Every backend has an encoder and a decoder for points, on torch tensors in coordinates of the
network's input, so that all of them get the same input.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from baselines import exported, sam
from benchmarks.latency import timer
from benchmarks.latency.parameters import count_flops
from mobilesam.errors import UsageError
from mobilesam.export import runtime
from mobilesam.export.int8_network import Int8MobileSam, computes_int8
from mobilesam.fast import kernels
from mobilesam.fast.allocator import keep_buffers
from mobilesam.fast.inference import FastMobileSam, ModuleEncoder, Precision
from mobilesam.model import mobile_sam
from mobilesam.prompts import NetworkPrompts

REFERENCE = "plain"
"""segment-anything's modules with our eager TinyViT, which equal the authors' code."""
AUTHORS = "authors"
"""The authors' own package, if it is installed."""
_KEEP = "+keep"
PREPARED = "-prepared"
PHASES = rf"encoder|decoder-[1-9][0-9]*({PREPARED})?"
"""The encoder, or N prompts: the first on an image, or further ones."""


def _unchanged(embedding: Tensor) -> Tensor:
    return embedding


class Backend(NamedTuple):
    """An implementation with its weights loaded."""

    # (1, 3, S, S) normalised pixels -> (1, C, S/16, S/16)
    encode: Callable[[Tensor], Tensor]
    # An embedding, or `prepare` of it, and foreground points (N, K, 2) -> logits of the single mask
    # (N, 1, S/4, S/4)
    decode: Callable[[Any, Tensor], Tensor]
    # What is computed once for all prompts on an image, of its embedding
    prepare: Callable[[Tensor], Any] = _unchanged


def _plain(model: Any) -> Backend:
    """The three modules of a model with the interface of segment-anything."""

    def decode(image: Tensor, points: Tensor) -> Tensor:
        """Logits (P, 1, H, W) of (P, N, 2) points on an embedding."""
        labels = torch.ones(points.shape[:2])
        sparse, dense = model.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        logits: Tensor = model.mask_decoder(
            image_embeddings=image,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )[0]
        return logits

    return Backend(model.image_encoder, decode)


def _in_batches(backend: Backend, size: int = sam.DECODE_BATCH) -> Backend:
    """Decodes few prompts at a time, so that the allocator keeps the buffers."""

    def decode(image: Tensor, points: Tensor) -> Tensor:
        parts = kernels.strips(len(points), size)
        return torch.cat([backend.decode(image, points[first:last]) for first, last in parts])

    return Backend(backend.encode, decode)


def _folded(model: Sam) -> Backend:
    """A step towards `fast`: folded weights and reordered products, in torch's own modules."""
    from mobilesam.export.graphs import DecoderGraph

    graph = DecoderGraph(model)

    def decode(image: Tensor, points: Tensor) -> Tensor:
        """Logits (P, 1, H, W) of (P, N, 2) points on an embedding."""
        padded = torch.cat([points, torch.zeros(len(points), 1, 2)], 1)
        labels = torch.ones(padded.shape[:2], dtype=torch.long)
        labels[:, -1] = -1
        logits: Tensor = graph(image, padded, labels)[0][:, :1]
        return logits

    encoder: Any = model.image_encoder
    encode = ModuleEncoder(encoder, torch.float32, torch.device("cpu"))
    return _in_batches(Backend(encode, decode))


def _ultralytics(model: Sam) -> Backend:
    from baselines.fast_sam import build_ultralytics_mobile_sam

    return _plain(build_ultralytics_mobile_sam(model.state_dict()))


def _authors(model: Sam) -> Backend:
    try:
        package = importlib.import_module("mobile_sam")
    except ImportError as error:
        raise UsageError(
            f"the authors' package cannot be imported ({error}); install it, for instance "
            "pip install timm git+https://github.com/ChaoningZhang/MobileSAM"
        ) from error
    theirs = package.sam_model_registry["vit_t"]()
    theirs.load_state_dict(model.state_dict())
    # It caches attention biases in `eval`, which was called before they were loaded.
    return _plain(theirs.train().eval())


def _fast(model: Sam, precision: Precision = "fp32", *, compiled: bool = False) -> Backend:
    return _of_network(FastMobileSam(model, precision, compile=compiled))


def _int8(model: Sam) -> Backend:
    return _of_network(Int8MobileSam(model))


def _of_network(fast: FastMobileSam) -> Backend:
    def decode(image: Any, points: Tensor) -> Tensor:
        return fast.decode(image, NetworkPrompts(points, torch.ones(points.shape[:2])))[0]

    return Backend(fast.encode, decode, fast.prepare)


def _exported(
    model: Sam, target: runtime.Target, precision: str = "fp32", *, int8: bool = False
) -> Backend:
    from mobilesam.export.writer import export_model

    threads = runtime.current_threads()
    with tempfile.TemporaryDirectory() as folder:
        # The source is for the manifest, which is deleted with the folder.
        source = runtime.Source(kind="random")
        export_model(model, Path(folder), target, source=source, int8=int8)
        files = (
            Path(folder) / runtime.graph_file(name, target, int8=int8)
            for name in ("encoder", "decoder")
        )
        encoder, decoder = (
            runtime.open_graph(file, target, threads=threads, precision=precision) for file in files
        )

    def encode(pixels: Tensor) -> Tensor:
        return torch.from_numpy(encoder({"pixels": pixels.numpy()})[0])

    def decode(image: Tensor, points: Tensor) -> Tensor:
        """Logits (P, 1, H, W) of (P, N, 2) points on an embedding."""
        ones = np.ones(points.shape[:2], np.int64)
        padded, labels = runtime.box_points(points.numpy(), ones, None)
        inputs = {"embedding": image.numpy(), "points": padded, "labels": labels}
        return torch.from_numpy(decoder(inputs)[0][:, :1])

    return _in_batches(Backend(encode, decode), exported.DECODE_BATCH)


_BUILDERS: dict[str, Callable[[Sam], Backend]] = {
    REFERENCE: _plain,
    AUTHORS: _authors,
    "ultralytics": _ultralytics,
    "batches": lambda model: _in_batches(_plain(model)),
    "folded": _folded,
    "fast": _fast,
    "bf16": partial(_fast, precision="bf16"),
    "int8": _int8,
    "compiled": partial(_fast, compiled=True),
    "compiled-bf16": partial(_fast, precision="bf16", compiled=True),
    "onnx": partial(_exported, target="onnx"),
    "onnx-int8": partial(_exported, target="onnx", int8=True),
    "openvino": partial(_exported, target="openvino"),
    "openvino-bf16": partial(_exported, target="openvino", precision="bf16"),
}
# Torch computes all of them, and takes a limit from the environment. Measured with OpenVINO under
# oneDNN's limit: products go to MLAS, normalisation to code of its own, both in AVX-512.
_LIMITABLE = (REFERENCE, AUTHORS, "ultralytics", "batches", "folded", "fast")


def names(isa: str | None = None) -> tuple[str, ...]:
    """All backends; each also with `+keep`, in a process that keeps freed buffers.

    With the name of an instruction set, only those that can be limited to it.
    """
    chosen = tuple(_BUILDERS) if isa is None else _LIMITABLE
    return (*chosen, *(f"{name}{_KEEP}" for name in chosen))


def default_names(isa: str | None = None) -> tuple[str, ...]:
    """The reference, and the other backends that this machine and installation can run.

    With the name of an instruction set, only those that can be limited to it.
    """
    chosen = [REFERENCE, "ultralytics", "fast"]
    if importlib.util.find_spec("mobile_sam") is not None:
        chosen.insert(1, AUTHORS)
    if importlib.util.find_spec("onnx") is not None:
        needs = runtime.PACKAGES.items()
        chosen += [name for name, package in needs if importlib.util.find_spec(package)]
    if kernels.computes_bf16():
        chosen += ["bf16", *(["openvino-bf16"] if "openvino" in chosen else [])]
    if computes_int8() and "openvino" in chosen:
        chosen.append("int8")
    return tuple(name for name in chosen if isa is None or name in _LIMITABLE)


def build(name: str, model: Sam) -> Backend:
    """Builds a backend from a loaded model, or raises a UsageError for an unknown name."""
    if name.endswith(_KEEP):
        keep_buffers()
    builder = _BUILDERS.get(name.removesuffix(_KEEP))
    if builder is None:
        raise UsageError(f"unknown backend {name!r}; choose from {', '.join(_BUILDERS)}")
    return builder(model)


def inference_task(backend: str, weights: str | None) -> Callable[[str], Callable[[], Tensor]]:
    """Task for the timing process: calls of a backend by phase, see `PHASES`.

    Inputs have a fixed seed. All backends decode the same embedding: the reference encoder's, or
    noise if there are no `weights` and the model's are random, of seed 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        load, create = mobile_sam.load_mobile_sam, mobile_sam.build_mobile_sam
        model = load(Path(weights)) if weights else create()
        # Outside of the inference mode, in which exporters cannot trace.
        built = build(backend, model)

    def find_call(phase: str) -> Callable[[], Tensor]:
        """The call of a phase, on inputs that are equal for all backends."""
        draw = torch.Generator().manual_seed(0)
        size = int(model.image_encoder.img_size)
        pixels = torch.randn(1, 3, size, size, generator=draw)
        embedding = torch.randn(1, 256, size // 16, size // 16, generator=draw)
        if phase == "encoder":
            return torch.inference_mode()(lambda: built.encode(pixels))
        n_prompts = int(phase.removeprefix("decoder-").removesuffix(PREPARED))
        points = size * torch.rand(n_prompts, 1, 2, generator=draw)
        if weights:
            with torch.inference_mode():
                embedding = model.image_encoder(pixels)
        image: Any = embedding
        if phase.endswith(PREPARED):
            with torch.inference_mode():
                image = built.prepare(embedding)
        return torch.inference_mode()(lambda: built.decode(image, points))

    return find_call


def isa_task() -> Callable[[str], Callable[[], str]]:
    """Task for the timing process: the widest vector instructions of torch and its oneDNN."""

    def widest() -> str:
        found: str = torch.backends.cpu.get_cpu_capability().lower()
        # oneDNN takes bfloat16 where it may use AVX-512, and nowhere else on x86.
        return "avx512" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else found

    return lambda _phase: widest


def encoder_flops() -> int:
    """Floating-point operations of MobileSAM's encoder for one image, counted in our modules."""
    with torch.device("meta"), torch.no_grad():
        encoder = mobile_sam.build_mobile_sam().image_encoder.eval()
        image = torch.empty(1, 3, 1024, 1024)
        return count_flops(lambda: encoder(image))[0]


def product_task() -> Callable[[str], Callable[[], float]]:
    """Task for the timing process: the rate of a float32 product of 2048 x 2048, in GFLOP/s.

    The faster of torch's product and that of the fast path, which takes oneDNN if it can.
    """

    def rate() -> float:
        a, b = torch.rand(2, 2048, 2048)
        dense = kernels.Dense(b, None, like=a)
        calls = (lambda: torch.mm(a, b), lambda: dense(a))
        times = [timer.time_calls(call, 10, lambda: None)[1:] for call in calls]
        return 2 * 2048**3 / min(map(median, times)) / 1e6

    return lambda _phase: rate
