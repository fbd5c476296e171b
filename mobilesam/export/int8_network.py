"""MobileSAM with an 8-bit encoder by OpenVINO, for `MobileSam(precision="int8")`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.errors import UnsupportedError, UsageError
from mobilesam.export import runtime
from mobilesam.export.quantized import Ranges, find_ranges
from mobilesam.export.writer import write_int8_encoder
from mobilesam.fast.inference import FastMobileSam

# Torch's private tests for 8-bit products on x86, by version; they may be missing.
_INT8_UNITS = ("_is_vnni_supported", "_is_avx512_vnni_supported", "_is_amx_tile_supported")


class Int8MobileSam(FastMobileSam):
    """`FastMobileSam` whose encoder has static 8-bit products; the decoder stays in float32.

    Args:
        sam: A MobileSAM with its weights loaded; not changed.
        calibration: Folder with images, see `mobilesam.export.quantized.find_ranges`.

    Raises:
        UsageError: OpenVINO or onnx is not installed, or no ranges are known for these weights.
        UnsupportedError: On this processor, 8-bit products are no faster than float32.
    """

    def __init__(self, sam: Sam, calibration: Path | None = None) -> None:
        runtime.require_packages("onnx", "openvino")
        if not computes_int8():
            raise UnsupportedError(
                "this processor has neither AVX-512 VNNI nor AMX, without which int8 is no faster "
                "than fp32; use fp32"
            )
        super().__init__(sam)
        self._encode = OpenVinoEncoder(sam, find_ranges(sam, calibration))


class OpenVinoEncoder:
    """The quantised encoder; copies are exported and compiled again."""

    def __init__(self, sam: Sam, ranges: Ranges) -> None:
        self._made_of = sam, ranges
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / runtime.graph_file("encoder", "onnx", int8=True)
            write_int8_encoder(sam, ranges, path)
            threads = runtime.current_threads()
            self._run = runtime.open_graph(path, "openvino", threads=threads, precision="int8")

    def __reduce__(self) -> tuple[Any, ...]:
        """Compiled models can be neither pickled nor copied."""
        return OpenVinoEncoder, self._made_of

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float32 -> (B, C, S/16, S/16) float32."""
        images = pixels.float().numpy()
        found = [self._run({"pixels": images[row : row + 1]})[0] for row in range(len(images))]
        return torch.from_numpy(np.concatenate(found))


def computes_int8() -> bool:
    """Whether this processor multiplies 8-bit integers faster than floats."""
    tests = (getattr(torch.cpu, name, None) for name in _INT8_UNITS)
    return any(test is not None and bool(test()) for test in tests)


def require_cpu(device: torch.device) -> None:
    """Raises a UsageError for devices other than the CPU."""
    if device.type != "cpu":
        raise UsageError(f"int8 runs on the CPU alone, not on {device}; use fp16 or bf16 there")
