"""MobileSAM (arXiv 2306.14289) and SAM ViT-H, ViT-L and ViT-B (arXiv 2304.02643).

They share one architecture: an image encoder, and SAM's prompt encoder and mask decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.build_sam import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor, nn

from baselines.interface import (
    Embedding,
    Float32Array,
    LogitMasks,
    MaskFrame,
    MaskRecord,
    Masks,
    ModelInfo,
    ModelOptions,
    Prepared,
    Prompts,
    Segmenter,
    UInt8Array,
    WeightsInfo,
    check_image,
)
from mobilesam.errors import NOT_FINITE, DataError, UsageError, WeightsError
from mobilesam.inputs import (
    Array,
    check_resized,
    resize_image,
    resize_points,
    resized_hw,
    usable_device,
)
from mobilesam.model.mini import build_sam_mini
from mobilesam.model.mobile_sam import (
    build_mobile_sam,
    build_mobile_sam_mini,
    input_size,
    load_mobile_sam,
    load_sam_mini,
    load_strictly,
)
from mobilesam.model.state_dicts import is_finite, load_state_dict_file
from mobilesam.process_state import seeded
from mobilesam.prompts import NetworkPrompts

# Prompts that go through the decoder together. It copies the image embedding for each of them
# (4 MiB and several times that in between); beyond 32 MiB a buffer, glibc takes fresh pages from
# the kernel in every call, which costs more than a larger batch saves.
DECODE_BATCH = 4
# The decoder computes four masks: the single one first, then three candidates.
Candidates = bool | Literal["both"]
_SLICES: Mapping[Candidates, slice]
_SLICES = {False: slice(0, 1), True: slice(1, None), "both": slice(None)}
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_XYWH_TO_XYXY = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
_HALF_OPEN = np.array([0, 0, 1, 1], np.float32)


class SamSegmenter(Segmenter):
    """A `segment_anything` model behind the interface, with the results of its `SamPredictor`.

    Args:
        model: In evaluation mode.
        options: Options that it was built from.
        family: `SAM` or `MobileSAM`.
        input_side: Side of the encoder's input, if it is not the frame of prompts and masks.
    """

    points_per_side = 32  # of the grid of `everything`; the default of segment-anything
    keeps = "masks of a predicted IoU above 0.88 and a stability of at least 0.95"

    def __init__(
        self, model: Sam, options: ModelOptions, *, family: str, input_side: int | None = None
    ) -> None:
        self.model = model
        self.device = torch.device(options.device)
        self._autocast = autocast_of(options)
        self._side = int(model.image_encoder.img_size)
        self._input_side = input_side or self._side
        self._batch = DECODE_BATCH
        self._cells = int(model.prompt_encoder.image_embedding_size[0])
        self.info = ModelInfo(
            name=options.name,
            family=family,
            input_size_px=self._input_side,
            licence="Apache-2.0",
            weights=WeightsInfo.of(options.checkpoint),
            decode_kind="decoder",
            supports=frozenset(("points", "boxes", "masks", "everything")),
        )

    def prepare(self, image: UInt8Array) -> Prepared:
        """Resizes the longest side to the input size, normalises, and pads below and right."""
        size = self._check_image(image)
        resized = torch.from_numpy(resize_image(image, self._side))
        pixels = resized.permute(2, 0, 1)[None].float()
        normal = (pixels - self.model.pixel_mean.cpu()) / self.model.pixel_std.cpu()
        height, width = normal.shape[-2:]
        return Prepared(F.pad(normal, (0, self._side - width, 0, self._side - height)), size)

    @torch.inference_mode()
    def encode(self, prepared: Prepared) -> Embedding:
        """Runs the image encoder: payload is (1, C, h, w) float32 on the device."""
        with self._autocast():
            features = self.model.image_encoder(prepared.payload.to(self.device))
        return Embedding(features.float(), prepared.size_hw, self.info.name)

    @torch.inference_mode()
    def encode_batch(self, prepared: Sequence[Prepared]) -> list[Embedding]:
        """Runs the image encoder on all images in one forward pass."""
        with self._autocast():
            features = self.model.image_encoder(stacked(prepared).to(self.device))
        return [
            Embedding(part[None], each.size_hw, self.info.name)
            for part, each in zip(features.float(), prepared, strict=True)
        ]

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Decodes and upsamples in batches; memory beyond the result does not depend on N."""
        return self._decode(embedding, prompts, multimask)

    def decode_pair(self, embedding: Embedding, prompts: Prompts) -> tuple[Masks, Masks]:
        """Both results from one pass, since the decoder always computes four masks."""
        whole = self._decode(embedding, prompts, "both")
        return whole.candidates(_SLICES[False]), whole.candidates(_SLICES[True])

    def mask_frame(self, size_hw: tuple[int, int]) -> MaskFrame:
        """In the frame of prompts and masks, which need not be the input of the encoder."""
        height, width = self.model.prompt_encoder.mask_input_size
        inner = resized_hw(size_hw, self._side)
        rows, columns = (
            max(1, round(cells * length / self._side))
            for cells, length in zip((height, width), inner, strict=True)
        )
        return MaskFrame(size_hw, (int(height), int(width)), (rows, columns))

    def _decode(self, embedding: Embedding, prompts: Prompts, wanted: Candidates) -> Masks:
        batches = self._logits(embedding, prompts, wanted)
        parts = [self.postprocess(LogitMasks(*each, embedding.size_hw)) for each in batches]
        return Masks.joined(parts)

    def decode_logits(
        self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False
    ) -> LogitMasks:
        """Runs prompt encoder and mask decoder; logits are (N, C, S/4, S/4) on the device."""
        parts = self._logits(embedding, prompts, multimask)
        logits, scores = (torch.cat(part) for part in zip(*parts, strict=True))
        return LogitMasks(logits, scores, embedding.size_hw)

    def _logits(
        self, embedding: Embedding, prompts: Prompts, wanted: Candidates
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Outputs of the decoder, batch by batch; one empty batch for zero prompts."""
        self.check_embedding(embedding)
        self.require(prompts)
        if len(prompts) == 0:
            low_hw = self.model.prompt_encoder.mask_input_size
            n_masks = int(self.model.mask_decoder.num_mask_tokens)
            logits = torch.zeros(0, n_masks, *low_hw, device=self.device)[:, _SLICES[wanted]]
            yield logits, logits.flatten(2).sum(2)
        for batch in prompts.batches(self._batch):
            points, boxes = batch.points, batch.boxes
            network_prompts = NetworkPrompts(
                self._tensor(points if points is None else self._resized(points, embedding)),
                self._tensor(batch.labels, torch.int32),
                self._tensor(boxes if boxes is None else self._resized(boxes, embedding)),
                self._tensor(batch.mask_inputs),
            )
            yield self.run_decoder(embedding, network_prompts, wanted)

    def _resized(self, xy: Array, embedding: Embedding) -> Array:
        """Points (N, K, 2) or boxes (N, 4) of the image, in pixels of the frame of prompts."""
        pairs = xy.reshape(len(xy), -1, 2)
        return resize_points(pairs, embedding.size_hw, self._side).reshape(xy.shape)

    def _tensor(self, array: Any, dtype: torch.dtype = torch.float32) -> Tensor | None:
        return None if array is None else torch.tensor(array, dtype=dtype, device=self.device)

    @torch.inference_mode()
    def run_decoder(
        self, embedding: Embedding, prompts: NetworkPrompts, wanted: Candidates
    ) -> tuple[Tensor, Tensor]:
        """Runs prompt encoder and mask decoder on one batch of N prompts.

        Returns logits (N, C, S/4, S/4) and scores (N, C), float32 on the device.
        """
        points = None if prompts.points is None else (prompts.points, prompts.labels)
        with self._autocast():
            sparse, dense = self.model.prompt_encoder(
                points=points, boxes=prompts.boxes, masks=prompts.mask_inputs
            )
            logits, scores = self.model.mask_decoder.predict_masks(
                image_embeddings=embedding.payload,
                image_pe=self.model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
        which = _SLICES[wanted]
        return logits[:, which].float(), scores[:, which].float()

    @torch.inference_mode()
    def postprocess(self, found: LogitMasks) -> Masks:
        """Upsamples to the image's size and thresholds."""
        inner = resized_hw(found.size_hw, self._side)
        masks = np.empty((*found.logits.shape[:2], *found.size_hw), dtype=np.bool_)
        for row, logits in enumerate(found.logits):
            full = self.model.postprocess_masks(logits[None], inner, found.size_hw)
            masks[row] = (full[0] > self.model.mask_threshold).cpu().numpy()
        return Masks(masks, found.scores.cpu().numpy(), found.logits.cpu().numpy())

    def everything(self, image: UInt8Array) -> list[MaskRecord]:
        """segment-anything's own point grid with its default parameters."""
        self._check_image(image)
        generator = self._generator()
        with self._autocast():
            found = generator.generate(image)
        return [
            MaskRecord(
                mask=record["segmentation"],
                score=float(record["predicted_iou"]),
                # segment-anything's boxes end on the last pixel; ours behind it.
                box=np.array(record["bbox"], np.float32) @ _XYWH_TO_XYXY + _HALF_OPEN,
            )
            for record in found
        ]

    def _generator(self) -> Any:
        """The model's own generator of all masks, which checks the results of its predictor."""
        # Imported here, since they import torchvision, in as much time as torch itself.
        from segment_anything.automatic_mask_generator import SamAutomaticMaskGenerator
        from segment_anything.predictor import SamPredictor

        class FinitePredictor(FiniteMasks, SamPredictor):  # type: ignore[misc] # has no types
            """segment-anything's predictor, with checked results in float32."""

        generator = SamAutomaticMaskGenerator(self.model, self.points_per_side)
        generator.predictor = FinitePredictor(self.model)
        return generator

    def embedding_arrays(self, embedding: Embedding) -> Mapping[str, Float32Array]:
        """One array: (1, C, h, w) float32."""
        self.check_embedding(embedding)
        return {"features": embedding.payload.cpu().numpy()}

    def embedding_from(
        self, arrays: Mapping[str, Float32Array], size_hw: tuple[int, int]
    ) -> Embedding:
        """Converts arrays of `embedding_arrays` back to an embedding on this model's device."""
        found = arrays.get("features")
        cells = self._cells
        wanted = (1, int(self.model.prompt_encoder.embed_dim), cells, cells)
        if found is None or found.shape != wanted or found.dtype != np.float32:
            raise DataError(f"not an embedding of {self.info.name}: wanted {wanted} float32")
        return Embedding(torch.from_numpy(found).to(self.device), size_hw, self.info.name)

    def modules(self) -> Mapping[str, nn.Module]:
        """Image encoder, prompt encoder and mask decoder."""
        return {
            "image_encoder": self.model.image_encoder,
            "prompt_encoder": self.model.prompt_encoder,
            "mask_decoder": self.model.mask_decoder,
        }

    def probes(self) -> Mapping[str, Sequence[Callable[[], object]]]:
        """One image; one point, one box, one mask; and the decoder for one point."""
        modules: Mapping[str, Any] = self.modules()
        encoder, prompt, decoder = modules.values()
        device = next(encoder.parameters()).device
        cells, channels = self._cells, int(prompt.embed_dim)
        image = torch.zeros(1, 3, self._input_side, self._input_side, device=device)
        point = (torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.int))
        both = (torch.zeros(1, 2, 2), torch.tensor([[0, 1]], dtype=torch.int))
        masks = torch.zeros(1, 1, 4 * cells, 4 * cells)

        def decode() -> object:
            return decoder(
                image_embeddings=torch.zeros(1, channels, cells, cells),
                image_pe=prompt.get_dense_pe(),
                sparse_prompt_embeddings=torch.zeros(1, 2, channels),
                dense_prompt_embeddings=torch.zeros(1, channels, cells, cells),
                multimask_output=False,
            )

        return {
            "image_encoder": (lambda: encoder(image),),
            "prompt_encoder": (
                lambda: prompt(points=point, boxes=None, masks=None),
                lambda: prompt(points=both, boxes=None, masks=None),
                lambda: prompt(points=None, boxes=torch.zeros(1, 4), masks=None),
                lambda: prompt(points=None, boxes=None, masks=masks),
            ),
            "mask_decoder": (decode,),
        }

    def synchronize(self) -> None:
        """Waits for CUDA, MPS or XPU; returns at once on the CPU."""
        synchronize_device(self.device)

    def _check_image(self, image: UInt8Array) -> tuple[int, int]:
        size = check_image(image)
        check_resized(size, resized_hw(size, self._side))
        return size


