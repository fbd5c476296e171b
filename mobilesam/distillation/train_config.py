"""Settings of a training, stored as JSON in every checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mobilesam.frozen_model import FrozenModel

Precision = Literal["fp32", "bf16", "fp16"]
_Weight = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=1)]


class LossConfig(FrozenModel):
    """Weights of the terms of the losses; each scheme uses some of them.

    SAM's paper gives focal 20, dice 1 and the predicted quality 1. `cross_entropy`, `affinity`,
    `surroundings` and `reading` are for training from scratch, where the gradients of the focal
    loss are small at first.
    """

    focal: _Weight = 20.0
    dice: _Weight = 1.0
    quality: _Weight = 1.0
    candidates: _Weight = 0.0  # all three candidate masks, in addition to the best one
    cosine: _Weight = 0.0  # 1 - cosine between embeddings
    cross_entropy: _Weight = 0.0  # of masks
    affinity: _Weight = 0.0  # affinity and prototype loss
    reading: _Weight = 0.0  # token affinity loss
    surroundings: _Weight = 0.0  # objects against their surroundings, in the prototype loss
    prompts: _Weight = 0.0  # mask losses, in addition to the MSE of embeddings


class PromptConfig(FrozenModel):
    """Prompts of a training: a box and a point for each drawn object."""

    objects_per_image: _Count = 4
    # Standard deviation of moved edges relative to the box's side; half of the boxes stay.
    box_jitter: float = Field(default=0.05, ge=0, le=0.5)
    center_share: _Share = 0.5  # of points at the innermost pixel of their object
    # Of points at the centre of the box, which may be outside the object; others are inside.
    box_center_share: _Share = 0.0
    refine: _Share = 0.15  # of steps with a correction click and the first prediction as a mask

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.center_share + self.box_center_share > 1:
            raise ValueError(
                f"center_share {self.center_share} and box_center_share {self.box_center_share} are"
                " shares of all points: more than 1 together"
            )
        return self


class TrainConfig(FrozenModel):
    """One training run.

    A step takes `batch_size` images in micro-batches of `micro_batch`, one after the other or in
    several processes with the same result.
    """

    steps: _Count
    batch_size: _Count
    micro_batch: _Count
    learning_rate: float = Field(gt=0)
    final_rate_share: _Share = 0.01
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: _Weight = 0.05
    # Learning rate of orthogonal steps (Muon) of the decoder's linear layers, as a multiple of
    # `learning_rate`; 0 uses AdamW.
    orthogonal: _Weight = 0.0
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)  # 0 keeps no moving average
    precision: Precision = "fp32"
    augment: bool = False
    zoom: _Share = 0.0  # share of images that are cropped
    # Smallest side of a crop relative to the image's.
    zoom_least: float = Field(default=0.5, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    checkpoint_every: _Count = 200
    losses: LossConfig = LossConfig()
    prompts: PromptConfig = PromptConfig()

    @model_validator(mode="after")
    def _check_micro_batches(self) -> Self:
        if self.batch_size % self.micro_batch:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch {self.micro_batch}"
            )
        return self
