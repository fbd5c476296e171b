"""Promptable segmentation models of Hugging Face `transformers` (extra `hf`).

SAM 2.1 (arXiv 2408.00714), SAM-HQ (arXiv 2306.01567), SlimSAM (arXiv 2312.05284), EdgeTAM
(arXiv 2501.07256), SAM 3's tracker, and any other checkpoint of these classes. Images, prompts and
masks are converted as the library's own processors do; SAM 2's resize an image to a square.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines.interface import (
    Checkpoint,
    Embedding,
    Float32Array,
    LogitMasks,
    MaskFrame,
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
from baselines.registry import HUGGING_FACE
from baselines.sam import DECODE_BATCH, autocast_of, stacked, synchronize_device
from mobilesam.errors import DataError, UsageError, WeightsError, WeightsUnavailableError
from mobilesam.inputs import check_resized, usable_device
from mobilesam.model.state_dicts import load_state_dict_file
from mobilesam.process_state import seeded
from mobilesam.weights.cache import digest_file

_VITS: Mapping[str, dict[str, Any]] = {
    "b": {},
    "l": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "global_attn_indexes": [5, 11, 17, 23],
    },
    "h": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    },
}
# Hiera backbones: channels of the first stage, attention heads there, blocks of each stage, blocks
# with global attention, and the sizes of windows that differ from those of the tiny one.
_HIERAS: Mapping[str, tuple[int, int, list[int], list[int], dict[str, Any]]] = {
    "t": (96, 1, [1, 2, 7, 2], [5, 7, 9], {}),
    "s": (96, 1, [1, 2, 11, 2], [7, 10, 13], {}),
    "b+": (
        112,
        2,
        [2, 3, 16, 3],
        [12, 16, 20],
        {"window_positional_embedding_background_size": [14, 14]},
    ),
    "l": (144, 2, [2, 6, 36, 4], [23, 33, 43], {"window_size_per_stage": [8, 4, 16, 8]}),
}
_FAMILIES = {
    "sam": "SAM",
    "sam_hq": "SAM-HQ",
    "sam2": "SAM 2",
    "sam2_video": "SAM 2",
    "edgetam": "EdgeTAM",
    "edgetam_video": "EdgeTAM",
    "sam3_tracker": "SAM 3",
    "sam3_video": "SAM 3",
}
_NOTE = "a single mask with a stability below 0.98 is replaced by the best of three"
_FILES = ("*.json", "*.safetensors")
# The configurations' default of 1e-10 makes all embeddings of random weights the same.
_INITIAL_RANGE = 0.02


class HuggingFaceSegmenter(Segmenter):
    """A mask-generation model of `transformers` behind the interface.

    Args:
        model: In evaluation mode, on its device.
        image_processor: The processor of its checkpoint.
        options: Options that it was built from.
        family: Family for the tables.
    """

    def __init__(
        self,
        model: Any,
        image_processor: Any,
        options: ModelOptions,
        *,
        family: str,
    ) -> None:
        self.model = model
        self.device = torch.device(options.device)
        self._processor = image_processor
        self._autocast = autocast_of(options)
        size = dict(image_processor.size)
        self._square = "longest_edge" not in size
        self._side = int(size["height"] if self._square else size["longest_edge"])
        self.info = ModelInfo(
            name=options.name,
            family=family,
            input_size_px=self._side,
            licence="Apache-2.0",
            weights=WeightsInfo.of(options.checkpoint),
            decode_kind="decoder",
            supports=frozenset(("points", "boxes", "masks")),
            note=_NOTE if self._levels else "",
        )

    def prepare(self, image: UInt8Array) -> Prepared:
        """Resizes and normalises as the library's image processor does."""
        size = check_image(image)
        check_resized(size, self._inner(size))
        pixels = self._processor(images=np.ascontiguousarray(image), return_tensors="pt")
        return Prepared(pixels["pixel_values"], size)

    @torch.inference_mode()
    def encode(self, prepared: Prepared) -> Embedding:
        """Runs the image encoder: payload is a tuple of float32 feature maps on the device."""
        with self._autocast():
            features = self.model.get_image_embeddings(prepared.payload.to(self.device))
        return Embedding(_flat(features), prepared.size_hw, self.info.name)

    @torch.inference_mode()
    def encode_batch(self, prepared: Sequence[Prepared]) -> list[Embedding]:
        """Runs the image encoder on all images in one forward pass."""
        with self._autocast():
            features = self.model.get_image_embeddings(stacked(prepared).to(self.device))
        by_image = zip(*_flat(features), strict=True)
        return [
            Embedding(tuple(part[None] for part in parts), each.size_hw, self.info.name)
            for parts, each in zip(by_image, prepared, strict=True)
        ]

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Decodes and upsamples in batches; memory beyond the result does not depend on N.

        The single mask of SAM 2, EdgeTAM and SAM 3 is the best of three candidates where its own
        stability is below 0.98, as their configurations say.
        """
        self.check_embedding(embedding)
        self.require(prompts)
        parts = [self.postprocess(part) for part in self._logits(embedding, prompts, multimask)]
        return Masks.joined(parts)

    def decode_logits(
        self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False
    ) -> LogitMasks:
        """Runs prompt encoder and mask decoder; logits are (N, C, h, w) on the device."""
        self.check_embedding(embedding)
        self.require(prompts)
        parts = list(self._logits(embedding, prompts, multimask))
        logits, scores = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "scores")
        )
        objects = [part.object_scores for part in parts]
        found = None if objects[0] is None else torch.cat(objects)
        return LogitMasks(logits, scores, embedding.size_hw, found)

    @torch.inference_mode()
    def postprocess(self, found: LogitMasks) -> Masks:
        """Upsamples to the image's size and thresholds, with the library's function."""
        size = [list(found.size_hw)]
        if self._square:
            masks = self._processor.post_process_masks(found.logits[None], size)
        else:
            inner = list(self._inner(found.size_hw))
            masks = self._processor.post_process_masks(found.logits[None], size, [inner])
        objects = found.object_scores
        return Masks(
            masks[0].cpu().numpy(),
            found.scores.cpu().numpy(),
            found.logits.cpu().numpy(),
            None if objects is None else objects.cpu().numpy(),
        )

    def _logits(
        self, embedding: Embedding, prompts: Prompts, multimask: bool
    ) -> Iterator[LogitMasks]:
        """Outputs of the decoder, batch by batch; one empty batch for zero prompts."""
        if len(prompts) == 0:
            logits = torch.zeros(0, 3 if multimask else 1, *self._mask_hw, device=self.device)
            scores = logits.flatten(2).sum(2)
            objects = scores[:, 0] if self._levels else None
            yield LogitMasks(logits, scores, embedding.size_hw, objects)
        for batch in prompts.batches(DECODE_BATCH):
            yield self._run_decoder(embedding, batch, multimask)

    @torch.inference_mode()
    def _run_decoder(self, embedding: Embedding, prompts: Prompts, multimask: bool) -> LogitMasks:
        features = list(embedding.payload)
        given: dict[str, Any] = dict(self._to_network(embedding.size_hw, prompts))
        if "input_masks" in given:
            # The library takes one mask an image: prompts go along the batch of images instead.
            features = [part.expand(len(prompts), *part.shape[1:]) for part in features]
            given = {
                name: value if name == "input_masks" else value.transpose(0, 1)
                for name, value in given.items()
            }
        if self.model.config.model_type == "sam_hq":
            given["intermediate_embeddings"], features = features[1:], features[:1]
        with self._autocast():
            found = self.model(
                image_embeddings=features if self._levels else features[0],
                multimask_output=multimask,
                **given,
            )
        objects = found.get("object_score_logits")
        return LogitMasks(
            found.pred_masks.flatten(0, 1).float(),
            found.iou_scores.flatten(0, 1).float(),
            embedding.size_hw,
            None if objects is None else objects.flatten().float(),
        )

    def _to_network(self, size_hw: tuple[int, int], prompts: Prompts) -> dict[str, Tensor]:
        """Arguments of the model for N prompts of one image, with (1, N, ...) tensors."""
        height, width = size_hw
        inner = self._inner(size_hw)
        scale = np.array([inner[1] / width, inner[0] / height])
        found: dict[str, Tensor] = {}
        if prompts.points is not None:
            found["input_points"] = self._tensor(prompts.points * scale)[None]
            found["input_labels"] = self._tensor(prompts.labels, torch.int64)[None]
        if prompts.boxes is not None:
            found["input_boxes"] = self._tensor(prompts.boxes * np.tile(scale, 2))[None]
        if prompts.mask_inputs is not None:
            found["input_masks"] = self._tensor(prompts.mask_inputs)
        return found

    def mask_frame(self, size_hw: tuple[int, int]) -> MaskFrame:
        """As the image lies in the network's input: stretched to a square, or padded."""
        height, width = (
            max(1, round(cells * length / self._side))
            for cells, length in zip(self._mask_hw, self._inner(size_hw), strict=True)
        )
        return MaskFrame(size_hw, self._mask_hw, (height, width))

    def embedding_arrays(self, embedding: Embedding) -> Mapping[str, Float32Array]:
        """Feature maps `features0`, `features1`, ..., float32."""
        self.check_embedding(embedding)
        return {
            f"features{index}": part.cpu().numpy() for index, part in enumerate(embedding.payload)
        }

    def embedding_from(
        self, arrays: Mapping[str, Float32Array], size_hw: tuple[int, int]
    ) -> Embedding:
        """Converts arrays of `embedding_arrays` back to an embedding on this model's device."""
        wanted = {f"features{index}": shape for index, shape in enumerate(self._feature_shapes)}
        found = {key: part.shape for key, part in arrays.items() if part.dtype == np.float32}
        if found != wanted or len(arrays) != len(wanted):
            shapes = ", ".join(map(str, wanted.values()))
            raise DataError(f"not an embedding of {self.info.name}: wanted {shapes} float32")
        payload = tuple(torch.from_numpy(arrays[key]).to(self.device) for key in wanted)
        return Embedding(payload, size_hw, self.info.name)

    def modules(self) -> Mapping[str, nn.Module]:
        """Image encoder, prompt encoder and mask decoder."""
        encoder = nn.Module()
        encoder.vision_encoder = self.model.vision_encoder
        if self._levels:
            encoder.no_memory_embedding = self.model.no_memory_embedding
        return {
            "image_encoder": encoder,
            "prompt_encoder": self.model.prompt_encoder,
            "mask_decoder": self.model.mask_decoder,
        }

    def probes(self) -> Mapping[str, Sequence[Callable[[], object]]]:
        """One image; one point, one box, one mask; and the decoder for one point.

        The decoder's projections of feature maps run with the encoder, and count as its FLOPs.
        """
        model, device = self.model, self.model.device
        pixels = torch.zeros(1, 3, self._side, self._side, device=device)
        point = torch.zeros(1, 1, 1, 2, device=device)
        labels = torch.ones(1, 1, 1, dtype=torch.int64, device=device)
        box = torch.zeros(1, 1, 4, device=device)
        mask = torch.zeros(1, 1, *self._mask_hw, device=device)
        encode = partial(model.get_image_embeddings, pixels)
        features = _flat(encode())
        sparse, dense = model.prompt_encoder(point, labels, None, None)
        given: dict[str, Any] = {
            "image_embeddings": features[-1] if self._levels else features[0],
            "image_positional_embeddings": model.get_image_wide_positional_embeddings(),
            "sparse_prompt_embeddings": sparse,
            "dense_prompt_embeddings": dense,
            "multimask_output": True,
        }
        if self._levels:
            given["high_resolution_features"] = list(features[:-1])
        if model.config.model_type == "sam_hq":
            given |= {"hq_token_only": False, "intermediate_embeddings": list(features[1:])}
        return {
            "image_encoder": (encode,),
            "prompt_encoder": (
                lambda: model.prompt_encoder(point, labels, None, None),
                lambda: model.prompt_encoder(point, 0 * labels, None, None),
                lambda: model.prompt_encoder(None, None, box, None),
                lambda: model.prompt_encoder(None, None, None, mask),
            ),
            "mask_decoder": (lambda: model.mask_decoder(**given), encode),
        }

    def synchronize(self) -> None:
        """Waits for CUDA, MPS or XPU; returns at once on the CPU."""
        synchronize_device(self.device)

    def _inner(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the resized image in the network's input."""
        if self._square:
            return self._side, self._side
        height, width = self._processor._get_preprocess_shape(size_hw, longest_edge=self._side)
        return height, width

    @property
    def _levels(self) -> bool:
        """Whether an embedding has several feature maps, as in SAM 2."""
        return hasattr(self.model, "no_memory_embedding")

    @cached_property
    def _feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the feature maps of an image, found without computing them."""
        with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
            pixels = torch.zeros(1, 3, self._side, self._side, device=self.device)
            return tuple(tuple(p.shape) for p in _flat(self.model.get_image_embeddings(pixels)))

    @property
    def _mask_hw(self) -> tuple[int, int]:
        size = self.model.config.prompt_encoder_config
        side = 4 * size.image_size // size.patch_size
        return side, side

    def _tensor(self, array: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(array, dtype=dtype, device=self.device)


def _flat(features: Any) -> tuple[Tensor, ...]:
    """Feature maps of any of the models: one, a list, or one with a list of others (SAM-HQ)."""
    if isinstance(features, Tensor):
        return (features.float(),)
    return tuple(part for each in features for part in _flat(each))


def _sam2_config(name: str) -> Any:
    channels, heads, blocks, global_blocks, others = _HIERAS[name.removeprefix("sam2.1-")]
    stages = [channels << stage for stage in range(4)]
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=channels,
        num_attention_heads=heads,
        embed_dim_per_stage=stages,
        num_attention_heads_per_stage=[heads << stage for stage in range(4)],
        blocks_per_stage=blocks,
        global_attention_blocks=global_blocks,
        **others,
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=stages[::-1]
    )
    return transformers.Sam2Config(vision_config=vision)


def _sam_hq_config(name: str) -> Any:
    vit = _VITS[name.removeprefix("sam-hq-vit-")]
    decoder = transformers.SamHQMaskDecoderConfig(vit_dim=vit.get("hidden_size", 768))
    vision = transformers.SamHQVisionConfig(**vit, initializer_range=_INITIAL_RANGE)
    return transformers.SamHQConfig(vision_config=vision, mask_decoder_config=decoder)


def _slimsam_config(name: str) -> Any:
    hidden, mlp = {"slimsam-50": (384, 1536), "slimsam-77": (168, 696)}[name]
    vision = transformers.SamVisionConfig(
        hidden_size=hidden, mlp_dim=mlp, initializer_range=_INITIAL_RANGE
    )
    return transformers.SamConfig(vision_config=vision)


def build_sam2(options: ModelOptions) -> Segmenter:
    """SAM 2.1 with a Hiera backbone: `sam2.1-t`, `-s`, `-b+` and `-l`."""
    config = _sam2_config(options.name)
    return _build(transformers.Sam2Model, config, transformers.Sam2ImageProcessor, options)


def build_sam_hq(options: ModelOptions) -> Segmenter:
    """SAM-HQ: SAM with a token of its own for finer masks."""
    config = _sam_hq_config(options.name)
    return _build(transformers.SamHQModel, config, transformers.SamImageProcessor, options)


def build_slimsam(options: ModelOptions) -> Segmenter:
    """SlimSAM: SAM ViT-B pruned to 50 or 77 % fewer parameters."""
    config = _slimsam_config(options.name)
    return _build(transformers.SamModel, config, transformers.SamImageProcessor, options)


def build_edgetam(options: ModelOptions) -> Segmenter:
    """EdgeTAM: SAM 2 with a RepViT-M1 backbone (`timm`).

    The backbone is named here, since the default configuration of transformers 5.24 misspells it
    and builds a ResNet-50.
    """
    levels = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    backbone = transformers.TimmWrapperConfig(architecture="repvit_m1", model_args=levels)
    vision = transformers.EdgeTamVisionConfig(backbone_config=backbone)
    config = transformers.EdgeTamConfig(vision_config=vision)
    return _build(transformers.EdgeTamModel, config, transformers.Sam2ImageProcessor, options)


def build_sam3_tracker(options: ModelOptions) -> Segmenter:
    """SAM 3 with points and boxes as prompts."""
    config = transformers.Sam3TrackerConfig()
    return _build(transformers.Sam3TrackerModel, config, transformers.Sam3ImageProcessor, options)


def _build(
    model_class: Any, config: Any, processor_class: Any, options: ModelOptions
) -> HuggingFaceSegmenter:
    """Builds a known architecture, with the weights of `options` or seeded random ones."""
    usable_device(options.device)
    if options.device == "meta":
        with torch.device("meta"):
            model = model_class(config)
    elif options.checkpoint is None:
        with seeded(options.seed):
            model = model_class(config)
    else:
        model = _load(model_class, config, options.checkpoint.path)
    model = _ready(model, options)
    family = "SlimSAM" if options.name.startswith("slimsam") else _FAMILIES[config.model_type]
    return HuggingFaceSegmenter(model, processor_class(), options, family=family)


def _ready(model: Any, options: ModelOptions) -> Any:
    """The model in evaluation mode, on the device; one on `meta` stays there."""
    return model.eval() if options.device == "meta" else model.eval().to(options.device)


def _load(model_class: Any, config: Any, path: Path) -> Any:
    """Loads a file of the Hub's format, or of Meta's for SAM 2, and checks that it is complete.

    Raises:
        WeightsError: A tensor is missing, unknown or of another shape.
    """
    state = load_state_dict_file(path)
    if any(name.startswith("image_encoder.trunk.") for name in state):
        state = from_meta_names(state)
    with _quiet():
        model, report = model_class.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True
        )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in report[kind])
        if names:
            raise WeightsError(
                f"{path} is not a checkpoint of {model_class.__name__}: {len(names)} "
                f"{kind.replace('_', ' ')}, such as {names[0]}"
            )
    return model


# Names of tensors in Meta's SAM 2 checkpoints, and in transformers.
_META_NAMES = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_(prompt_en|mask_de)coder\.", r"\1coder."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.norm(\d|_)", r".layer_norm\1"),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"pe_layer\.positional_encoding_gaussian_matrix$", "shared_embedding.positional_embedding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"((?:mlps\.\d+|_head)\.)layers\.0\.", r"\1proj_in."),
    (r"((?:mlps\.\d+|_head)\.)layers\.1\.", r"\1layers.0."),
    (r"((?:mlps\.\d+|_head)\.)layers\.2\.", r"\1proj_out."),
)
_VIDEO_ONLY = re.compile(r"memory_|maskmem_|mask_downsample|no_mem_pos_enc|no_obj_|obj_ptr_")
_POINTS = "prompt_encoder.point_embeddings."
_PROMPT_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"


def from_meta_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of Meta's SAM 2 checkpoint; leaves out those of the video path."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _VIDEO_ONLY.match(name):
            continue
        for pattern, replacement in _META_NAMES:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    points = [found.pop(f"{_POINTS}{index}.weight") for index in range(4)]
    found["prompt_encoder.point_embed.weight"] = torch.cat(points)
    found["shared_image_embedding.positional_embedding"] = found[_PROMPT_POSITIONS]
    return found


def find_snapshot(name: str, *, offline: bool = False) -> Checkpoint:
    """The folder of a checkpoint: `hf:` and a local folder, or `hf:ORG/NAME` of the Hub.

    Args:
        name: Name of the model.
        offline: Do not use the network: take what an earlier run has downloaded.

    Raises:
        WeightsUnavailableError: It is neither on this machine nor can it be downloaded.
    """
    source = name.removeprefix(HUGGING_FACE)
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            with _quiet():
                found = snapshot_download(
                    source, allow_patterns=list(_FILES), local_files_only=offline
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsUnavailableError(
                f"{source} is neither a folder on this machine nor a repository that can be "
                f"fetched from the Hub: {' '.join(str(error).split())}",
                f"{source} cannot be fetched from the Hub",
            ) from error
        folder = Path(found)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsUnavailableError(
            f"{source} has no *.safetensors file; convert it with save_pretrained",
            f"{source} has no *.safetensors file",
        )
    digests = [digest_file(path) for path in files]
    sha256 = digests[0].sha256
    if len(digests) > 1:
        sha256 = hashlib.sha256("".join(each.sha256 for each in digests).encode()).hexdigest()
    return Checkpoint(
        folder, sha256, official=False, n_bytes=sum(each.n_bytes for each in digests), trusted=False
    )


def build_any(options: ModelOptions) -> Segmenter:
    """Any checkpoint of these classes, as found by `find_snapshot`.

    Raises:
        UsageError: The checkpoint is of another class.
        WeightsUnavailableError: It is neither on this machine nor can it be downloaded.
        WeightsError: It is incomplete.
    """
    usable_device(options.device)
    checkpoint = options.checkpoint or find_snapshot(options.name)
    source = checkpoint.path
    with _quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(source)
            processor = transformers.AutoImageProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{source} is no checkpoint of transformers: {' '.join(str(error).split())}"
            ) from error
        if config.model_type not in _FAMILIES:
            raise UsageError(
                f"{source} is a {config.model_type} model; {HUGGING_FACE} takes checkpoints of "
                f"{', '.join(sorted(_FAMILIES))}"
            )
        model_class = transformers.AutoModelForMaskGeneration
        if options.device == "meta":
            with torch.device("meta"):
                model = model_class.from_config(config)
        else:
            model, report = model_class.from_pretrained(source, output_loading_info=True)
            missing = sorted(report["missing_keys"])
            if missing:
                raise WeightsError(f"{source} lacks {len(missing)} tensors, such as {missing[0]}")
    model = _ready(model, options)
    options = replace(options, checkpoint=checkpoint)
    return HuggingFaceSegmenter(model, processor, options, family=_FAMILIES[config.model_type])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the library's progress bars and notes on checkpoints, which are checked here."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
