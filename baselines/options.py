"""How a model is to be built: what every adapter's factory takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint file on this machine, already hashed.

    Attributes:
        path: The file.
        sha256: Hex digest of its bytes.
        official: The digest is the published one of the model it is used for.
        n_bytes: Its size.
        trusted: Its digest is a published one, or the user vouched for it; pickles need this.
    """

    path: Path
    sha256: str
    official: bool
    n_bytes: int
    trusted: bool


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What a factory is told.

    Attributes:
        name: Registry name, to be put into `ModelInfo`.
        device: A torch device; `meta` asks for shapes only, for counting parameters and FLOPs.
        precision: `fp32`, `fp16` or `bf16`, for the networks.
        checkpoint: Trained weights; None means seeded random ones, where the model has any.
        seed: Seed of the random weights.
    """

    name: str
    device: str = "cpu"
    precision: str = "fp32"
    checkpoint: Checkpoint | None = None
    seed: int = 0
