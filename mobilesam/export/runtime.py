"""Exported files: their manifest, and how to run them without torch."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, ValidationError

from mobilesam.errors import UnsupportedError, UsageError, WeightsError, first_problem, foreign_call
from mobilesam.frozen_model import FrozenModel
from mobilesam.weights.cache import digest_file

Target = Literal["onnx", "openvino"]
GraphName = Literal["encoder", "decoder", "mask_decoder"]
TARGETS: tuple[Target, ...] = get_args(Target)
GRAPHS: tuple[GraphName, ...] = get_args(GraphName)
MANIFEST_NAME = "manifest.json"
PACKAGES: Mapping[str, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
_SUFFIX: Mapping[str, str] = {"onnx": ".onnx", "openvino": ".xml"}

Array = npt.NDArray[Any]
Graph = Callable[[Mapping[str, Array]], list[Array]]


class Source(FrozenModel):
    """The weights that were exported: a checkpoint file, or untrained seeded weights."""

    kind: Literal["file", "random"]
    sha256: str | None = None
    n_bytes: int | None = None


class ParityRow(FrozenModel):
    """Difference between an output of an exported graph and torch's."""

    # NaN and infinity are the differences of a wrong file, which is then refused.
    model_config = ConfigDict(allow_inf_nan=True)

    graph: str  # such as `encoder` or `decoder.int8`
    case: str  # the input, such as `N=3 K=2 box`
    output: str  # `embedding`, `logits` or `scores`
    max_abs: float  # largest absolute difference
    largest: float  # largest magnitude of torch's output
    tolerance: float | None  # allowed difference; None for quantised graphs

    @property
    def passed(self) -> bool:
        """Whether the difference is finite and within the tolerance."""
        tolerance = math.inf if self.tolerance is None else self.tolerance
        return math.isfinite(self.max_abs) and self.max_abs <= tolerance


class ExportedFile(FrozenModel):
    """Identity of an exported file."""

    sha256: str
    n_bytes: int


class Manifest(FrozenModel):
    """Content of `manifest.json`, which is written after all other files."""

    format: Literal[1] = 1  # of the folder
    target: Target
    image_size_px: int  # side of the encoder's input
    embed_dim: int  # channels of the embedding
    mask_threshold: float  # logits above it belong to the mask
    pixel_mean: tuple[float, float, float]  # is subtracted from 8-bit RGB
    pixel_std: tuple[float, float, float]  # then divides it
    opset: int
    source: Source
    versions: dict[str, str]  # of the libraries
    parity: tuple[ParityRow, ...]
    files: dict[str, ExportedFile]


def graph_file(graph: GraphName, target: Target, *, int8: bool = False) -> str:
    """File name of a graph; for OpenVINO only the encoder is quantised."""
    is_quantised = int8 and (target == "onnx" or graph == "encoder")
    return graph + (".int8" if is_quantised else "") + _SUFFIX[target]


def read_manifest(folder: Path) -> Manifest:
    """Reads `manifest.json` of a folder, and compares all files with it.

    Raises:
        WeightsError: The manifest is missing or malformed, or a file is missing or differs.
    """
    path = folder / MANIFEST_NAME
    again = "export again with mobilesam-bench export"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise WeightsError(
            f"{folder} holds no exported model ({MANIFEST_NAME}: {error.strerror}); {again}"
        ) from error
    except ValidationError as error:
        raise WeightsError(f"{path} is malformed ({first_problem(error)}); {again}") from error
    for name, wanted in manifest.files.items():
        if Path(name).name != name:
            raise WeightsError(f"{path} names {name!r}, which is not in its folder; {again}")
        if digest_file(folder / name).sha256 != wanted.sha256:
            raise WeightsError(f"{folder / name} differs from the exported file; {again}")
    return manifest


