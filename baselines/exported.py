"""MobileSAM from exported files: no torch is needed, or imported, once the files are there."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.interface import (
    Embedding,
    Float32Array,
    LogitMasks,
    Masks,
    ModelInfo,
    Prepared,
    Prompts,
    Segmenter,
    UInt8Array,
    WeightsInfo,
    check_image,
)
from baselines.options import Checkpoint, ModelOptions
from baselines.sam_arrays import inner_size, masks_at, normalised, to_input
from mobilesam.errors import DataError, UnsupportedError, WeightsError
from mobilesam.export.runtime import (
    FORMAT,
    MANIFEST_NAME,
    PACKAGES,
    Array,
    Graph,
    GraphName,
    Source,
    Target,
    box_points,
    current_threads,
    graph_file,
    open_graph,
    read_manifest,
    require_packages,
)
from mobilesam.inputs import check_resized
from mobilesam.weights.cache import cache_dir, exclusive
from mobilesam.weights.checkpoint_specs import specs

if TYPE_CHECKING:
    from torch import nn

# Prompts that go through the decoder together: the first layer's image side is shared among them,
# and each needs some 30 MB.
DECODE_BATCH = 8
_N_MASKS = 4  # of the decoder: the single one, and three candidates
_SINGLE, _MULTI = slice(0, 1), slice(1, None)
_OFFICIAL = "mobilesam"  # whose published checkpoint is the source of official files


class ExportedSegmenter(Segmenter):
    """Runs the graphs of one folder on the CPU, with the results of the torch adapter.

    It cannot segment everything: that is torch's, in `mobilesam`.

    Args:
        folder: Of `mobilesam.export.writer.export_model`.
        options: Name, precision, and the seed of random weights.
        target: Which kind of files the folder must hold.
        int8: Run the quantised graphs.

    Raises:
        WeightsError: The folder is not such a folder, or damaged.
        UnsupportedError: A device or precision that the runtime has not.
        UsageError: The runtime is not installed.
    """

    def __init__(
        self, folder: Path, options: ModelOptions, target: Target, *, int8: bool = False
    ) -> None:
        self._options, self._folder, self._target, self._int8 = options, folder, target, int8
        self.threads = current_threads()
        self.manifest = manifest = read_manifest(folder)
        if manifest.target != target:
            raise WeightsError(
                f"{folder} was exported for {manifest.target}; "
                f"{options.name} wants mobilesam-bench export --to {target}"
            )
        if int8 and graph_file("encoder", target, int8=True) not in manifest.files:
            raise WeightsError(f"{folder} has no int8 files; export again with --int8")
        self._side = manifest.image_size_px
        # Quantised as they run, activations share one scale a call: in company, a prompt's answer
        # would depend on its neighbours.
        self._batch = 1 if int8 else DECODE_BATCH
        self._graphs: dict[GraphName, Graph] = {}
        self._known_shapes: Segmenter | None = None
        self._loading = threading.Lock()
        for name in ("encoder", "decoder"):
            self._graph(name)
        self.info = ModelInfo(
            name=options.name,
            family="MobileSAM",
            input_size_px=self._side,
            licence="Apache-2.0",
            weights=_weights(manifest.source),
            decode_kind="decoder",
            supports=frozenset(("points", "boxes", "masks")),
        )

    def prepare(self, image: UInt8Array) -> Prepared:
        """Resizes the longest side to the input size, normalises, and pads below and right."""
        size = check_image(image)
        check_resized(size, inner_size(size, self._side))
        mean, std = self.manifest.pixel_mean, self.manifest.pixel_std
        return Prepared(normalised(image, self._side, mean, std), size)

    def encode(self, prepared: Prepared) -> Embedding:
        """Runs the image encoder: payload is (1, C, S/16, S/16) float32."""
        (features,) = self._graph("encoder")({"pixels": prepared.payload})
        return Embedding(features, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Decodes and upsamples in batches, so that memory is bounded by the answer itself."""
        found = self.decode_logits(embedding, prompts, multimask=multimask)
        return self.postprocess(found)

    def decode_pair(self, embedding: Embedding, prompts: Prompts) -> tuple[Masks, Masks]:
        """Both answers from one pass: the decoder computes four masks whatever it is asked for."""
        whole = self.postprocess(self._decode(embedding, prompts, slice(None)))
        return _candidates(whole, _SINGLE), _candidates(whole, _MULTI)

    def decode_logits(
        self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False
    ) -> LogitMasks:
        """Runs prompt encoder and mask decoder; logits are (N, C, S/4, S/4) float32 arrays."""
        return self._decode(embedding, prompts, _MULTI if multimask else _SINGLE)

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
        """The embedding that `embedding_arrays` was given."""
        found = arrays.get("features")
        # Cells are of 16 px, or of 8 px in the mini family: a manifest does not say which.
        sides = (self._side // 16, self._side // 8)
        wanted = [(1, self.manifest.embed_dim, side, side) for side in sides]
        if found is None or found.shape not in wanted or found.dtype != np.float32:
            raise DataError(
                f"not an embedding of {self.info.name}: wanted {wanted[0]} or {wanted[1]} float32"
            )
        return Embedding(found, size_hw, self.info.name)

    def modules(self) -> Mapping[str, nn.Module]:
        """The architecture as shapes on torch's meta device: the one call that needs torch."""
        return self._shapes.modules()

    def probes(self) -> Mapping[str, Sequence[Callable[[], object]]]:
        """As `modules`: what is exported has the parameters and FLOPs of what it was made of."""
        return self._shapes.probes()

    @property
    def _shapes(self) -> Segmenter:
        with self._loading:
            if self._known_shapes is None:
                self._known_shapes = _shapes(self._options)
            return self._known_shapes

    def _decode(self, embedding: Embedding, prompts: Prompts, candidates: slice) -> LogitMasks:
        self.check_embedding(embedding)
        self.require(prompts)
        # With zero prompts, the result is this empty array.
        side = 4 * embedding.payload.shape[2]
        none = np.zeros((0, _N_MASKS, side, side), np.float32)[:, candidates]
        logits, scores = [none], [none[..., 0, 0]]
        for batch in prompts.batches(self._batch):
            name: GraphName = "decoder" if batch.mask_inputs is None else "mask_decoder"
            found = self._graph(name)(self._inputs(embedding, batch))
            # Copied: a view would keep all four masks of every prompt.
            logits.append(found[0][:, candidates].copy())
            scores.append(found[1][:, candidates].copy())
        return LogitMasks(np.concatenate(logits), np.concatenate(scores), embedding.size_hw)

    def _inputs(self, embedding: Embedding, prompts: Prompts) -> dict[str, Array]:
        size, count = embedding.size_hw, len(prompts)
        points, labels = np.zeros((count, 0, 2), np.float32), np.zeros((count, 0), np.int64)
        boxes = None
        if prompts.points is not None and prompts.labels is not None:
            points, labels = to_input(prompts.points, size, self._side), prompts.labels
        if prompts.boxes is not None:
            corners = to_input(prompts.boxes.reshape(-1, 2, 2), size, self._side)
            boxes = corners.reshape(-1, 4)
        points, labels = box_points(points, labels, boxes)
        inputs: dict[str, Array] = {
            "embedding": embedding.payload,
            "points": points,
            "labels": labels,
        }
        if prompts.mask_inputs is not None:
            inputs["masks"] = prompts.mask_inputs
        return inputs

    def _graph(self, name: GraphName) -> Graph:
        """A graph, loaded when it is first asked for: few callers have prompts with masks."""
        with self._loading:
            if name not in self._graphs:
                self._graphs[name] = open_graph(
                    self._folder / graph_file(name, self._target, int8=self._int8),
                    self._target,
                    threads=self.threads,
                    precision=self._options.precision,
                )
            return self._graphs[name]


def build_exported(options: ModelOptions, target: Target, *, int8: bool = False) -> Segmenter:
    """Runs exported files; makes them in the cache where they are not there yet.

    Args:
        options: The checkpoint may be a folder of exported files (or its manifest), which then
            needs no torch, or a checkpoint of MobileSAM; None means seeded random weights.
        target: `onnx` or `openvino`.
        int8: Run the quantised graphs.

    Raises:
        UnsupportedError: A device other than the CPU, or a precision that the runtime has not.
        UsageError: A package is missing.
        WeightsError: The checkpoint does not fit, or the folder is damaged.
    """
    if options.device == "meta":
        return _shapes(options)
    if options.device != "cpu":
        raise UnsupportedError(f"{options.name} runs on the CPU alone; use --device cpu")
    require_packages(PACKAGES[target])
    folder = exported_folder(options.checkpoint)
    if folder is None:
        folder = ensure_exported(options, target, int8=int8)
    return ExportedSegmenter(folder, options, target, int8=int8)


def derive_exported(options: ModelOptions, target: Target, *, int8: bool = False) -> None:
    """Makes the files that `build_exported` would run, where they are not there yet.

    Raises:
        UsageError: A package is missing.
        WeightsError: The checkpoint does not fit, or the cache cannot be written.
    """
    if exported_folder(options.checkpoint) is None:
        ensure_exported(options, target, int8=int8)


def exported_folder(checkpoint: Checkpoint | None) -> Path | None:
    """The folder of exported files that a checkpoint stands for; None if it is plain weights."""
    if checkpoint is None:
        return None
    path = checkpoint.path
    if not is_exported(path):
        return None
    return path.parent if path.name == MANIFEST_NAME else path


def is_exported(path: Path) -> bool:
    """Whether a path given for weights names a folder of exported files."""
    return path.name == MANIFEST_NAME or path.is_dir()


def folder_checkpoint(path: Path) -> Checkpoint:
    """A folder of exported files as a checkpoint, with the digest of the weights it was made of.

    Raises:
        WeightsError: It is no such folder, or damaged.
    """
    folder = path.parent if path.name == MANIFEST_NAME else path
    source = read_manifest(folder).source
    if source.sha256 is None or source.n_bytes is None:
        raise WeightsError(f"{folder} was exported from random weights; give trained ones")
    official = _is_official(source)
    return Checkpoint(folder.absolute(), source.sha256, official, source.n_bytes, trusted=True)


def ensure_exported(options: ModelOptions, target: Target, *, int8: bool = False) -> Path:
    """Exports a checkpoint, or seeded random weights, into the cache unless it is there already.

    Takes a few seconds and needs torch the first time; call it before anything is timed.

    Returns:
        The folder, whose name holds the full digest of the weights.

    Raises:
        WeightsError: The checkpoint does not fit, or the cache cannot be written.
        UsageError: A package is missing.
    """
    found = options.checkpoint
    source = Source(kind="random")
    key = f"random-{options.seed}"
    if found is not None:
        source = Source(kind="file", sha256=found.sha256, n_bytes=found.n_bytes)
        key = found.sha256
    kind = target + ("-int8" if int8 else "")
    # Another exporter writes other files, which int8 shows most.
    makers = "-".join(f"{name}{importlib.metadata.version(name)}" for name in _makers(target))
    folder = cache_dir() / "exported" / f"{kind}-{FORMAT}-{makers}-{key}"
    with exclusive(folder):
        # Whoever held the lock before may have made it; damaged files are made again.
        if not _is_whole(folder):
            from baselines.sam_like import random_weights
            from mobilesam.export.writer import export_model
            from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam

            sam = (
                random_weights(build_mobile_sam, replace(options, device="cpu"))
                if found is None
                else load_mobile_sam(found.path)
            )
            export_model(sam, folder, target, source=source, int8=int8)
    return folder


def _makers(target: Target) -> tuple[str, ...]:
    """Packages that decide what the files of a target are."""
    require_packages("onnx", PACKAGES[target])
    return "torch", "onnx", PACKAGES[target]


def _is_whole(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except WeightsError:
        return False
    return True


def _shapes(options: ModelOptions) -> Segmenter:
    """The torch adapter without weights, under this name: for counting."""
    from baselines.mobile_sam import build

    return build(replace(options, device="meta", precision="fp32", checkpoint=None))


def _weights(source: Source) -> WeightsInfo:
    if source.kind == "random":
        return WeightsInfo("random")
    return WeightsInfo("file", source.sha256, _is_official(source), source.n_bytes)


def _is_official(source: Source) -> bool:
    return source.sha256 is not None and specs()[_OFFICIAL].is_published(source.sha256)


def _candidates(found: Masks, which: slice) -> Masks:
    logits: Any = found.low_res_logits
    return Masks(found.masks[:, which], found.scores[:, which], logits[:, which])
