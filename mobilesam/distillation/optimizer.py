"""AdamW with orthogonal steps (Muon, Jordan et al., 2024) for some matrices, and its schedule.

Attention weights must grow in a few directions at once before attention leaves its uniform start,
which AdamW does slowly. `torch.optim.Muon` takes the same step for one matrix at a time and in
bfloat16, which CPUs without that format emulate; small steps then take three times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mobilesam.distillation.train_config import TrainConfig

# Coefficients of Keller Jordan's quintic Newton-Schulz iteration.
_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95
# Scales an orthogonal step to the size of AdamW's step at the same learning rate.
_RMS_OF_ADAMW = 0.2
_EPSILON = 1e-7


class MuonAdamW(torch.optim.AdamW):
    """AdamW; parameter groups with `orthogonal` hold matrices only and are stepped by Muon."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]
    ) -> None:
        super().__init__([{"orthogonal": False, **group} for group in groups], lr=lr, betas=betas)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step of every group."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            found = super().step(closure)
        finally:
            self.param_groups = groups
        with torch.no_grad():
            for group in groups:
                if group["orthogonal"]:
                    self._orthogonal_step(group)
        return found

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            state = self.state[matrix]
            if "momentum" not in state:
                state["step"] = torch.zeros(())  # AdamW requires it when a state dict is loaded
                state["momentum"] = torch.zeros_like(matrix)
            mean = state["momentum"].lerp_(matrix.grad, 1 - _MOMENTUM)
            nesterov = matrix.grad.lerp(mean, _MOMENTUM)
            by_shape.setdefault(matrix.shape, []).append((matrix, nesterov))
        for shape, pairs in by_shape.items():
            matrices = [matrix for matrix, _ in pairs]
            directions = orthogonalize(torch.stack([direction for _, direction in pairs]))
            rate = group["lr"] * _RMS_OF_ADAMW * max(shape) ** 0.5
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, list(directions), alpha=-rate)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Approximates the nearest orthogonal matrices of (N, h, w) by Newton-Schulz iterations.

    Singular values become 0.5 to 1.5, singular vectors stay.
    """
    first, second, third = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.transpose(1, 2) if tall else matrices
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=_EPSILON)
    for _ in range(_ITERATIONS):
        gram = found @ found.transpose(1, 2)
        factor = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        found = torch.baddbmm(found, factor, found, beta=first)
    return found.transpose(1, 2) if tall else found


def build_optimizer(parameters: Mapping[str, Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """Builds the optimiser with weight decay for matrices and kernels only.

    With `config.orthogonal`, linear layers of the mask decoder take orthogonal steps; its tokens,
    which are lists of vectors, do not.
    """
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    linear: list[Tensor] = []
    for name, value in parameters.items():
        is_token = name.endswith(("_token.weight", "_tokens.weight"))
        in_decoder = name.startswith("mask_decoder") and not is_token
        if config.orthogonal and value.dim() == 2 and in_decoder:
            linear.append(value)
        else:
            (decayed if value.dim() > 1 else others).append(value)
    decay, muon = config.weight_decay, config.orthogonal
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": decay, "rate_factor": 1.0},
        {"params": others, "weight_decay": 0.0, "rate_factor": 1.0},
        {"params": linear, "weight_decay": decay, "rate_factor": muon, "orthogonal": True},
    ]
    used = [group for group in groups if group["params"]]
    return MuonAdamW(used, lr=config.learning_rate, betas=(0.9, 0.98))


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up for `warmup_steps`, then half a cosine down to `final_rate_share`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = config.final_rate_share
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (share + (1 - share) * cosine)
