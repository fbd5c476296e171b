"""TinySAM (arXiv 2312.13789): MobileSAM's architecture with other weights."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.interface import Embedding, ModelOptions, Segmenter
from baselines.sam import Candidates, SamSegmenter, mobile_sam
from mobilesam.prompts import NetworkPrompts


class TinySamSegmenter(SamSegmenter):
    """`SamSegmenter` whose single mask is the best of three by score.

    TinySAM's decoder returns three candidates for every prompt; the mask for unambiguous prompts
    was not trained.
    """

    def run_decoder(
        self, embedding: Embedding, prompts: NetworkPrompts, wanted: Candidates
    ) -> tuple[Tensor, Tensor]:
        """Runs prompt encoder and mask decoder on one batch, as in `SamSegmenter`."""
        logits, scores = super().run_decoder(embedding, prompts, wanted=True)
        if wanted is True:
            return logits, scores
        best = scores.argmax(1, keepdim=True)
        single = logits.take_along_dim(best[..., None, None], 1), scores.take_along_dim(best, 1)
        if wanted is False:
            return single
        return torch.cat((single[0], logits), 1), torch.cat((single[1], scores), 1)


def build(options: ModelOptions) -> Segmenter:
    """TinySAM from its checkpoint, or with random weights."""
    return TinySamSegmenter(mobile_sam(options), options, family="TinySAM")
