"""Training schemes: the paper's distillation schemes, and training from scratch."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from mobilesam.distillation.batches import Batch
from mobilesam.distillation.embedding_store import EmbeddingStore, Teacher
from mobilesam.distillation.losses import (
    Loss,
    affinity_loss,
    ideal_embeddings,
    imitation_loss,
    mask_loss,
    masked_cosine,
    masked_mse,
    n_identity_channels,
    object_ids,
    prototype_loss,
    token_affinity_loss,
)
from mobilesam.distillation.prompts import (
    DecoderOutput,
    DrawnPrompts,
    add_correction_clicks,
    decode,
    draw_prompts,
)
from mobilesam.distillation.train_config import TrainConfig
from mobilesam.errors import UsageError
from mobilesam.model.mini import N_COLOR_CHANNELS, append_color_channels, learned_channels


class Scheme(ABC):
    """A way to train a model.

    Args:
        student: The model to train; it is changed in place.
        config: Settings of the run.

    Attributes:
        name: Name on the command line and in checkpoints.
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
        """Trained parts of the student; the others are frozen and in evaluation mode."""

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """Mean loss over the images of a batch."""

    def to(self, device: torch.device) -> None:
        """Moves the networks to a device."""
        self.student.to(device)

    def train_mode(self) -> None:
        """Puts trained parts into training mode and the others into evaluation mode."""
        self.student.eval()
        for part in self.trained():
            part.train()

    @property
    def teacher_sha256(self) -> str | None:
        """SHA-256 of the teacher's weights; None without a teacher."""
        return None

    def _logit_cells(self) -> int:
        return 4 * int(self.student.prompt_encoder.image_embedding_size[0])


class EmbeddingSource(Protocol):
    """Provides a teacher's embeddings, computed or stored."""

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the teacher's weights."""

    @property
    def can_augment(self) -> bool:
        """Whether embeddings of augmented images are available."""

    def to(self, device: torch.device) -> None:
        """Moves its network, if any, to a device."""

    def embeddings(self, batch: Batch) -> Tensor:
        """(B, C, h, w) float32 embeddings of the batch's images, without gradients."""


class OnlineTeacher:
    """Runs the teacher's encoder for every batch, so that images can be augmented.

    Args:
        model: The teacher; it is frozen.
        sha256: SHA-256 of its weights.
        side_px: Side of the student's input.

    Raises:
        UsageError: The teacher's input has another size.
    """

    can_augment = True

    def __init__(self, model: Sam, sha256: str | None, side_px: int) -> None:
        own = int(model.image_encoder.img_size)
        if own != side_px:
            raise UsageError(
                f"the teacher takes {own} px and the student {side_px} px; store the teacher's "
                "embeddings with distill embed, or give the student the teacher's size"
            )
        self._encoder = model.image_encoder.eval().requires_grad_(False)
        self.sha256 = sha256

    def to(self, device: torch.device) -> None:
        """Moves the encoder to a device."""
        self._encoder.to(device)

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> Tensor:
        """Runs the encoder."""
        found: Tensor = self._encoder(batch.images)
        return found.float()


class StoredTeacher:
    """Reads the embeddings of `distill embed`, as the paper does.

    Args:
        folder: Folder of the store.
        teacher: Required teacher; None accepts any.

    Raises:
        DataError: The store is missing or damaged.
        UsageError: The store was made by another model.
        WeightsError: The store was made with other weights.
    """

    can_augment = False

    def __init__(self, folder: Path, teacher: Teacher | None = None) -> None:
        self.store = EmbeddingStore(folder, teacher)
        self.sha256 = self.store.manifest.teacher.weights_sha256

    def to(self, device: torch.device) -> None:
        """Does nothing; embeddings are moved to the device of their batch."""

    def embeddings(self, batch: Batch) -> Tensor:
        """Reads the embeddings by image key.

        Raises:
            DataError: An image is not in the store.
        """
        rows = [self.store.get(key).features.float() for key in batch.keys]
        return torch.stack(rows).to(batch.images.device)


