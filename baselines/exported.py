"""MobileSAM from files of `mobilesam-bench export`; torch is only imported to create the files.

SAM's work before and after its networks is done in numpy here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.interface import (
    BoolArray,
    Checkpoint,
    Embedding,
    Float32Array,
    LogitMasks,
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
from mobilesam.errors import DataError, UnsupportedError, WeightsError
from mobilesam.export import runtime
from mobilesam.export.runtime import Array, Graph, GraphName, Source, Target
from mobilesam.inputs import check_resized, resize_image, resize_points, resized_hw
from mobilesam.weights.cache import cache_dir, exclusive
from mobilesam.weights.checkpoint_specs import specs

if TYPE_CHECKING:
    from torch import nn

# Prompts that go through the decoder together: the first layer's image side is shared among them,
# and each needs some 30 MB.
DECODE_BATCH = 8
_N_MASKS = 4  # of the decoder: the single one, then three candidates
_SINGLE, _MULTI = slice(0, 1), slice(1, None)
_OFFICIAL = "mobilesam"  # the model whose published checkpoint makes exported files official
_KEPT_SIZES = 16  # image sizes whose interpolation matrices are kept


class ExportedSegmenter(Segmenter):
    """Runs the graphs of one folder on the CPU, with the results of the torch adapter.

    Args:
        folder: Folder of `mobilesam.export.writer.export_model`.
        options: Name, precision, and the seed of random weights.
        target: Kind of files that the folder must hold.
        int8: Run the quantised graphs.

    Raises:
        WeightsError: The folder holds other files, or is damaged.
        UnsupportedError: The runtime does not support the device or precision.
        UsageError: The runtime is not installed.
    """

    def __init__(
        self, folder: Path, options: ModelOptions, target: Target, *, int8: bool = False
    ) -> None:
        self._options, self._folder, self._target, self._int8 = options, folder, target, int8
        self.threads = runtime.current_threads()
        self.manifest = manifest = runtime.read_manifest(folder)
        if manifest.target != target:
            raise WeightsError(
                f"{folder} was exported for {manifest.target}; "
                f"{options.name} wants mobilesam-bench export --to {target}"
            )
        if int8 and runtime.graph_file("encoder", target, int8=True) not in manifest.files:
            raise WeightsError(f"{folder} has no int8 files; export again with --int8")
        self._side = manifest.image_size_px
        # With ONNX, activations are quantised with one scale per call: in a batch, the result of a
        # prompt would depend on the other prompts.
        self._batch = 1 if int8 and target == "onnx" else DECODE_BATCH
        self._graphs: dict[GraphName, Graph] = {}
        self._known_shapes: Segmenter | None = None
        self._loading = threading.Lock()
        for name in ("encoder", "decoder"):
            self._graph(name)
        source, weights = manifest.source, WeightsInfo("random")
        if source.kind == "file":
            weights = WeightsInfo("file", source.sha256, _is_official(source), source.n_bytes)
        self.info = ModelInfo(
            name=options.name,
            family="MobileSAM",
            input_size_px=self._side,
            licence="Apache-2.0",
            weights=weights,
            decode_kind="decoder",
            supports=frozenset(("points", "boxes", "masks")),
        )

    def prepare(self, image: UInt8Array) -> Prepared:
        """Resizes the longest side to the input size, normalises, and pads below and right."""
        size = check_image(image)
        check_resized(size, resized_hw(size, self._side))
        mean, std = self.manifest.pixel_mean, self.manifest.pixel_std
        return Prepared(normalised(image, self._side, mean, std), size)

    def encode(self, prepared: Prepared) -> Embedding:
        """Runs the image encoder: payload is (1, C, S/16, S/16) float32."""
        (features,) = self._graph("encoder")({"pixels": prepared.payload})
        return Embedding(features, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Decodes and upsamples in batches; memory beyond the result does not depend on N."""
        return self.postprocess(self.decode_logits(embedding, prompts, multimask=multimask))

    def decode_pair(self, embedding: Embedding, prompts: Prompts) -> tuple[Masks, Masks]:
        """Both results from one pass, since the decoder always computes four masks."""
        whole = self.postprocess(self._decode(embedding, prompts, slice(None)))
        return whole.candidates(_SINGLE), whole.candidates(_MULTI)

    def decode_logits(
        self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False
    ) -> LogitMasks:
        """Runs prompt encoder and mask decoder; logits are (N, C, S/4, S/4) float32 arrays."""
        return self._decode(embedding, prompts, _MULTI if multimask else _SINGLE)

    def _decode(self, embedding: Embedding, prompts: Prompts, candidates: slice) -> LogitMasks:
        self.check_embedding(embedding)
        self.require(prompts)
        size, side = embedding.size_hw, 4 * embedding.payload.shape[2]
        # With zero prompts, the result is this empty array.
        none = np.zeros((0, _N_MASKS, side, side), np.float32)[:, candidates]
        logits, scores = [none], [none[..., 0, 0]]
        for batch in prompts.batches(self._batch):
            points: Array = np.zeros((len(batch), 0, 2))
            boxes = None
            labels = np.zeros((len(batch), 0), np.int64)
            if batch.points is not None and batch.labels is not None:
                points, labels = resize_points(batch.points, size, self._side), batch.labels
            if batch.boxes is not None:
                corners = resize_points(batch.boxes.reshape(-1, 2, 2), size, self._side)
                boxes = corners.reshape(-1, 4)
            points, labels = runtime.box_points(points, labels, boxes)
            inputs: dict[str, Array] = {"embedding": embedding.payload}
            inputs |= {"points": points, "labels": labels}
            if batch.mask_inputs is None:
                found = self._graph("decoder")(inputs)
            else:
                found = self._graph("mask_decoder")(inputs | {"masks": batch.mask_inputs})
            # Copied, since a view would keep all four masks of every prompt.
            logits.append(found[0][:, candidates].copy())
            scores.append(found[1][:, candidates].copy())
        return LogitMasks(np.concatenate(logits), np.concatenate(scores), size)

    def postprocess(self, found: LogitMasks) -> Masks:
        """Upsamples to the image's size and thresholds."""
        masks = masks_at(found.logits, found.size_hw, self._side, self.manifest.mask_threshold)
        return Masks(masks, found.scores, found.logits)

    def embedding_arrays(self, embedding: Embedding) -> Mapping[str, Float32Array]:
        """One array: (1, C, S/16, S/16) float32."""
        self.check_embedding(embedding)
        return {"features": embedding.payload}

    def embedding_from(
        self, arrays: Mapping[str, Float32Array], size_hw: tuple[int, int]
    ) -> Embedding:
        """Converts arrays of `embedding_arrays` back to an embedding."""
        found = arrays.get("features")
        # Cells of 16 px, or of 8 px in the mini family, which the manifest does not tell apart.
        sides = (self._side // 16, self._side // 8)
        wanted = [(1, self.manifest.embed_dim, side, side) for side in sides]
        if found is None or found.shape not in wanted or found.dtype != np.float32:
            raise DataError(
                f"not an embedding of {self.info.name}: wanted {wanted[0]} or {wanted[1]} float32"
            )
        return Embedding(found, size_hw, self.info.name)

    def modules(self) -> Mapping[str, nn.Module]:
        """The architecture as shapes on torch's meta device; imports torch."""
        with self._loading:
            if self._known_shapes is None:
                self._known_shapes = _shapes(self._options)
            return self._known_shapes.modules()

    def probes(self) -> Mapping[str, Sequence[Callable[[], object]]]:
        """Calls of `modules`: exported graphs have the parameters and FLOPs of their source."""
        self.modules()
        assert self._known_shapes is not None  # noqa: S101 - made by `modules`
        return self._known_shapes.probes()

    def _graph(self, name: GraphName) -> Graph:
        """A graph, loaded when first needed: mask prompts are rare."""
        with self._loading:
            if name not in self._graphs:
                file = self._folder / runtime.graph_file(name, self._target, int8=self._int8)
                is_quantised = self._int8 and self._target == "openvino" and name == "encoder"
                precision = "int8" if is_quantised else self._options.precision
                graph = runtime.open_graph(
                    file, self._target, threads=self.threads, precision=precision
                )
                self._graphs[name] = graph
            return self._graphs[name]


def _shapes(options: ModelOptions) -> Segmenter:
    """The torch adapter without weights, under this name, for counting."""
    from baselines.sam import build_mobilesam

    return build_mobilesam(replace(options, device="meta", precision="fp32", checkpoint=None))


def _is_official(source: Source) -> bool:
    return source.sha256 is not None and specs()[_OFFICIAL].is_published(source.sha256)


def is_exported(path: Path) -> bool:
    """Whether a path given for weights names a folder of exported files, or its manifest."""
    return path.name == runtime.MANIFEST_NAME or path.is_dir()


def exported_folder(checkpoint: Checkpoint | None) -> Path | None:
    """The folder of exported files that a checkpoint names; None if it is plain weights."""
    if checkpoint is None or not is_exported(checkpoint.path):
        return None
    path = checkpoint.path
    return path.parent if path.name == runtime.MANIFEST_NAME else path


def folder_checkpoint(path: Path) -> Checkpoint:
    """A folder of exported files as a checkpoint, with the digest of the weights in it."""
    folder = path.parent if path.name == runtime.MANIFEST_NAME else path
    source = runtime.read_manifest(folder).source
    if source.sha256 is None or source.n_bytes is None:
        raise WeightsError(f"{folder} was exported from random weights; give trained ones")
    official = _is_official(source)
    return Checkpoint(folder.absolute(), source.sha256, official, source.n_bytes, trusted=True)


def build_exported(options: ModelOptions, target: Target, *, int8: bool = False) -> Segmenter:
    """Runs exported files, quantised ones if `int8`; creates missing ones in the cache.

    The checkpoint may be a folder of exported files (or its manifest), which then needs no torch,
    or a checkpoint of MobileSAM; None means seeded random weights.
    """
    if options.device == "meta":
        return _shapes(options)
    if options.device != "cpu":
        raise UnsupportedError(f"{options.name} runs on the CPU alone; use --device cpu")
    runtime.require_packages(runtime.PACKAGES[target])
    folder = derive_exported(options, target, int8=int8)
    return ExportedSegmenter(folder, options, target, int8=int8)


def derive_exported(options: ModelOptions, target: Target, *, int8: bool = False) -> Path:
    """Creates the files that `build_exported` would run, if missing, with the same errors."""
    return exported_folder(options.checkpoint) or ensure_exported(options, target, int8=int8)


build_onnx = partial(build_exported, target="onnx")
build_onnx_int8 = partial(build_exported, target="onnx", int8=True)
build_openvino = partial(build_exported, target="openvino")
build_openvino_int8 = partial(build_exported, target="openvino", int8=True)
derive_onnx = partial(derive_exported, target="onnx")
derive_onnx_int8 = partial(derive_exported, target="onnx", int8=True)
derive_openvino = partial(derive_exported, target="openvino")
derive_openvino_int8 = partial(derive_exported, target="openvino", int8=True)


def ensure_exported(options: ModelOptions, target: Target, *, int8: bool = False) -> Path:
    """Exports a checkpoint, or seeded random weights, into the cache if it is not there yet.

    Takes a few seconds and needs torch the first time; call it before anything is timed. The name
    of the folder holds the full digest of the weights, and a digest of the code that exports them.
    """
    found = options.checkpoint
    source, key = Source(kind="random"), f"random-{options.seed}"
    if found is not None:
        source = Source(kind="file", sha256=found.sha256, n_bytes=found.n_bytes)
        key = found.sha256
    kind = target + ("-int8" if int8 else "")
    runtime.require_packages("onnx", runtime.PACKAGES[target])
    # The versions of these packages decide the content of the files, most of all for int8.
    packages = ("torch", "onnx", runtime.PACKAGES[target])
    versions = "-".join(f"{name}{importlib.metadata.version(name)}" for name in packages)
    folder = cache_dir() / "exported" / f"{kind}-{_code_digest()}-{versions}-{key}"
    with exclusive(folder):
        # The previous holder of the lock may have created it; damaged files are created again.
        try:
            runtime.read_manifest(folder)
        except WeightsError:
            from baselines.sam import load_or_random
            from mobilesam.export.writer import export_model
            from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam

            on_cpu = replace(options, device="cpu")
            sam = load_or_random(build_mobile_sam, load_mobile_sam, on_cpu)
            ranges = None
            if int8 and target == "openvino" and found is None:
                from mobilesam.export.quantized import calibrate

                # Random weights are for timing: any ranges will do.
                noise = np.random.default_rng(options.seed).integers(0, 256, (64, 64, 3), np.uint8)
                ranges = calibrate(sam, [noise])
            export_model(sam, folder, target, source=source, int8=int8, ranges=ranges)
    return folder


@lru_cache
def _code_digest() -> str:
    """Start of the SHA-256 of all files of this package that determine what is exported."""
    package = Path(runtime.__file__).parents[1]
    exporters = (package / "export").glob("*.*")  # with the shipped ranges
    files = [*exporters, *(package / "model").glob("*.py"), package / "fast" / "inference.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def normalised(
    image: UInt8Array, side_px: int, mean: Sequence[float], std: Sequence[float]
) -> Float32Array:
    """Resizes, normalises and pads below and to the right, as SAM's predictor does.

    Mean and deviation of the three channels are in units of 8-bit pixels. Returns (1, 3, S, S)
    float32, equal to the torch adapter's to the last bit.
    """
    pixels = resize_image(image, side_px).astype(np.float32).transpose(2, 0, 1)
    padded = np.zeros((1, 3, side_px, side_px), np.float32)
    part = padded[0, :, : pixels.shape[1], : pixels.shape[2]]
    np.subtract(pixels, np.array(mean, np.float32)[:, None, None], out=part)
    np.divide(part, np.array(std, np.float32)[:, None, None], out=part)
    return padded


def masks_at(
    logits: Float32Array, size_hw: tuple[int, int], side_px: int, threshold: float
) -> BoolArray:
    """Upsamples (N, C, S/4, S/4) logits to (N, C, H, W) as SAM does, and thresholds them.

    SAM interpolates twice: to the network's input of side S, from which the padding is cut, and to
    the image. Both are separable and linear, so each pair is one sparse matrix.
    """
    inner = resized_hw(size_hw, side_px)
    rows = _twice_interpolated(logits.shape[2], side_px, inner[0], size_hw[0])
    columns = _twice_interpolated(logits.shape[3], side_px, inner[1], size_hw[1])
    masks = np.empty((*logits.shape[:2], *size_hw), np.bool_)
    for index in np.ndindex(*logits.shape[:2]):
        wide = np.ascontiguousarray((columns @ np.ascontiguousarray(logits[index].T)).T)
        np.greater(rows @ wide, threshold, out=masks[index])
    return masks


@lru_cache(maxsize=2 * _KEPT_SIZES)
def _twice_interpolated(n_low: int, side_px: int, n_inner: int, n_out: int) -> Any:
    """(n_out, n_low) float32 sparse matrix: to the input, without the padding, to the image."""
    from scipy.sparse import csr_array

    whole = _interpolation(n_low, side_px)[:n_inner]
    return csr_array(_interpolation(n_inner, n_out) @ whole, dtype=np.float32)


def _interpolation(n_in: int, n_out: int) -> Any:
    """(n_out, n_in) sparse matrix of linear interpolation between the centres of pixels.

    Positions are rounded as in torch: at 1000 px float32 has a resolution of 6e-5 px.
    """
    from scipy.sparse import csr_array

    scale, half = np.float32(n_in) / np.float32(n_out), np.float32(0.5)
    where = np.maximum(scale * (np.arange(n_out, dtype=np.float32) + half) - half, np.float32(0))
    low = np.minimum(where.astype(np.int64), n_in - 1)
    high = np.minimum(low + 1, n_in - 1)
    share = (where - low).astype(np.float64)
    places = np.tile(np.arange(n_out), 2), np.concatenate([low, high])
    return csr_array((np.concatenate([1 - share, share]), places), shape=(n_out, n_in))
