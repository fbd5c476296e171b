"""SAM's attention layers when one side is an image of thousands of tokens and the other a prompt.

With T tokens of a prompt (7 for a point) against 4,096 of the image, projecting the image is nearly
all of the work. Matrix products are associative, so the small side can be projected instead: for a
head of width d, with W_q and W_k of (d, C), (W_q a) . (W_k b) = (W_k^T W_q a) . b. Over all heads
that makes 2 C heads T operations an image token instead of 2 C heads d and more; d is 16. Likewise
behind the softmax. A bias that shifts all scores of one softmax alike drops out. Everything is the
same up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.fast.kernels import Dense


class TokenAttention:
    """Attention of the prompt's tokens to each other.

    Args:
        source: A `segment_anything.modeling.transformer.Attention`.
        like: Data type and device to work in.
    """

    def __init__(self, source: Any, like: Tensor) -> None:
        self.heads = int(source.num_heads)
        self.query, self.key, self.value, self.out = (
            (layer.weight.detach().to(like), layer.bias.detach().to(like))
            for layer in (source.q_proj, source.k_proj, source.v_proj, source.out_proj)
        )

    def __call__(self, asking: Tensor, asked: Tensor) -> Tensor:
        """(N, T, C) queries and keys, (N, T, C) values -> (N, T, C)."""
        query, key, value = (
            F.linear(x, *layer).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for x, layer in ((asking, self.query), (asking, self.key), (asked, self.value))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return F.linear(mixed.transpose(1, 2).flatten(2), *self.out)


class FromTokens:
    """Attention of the prompt's tokens to the image.

    Args:
        source: A `segment_anything.modeling.transformer.Attention`.
        like: Data type and device to work in.
    """

    def __init__(self, source: Any, like: Tensor) -> None:
        self.heads = heads = int(source.num_heads)
        scale = (source.internal_dim // heads) ** -0.5
        self.query = (
            (source.q_proj.weight.detach() * scale).to(like),
            (source.q_proj.bias.detach() * scale).to(like),
        )
        key, value = source.k_proj.weight.detach(), source.v_proj.weight.detach()
        self.key = key.unflatten(0, (heads, -1)).to(like).contiguous()  # (heads, d, C)
        self.value = value.unflatten(0, (heads, -1)).transpose(1, 2).to(like).contiguous()
        self.value_bias = source.v_proj.bias.detach().to(like)
        self.out = (
            source.out_proj.weight.detach().to(like),
            source.out_proj.bias.detach().to(like),
        )
        # The key's bias shifts all scores of a query alike.
        self.image_key = Dense(key, None, like)
        self.image_value = Dense(value, source.v_proj.bias, like)

    def project(self, image: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of an image that all prompts share.

        Args:
            image: (HW, C).
            image_pe: (HW, C), the image with its positional encoding added.

        Returns:
            Both (1, heads, HW, d).
        """
        key, value = self.image_key(image_pe), self.image_value(image)
        return _heads_first(key, self.heads), _heads_first(value, self.heads)

    def shared(self, tokens: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, T, C) tokens against `project`'s one image -> (N, T, C)."""
        count, length, _ = tokens.shape
        query = F.linear(tokens.flatten(0, 1), *self.query)
        mixed = F.scaled_dot_product_attention(
            _heads_first(query, self.heads), key, value, scale=1.0
        )
        return F.linear(mixed[0].transpose(0, 1).reshape(count, length, -1), *self.out)

    def each(self, tokens: Tensor, image: Tensor, image_pe: Tensor) -> Tensor:
        """Each prompt with its own image.

        Args:
            tokens: (N, T, C).
            image: (N, HW, C).
            image_pe: (N, HW, C), with the positional encoding added.

        Returns:
            (N, T, C).
        """
        asking = self._project(tokens)
        return self._answer(torch.bmm(asking, image_pe.transpose(1, 2)), image, tokens.shape[1])

    def each_of_few(self, tokens: Tensor, image: Tensor, encoding: Tensor) -> Tensor:
        """The same for few tokens, for whom adding to the image costs more than another product.

        Args:
            tokens: (N, T, C).
            image: (N, HW, C).
            encoding: (HW, C), the positional encoding.

        Returns:
            (N, T, C).
        """
        asking = self._project(tokens)
        scores = torch.matmul(asking, encoding.t())
        return self._answer(scores.baddbmm_(asking, image.transpose(1, 2)), image, tokens.shape[1])

    def _project(self, tokens: Tensor) -> Tensor:
        """Queries, in the space of the image: (N, T, C) -> (N, heads T, C)."""
        query = _heads_first(F.linear(tokens.flatten(0, 1), *self.query), self.heads)[0]
        return _prompts_first(torch.bmm(query, self.key), len(tokens))

    def _answer(self, scores: Tensor, image: Tensor, length: int) -> Tensor:
        """Scores (N, heads T, HW) and image (N, HW, C) -> (N, T, C)."""
        count = len(scores)
        found = torch.bmm(scores.softmax(-1), image).view(count, self.heads, length, -1)
        narrow = torch.bmm(found.transpose(0, 1).flatten(1, 2), self.value)  # (heads, N T, d)
        mixed = narrow.transpose(0, 1).reshape(count, length, -1) + self.value_bias
        return F.linear(mixed, *self.out)