def box_points(points: Array, labels: Array, boxes: Array | None) -> tuple[Array, Array]:
    """Points and labels of the exported decoder: a box counts two points, no box one of padding.

    Args:
        points: (N, K, 2) xy in pixels of the network's input.
        labels: (N, K) int64.
        boxes: (N, 4) xyxy in pixels of the network's input, or None.

    Returns:
        (N, P, 2) float32 and (N, P) int64, with P = K + 2 or K + 1.
    """
    count = len(points)
    if boxes is None:
        more, kinds = np.zeros((count, 1, 2), np.float32), np.full((count, 1), -1, np.int64)
    else:
        more, kinds = boxes.reshape(-1, 2, 2), np.tile(np.array([[2, 3]], np.int64), (count, 1))
    return (
        np.concatenate([points, more], axis=1, dtype=np.float32),
        np.concatenate([labels, kinds], axis=1, dtype=np.int64),
    )


def require_packages(*names: str) -> None:
    """Raises a UsageError if one of the packages is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"this needs {', '.join(missing)}, not installed here: pip install {' '.join(missing)}"
        )


def current_threads() -> int:
    """Threads for models of this process, determined without importing torch.

    That is torch's number of threads if it is loaded, else `OMP_NUM_THREADS`, else the number of
    usable processors.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    value = os.environ.get("OMP_NUM_THREADS", "")
    if value.isdecimal() and int(value) > 0:
        return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_graph(path: Path, target: Target, *, threads: int, precision: str = "fp32") -> Graph:
    """Loads one graph on the CPU, in `fp32`, or with OpenVINO in `bf16` or `int8`.

    `int8` is for quantised graphs; what is not quantised in them computes in bfloat16 where the
    processor does, otherwise in float32.

    Returns:
        A function from named inputs to the list of outputs, which several threads may call. The
        outputs of zero prompts have zero rows.

    Raises:
        UsageError: The runtime is not installed.
        UnsupportedError: The runtime or this processor lacks the precision.
        WeightsError: The file cannot be loaded.
    """
    require_packages(PACKAGES[target])
    opened = _open_onnx if target == "onnx" else _open_openvino
    graph = opened(path, threads, precision)

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        """Outputs of the graph; inputs without a row give outputs without one."""
        empty = [name for name, each in inputs.items() if each.shape[0] == 0]
        if not empty:
            return graph(inputs)
        # ONNX Runtime cannot reshape empty tensors: they are given a row.
        rows = {name: np.zeros((1, *inputs[name].shape[1:]), inputs[name].dtype) for name in empty}
        return [each[:0] for each in graph({**inputs, **rows})]

    return run


def _open_onnx(path: Path, threads: int, precision: str) -> Graph:
    import onnxruntime

    if precision != "fp32":
        raise UnsupportedError(
            f"ONNX Runtime has no {precision} on a CPU; use fp32, or mobilesam-openvino"
        )

    def cannot_run(error: Exception) -> UnsupportedError:
        reason = str(error).strip().splitlines()[0]
        return UnsupportedError(f"ONNX Runtime cannot run {path.name} here: {reason}")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Otherwise its threads spin after a call and slow down what runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    # The only common base of its errors is Exception.
    with foreign_call(_not_loaded(path)):
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        with foreign_call(cannot_run):
            outputs = session.run(None, dict(inputs))
        return [np.asarray(each) for each in outputs]

    return run


def _open_openvino(path: Path, threads: int, precision: str) -> Graph:
    import openvino

    core = openvino.Core()
    can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hints = {"fp32": "f32", "bf16": "bf16", "int8": "bf16" if "BF16" in can else "f32"}
    if precision not in hints:
        raise UnsupportedError(f"OpenVINO on a CPU takes fp32 or bf16, not {precision}")
    if precision == "bf16" and "BF16" not in can:
        raise UnsupportedError("this processor does not compute in bf16; use fp32")
    config = {
        # The default is bfloat16 on processors with matrix units.
        "INFERENCE_PRECISION_HINT": hints[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    with foreign_call(_not_loaded(path)):
        compiled = core.compile_model(str(path), "CPU", config)
    # A request has one set of buffers, so that each thread needs its own.
    requests = threading.local()

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        found = requests.own.infer(dict(inputs))
        return [np.array(found[port]) for port in compiled.outputs]

    return run


def _not_loaded(path: Path) -> Callable[[Exception], WeightsError]:
    def convert(error: Exception) -> WeightsError:
        reason = str(error).strip().splitlines()[-1]
        return WeightsError(f"{path} cannot be loaded: {reason}; export it again")

    return convert
