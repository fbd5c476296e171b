"""Arithmetic done once on weights, so that inference need not repeat it."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilesam.model.tiny_vit import Attention, ConvNorm, TinyViT


def fold_conv_norm(pair: ConvNorm) -> tuple[Tensor, Tensor]:
    """Convolution and batch normalisation with its running statistics, as one convolution.

    Returns:
        Weight (C_out, C_in/groups, k, k) and bias (C_out,), both float32.
    """
    conv, norm = pair.get_submodule("c"), pair.get_submodule("bn")
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
        raise TypeError(f"no running statistics to fold in a {type(norm).__name__}")
    assert norm.running_mean is not None  # noqa: S101 - comes with the variance
    assert isinstance(conv, nn.Conv2d)  # noqa: S101 - for the type checker
    # Divided in double precision: running variances of trained networks reach down to 1e-6.
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = norm.bias.double() - norm.running_mean.double() * scale
    return weight.float().detach(), bias.float().detach()


def fold_layer_norm(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """The affine part of a layer normalisation, folded into the linear layer behind it.

    Returns:
        Weight (C_out, C_in) and bias (C_out,), for input that is normalised but neither scaled
        nor shifted.
    """
    weight = linear.weight.double()
    bias = linear.bias.double() + weight @ norm.bias.double()
    return (weight * norm.weight.double()).float().detach(), bias.float().detach()


class CachedAttention(nn.Module):
    """`Attention` whose biases are gathered once, from weights that are there by now.

    Args:
        source: Its weights are shared, not copied.
    """

    bias: Tensor

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self.num_heads = source.num_heads
        self.norm, self.qkv, self.proj = source.norm, source.qkv, source.proj
        bias = source.attention_biases[:, source.bias_index].detach()
        self.register_buffer("bias", bias[None].contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, window^2, C) -> (B, window^2, C)."""
        batch, tokens, channels = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, tokens, self.num_heads, 3, -1)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, channels))
        return projected


def folded(encoder: TinyViT) -> TinyViT:
    """A copy for inference alone: no batch normalisation, no gathering of attention biases.

    Args:
        encoder: With its weights loaded; left as it is, whichever mode it is in.

    Returns:
        An encoder in evaluation mode, with the same results up to rounding.
    """
    clone = copy.deepcopy(encoder).eval().requires_grad_(requires_grad=False)
    _replace(clone)
    return clone


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            setattr(module, name, _as_convolution(child))
        elif isinstance(child, Attention):
            setattr(module, name, CachedAttention(child))
        else:
            _replace(child)


def _as_convolution(pair: ConvNorm) -> nn.Conv2d:
    old = pair.get_submodule("c")
    assert isinstance(old, nn.Conv2d)  # noqa: S101 - for the type checker
    weight, bias = fold_conv_norm(pair)
    conv = nn.Conv2d(
        old.in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        groups=old.groups,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.to(old.weight), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(old.weight), requires_grad=False)
    return conv.eval()
