"""What is trained, and against what: the paper's three schemes, and training from scratch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from mobilesam.distillation.affinity import (
    affinity,
    ideal,
    n_names,
    owners,
    prototype_loss,
    reading,
)
from mobilesam.distillation.batches import Batch
from mobilesam.distillation.config import TrainConfig
from mobilesam.distillation.decoding import Decoded, decode
from mobilesam.distillation.mask_losses import MaskLoss, mask_loss
from mobilesam.distillation.prompting import Drawn, correct, draw_prompts
from mobilesam.errors import UsageError
from mobilesam.model.mini import N_COLOR_CHANNELS, append_color_channels, learned_channels


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


class Grouping(Scheme):
    """The encoder against ground truth, without prompts: what is one object's is to look alike.

    The decoder's last layers, which bring an embedding to the size of the logits, learn with it;
    its transformer does not, so a step costs less than half of one of `Supervised`. A decoder that
    is trained behind it can find what belongs together from its first step.
    """

    name = "grouping"

    def __init__(self, student: Sam, config: TrainConfig) -> None:
        super().__init__(student, config)
        n_channels = int(student.prompt_encoder.embed_dim)
        if learned_channels(student) < n_names(n_channels):
            raise UsageError(
                f"of {n_channels} channels, {n_names(n_channels)} must say whose a cell is, and "
                f"{N_COLOR_CHANNELS} are colours; give the embedding more"
            )

    def trained(self) -> tuple[nn.Module, ...]:
        """The encoder, and the decoder's last layers."""
        return (self.student.image_encoder, self.student.mask_decoder.output_upscaling)

    def loss(self, batch: Batch) -> MaskLoss:
        """Affinity and prototype loss; their weight in the settings is not read.

        That of the surroundings, which are a part of the latter, is.
        """
        return self._grouped(batch, self.student.image_encoder(batch.images))

    def _grouped(self, batch: Batch, embeddings: Tensor) -> MaskLoss:
        coarse = affinity(embeddings, owners(batch, embeddings.shape[-1]))
        features = self.student.mask_decoder.output_upscaling(embeddings)
        fine = prototype_loss(features, batch, self.config.losses)
        parts = {"affinity": float(coarse.detach()), "prototypes": float(fine.detach())}
        return MaskLoss(coarse + fine, parts)


class Supervised(Grouping):
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
        """SAM's mask loss for a box and a point of drawn objects, and the loss of `Grouping`."""
        embeddings = self.student.image_encoder(batch.images)
        asked = self._asked(batch, embeddings)
        weight = self.config.losses.affinity
        if not weight:
            return asked
        grouped = self._grouped(batch, embeddings)
        parts = {**asked.parts, **grouped.parts}
        return MaskLoss(asked.total + weight * grouped.total, parts)

    def _asked(self, batch: Batch, embeddings: Tensor) -> MaskLoss:
        drawn = draw_prompts(batch, self.config.prompts, self._cells())
        targets = _require(drawn.targets)
        answers = decode(self.student, embeddings, drawn.prompts)
        first = self._judged(answers, embeddings, drawn, targets)
        if batch.step_draw >= self.config.prompts.refine:
            return first
        logits = answers.logits[:, 0].detach()
        again = correct(drawn, logits, targets, self.side_px, _shared(batch))
        answers = decode(self.student, embeddings, again)
        second = self._judged(answers, embeddings, drawn, targets)
        parts = {**first.parts, "iou_corrected": second.parts["iou"]}
        return MaskLoss((first.total + second.total) / 2, parts)

    def _judged(
        self, answers: Decoded, embeddings: Tensor, drawn: Drawn, targets: Tensor
    ) -> MaskLoss:
        config = self.config.losses
        masks = mask_loss(answers.logits, answers.qualities, targets, drawn.valid, config)
        if not config.reading:
            return masks
        whose = drawn.prompts.image_index
        read = reading(embeddings, whose, answers.tokens, targets, drawn.valid)
        parts = {**masks.parts, "reading": float(read.detach())}
        return MaskLoss(masks.total + config.reading * read, parts)


class HeadsAlone(Supervised):
    """Prompt encoder and decoder against ground truth, behind an encoder that stays as it is.

    While both learn, the decoder follows embeddings that never rest. A step costs half.
    """

    name = "heads-alone"

    def trained(self) -> tuple[nn.Module, ...]:
        """The heads."""
        return (self.student.prompt_encoder, self.student.mask_decoder)

    def loss(self, batch: Batch) -> MaskLoss:
        """SAM's mask loss for a box and a point of each drawn object."""
        with torch.no_grad():
            embeddings = self.student.image_encoder(batch.images)
        return self._asked(batch, embeddings)


class DecoderFirst(HeadsAlone):
    """Prompt encoder and decoder alone, on embeddings that tell all objects apart.

    What a decoder must learn of places (to fill a box, to look where a point is) it learns in a
    tenth of the steps where the embedding raises no doubts, and no encoder has to be run.
    """

    name = "decoder-first"

    def loss(self, batch: Batch) -> MaskLoss:
        """SAM's mask loss for a box and a point of each drawn object."""
        heads = self.student.prompt_encoder
        found = ideal(batch, heads.embed_dim, heads.image_embedding_size[0])
        learnt = learned_channels(self.student)
        if learnt < found.shape[1]:
            stride = self.student.image_encoder.config.total_stride
            found = append_color_channels(found[:, :learnt], batch.images, stride)
        return self._asked(batch, found)


def _shared(batch: Batch) -> np.random.Generator:
    """A generator for what is drawn for a whole batch, seeded by its first image's."""
    return np.random.default_rng(int(batch.generators[0].integers(2**63)))


def _require(targets: Tensor | None) -> Tensor:
    if targets is None:
        raise UsageError("training from scratch needs images with masks; these have none")
    return targets
