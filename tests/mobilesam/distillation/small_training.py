"""A small teacher, student and training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from small_models import HEADS, SIDE_PX, STUDENT, TEACHER

from mobilesam.distillation.batches import TrainingSample, make_batch
from mobilesam.distillation.schemes import SCHEMES, OnlineTeacher, Scheme, Supervised
from mobilesam.distillation.train_config import PromptConfig, TrainConfig
from mobilesam.model.mini import build_sam_mini
from mobilesam.model.mobile_sam import build_mobile_sam

SHA256 = "a" * 64
CELLS = 4 * SIDE_PX // 8
"""Cells a side of the low-resolution masks that a model of `SIDE_PX` returns."""


@dataclass(frozen=True)
class Pictures:
    """Images of two discs, wide or high, determined by their index."""

    n: int = 8
    fingerprint: str = "discs"
    labelled: bool = True

    def __len__(self) -> int:
        return self.n

    def sample(self, index: int) -> TrainingSample:
        rng = np.random.default_rng(index)
        height, width = (48, 64) if index % 4 else (64, 40)
        image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        labels = np.zeros((2 * height, 2 * width), np.uint8)
        y, x = np.ogrid[: 2 * height, : 2 * width]
        for number in (1, 2):
            center = rng.uniform(0.25, 0.75, 2) * labels.shape
            disc = np.hypot(y - center[0], x - center[1]) < rng.uniform(12, 24)
            labels[disc] = number
            image[disc[::2, ::2]] = rng.integers(90, 255, 3, dtype=np.uint8)
        return TrainingSample(f"disc:{index}", image, labels if self.labelled else None)


def batch(
    n: int = 4,
    *,
    augment: bool = False,
    step: int = 0,
    labelled: bool = True,
    **zoom: float,
):
    """The first images of `Pictures` as a batch."""
    return make_batch(
        Pictures(8, labelled=labelled),
        list(range(n)),
        list(range(n)),
        side_px=SIDE_PX,
        seed=0,
        step=step,
        augment=augment,
        **zoom,
    )


def seeded(build: Any, seed: int = 0) -> Sam:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def teacher() -> Sam:
    return seeded(lambda: build_sam_mini(TEACHER), 1)


def student(seed: int = 0) -> Sam:
    return seeded(lambda: build_mobile_sam(STUDENT, HEADS), seed)


def settings(**changes: Any) -> TrainConfig:
    usual: dict[str, Any] = {
        "steps": 6,
        "batch_size": 8,
        "micro_batch": 4,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "checkpoint_every": 2,
        "prompts": PromptConfig(objects_per_image=2, refine=0.5),
    }
    return TrainConfig(**(usual | changes))


def scheme(name: str, config: TrainConfig, sha256: str = SHA256) -> Scheme:
    if name == "supervised":
        return Supervised(seeded(lambda: build_sam_mini(TEACHER)), config)
    model = teacher()
    return SCHEMES[name](student(), model, OnlineTeacher(model, sha256, SIDE_PX), config)
