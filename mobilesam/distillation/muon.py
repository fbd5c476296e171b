"""AdamW whose matrices may take orthogonal steps: Muon (Jordan et al., 2024).

Attention that starts out uniform learns to look at a place only as its matrices grow in a few
directions at once, which AdamW does slowly. torch.optim.Muon takes the same step, but one matrix at
a time and in bfloat16, which a CPU without that format emulates: that made a small step three
times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Keller Jordan's quintic: it brings singular values near one in few iterations.
_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95
# An orthogonal step then changes a matrix as much as a step of AdamW at the same rate does.
_RMS_OF_ADAMW = 0.2
_EPSILON = 1e-7


class MuonAdamW(torch.optim.AdamW):
    """AdamW; groups that say `orthogonal` are stepped by Muon.

    Args:
        groups: Parameter groups. `orthogonal` (False if missing) wants matrices alone.
        lr: Learning rate of groups that name none.
        betas: Of AdamW.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]
    ) -> None:
        super().__init__([{"orthogonal": False, **group} for group in groups], lr=lr, betas=betas)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every group."""
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
        shapes: dict[torch.Size, list[Tensor]] = {}
        for matrix in group["params"]:
            if matrix.grad is not None:
                shapes.setdefault(matrix.shape, []).append(matrix)
        for shape, matrices in shapes.items():
            ahead = torch.stack([self._momentum(matrix) for matrix in matrices])
            rate = group["lr"] * _RMS_OF_ADAMW * max(shape) ** 0.5
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, list(orthogonal(ahead)), alpha=-rate)

    def _momentum(self, matrix: Tensor) -> Tensor:
        """Nesterov's look ahead from the mean of the gradients so far."""
        gradient = matrix.grad
        if gradient is None:
            raise ValueError("a matrix without gradient takes no step")
        state = self.state[matrix]
        if "momentum" not in state:
            # AdamW looks for the count in all states that it takes up, and means nothing by it.
            state["step"] = torch.zeros(())
            state["momentum"] = torch.zeros_like(matrix)
        mean: Tensor = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(mean, _MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices whose singular values are all about one, by Newton and Schulz.

    Args:
        matrices: (N, h, w) float32.

    Returns:
        (N, h, w): singular values between 0.5 and 1.5, the singular vectors unchanged.
    """
    first, second, third = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.transpose(1, 2) if tall else matrices
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=_EPSILON)
    for _ in range(_ITERATIONS):
        gram = found @ found.transpose(1, 2)
        found = torch.baddbmm(
            found, torch.baddbmm(gram, gram, gram, beta=second, alpha=third), found, beta=first
        )
    return found.transpose(1, 2) if tall else found
