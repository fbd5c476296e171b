"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mobilesam.distillation.config import TrainConfig


def optimizer_for(parameters: Mapping[str, Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; only matrices and kernels decay, since a bias or a gain has nothing to forget."""
    decayed = [value for value in parameters.values() if value.dim() > 1]
    others = [value for value in parameters.values() if value.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=(0.9, 0.98)
    )


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rises in a line for `warmup_steps`, then falls along half a cosine to its final share."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = config.final_rate_share
    return config.learning_rate * (
        share + (1 - share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    )
