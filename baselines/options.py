"""How a model is to be built: what every adapter's factory takes."""

from __future__ import annotations

from dataclasses import dataclass

from mobilesam.weights.checkpoints import LocalCheckpoint as Checkpoint

__all__ = ["Checkpoint", "ModelOptions"]


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