class FromImage:
    """Attention of the image to the prompt's tokens, added to the image.

    Args:
        source: A `segment_anything.modeling.transformer.Attention`.
        like: Data type and device to work in.
    """

    def __init__(self, source: Any, like: Tensor) -> None:
        self.heads = heads = int(source.num_heads)
        scale = (source.internal_dim // heads) ** -0.5
        self.key = (
            (source.k_proj.weight.detach() * scale).to(like),
            (source.k_proj.bias.detach() * scale).to(like),
        )
        self.value = (source.v_proj.weight.detach().to(like), source.v_proj.bias.detach().to(like))
        query, out = source.q_proj.weight.detach(), source.out_proj.weight.detach()
        self.query = query.unflatten(0, (heads, -1)).to(like).contiguous()  # (heads, d, C)
        self.query_bias = source.q_proj.bias.detach().view(heads, -1, 1).to(like)
        self.out = out.unflatten(1, (heads, -1)).permute(1, 2, 0).to(like).contiguous()
        # The weights of a head sum to one, so a share of the bias with each head is the bias.
        self.out_bias = (source.out_proj.bias.detach() / heads).to(like)
        self.image_query = Dense(query, source.q_proj.bias, like)

    def project(self, image_pe: Tensor) -> Tensor:
        """Queries of an image that all prompts share: (HW, C) -> (heads, d, HW), a view."""
        return _heads_first(self.image_query(image_pe), self.heads)[0].transpose(1, 2)

    def shared(self, tokens: Tensor, tokens_pe: Tensor, query: Tensor, image: Tensor) -> Tensor:
        """One image for all prompts.

        Args:
            tokens: (N, T, C).
            tokens_pe: (N, T, C), with the prompt's embedding added.
            query: Of `project`.
            image: (HW, C).

        Returns:
            A new (N, HW, C).
        """
        count, length, _ = tokens.shape
        key = F.linear(tokens_pe, *self.key).view(count, length, self.heads, -1).transpose(1, 2)
        scores = tokens.new_empty(count, self.heads, length, query.shape[2])
        for row in range(count):
            torch.bmm(key[row], query, out=scores[row])
        return torch.baddbmm(image[None], *self._answers(scores, tokens))

    def each(self, tokens: Tensor, tokens_pe: Tensor, image: Tensor, image_pe: Tensor) -> None:
        """Each prompt with its own image (N, HW, C), which is added to in place."""
        count, length, _ = tokens.shape
        key = _heads_first(F.linear(tokens_pe.flatten(0, 1), *self.key), self.heads)[0]
        wide = torch.bmm(key, self.query)  # (heads, N T, C)
        shift = torch.bmm(key, self.query_bias)  # (heads, N T, 1)
        scores = torch.bmm(_prompts_first(wide, count), image_pe.transpose(1, 2))
        scores += _prompts_first(shift, count)
        scores = scores.view(count, self.heads, length, -1)
        image.baddbmm_(*self._answers(scores, tokens))

    def _answers(self, scores: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The two factors of what is added to the image: (N, HW, heads T) and (N, heads T, C)."""
        # Heads and tokens come before pixels, so that the softmax runs over long rows at once.
        weights = scores.softmax(2).flatten(1, 2)
        value = _heads_first(F.linear(tokens.flatten(0, 1), *self.value), self.heads)[0]
        wide = torch.bmm(value, self.out) + self.out_bias
        return weights.transpose(1, 2), _prompts_first(wide, len(tokens))


def _heads_first(x: Tensor, heads: int) -> Tensor:
    """(rows, heads d) -> (1, heads, rows, d), a view."""
    return x.view(x.shape[0], heads, -1).transpose(0, 1)[None]


def _prompts_first(x: Tensor, count: int) -> Tensor:
    """(heads, N T, C) -> (N, heads T, C), a copy."""
    return x.view(x.shape[0], count, -1, x.shape[2]).transpose(0, 1).flatten(1, 2)
