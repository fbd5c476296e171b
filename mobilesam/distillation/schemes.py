"""What is trained, and against what: the paper's three schemes, and training from scratch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from mobilesam.distillation.affinity import affinity, owners
from mobilesam.distillation.batches import Batch
from mobilesam.distillation.config import TrainConfig
from mobilesam.distillation.decoding import decode
from mobilesam.distillation.mask_losses import MaskLoss, mask_loss
from mobilesam.distillation.prompting import Drawn, correct, draw_prompts


class Scheme(ABC):
    """One way to train a model.

    Args:
        student: The whole model that comes out in the end; its prompt encoder and decoder are the
            teacher's own where the scheme does not train them.
        config: Of the run.

    Attributes:
        name: As on the command line.
    """

    name: str

    def __init__(self, student: Sam, config: TrainConfig) -> None:
        self.student = student
        self.config = config
        student.requires_grad_(False)
        for part in self.trained():
            part.requires_grad_(True)
        student.prompt_encoder.pe_layer.requires_grad_(False)

    @property
    def side_px(self) -> int:
        """Side of the student's input."""
        return int(self.student.image_encoder.img_size)

    @abstractmethod
    def trained(self) -> tuple[nn.Module, ...]:
        """Parts of the student that learn; all others are frozen, and in evaluation mode."""

    @abstractmethod
    def loss(self, batch: Batch) -> MaskLoss:
        """The mean loss over the images of a batch."""

    def to(self, device: torch.device) -> None:
        """Moves the networks to a device."""
        self.student.to(device)

    def train_mode(self) -> None:
        """Training mode for what learns, evaluation mode for the rest."""
        self.student.eval()
        for part in self.trained():
            part.train()

    @property
    def teacher_sha256(self) -> str | None:
        """Of the weights that are imitated; None if there are none."""
        return None

    def _cells(self) -> int:
        return 4 * int(self.student.prompt_encoder.image_embedding_size[0])


class Supervised(Scheme):
    """Training from scratch against ground truth: how `sam-mini` comes to be."""

    name = "supervised"

    def trained(self) -> tuple[nn.Module, ...]:
        """Everything."""
        return (
            self.student.image_encoder,
            self.student.prompt_encoder,
            self.student.mask_decoder,
        )

    def loss(self, batch: Batch) -> MaskLoss:
        """SAM's mask loss for a box and a point of each drawn object, and the affinity term."""
        embeddings = self.student.image_encoder(batch.images)
        asked = self._asked(batch, embeddings)
        weight = self.config.losses.affinity
        if not weight:
            return asked
        together = affinity(embeddings, owners(batch, embeddings.shape[-1]))
        parts = {**asked.parts, "affinity": float(together.detach())}
        return MaskLoss(asked.total + weight * together, parts)

    def _asked(self, batch: Batch, embeddings: Tensor) -> MaskLoss:
        drawn = draw_prompts(batch, self.config.prompts, self._cells())
        targets = _require(drawn.targets)
        logits, qualities = decode(self.student, embeddings, drawn.prompts)
        first = mask_loss(logits, qualities, targets, drawn.valid, self.config.losses)
        if batch.step_draw >= self.config.prompts.refine:
            return first
        return self._refined(batch, embeddings, drawn, logits, targets, first)

    def _refined(
        self,
        batch: Batch,
        embeddings: Tensor,
        drawn: Drawn,
        logits: Tensor,
        targets: Tensor,
        first: MaskLoss,
    ) -> MaskLoss:
        answers = logits[:, 0].detach()
        again = correct(drawn, answers, targets, self.side_px, _shared(batch))
        logits, qualities = decode(self.student, embeddings, again)
        second = mask_loss(logits, qualities, targets, drawn.valid, self.config.losses)
        parts = {**first.parts, "iou_corrected": second.parts["iou"]}
        return MaskLoss((first.total + second.total) / 2, parts)


def _shared(batch: Batch) -> np.random.Generator:
    """A generator for what is drawn for a whole batch, seeded by its first image's."""
    return np.random.default_rng(int(batch.generators[0].integers(2**63)))


def _require(targets: Tensor | None) -> Tensor:
    if targets is None:
        from mobilesam.errors import UsageError

        raise UsageError("training from scratch needs images with masks; these have none")
    return targets
