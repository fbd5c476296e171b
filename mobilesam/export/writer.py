"""Exports MobileSAM to ONNX and OpenVINO, and compares the files with torch."""

from __future__ import annotations

import copy
import importlib.metadata
import itertools
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import nn

from mobilesam.errors import UsageError, WeightsError, foreign_call
from mobilesam.export import runtime
from mobilesam.export.graphs import DecoderGraph, EncoderGraph, MaskDecoderGraph
from mobilesam.export.quantized import Int8EncoderGraph, Ranges, find_ranges
from mobilesam.export.runtime import Array, Manifest, ParityRow, Source, Target
from mobilesam.model.state_dicts import require_finite
from mobilesam.process_state import ignored_warnings, logger_level
from mobilesam.weights.cache import digest_file

# The oldest opset with layer normalisation, for old runtimes.
OPSET = 17
TOLERANCE = 1e-3
# For outputs beyond 100: float32 has seven digits, and large logits do not change a mask.
RELATIVE_TOLERANCE = 1e-5
_SEED = 20230625  # of the inputs that are compared
_LIBRARIES = ("torch", "onnx", "onnxruntime", "openvino")
_DYNAMIC = {
    "points": {0: "prompts", 1: "points"},
    "labels": {0: "prompts", 1: "points"},
    "masks": {0: "prompts"},
    "logits": {0: "prompts"},
    "scores": {0: "prompts"},
}


def export_model(
    sam: Sam,
    folder: Path,
    target: Target = "onnx",
    *,
    source: Source,
    int8: bool = False,
    ranges: Ranges | None = None,
) -> Manifest:
    """Writes encoder and decoders after comparing them with torch.

    The encoder maps `pixels` (1, 3, S, S) to `embedding` (1, C, S/16, S/16). The decoder maps
    `embedding`, `points` (N, P, 2) float32 and `labels` (N, P) int64 for any N and P, see
    `mobilesam.export.graphs.DecoderGraph`, to `logits` (N, 4, S/4, S/4) and `scores` (N, 4): the
    single mask first, then the three candidates. The mask decoder has another input, `masks`
    (N, 1, S/4, S/4).

    Args:
        sam: A MobileSAM with its weights loaded, in any mode; it is not changed.
        folder: Folder of the files, made if missing. Files of an earlier export are replaced; the
            manifest is deleted first and written last.
        target: `onnx` or `openvino`.
        source: Origin of the weights.
        int8: Also write quantised graphs. ONNX: encoder and decoders with dynamically quantised
            matrix products. OpenVINO: an encoder with static quantisation.
        ranges: Ranges of the encoder's activations, for OpenVINO with int8; None takes the shipped
            ones, see `mobilesam.export.quantized.find_ranges`.

    Returns:
        The manifest, with the differences of all cases.

    Raises:
        UsageError: An unknown target, a package that is not installed, or no ranges.
        WeightsError: The weights hold NaN or infinity, the folder cannot be written, the exporter
            failed, or an output differs from torch's by more than its tolerance.
    """
    check_target(target)
    require_finite(sam.state_dict(), "the model")
    sam = copy.deepcopy(sam).cpu().float().eval().requires_grad_(requires_grad=False)
    if target == "openvino" and int8 and ranges is None:
        ranges = find_ranges(sam, None)
    with _staging(folder) as staging:
        _write_onnx(sam, staging)
        if ranges is not None:
            write_int8_encoder(
                sam, ranges, staging / runtime.graph_file("encoder", "onnx", int8=True)
            )
        if target == "openvino":
            _convert_to_openvino(staging)
        parity = _compared(sam, staging, target, int8=False)
        if int8:
            if target == "onnx":
                _quantise(staging)
            parity += _compared(sam, staging, target, int8=True)
        manifest = _describe(sam, staging, target, source, parity)
        (staging / runtime.MANIFEST_NAME).write_text(
            manifest.model_dump_json(indent=1), encoding="utf-8"
        )
        stale: set[str] = set()  # files of other weights
        with suppress(WeightsError):
            stale = runtime.read_manifest(folder).files.keys() - manifest.files.keys()
        # A folder without a manifest counts as empty.
        (folder / runtime.MANIFEST_NAME).unlink(missing_ok=True)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        for name in (*manifest.files, runtime.MANIFEST_NAME):
            (staging / name).replace(folder / name)
    return manifest


def check_target(target: Target) -> None:
    """Checks, before anything is written, that a model can be exported to a target.

    Raises:
        UsageError: An unknown target, or a package that is not installed.
    """
    if target not in runtime.TARGETS:
        raise UsageError(f"unknown target {target!r}; choose from {', '.join(runtime.TARGETS)}")
    runtime.require_packages("onnx", runtime.PACKAGES[target])


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".export-", dir=folder, ignore_cleanup_errors=True
        ) as name:
            yield Path(name)
    except OSError as error:
        raise WeightsError(
            f"cannot write to {folder} ({error.strerror or error}); choose another folder"
        ) from error


