"""MobileSAM in OpenVINO, from the files of `mobilesam-bench export --to openvino`."""

from __future__ import annotations

from baselines.exported import build_exported, derive_exported
from baselines.interface import Segmenter
from baselines.options import ModelOptions


def build(options: ModelOptions) -> Segmenter:
    """MobileSAM in float32, or bfloat16 if asked; see `baselines.exported.build_exported`."""
    return build_exported(options, "openvino")


def derive(options: ModelOptions) -> None:
    """Makes the files of `build`; see `baselines.exported.derive_exported`."""
    derive_exported(options, "openvino")
