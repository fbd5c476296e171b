"""What a training run is told: frozen, written as JSON, stored in every checkpoint."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mobilesam.frozen_model import FrozenModel

Precision = Literal["fp32", "bf16", "fp16"]


class LossConfig(FrozenModel):
    """Weights of the terms of the losses; a scheme reads those that concern it.

    SAM's paper gives focal 20, dice 1 and the predicted quality 1. `cross_entropy`, `affinity`,
    `surroundings` and `reading` are for training from scratch: focal loss speaks softly of what a
    beginner gets wrong.
    """

    focal: float = Field(default=20.0, ge=0)
    dice: float = Field(default=1.0, ge=0)
    quality: float = Field(default=1.0, ge=0)
    candidates: float = Field(
        default=0.0, ge=0, description="of all three candidates alike, beside the best of them"
    )
    cosine: float = Field(
        default=0.0, ge=0, description="of 1 - cosine between embeddings, beside their MSE"
    )
    cross_entropy: float = Field(default=0.0, ge=0, description="of masks, beside focal and dice")
    affinity: float = Field(
        default=0.0, ge=0, description="of what belongs together, asked of the embedding itself"
    )
    reading: float = Field(
        default=0.0, ge=0, description="of how much a mask token looks like its object's cells"
    )
    surroundings: float = Field(
        default=0.0,
        ge=0,
        description="of each object against what lies around it, in the prototype loss",
    )
    prompts: float = Field(
        default=0.0, ge=0, description="of the mask losses, beside the MSE (prompts in the loop)"
    )


class PromptConfig(FrozenModel):
    """Prompts in the loop: each object drawn gives a box and a point.

    `box_jitter` is the deviation of a moved edge, relative to the box's side; half of the boxes
    keep their edges. `refine` is the share of steps that correct the first answer by a click where
    it is wrong, with the answer fed back. `center_share` of the points lie deepest inside their
    object, `box_center_share` in the middle of its box, which for a ring or a thing half hidden may
    show something else; the others lie anywhere inside.
    """

    objects_per_image: int = Field(default=4, ge=1)
    box_jitter: float = Field(default=0.05, ge=0, le=0.5)
    center_share: float = Field(default=0.5, ge=0, le=1)
    box_center_share: float = Field(default=0.0, ge=0, le=1)
    refine: float = Field(default=0.15, ge=0, le=1)

    @model_validator(mode="after")
    def _shares_of_one(self) -> Self:
        if self.center_share + self.box_center_share > 1:
            raise ValueError(
                f"center_share {self.center_share} and box_center_share {self.box_center_share} are"
                " shares of all points: more than 1 together"
            )
        return self


class TrainConfig(FrozenModel):
    """One training run.

    A step takes `batch_size` images in micro-batches of `micro_batch`, which go through the network
    one after the other, or at the same time in several processes: the result is the same.
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
        " multiple of `learning_rate`; 0 leaves them to AdamW",
    )
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="0 keeps no average")
    precision: Precision = "fp32"
    augment: bool = False
    zoom: float = Field(
        default=0.0, ge=0, le=1, description="share of images of which a part fills the input"
    )
    zoom_least: float = Field(
        default=0.5, gt=0, le=1, description="least side of such a part, relative to the image's"
    )
    seed: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=200, ge=1)
    losses: LossConfig = LossConfig()
    prompts: PromptConfig = PromptConfig()

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.batch_size % self.micro_batch:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch {self.micro_batch}"
            )
        return self