def _write_onnx(sam: Sam, folder: Path) -> None:
    side, channels = int(sam.image_encoder.img_size), int(sam.prompt_encoder.embed_dim)
    cells = int(sam.prompt_encoder.image_embedding_size[0])
    images = {"pixels": torch.zeros(1, 3, side, side)}
    prompted = {
        "embedding": torch.zeros(1, channels, cells, cells),
        "points": torch.zeros(2, 3, 2),
        "labels": torch.tensor([[1, 2, 3], [1, 0, -1]]),
    }
    masked = prompted | {"masks": torch.zeros(2, 1, 4 * cells, 4 * cells)}
    decoder = DecoderGraph(sam)
    graphs: dict[runtime.GraphName, tuple[nn.Module, dict[str, torch.Tensor], list[str]]] = {
        "encoder": (EncoderGraph(sam), images, ["embedding"]),
        "decoder": (decoder, prompted, ["logits", "scores"]),
        "mask_decoder": (MaskDecoderGraph(decoder), masked, ["logits", "scores"]),
    }
    for name, (graph, inputs, outputs) in graphs.items():
        _trace(graph, inputs, outputs, folder / runtime.graph_file(name, "onnx"))


def write_int8_encoder(sam: Sam, ranges: Ranges, path: Path) -> None:
    """Writes the encoder, quantised with these ranges, as an ONNX file for OpenVINO."""
    side = int(sam.image_encoder.img_size)
    pixels = {"pixels": torch.zeros(1, 3, side, side)}
    _trace(Int8EncoderGraph(sam, ranges), pixels, ["embedding"], path)


def _trace(
    graph: nn.Module, inputs: dict[str, torch.Tensor], outputs: list[str], path: Path
) -> None:
    def convert(error: Exception) -> WeightsError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return WeightsError(
            f"torch {torch.__version__} cannot export {path.name}: {reason}; "
            "try torch 2.15, with which it was tested"
        )

    # Warnings are about the old exporter and about constants in the trace; parity is measured.
    with foreign_call(convert), ignored_warnings():
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamic_axes={key: _DYNAMIC[key] for key in (*inputs, *outputs) if key in _DYNAMIC},
            # The newer exporter writes equal graphs in twenty times the time.
            dynamo=False,
        )


def _convert_to_openvino(folder: Path) -> None:
    import openvino

    for onnx_file in sorted(folder.glob("*.onnx")):
        # `convert_model` would send usage reports over the network.
        model = openvino.Core().read_model(str(onnx_file))
        openvino.save_model(model, str(onnx_file.with_suffix(".xml")), compress_to_fp16=False)
        onnx_file.unlink()


