"""Exports MobileSAM to ONNX and OpenVINO, and compares the files with torch."""

from __future__ import annotations

import copy
import importlib.metadata
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilesam.errors import UsageError, WeightsError, foreign_call
from mobilesam.export.runtime import (
    GRAPHS,
    MANIFEST_NAME,
    PACKAGES,
    TARGETS,
    ExportedFile,
    GraphName,
    Manifest,
    ParityRow,
    Source,
    Target,
    graph_file,
    read_manifest,
    require_packages,
)
from mobilesam.model.state_dicts import require_finite
from mobilesam.process_state import ignored_warnings, logger_level
from mobilesam.weights.cache import digest_file

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

# The oldest opset with layer normalisation, for old runtimes.
OPSET = 17
_LIBRARIES = ("torch", "onnx", "onnxruntime", "openvino")
_OUTPUTS = ("logits", "scores")
_DYNAMIC = {
    "points": {0: "prompts", 1: "points"},
    "labels": {0: "prompts", 1: "points"},
    "masks": {0: "prompts"},
    "logits": {0: "prompts"},
    "scores": {0: "prompts"},
}


def export_model(
    sam: Sam, folder: Path, target: Target = "onnx", *, source: Source, int8: bool = False
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
        int8: Also write graphs with dynamically quantised matrix products (ONNX only).

    Returns:
        The manifest, with the differences of all cases.

    Raises:
        UsageError: An unknown target, int8 for OpenVINO, or a package that is not installed.
        WeightsError: The weights hold NaN or infinity, the folder cannot be written, the exporter
            failed, or an output differs from torch's by more than its tolerance.
    """
    check_target(target, int8=int8)
    require_finite(sam.state_dict(), "the model")
    sam = copy.deepcopy(sam).cpu().float().eval().requires_grad_(requires_grad=False)
    with _staging(folder) as staging:
        _write_onnx(sam, staging)
        if target == "openvino":
            _convert_to_openvino(staging)
        parity = _compared(sam, staging, target, int8=False)
        if int8:
            _quantise(staging)
            parity += _compared(sam, staging, target, int8=True)
        manifest = _describe(sam, staging, target, source, parity)
        (staging / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        _publish(staging, folder, manifest)
    return manifest


def check_target(target: Target, *, int8: bool) -> None:
    """Checks, before anything is written, that a model can be exported to a target.

    Raises:
        UsageError: An unknown target, int8 for OpenVINO, or a package that is not installed.
    """
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}; choose from {', '.join(TARGETS)}")
    if int8 and target != "onnx":
        raise UsageError("int8 is available for ONNX only; export --to onnx, or omit --int8")
    require_packages("onnx", PACKAGES[target])


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`."""
    staging: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
        yield staging
    except OSError as error:
        raise WeightsError(
            f"cannot write to {folder} ({error.strerror or error}); choose another folder"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _write_onnx(sam: Sam, folder: Path) -> None:
    import torch

    from mobilesam.export.graphs import DecoderGraph, EncoderGraph, MaskDecoderGraph

    side, channels = int(sam.image_encoder.img_size), int(sam.prompt_encoder.embed_dim)
    cells = int(sam.prompt_encoder.image_embedding_size[0])
    decoder = DecoderGraph(sam)
    images = {"pixels": torch.zeros(1, 3, side, side)}
    _write_graph(EncoderGraph(sam), images, ("embedding",), folder, "encoder")
    prompted = {
        "embedding": torch.zeros(1, channels, cells, cells),
        "points": torch.zeros(2, 3, 2),
        "labels": torch.tensor([[1, 2, 3], [1, 0, -1]]),
    }
    _write_graph(decoder, prompted, _OUTPUTS, folder, "decoder")
    masked = prompted | {"masks": torch.zeros(2, 1, 4 * cells, 4 * cells)}
    _write_graph(MaskDecoderGraph(decoder), masked, _OUTPUTS, folder, "mask_decoder")


def _write_graph(
    graph: Any, inputs: dict[str, Tensor], outputs: Sequence[str], folder: Path, name: GraphName
) -> None:
    import torch

    def convert(error: Exception) -> WeightsError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return WeightsError(
            f"torch {torch.__version__} cannot export the {name}: {reason}; "
            "try torch 2.15, with which it was tested"
        )

    # Warnings are about the old exporter and about constants in the trace; parity is measured.
    with foreign_call(convert), ignored_warnings():
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            str(folder / graph_file(name, "onnx")),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_axes={key: _DYNAMIC[key] for key in (*inputs, *outputs) if key in _DYNAMIC},
            # The newer exporter writes equal graphs in twenty times the time.
            dynamo=False,
        )


def _convert_to_openvino(folder: Path) -> None:
    import openvino

    core = openvino.Core()
    for name in GRAPHS:
        onnx_file = folder / graph_file(name, "onnx")
        # `convert_model` would send usage reports over the network.
        model = core.read_model(str(onnx_file))
        openvino.save_model(
            model, str(folder / graph_file(name, "openvino")), compress_to_fp16=False
        )
        onnx_file.unlink()


def _quantise(folder: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in GRAPHS:
        source = folder / graph_file(name, "onnx")
        graph = onnx.load(source).graph
        stacked = {each.name for each in graph.initializer if len(each.dims) > 2}
        # ONNX Runtime cannot quantise a stack of matrices column by column.
        excluded = [
            node.name
            for node in graph.node
            if node.op_type == "MatMul" and node.input[1] in stacked
        ]
        # Silences a recommendation that does not concern matrix products.
        with logger_level("root", logging.ERROR):
            quantize_dynamic(
                source,
                folder / graph_file(name, "onnx", int8=True),
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_exclude=excluded,
                per_channel=True,
                weight_type=QuantType.QInt8,
            )


def _compared(sam: Sam, folder: Path, target: Target, *, int8: bool) -> tuple[ParityRow, ...]:
    from mobilesam.export.parity import compare

    rows = tuple(compare(sam, folder, target, int8=int8))
    wrong = [row for row in rows if not row.passed]
    if wrong:
        first = wrong[0]
        allowed = "a number" if first.tolerance is None else f"{first.tolerance:.2g}"
        raise WeightsError(
            f"the exported {first.graph} is wrong: {first.output} for {first.case} differ from "
            f"torch's by {first.max_abs:.2g}, allowed {allowed}; nothing was written; "
            "try other versions of torch, onnx and the runtime"
        )
    return rows


def _describe(
    sam: Sam, folder: Path, target: Target, source: Source, parity: tuple[ParityRow, ...]
) -> Manifest:
    files = {}
    for path in sorted(folder.iterdir()):
        found = digest_file(path)
        files[path.name] = ExportedFile(sha256=found.sha256, n_bytes=found.n_bytes)
    red, green, blue = (float(each) for each in sam.pixel_mean.flatten())
    std_red, std_green, std_blue = (float(each) for each in sam.pixel_std.flatten())
    return Manifest(
        target=target,
        image_size_px=int(sam.image_encoder.img_size),
        embed_dim=int(sam.prompt_encoder.embed_dim),
        mask_threshold=float(sam.mask_threshold),
        pixel_mean=(red, green, blue),
        pixel_std=(std_red, std_green, std_blue),
        opset=OPSET,
        source=source,
        versions=_versions(),
        parity=parity,
        files=files,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _publish(staging: Path, folder: Path, manifest: Manifest) -> None:
    """Moves finished files into place; a folder without a manifest counts as empty."""
    stale = _listed(folder) - manifest.files.keys()
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for name in stale:  # files of other weights
        (folder / name).unlink(missing_ok=True)
    for name in (*manifest.files, MANIFEST_NAME):
        (staging / name).replace(folder / name)


def _listed(folder: Path) -> set[str]:
    """Files in the manifest of an earlier export; none if it cannot be read."""
    try:
        return set(read_manifest(folder).files)
    except WeightsError:
        return set()
