"""Small models of the classes of transformers, with random weights."""

from __future__ import annotations

from typing import Any

from baselines.interface import ModelOptions, Segmenter


def small_vit() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "global_attn_indexes": [1, 3],
        "mlp_dim": 64,
        "initializer_range": 0.2,
    }


def small_sam() -> tuple[Any, Any, Any]:
    vision = library().SamVisionConfig(**small_vit())
    config = library().SamConfig(vision_config=vision)
    return library().SamModel, config, library().SamProcessor


def small_sam_hq() -> tuple[Any, Any, Any]:
    vision = library().SamHQVisionConfig(**small_vit())
    decoder = library().SamHQMaskDecoderConfig(vit_dim=32)
    config = library().SamHQConfig(vision_config=vision, mask_decoder_config=decoder)
    return library().SamHQModel, config, library().SamHQProcessor


def small_sam2() -> tuple[Any, Any, Any]:
    stages = [8, 16, 32, 64]
    backbone = library().Sam2HieraDetConfig(
        hidden_size=8,
        embed_dim_per_stage=stages,
        num_attention_heads_per_stage=[1, 2, 4, 8],
        blocks_per_stage=[1, 1, 2, 1],
        global_attention_blocks=[3],
    )
    vision = library().Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=stages[::-1]
    )
    return (
        library().Sam2Model,
        library().Sam2Config(vision_config=vision),
        library().Sam2Processor,
    )


def small_sam3() -> tuple[Any, Any, Any]:
    backbone = library().Sam3ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        global_attn_indexes=[1],
    )
    vision = library().Sam3VisionConfig(
        backbone_config=backbone,
        backbone_feature_sizes=[[288, 288], [144, 144], [72, 72]],
    )
    config = library().Sam3TrackerConfig(vision_config=vision)
    return library().Sam3TrackerModel, config, library().Sam3TrackerProcessor


SMALL = {
    "sam": small_sam,
    "sam_hq": small_sam_hq,
    "sam2": small_sam2,
    "sam3_tracker": small_sam3,
}
IMAGE_PROCESSORS = {"sam2": "Sam2ImageProcessor", "sam3_tracker": "Sam3ImageProcessor"}


def build(kind: str, name: str) -> Segmenter:
    """A small model of a class: `sam`, `sam_hq`, `sam2` or `sam3_tracker`."""
    from baselines import hugging_face

    model_class, config, _ = SMALL[kind]()
    return hugging_face._build(model_class, config, image_processor(kind), ModelOptions(name))


def image_processor(kind: str) -> Any:
    return getattr(library(), IMAGE_PROCESSORS.get(kind, "SamImageProcessor"))


def library() -> Any:
    import transformers

    return transformers