def _quantise(folder: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in runtime.GRAPHS:
        source = folder / runtime.graph_file(name, "onnx")
        graph = onnx.load(source).graph
        stacked = {each.name for each in graph.initializer if len(each.dims) > 2}
        # ONNX Runtime cannot quantise a stack of matrices column by column.
        products = (node for node in graph.node if node.op_type == "MatMul")
        excluded = [node.name for node in products if node.input[1] in stacked]
        # Silences a recommendation that does not concern matrix products.
        with logger_level("root", logging.ERROR):
            quantize_dynamic(
                source,
                folder / runtime.graph_file(name, "onnx", int8=True),
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_exclude=excluded,
                per_channel=True,
                weight_type=QuantType.QInt8,
            )


def _describe(
    sam: Sam, folder: Path, target: Target, source: Source, parity: tuple[ParityRow, ...]
) -> Manifest:
    files = {}
    for path in sorted(folder.iterdir()):
        found = digest_file(path)
        files[path.name] = runtime.ExportedFile(sha256=found.sha256, n_bytes=found.n_bytes)
    versions = {}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    mean, deviation = (tuple(each.flatten().tolist()) for each in (sam.pixel_mean, sam.pixel_std))
    return Manifest(
        target=target,
        image_size_px=int(sam.image_encoder.img_size),
        embed_dim=int(sam.prompt_encoder.embed_dim),
        mask_threshold=float(sam.mask_threshold),
        pixel_mean=mean,
        pixel_std=deviation,
        opset=OPSET,
        source=source,
        versions=versions,
        parity=parity,
        files=files,
    )


def _compared(sam: Sam, folder: Path, target: Target, *, int8: bool) -> tuple[ParityRow, ...]:
    """Differences from torch on fixed pseudo-random inputs; quantised files have no tolerance."""
    rng = np.random.default_rng(_SEED)
    side, mark = int(sam.image_encoder.img_size), ".int8" if int8 else ""
    threads = runtime.current_threads()
    encoder, decoder, mask_decoder = (
        runtime.open_graph(
            folder / runtime.graph_file(name, target, int8=int8), target, threads=threads
        )
        for name in runtime.GRAPHS
    )
    # Random blobs as normalised pixels.
    coarse = torch.from_numpy(rng.normal(size=(1, 3, 24, 24)).astype(np.float32))
    blobs = nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    pixels = blobs.numpy() + rng.normal(scale=0.1, size=(1, 3, side, side)).astype(np.float32)
    with torch.inference_mode():
        embedding = sam.image_encoder(torch.from_numpy(pixels))
    reference: Array = embedding.numpy()
    (found,) = encoder({"pixels": pixels})
    rows = [_row("encoder" + mark, "one image", "embedding", found, reference, judged=not int8)]
    mask_side = int(sam.prompt_encoder.mask_input_size[0])
    if int8 and target == "openvino":
        return _judged(rows)
    for case, xy, kinds, boxes, masks in _cases(rng, side, mask_side):
        points, labels = runtime.box_points(xy, kinds, boxes)
        inputs = {"embedding": reference, "points": points, "labels": labels}
        if masks is None:
            name, results = "decoder", decoder(inputs)
        else:
            name, results = "mask_decoder", mask_decoder(inputs | {"masks": masks})
        wanted = _decode(sam, embedding, xy, kinds, boxes, masks)
        rows += [
            _row(name + mark, case, output, ours, theirs, judged=not int8)
            for output, ours, theirs in zip(("logits", "scores"), results, wanted, strict=True)
        ]
    return _judged(rows)


def _judged(rows: list[ParityRow]) -> tuple[ParityRow, ...]:
    """The rows; raises a WeightsError if one is beyond its tolerance."""
    wrong = next((row for row in rows if not row.passed), None)
    if wrong is not None:
        allowed = "a number" if wrong.tolerance is None else f"{wrong.tolerance:.2g}"
        raise WeightsError(
            f"the exported {wrong.graph} is wrong: {wrong.output} for {wrong.case} differ from "
            f"torch's by {wrong.max_abs:.2g}, allowed {allowed}; nothing was written; "
            "try other versions of torch, onnx and the runtime"
        )
    return tuple(rows)


def _cases(
    rng: np.random.Generator, side: int, mask_side: int
) -> Iterator[tuple[str, Array, Array, Array | None, Array | None]]:
    """Yields a name, points (N, K, 2), labels (N, K), boxes (N, 4), and masks (N, 1, g, g)."""
    kinds = itertools.product((1, 3), (0, 1, 2), (False, True), (False, True))
    for count, n_points, has_box, has_mask in kinds:
        if not n_points and not has_box:
            continue
        points = rng.uniform(0, side, (count, n_points, 2)).astype(np.float32)
        corners = np.sort(rng.uniform(0, side, (count, 2, 2)), axis=1).reshape(count, 4)
        masks = rng.normal(scale=8, size=(count, 1, mask_side, mask_side)).astype(np.float32)
        yield (
            f"N={count} K={n_points}" + " box" * has_box + " mask" * has_mask,
            points,
            np.tile(np.array([1, 0])[:n_points], (count, 1)),
            corners.astype(np.float32) if has_box else None,
            masks if has_mask else None,
        )


@torch.inference_mode()
def _decode(
    sam: Sam,
    embedding: torch.Tensor,
    points: Array,
    labels: Array,
    boxes: Array | None,
    masks: Array | None,
) -> tuple[Array, Array]:
    """Predictions of segment-anything's modules."""
    sparse, dense = sam.prompt_encoder(
        points=(torch.from_numpy(points), torch.from_numpy(labels)) if points.shape[1] else None,
        boxes=None if boxes is None else torch.from_numpy(boxes),
        masks=None if masks is None else torch.from_numpy(masks),
    )
    logits, scores = sam.mask_decoder.predict_masks(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )
    return logits.numpy(), scores.numpy()


def _row(
    graph: str, case: str, output: str, ours: Array, theirs: Array, *, judged: bool
) -> ParityRow:
    largest = float(np.abs(theirs).max())
    difference: Any = np.abs(ours - theirs).max() if ours.shape == theirs.shape else np.inf
    return ParityRow(
        graph=graph,
        case=case,
        output=output,
        max_abs=float(difference),
        largest=largest,
        tolerance=max(TOLERANCE, RELATIVE_TOLERANCE * largest) if judged else None,
    )
