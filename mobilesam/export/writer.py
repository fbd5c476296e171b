"""MobileSAM as files for other runtimes: ONNX and OpenVINO, each compared with torch."""

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

from mobilesam.errors import FOREIGN_ERRORS, UsageError, WeightsError
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
from mobilesam.logs import logger_level
from mobilesam.model.state_dicts import require_finite
from mobilesam.process_state import ignored_warnings
from mobilesam.weights.cache import digest_file

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

# The oldest that knows layer normalisation, so that old runtimes take the files.
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
    """Writes encoder and decoders, and compares them with torch before anything is kept.

    The encoder takes `pixels` (1, 3, S, S) and gives `embedding` (1, C, S/16, S/16). The decoder
    takes `embedding`, `points` (N, P, 2) float32 and `labels` (N, P) int64 with any N and P, see
    `mobilesam.export.graphs.DecoderGraph`, and gives `logits` (N, 4, S/4, S/4) and `scores`
    (N, 4): the single mask first, then the three candidates. The mask decoder takes `masks`
    (N, 1, S/4, S/4) besides.

    Args:
        sam: A MobileSAM with its weights loaded, in whichever mode; left as it is.
        folder: Made where it is missing. Files of an earlier export are replaced, each at once;
            the manifest is taken away first and written last.
        target: `onnx` or `openvino`.
        source: Where the weights come from.
        int8: ONNX alone: also write graphs with dynamically quantised matrix products.

    Returns:
        What was written, with the parity of every case.

    Raises:
        UsageError: An unknown target, int8 for OpenVINO, or a package that is not installed.
        WeightsError: The weights hold NaN or infinity, the folder cannot be written, the exporter
            fails, or a graph's answers are further from torch's than its tolerance.
    """
    check_target(target, int8=int8)
    require_finite(sam.state_dict(), "the model")
    # A copy, for which neither mode nor gradients nor device of the original matter.
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
        raise UsageError("int8 is for ONNX alone; export --to onnx, or drop --int8")
    require_packages("onnx", PACKAGES[target])


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder inside `folder`, gone afterwards."""
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
    pictures = {"pixels": torch.zeros(1, 3, side, side)}
    _write_graph(EncoderGraph(sam), pictures, ("embedding",), folder, "encoder")
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

    with ignored_warnings():  # that it is old, and what it guesses: parity is measured
        try:
            torch.onnx.export(
                graph.eval(),
                tuple(inputs.values()),
                str(folder / graph_file(name, "onnx")),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                dynamic_axes={key: _DYNAMIC[key] for key in (*inputs, *outputs) if key in _DYNAMIC},
                # Traced: the newer exporter writes equal graphs, in twenty times the time.
                dynamo=False,
            )
        except FOREIGN_ERRORS as error:
            reason = str(error).strip().splitlines()[0]
            raise WeightsError(
                f"torch {torch.__version__} cannot export the {name}: {reason}; "
                "try torch 2.15, with which it was tested"
            ) from error


def _convert_to_openvino(folder: Path) -> None:
    import openvino

    core = openvino.Core()
    for name in GRAPHS:
        onnx_file = folder / graph_file(name, "onnx")
        # Not `convert_model`, which reports its use over the network.
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
        # ONNX Runtime quantises a matrix column by column, but not a stack of matrices.
        excluded = [
            node.name
            for node in graph.node
            if node.op_type == "MatMul" and node.input[1] in stacked
        ]
        # It recommends a preparation that does not concern matrix products.
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
    """Moves finished files into place; without a manifest the folder counts as empty."""
    stale = _listed(folder) - manifest.files.keys()
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for name in stale:  # they would be of other weights, and nothing would tell
        (folder / name).unlink(missing_ok=True)
    for name in (*manifest.files, MANIFEST_NAME):
        (staging / name).replace(folder / name)


def _listed(folder: Path) -> set[str]:
    """The files of an earlier export, as its manifest has them; none if it cannot be read."""
    try:
        return set(read_manifest(folder).files)
    except WeightsError:
        return set()
