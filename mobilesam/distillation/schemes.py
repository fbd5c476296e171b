"""Training schemes: the paper's distillation schemes, and training from scratch."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from mobilesam.distillation import losses, prompts
from mobilesam.distillation.batches import Batch
from mobilesam.distillation.embedding_store import EmbeddingStore, Teacher
from mobilesam.distillation.losses import Loss
from mobilesam.distillation.train_config import TrainConfig
from mobilesam.errors import UsageError
from mobilesam.model.mini import N_COLOR_CHANNELS, append_color_channels, learned_channels


class Scheme(ABC):
    """A way to train a student, which is changed in place."""

    name: str  # on the command line and in checkpoints
    parts: ClassVar[tuple[str, ...]]  # trained; the others are frozen and in evaluation mode
    teacher_sha256: str | None = None  # of the teacher's weights, if there is one

    def __init__(self, student: Sam, config: TrainConfig) -> None:
        self.student = student
        self.config = config
        self.side_px = int(student.image_encoder.img_size)
        self.networks: list[nn.Module] = [student]
        student.requires_grad_(False)
        for part in self.trained():
            part.requires_grad_(True)
        student.prompt_encoder.pe_layer.requires_grad_(False)

    def trained(self) -> tuple[nn.Module, ...]:
        """Trained parts of the student."""
        return tuple(self.student.get_submodule(name) for name in self.parts)

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """Mean loss over the images of a batch."""

    def to(self, device: torch.device) -> None:
        """Moves the networks to a device."""
        for network in self.networks:
            network.to(device)

    def _draw_prompts(self, batch: Batch) -> prompts.DrawnPrompts:
        cells = 4 * int(self.student.prompt_encoder.image_embedding_size[0])
        return prompts.draw_prompts(batch, self.config.prompts, cells)


class EmbeddingSource(Protocol):
    """Provides embeddings of a teacher, computed or stored."""

    sha256: str | None  # of the teacher's weights
    networks: tuple[nn.Module, ...]
    can_augment: bool  # whether embeddings of augmented images are available

    def embeddings(self, batch: Batch) -> Tensor:
        """(B, C, h, w) float32 embeddings of the batch's images, without gradients."""