class Imitation(Scheme):
    """Base of the distillation schemes: copies the teacher's heads and imitates its embeddings.

    Args:
        student: Model whose heads are overwritten by the teacher's.
        teacher: Model with the heads; its image encoder is not used.
        source: Embeddings of the teacher.
        config: Settings of the run.

    Raises:
        UsageError: Student and teacher have different heads or colour channels, or stored
            embeddings are combined with augmentation.
    """

    def __init__(
        self, student: Sam, teacher: Sam, source: EmbeddingSource, config: TrainConfig
    ) -> None:
        if (config.augment or config.zoom) and not source.can_augment:
            raise UsageError(
                "stored embeddings belong to images without augmentation: switch augmentation off"
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
                "student and teacher differ in cell_colors, the colour channels of the embedding; "
                "set the student's to the teacher's"
            )
        super().__init__(student, config)
        self._source = source
        # A copy of the heads, because training may change the student's.
        self._teacher = Sam(nn.Identity(), teacher.prompt_encoder, teacher.mask_decoder)
        self._teacher = copy.deepcopy(self._teacher).eval().requires_grad_(False)

    @property
    def teacher_sha256(self) -> str | None:
        """SHA-256 of the teacher's weights."""
        return self._source.sha256

    def to(self, device: torch.device) -> None:
        """Moves the student, the teacher's heads and its encoder to a device."""
        super().to(device)
        self._teacher.to(device)
        self._source.to(device)

    def trained(self) -> tuple[nn.Module, ...]:
        """The image encoder."""
        return (self.student.image_encoder,)

    def _embeddings(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embeddings of the teacher and of the student."""
        wanted = self._source.embeddings(batch)
        found = self.student.image_encoder(batch.images)
        if found.shape != wanted.shape:
            raise UsageError(
                f"the student's embedding is {tuple(found.shape[1:])}, the teacher's "
                f"{tuple(wanted.shape[1:])}; change the student's input size or strides"
            )
        return wanted, found

    def _mask_loss(self, batch: Batch, wanted: Tensor, found: Tensor) -> Loss:
        """Loss of the student's masks against the teacher's for the same random prompts."""
        drawn = draw_prompts(batch, self.config.prompts, self._logit_cells())
        with torch.no_grad():
            teacher = decode(self._teacher, wanted, drawn.prompts)
        student = decode(self.student, found, drawn.prompts)
        return imitation_loss(
            student.logits,
            student.qualities,
            teacher.logits,
            teacher.qualities,
            drawn.valid,
            self.config.losses,
        )


class Decoupled(Imitation):
    """The paper's decoupled distillation: mean squared error between embeddings, no decoder.

    Optional terms, off by default: the cosine between embeddings, and the mask loss of the
    semi-coupled scheme.
    """

    name = "decoupled"

    def loss(self, batch: Batch) -> Loss:
        """MSE over cells that cover the image, and the optional terms."""
        wanted, found = self._embeddings(batch)
        valid = batch.valid(found.shape[-1])
        # Without colour channels, which are equal in both.
        n_learned = learned_channels(self.student)
        learned = found[:, :n_learned], wanted[:, :n_learned], valid
        total = masked_mse(*learned)
        parts = {"mse": float(total.detach())}
        weights = self.config.losses
        if weights.cosine:
            cosine = masked_cosine(*learned)
            total = total + weights.cosine * cosine
            parts["cosine"] = float(cosine.detach())
        if weights.prompts:
            masks = self._mask_loss(batch, wanted, found)
            total = total + weights.prompts * masks.total
            parts |= masks.parts
        return Loss(total, parts)


class SemiCoupled(Imitation):
    """The decoder is copied, frozen and run: focal and dice loss against the teacher's masks."""

    name = "semi-coupled"

    def loss(self, batch: Batch) -> Loss:
        """Mask loss for random prompts."""
        return self._mask_loss(batch, *self._embeddings(batch))


class Coupled(SemiCoupled):
    """As semi-coupled, with a trained decoder."""

    name = "coupled"

    def trained(self) -> tuple[nn.Module, ...]:
        """Image encoder and mask decoder."""
        return (self.student.image_encoder, self.student.mask_decoder)


class DecoderTuning(SemiCoupled):
    """Fine-tunes the decoder on the embeddings of a distilled encoder.

    MobileSAM's paper mentions it as an optional step.
    """

    name = "decoder-tuning"

    def trained(self) -> tuple[nn.Module, ...]:
        """The mask decoder."""
        return (self.student.mask_decoder,)


SCHEMES: dict[str, type[Imitation]] = {
    scheme.name: scheme for scheme in (Decoupled, SemiCoupled, Coupled, DecoderTuning)
}
"""Distillation schemes by name."""


class Grouping(Scheme):
    """Trains the encoder against ground truth without prompts: cells of one object become similar.

    The decoder's upsampling is trained too; its transformer is not run. A step costs less than half
    of one of `Supervised`.
    """

    name = "grouping"

    def __init__(self, student: Sam, config: TrainConfig) -> None:
        super().__init__(student, config)
        n_channels = int(student.prompt_encoder.embed_dim)
        if learned_channels(student) < n_identity_channels(n_channels):
            raise UsageError(
                f"of {n_channels} channels, {n_identity_channels(n_channels)} are identity "
                f"channels and {N_COLOR_CHANNELS} colour channels; give the embedding more"
            )

    def trained(self) -> tuple[nn.Module, ...]:
        """The encoder and the decoder's upsampling."""
        return (self.student.image_encoder, self.student.mask_decoder.output_upscaling)

    def loss(self, batch: Batch) -> Loss:
        """Affinity and prototype loss, both with weight 1."""
        return self._grouping_loss(batch, self.student.image_encoder(batch.images))

    def _grouping_loss(self, batch: Batch, embeddings: Tensor) -> Loss:
        affinity = affinity_loss(embeddings, object_ids(batch, embeddings.shape[-1]))
        features = self.student.mask_decoder.output_upscaling(embeddings)
        prototypes = prototype_loss(features, batch, self.config.losses)
        parts = {"affinity": float(affinity.detach()), "prototypes": float(prototypes.detach())}
        return Loss(affinity + prototypes, parts)


class Supervised(Grouping):
    """Trains the whole model from scratch against ground truth."""

    name = "supervised"

    def trained(self) -> tuple[nn.Module, ...]:
        """All parts."""
        return (
            self.student.image_encoder,
            self.student.prompt_encoder,
            self.student.mask_decoder,
        )

    def loss(self, batch: Batch) -> Loss:
        """SAM's mask loss for boxes and points of drawn objects, and the loss of `Grouping`."""
        embeddings = self.student.image_encoder(batch.images)
        masks = self._prompted_loss(batch, embeddings)
        weight = self.config.losses.affinity
        if not weight:
            return masks
        grouping = self._grouping_loss(batch, embeddings)
        return Loss(masks.total + weight * grouping.total, {**masks.parts, **grouping.parts})

    def _prompted_loss(self, batch: Batch, embeddings: Tensor) -> Loss:
        drawn = draw_prompts(batch, self.config.prompts, self._logit_cells())
        if drawn.targets is None:
            raise UsageError("training from scratch needs images with masks; these have none")
        predictions = decode(self.student, embeddings, drawn.prompts)
        first = self._output_loss(predictions, embeddings, drawn, drawn.targets)
        if batch.step_draw >= self.config.prompts.refine:
            return first
        logits = predictions.logits[:, 0].detach()
        rng = np.random.default_rng(int(batch.generators[0].integers(2**63)))
        corrected = add_correction_clicks(drawn, logits, drawn.targets, self.side_px, rng)
        predictions = decode(self.student, embeddings, corrected)
        second = self._output_loss(predictions, embeddings, drawn, drawn.targets)
        parts = {**first.parts, "iou_corrected": second.parts["iou"]}
        return Loss((first.total + second.total) / 2, parts)

    def _output_loss(
        self, output: DecoderOutput, embeddings: Tensor, drawn: DrawnPrompts, targets: Tensor
    ) -> Loss:
        config = self.config.losses
        masks = mask_loss(output.logits, output.qualities, targets, drawn.valid, config)
        if not config.reading:
            return masks
        tokens = token_affinity_loss(
            embeddings, drawn.prompts.image_index, output.tokens, targets, drawn.valid
        )
        parts = {**masks.parts, "reading": float(tokens.detach())}
        return Loss(masks.total + config.reading * tokens, parts)


class TrainDecoderOnly(Supervised):
    """Trains prompt encoder and decoder against ground truth behind a frozen encoder."""

    name = "heads-alone"

    def trained(self) -> tuple[nn.Module, ...]:
        """Prompt encoder and mask decoder."""
        return (self.student.prompt_encoder, self.student.mask_decoder)

    def loss(self, batch: Batch) -> Loss:
        """SAM's mask loss for a box and a point of each drawn object."""
        with torch.no_grad():
            embeddings = self.student.image_encoder(batch.images)
        return self._prompted_loss(batch, embeddings)


class DecoderFirst(TrainDecoderOnly):
    """Trains prompt encoder and decoder on ideal embeddings, before there is an encoder.

    On embeddings that separate all objects, a decoder learns positions (to fill a box, to attend to
    a point) in a tenth of the steps, and no encoder is run.
    """

    name = "decoder-first"

    def loss(self, batch: Batch) -> Loss:
        """SAM's mask loss for a box and a point of each drawn object."""
        heads = self.student.prompt_encoder
        found = ideal_embeddings(batch, heads.embed_dim, heads.image_embedding_size[0])
        n_learned = learned_channels(self.student)
        if n_learned < found.shape[1]:
            stride = self.student.image_encoder.config.total_stride
            found = append_color_channels(found[:, :n_learned], batch.images, stride)
        return self._prompted_loss(batch, found)