class FiniteMasks:
    """Mix-in for predictors of a mask generator, whose results are checked and in float32.

    The generator drops masks with NaN silently, and NumPy, which it uses, has no bfloat16.
    """

    def predict_torch(self, *given: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Masks, scores and logits of the predictor's `predict_torch`."""
        masks, scores, logits = super().predict_torch(*given, **named)  # type: ignore[misc]
        if not (is_finite(scores) and is_finite(logits)):
            raise WeightsError(NOT_FINITE)
        masks = masks if masks.dtype == torch.bool else masks.float()
        return masks, scores.float(), logits.float()


def _build(
    create: Callable[[], Sam], load: Callable[..., Sam], family: str, options: ModelOptions
) -> Segmenter:
    model = load_or_random(create, partial(load, device=options.device), options)
    return SamSegmenter(model, options, family=family)


def mobile_sam(options: ModelOptions) -> Sam:
    """MobileSAM's network, at the input size of the options."""
    config = input_size(options.input_size_px)
    load = partial(load_mobile_sam, device=options.device, input_size_px=options.input_size_px)
    return load_or_random(lambda: build_mobile_sam(config), load, options)


def build_mobilesam(options: ModelOptions) -> Segmenter:
    """MobileSAM, computed as published."""
    return SamSegmenter(mobile_sam(options), options, family="MobileSAM")


def _build_vit(kind: str, options: ModelOptions) -> Segmenter:
    create = partial(sam_model_registry[kind], checkpoint=None)

    def load(path: Path, device: str) -> Sam:
        """A model with the weights of a file, ready for inference on a device."""
        state = load_state_dict_file(path)
        with torch.device("meta"):
            model = create()
        load_strictly(model, state, source=str(path))
        return model.eval().to(device)

    return _build(create, load, "SAM", options)


# As published, and the small models that this package ships: a ViT of 3.5 million parameters at 256
# px, and its TinyViT student.
build_mini = partial(_build, build_sam_mini, load_sam_mini, "SAM")
build_mobilesam_mini = partial(_build, build_mobile_sam_mini, load_mobile_sam, "MobileSAM")
build_h = partial(_build_vit, "vit_h")  # 641,090,608 parameters
build_l = partial(_build_vit, "vit_l")  # 312,342,832 parameters
build_b = partial(_build_vit, "vit_b")  # 93,735,472 parameters


def load_or_random(
    build: Callable[[], Sam], load: Callable[[Path], Sam], options: ModelOptions
) -> Sam:
    """Loads a model's checkpoint, or builds it with seeded random weights if there is none."""
    usable_device(options.device)
    found = options.checkpoint
    return random_weights(build, options) if found is None else load(found.path)


def random_weights(build: Callable[[], Sam], options: ModelOptions) -> Sam:
    """Builds a model with seeded random weights; shapes only if the device is `meta`.

    Prompt encoder and decoder are always on a real device: the former reads values.
    """
    if options.device == "meta":
        with torch.device("meta"):
            model = build()
        for part in (model.prompt_encoder, model.mask_decoder):
            part.to_empty(device="cpu")
            for tensor in (*part.parameters(), *part.buffers()):
                tensor.detach().zero_()
        return model.eval()
    with seeded(options.seed):
        return build().eval().to(options.device)


def stacked(prepared: Sequence[Prepared]) -> Tensor:
    """The (1, 3, S, S) payloads of B images as one (B, 3, S, S) tensor."""
    return torch.cat([each.payload for each in prepared])


def autocast_of(options: ModelOptions) -> Callable[[], torch.autocast]:
    """Makes contexts in which networks compute in the precision of the options."""
    dtype = _DTYPES.get(options.precision)
    if dtype is None:
        raise UsageError(
            f"unknown precision {options.precision!r}; choose from {', '.join(_DTYPES)}"
        )
    kind = torch.device(options.device).type
    enabled = dtype != torch.float32
    return partial(
        torch.autocast,
        kind if kind != "meta" else "cpu",
        dtype if enabled else torch.bfloat16,
        enabled,
    )


def synchronize_device(device: torch.device) -> None:
    """Waits until an accelerator has finished all of its work."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type in ("cuda", "xpu"):
        getattr(torch, device.type).synchronize(device)
