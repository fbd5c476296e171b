"""Settings of a training, stored as JSON in every checkpoint."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mobilesam.frozen_model import FrozenModel

Precision = Literal["fp32", "bf16", "fp16"]


class LossConfig(FrozenModel):
    """Weights of the terms of the losses; each scheme uses some of them.

    SAM's paper gives focal 20, dice 1 and the predicted quality 1. `cross_entropy`, `affinity`,
    `surroundings` and `reading` are for training from scratch, where the gradients of the focal
    loss are small at first.
    """

    focal: float = Field(default=20.0, ge=0)
    dice: float = Field(default=1.0, ge=0)
    quality: float = Field(default=1.0, ge=0)
    candidates: float = Field(
        default=0.0, ge=0, description="all three candidate masks, in addition to the best one"
    )
    cosine: float = Field(default=0.0, ge=0, description="1 - cosine between embeddings")
    cross_entropy: float = Field(default=0.0, ge=0, description="cross-entropy of masks")
    affinity: float = Field(default=0.0, ge=0, description="affinity and prototype loss")
    reading: float = Field(default=0.0, ge=0, description="token affinity loss")
    surroundings: float = Field(
        default=0.0, ge=0, description="objects against their surroundings, in the prototype loss"
    )
    prompts: float = Field(
        default=0.0, ge=0, description="mask losses, in addition to the MSE of embeddings"
    )


class PromptConfig(FrozenModel):
    """Prompts of a training: a box and a point for each drawn object.

    Attributes:
        objects_per_image: Number of drawn objects.
        box_jitter: Standard deviation of moved edges relative to the side of the box; half of the
            boxes are not moved.
        center_share: Share of points at the innermost pixel of their object.
        box_center_share: Share of points at the centre of the box, which may be outside the object;
            the remaining points are anywhere inside.
        refine: Share of steps with a correction click and the first prediction as mask input.
    """

    objects_per_image: int = Field(default=4, ge=1)
    box_jitter: float = Field(default=0.05, ge=0, le=0.5)
    center_share: float = Field(default=0.5, ge=0, le=1)
    box_center_share: float = Field(default=0.0, ge=0, le=1)
    refine: float = Field(default=0.15, ge=0, le=1)

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

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    micro_batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    final_rate_share: float = Field(default=0.01, ge=0, le=1)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    orthogonal: float = Field(
        default=0.0,
        ge=0,
        description="learning rate of orthogonal steps (Muon) of the decoder's linear layers, as a"
        " multiple of `learning_rate`; 0 uses AdamW",
    )
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="0 keeps no moving average")
    precision: Precision = "fp32"
    augment: bool = False
    zoom: float = Field(default=0.0, ge=0, le=1, description="share of images that are cropped")
    zoom_least: float = Field(
        default=0.5, gt=0, le=1, description="smallest side of a crop relative to the image's"
    )
    seed: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=200, ge=1)
    losses: LossConfig = LossConfig()
    prompts: PromptConfig = PromptConfig()

    @model_validator(mode="after")
    def _check_micro_batches(self) -> Self:
        if self.batch_size % self.micro_batch:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch {self.micro_batch}"
            )
        return self
