"""Muon steps, parameter groups, learning rate."""

from __future__ import annotations

import pytest
import torch
from small_models import HEADS, STUDENT
from small_training import (
    settings,
)

from mobilesam.distillation.optimizer import (
    MuonAdamW,
    build_optimizer,
    learning_rate,
    orthogonalize,
)
from mobilesam.model.mobile_sam import build_mobile_sam


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 12), (2, 12, 4)])
def test_orthogonalize_keeps_singular_vectors(shape: tuple[int, int, int]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(given)
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    inside = left.transpose(1, 2) @ found @ right.transpose(1, 2)
    values = torch.diagonal(inside, dim1=1, dim2=2)
    assert torch.allclose(inside, torch.diag_embed(values), atol=1e-4)
    assert values.min() > 0.4
    assert values.max() < 1.3


def test_orthogonal_steps_equal_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(6, 4, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    mine = MuonAdamW(
        [{"params": [ours], "weight_decay": 0.1, "orthogonal": True}], lr=0.1, betas=(0.9, 0.98)
    )
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(6, 4, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
    # Theirs orthogonalises in bfloat16.
    assert (ours - theirs).abs().max() < 0.02
    assert (ours - theirs).abs().max() < 0.1 * ours.std()


def test_orthogonal_steps_resume() -> None:
    def after(n_steps: int, *, interrupted: bool) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(6, 4, generator=generator).requires_grad_()
        bias = torch.zeros(6, requires_grad=True)

        def fresh() -> MuonAdamW:
            groups = [{"params": [bias]}, {"params": [matrix], "orthogonal": True}]
            return MuonAdamW(groups, lr=0.1, betas=(0.9, 0.98))

        optimizer = fresh()
        for step in range(n_steps):
            matrix.grad = torch.randn(6, 4, generator=generator)
            bias.grad = torch.randn(6, generator=generator)
            if interrupted and step == 2:
                kept, optimizer = optimizer.state_dict(), fresh()
                optimizer.load_state_dict(kept)
            optimizer.step()
        return torch.cat([matrix.detach().flatten(), bias.detach()])

    assert torch.equal(after(5, interrupted=True), after(5, interrupted=False))


def test_only_linear_layers_of_the_decoder_take_orthogonal_steps() -> None:
    model = build_mobile_sam(STUDENT, HEADS)
    parameters = dict(model.named_parameters())
    names = {id(value): name for name, value in parameters.items()}
    groups = build_optimizer(parameters, settings(orthogonal=5.0)).param_groups
    maps = [names[id(each)] for group in groups if group["orthogonal"] for each in group["params"]]
    assert "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight" in maps
    assert all(name.startswith("mask_decoder.") for name in maps)
    assert not [name for name in maps if "token.weight" in name or "tokens.weight" in name]
    plain = build_optimizer(parameters, settings()).param_groups
    assert not any(group["orthogonal"] for group in plain)
    assert sum(len(group["params"]) for group in groups) == len(parameters)


def test_learning_rate_schedule() -> None:
    config = settings(steps=100, warmup_steps=10, learning_rate=1.0, final_rate_share=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.1, abs=0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)