class OnlineTeacher(EmbeddingSource):
    """Runs the teacher's encoder for every batch, so that images can be augmented.

    A UsageError tells that the teacher's input has another side than `side_px`, the student's.
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
        self.networks = (self._encoder,)
        self.sha256 = sha256

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> Tensor:
        """Runs the encoder."""
        found: Tensor = self._encoder(batch.images)
        return found.float()


class StoredTeacher(EmbeddingSource):
    """Reads the embeddings of `distill embed`, as the paper does; errors as of `EmbeddingStore`."""

    can_augment = False
    networks = ()

    def __init__(self, folder: Path, teacher: Teacher | None = None) -> None:
        self.store = EmbeddingStore(folder, teacher)
        self.sha256 = self.store.manifest.teacher.weights_sha256

    def embeddings(self, batch: Batch) -> Tensor:
        """Reads the embeddings by image key; a DataError names an image that is not stored."""
        rows = [self.store.get(key).features.float() for key in batch.keys]
        return torch.stack(rows).to(batch.images.device)


class Imitation(Scheme):
    """Base of the distillation schemes: copies the teacher's heads and imitates its embeddings.

    The teacher's own image encoder is not used; `source` provides the embeddings. A UsageError
    tells that student and teacher have different heads or colour channels, or that stored
    embeddings are combined with augmentation.
    """

    parts: ClassVar[tuple[str, ...]] = ("image_encoder",)

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
        self.teacher_sha256 = source.sha256
        self._source = source
        # A copy of the heads, because training may change the student's.
        heads = Sam(nn.Identity(), teacher.prompt_encoder, teacher.mask_decoder)
        self._teacher = copy.deepcopy(heads).eval().requires_grad_(False)
        self.networks += [self._teacher, *source.networks]

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
        drawn = self._draw_prompts(batch)
        with torch.no_grad():
            teacher = prompts.decode(self._teacher, wanted, drawn.prompts)
        student = prompts.decode(self.student, found, drawn.prompts)
        return losses.imitation_loss(student, teacher, drawn.valid, self.config.losses)


class Decoupled(Imitation):
    """The paper's decoupled distillation: mean squared error between embeddings, no decoder.

    Optional terms, off by default: the cosine between embeddings, and the mask loss of the
    semi-coupled scheme.
    """

    name = "decoupled"

    def loss(self, batch: Batch) -> Loss:
        """MSE over cells that cover the image, and the optional terms."""
        wanted, found = self._embeddings(batch)
        # Without colour channels, which are equal in both.
        n_learned = learned_channels(self.student)
        learned = found[:, :n_learned], wanted[:, :n_learned], batch.valid(found.shape[-1])
        total = losses.masked_mse(*learned)
        parts = {"mse": float(total.detach())}
        weights = self.config.losses
        if weights.cosine:
            cosine = losses.masked_cosine(*learned)
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
    parts = ("image_encoder", "mask_decoder")


class DecoderTuning(SemiCoupled):
    """Fine-tunes the decoder on a distilled encoder, an optional step in MobileSAM's paper."""

    name = "decoder-tuning"
    parts = ("mask_decoder",)


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
    parts: ClassVar[tuple[str, ...]] = ("image_encoder", "mask_decoder.output_upscaling")

    def __init__(self, student: Sam, config: TrainConfig) -> None:
        super().__init__(student, config)
        n_channels = int(student.prompt_encoder.embed_dim)
        n_identity = losses.n_identity_channels(n_channels)
        if learned_channels(student) < n_identity:
            raise UsageError(
                f"of {n_channels} channels, {n_identity} are identity channels and "
                f"{N_COLOR_CHANNELS} colour channels; give the embedding more"
            )

    def loss(self, batch: Batch) -> Loss:
        """Affinity and prototype loss, both with weight 1."""
        return self._grouping_loss(batch, self.student.image_encoder(batch.images))

    def _grouping_loss(self, batch: Batch, embeddings: Tensor) -> Loss:
        ids = losses.object_ids(batch, embeddings.shape[-1])
        affinity = losses.affinity_loss(embeddings, ids)
        features = self.student.mask_decoder.output_upscaling(embeddings)
        prototypes = losses.prototype_loss(features, batch, self.config.losses)
        parts = {"affinity": float(affinity.detach()), "prototypes": float(prototypes.detach())}
        return Loss(affinity + prototypes, parts)


class Supervised(Grouping):
    """Trains the whole model from scratch against ground truth."""

    name = "supervised"
    parts: ClassVar[tuple[str, ...]] = ("image_encoder", "prompt_encoder", "mask_decoder")

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
        """SAM's mask loss for drawn prompts; some steps add correction clicks to them."""
        drawn = self._draw_prompts(batch)
        targets, valid, weights = drawn.targets, drawn.valid, self.config.losses
        if targets is None:
            raise UsageError("training from scratch needs images with masks; these have none")

        def output_loss(asked: prompts.PromptBatch) -> tuple[Loss, Tensor]:
            """Loss of the student's masks, and their logits without gradient."""
            output = prompts.decode(self.student, embeddings, asked)
            found = losses.mask_loss(output.logits, output.qualities, targets, valid, weights)
            if weights.reading:
                tokens = losses.token_affinity_loss(
                    embeddings, asked.image_index, output.tokens, targets, valid
                )
                parts = {**found.parts, "reading": float(tokens.detach())}
                found = Loss(found.total + weights.reading * tokens, parts)
            return found, output.logits[:, 0].detach()

        first, logits = output_loss(drawn.prompts)
        if batch.step_draw >= self.config.prompts.refine:
            return first
        rng = np.random.default_rng(int(batch.generators[0].integers(2**63)))
        corrected = prompts.add_correction_clicks(drawn, logits, targets, self.side_px, rng)
        second, _ = output_loss(corrected)
        parts = {**first.parts, "iou_corrected": second.parts["iou"]}
        return Loss((first.total + second.total) / 2, parts)


class TrainDecoderOnly(Supervised):
    """Trains prompt encoder and decoder against ground truth behind a frozen encoder."""

    name = "heads-alone"
    parts = ("prompt_encoder", "mask_decoder")

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
        found = losses.ideal_embeddings(batch, heads.embed_dim, heads.image_embedding_size[0])
        n_learned = learned_channels(self.student)
        if n_learned < found.shape[1]:
            stride = self.student.image_encoder.config.total_stride
            found = append_color_channels(found[:, :n_learned], batch.images, stride)
        return self._prompted_loss(batch, found)
