"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mobilesam.distillation.config import TrainConfig
from mobilesam.distillation.muon import MuonAdamW


def optimizer_for(parameters: Mapping[str, Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; only matrices and kernels decay, since a bias or a gain has nothing to forget.

    Where `config.orthogonal` says so, linear layers of the decoder take orthogonal steps: they are
    what learns slowly, and small. Its tokens are lists of vectors, no maps, and stay with AdamW.
    """
    maps: list[Tensor] = []
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, value in parameters.items():
        if config.orthogonal and value.dim() == 2 and _is_map_of_decoder(name):
            maps.append(value)
        else:
            (decayed if value.dim() > 1 else others).append(value)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
        {
            "params": maps,
            "weight_decay": config.weight_decay,
            "orthogonal": True,
            "rate_factor": config.orthogonal,
        },
    ]
    return MuonAdamW(
        [{"rate_factor": 1.0, **group} for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )


def _is_map_of_decoder(name: str) -> bool:
    return name.startswith("mask_decoder") and not name.endswith(
        ("_token.weight", "_tokens.weight")
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
