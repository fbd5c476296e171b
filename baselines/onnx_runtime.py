"""MobileSAM in ONNX Runtime, from the files of `mobilesam-bench export --to onnx`."""

from __future__ import annotations

from baselines.exported import build_exported, derive_exported
from baselines.interface import Segmenter
from baselines.options import ModelOptions


def build(options: ModelOptions) -> Segmenter:
    """MobileSAM in float32; see `baselines.exported.build_exported`."""
    return build_exported(options, "onnx")


def build_int8(options: ModelOptions) -> Segmenter:
    """MobileSAM with matrix products in 8-bit integers, quantised as they run; not its accuracy."""
    return build_exported(options, "onnx", int8=True)


def derive(options: ModelOptions) -> None:
    """Makes the files of `build`; see `baselines.exported.derive_exported`."""
    derive_exported(options, "onnx")


def derive_int8(options: ModelOptions) -> None:
    """Makes the files of `build_int8`."""
    derive_exported(options, "onnx", int8=True)
