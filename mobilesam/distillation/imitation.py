"""The paper's three schemes: a student that learns from a teacher, with no ground truth."""

from __future__ import annotations

import copy

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from mobilesam.distillation import losses
from mobilesam.distillation.batches import Batch
from mobilesam.distillation.config import TrainConfig
from mobilesam.distillation.decoding import decode
from mobilesam.distillation.mask_losses import MaskLoss, imitation_loss
from mobilesam.distillation.prompting import draw_prompts
from mobilesam.distillation.schemes import Scheme
from mobilesam.distillation.teachers import EmbeddingSource
from mobilesam.errors import UsageError
from mobilesam.model.mini import learned_channels


class Imitation(Scheme):
    """What the schemes share: the teacher's heads, copied, and its embeddings.

    Args:
        student: Its image encoder learns; its heads are overwritten by the teacher's.
        teacher: Whose heads these are; its encoder is not used here.
        source: Of the teacher's embeddings.
        config: Of the run.

    Raises:
        UsageError: Student and teacher do not fit together, or stored embeddings are to be used
            for pictures that have been changed.
    """

    def __init__(
        self, student: Sam, teacher: Sam, source: EmbeddingSource, config: TrainConfig
    ) -> None:
        if (config.augment or config.zoom) and not source.can_augment:
            raise UsageError(
                "stored embeddings are those of the pictures as they are: switch augmentation off"
            )
        try:
            student.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
            student.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
        except RuntimeError as error:
            raise UsageError(
                "the student's heads are not shaped like the teacher's; give it the same ones"
            ) from error
        if learned_channels(student) != learned_channels(teacher):
            raise UsageError(
                "of student and teacher one has cell_colors in its embedding and the other has "
                "not; set the student's to the teacher's"
            )
        super().__init__(student, config)
        self._source = source
        # A copy of the heads alone, so that training the student's leaves them as they were.
        self._teacher = Sam(nn.Identity(), teacher.prompt_encoder, teacher.mask_decoder)
        self._teacher = copy.deepcopy(self._teacher).eval().requires_grad_(False)

    @property
    def teacher_sha256(self) -> str | None:
        """Of the teacher's weights."""
        return self._source.sha256

    def to(self, device: torch.device) -> None:
        """Moves student, teacher's heads and teacher's encoder."""
        super().to(device)
        self._teacher.to(device)
        self._source.to(device)

    def trained(self) -> tuple[nn.Module, ...]:
        """The image encoder."""
        return (self.student.image_encoder,)

    def _embeddings(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's and the student's, of equal shape."""
        wanted = self._source.embeddings(batch)
        found = self.student.image_encoder(batch.images)
        if found.shape != wanted.shape:
            raise UsageError(
                f"the student's embedding is {tuple(found.shape[1:])}, the teacher's "
                f"{tuple(wanted.shape[1:])}; change the student's input size or strides"
            )
        return wanted, found

    def _mask_loss(self, batch: Batch, wanted: Tensor, found: Tensor) -> MaskLoss:
        """Both decoders for the same random prompts; the teacher's masks are the truth."""
        drawn = draw_prompts(batch, self.config.prompts, self._cells())
        with torch.no_grad():
            truth = decode(self._teacher, wanted, drawn.prompts)
        answers = decode(self.student, found, drawn.prompts)
        return imitation_loss(
            answers.logits,
            answers.qualities,
            truth.logits,
            truth.qualities,
            drawn.valid,
            self.config.losses,
        )


class Decoupled(Imitation):
    """The paper's: mean squared error between embeddings. The decoder is never run.

    Optional terms, both off by default: a cosine between embeddings, and the mask loss of the
    semi-coupled scheme beside the MSE (prompts in the loop).
    """

    name = "decoupled"

    def loss(self, batch: Batch) -> MaskLoss:
        """MSE over the cells that see the image, and the optional terms."""
        whole = wanted, found = self._embeddings(batch)
        valid = batch.valid(found.shape[-1])
        # Colours are the same in both: they would only make the mean look better than it is.
        learnt = learned_channels(self.student)
        found, wanted = found[:, :learnt], wanted[:, :learnt]
        mse = losses.masked_mse(found, wanted, valid)
        total, parts = mse, {"mse": float(mse.detach())}
        weights = self.config.losses
        if weights.cosine:
            cosine = losses.masked_cosine(found, wanted, valid)
            total, parts = (
                total + weights.cosine * cosine,
                {
                    **parts,
                    "cosine": float(cosine.detach()),
                },
            )
        if weights.prompts:
            masks = self._mask_loss(batch, *whole)
            total, parts = total + weights.prompts * masks.total, {**parts, **masks.parts}
        return MaskLoss(total, parts)


class SemiCoupled(Imitation):
    """The decoder is copied and frozen, and in the loop: focal and dice on the teacher's masks."""

    name = "semi-coupled"

    def loss(self, batch: Batch) -> MaskLoss:
        """The mask loss for random prompts."""
        return self._mask_loss(batch, *self._embeddings(batch))


class Coupled(SemiCoupled):
    """As semi-coupled, but the decoder learns, too."""

    name = "coupled"

    def trained(self) -> tuple[nn.Module, ...]:
        """Image encoder and mask decoder."""
        return (self.student.image_encoder, self.student.mask_decoder)


class DecoderTuning(SemiCoupled):
    """After decoupled distillation: the decoder learns to live with the student's embeddings.

    The paper says that it helps, and leaves it out.
    """

    name = "decoder-tuning"

    def trained(self) -> tuple[nn.Module, ...]:
        """The mask decoder."""
        return (self.student.mask_decoder,)


SCHEMES: dict[str, type[Imitation]] = {
    scheme.name: scheme for scheme in (Decoupled, SemiCoupled, Coupled, DecoderTuning)
}
"""All schemes that need a teacher, by name."""
