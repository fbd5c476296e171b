"""MobileSAM: our TinyViT with SAM's own prompt encoder and mask decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mobilesam.errors import UsageError, WeightsError
from mobilesam.inputs import Device, usable_device
from mobilesam.model import mini
from mobilesam.model.sam_heads import PIXEL_MEAN, PIXEL_STD, HeadsConfig, assemble
from mobilesam.model.state_dicts import load_state_dict_file
from mobilesam.model.tiny_vit import TinyViT, TinyVitConfig

if TYPE_CHECKING:
    from mobilesam.model.model_files import ModelShape

HEAD_PREFIXES = ("image_encoder.norm_head.", "image_encoder.head.")


def build_mobile_sam(config: TinyVitConfig | None = None, heads: HeadsConfig | None = None) -> Sam:
    """Builds MobileSAM with fresh random weights, in evaluation mode.

    Args:
        config: Shape of the encoder; None is MobileSAM's own.
        heads: Shape of the other parts; None is SAM's own, as wide as the encoder's neck.

    Raises:
        UsageError: Encoder and heads differ in width, or have no room for colours.
    """
    config = config or TinyVitConfig()
    heads = heads or HeadsConfig(channels=config.neck_channels)
    if heads.channels != config.neck_channels:
        raise UsageError(
            f"the encoder gives {config.neck_channels} channels, the heads take {heads.channels}"
        )
    encoder = mini.ColorTinyViT(config) if config.cell_colors else TinyViT(config)
    return assemble(encoder, heads, config.image_size_px, config.total_stride)


def build_mobile_sam_mini() -> Sam:
    """Builds `mobilesam-mini` with fresh random weights, in evaluation mode."""
    return build_mobile_sam(*mini.mobile_sam_mini_shape())


def load_mobile_sam(
    checkpoint: Path | str | None = None,
    *,
    device: Device = "cpu",
    config: TinyVitConfig | None = None,
    input_size_px: int | None = None,
) -> Sam:
    """Builds MobileSAM and loads a checkpoint strictly; the model is in evaluation mode.

    Args:
        checkpoint: A state dict in the layout of the authors' `mobile_sam.pt`, with or without
            the unused classification head. None keeps random weights.
        device: Device of the model.
        config: Shape of the encoder; None is the shape stated in the file, as in students of this
            project's distillation, or MobileSAM's own.
        input_size_px: Side of the input; None is that of the shape. Weights fit any size, since
            attention windows and positions do not depend on it; accuracy falls with it.

    Raises:
        WeightsError: The file is missing, damaged, of another architecture, or not finite.
        UsageError: The device is not present.
    """
    device = usable_device(device)
    if checkpoint is None:
        return build_mobile_sam(input_size(input_size_px, config)).to(device)
    shape = None
    if config is None and Path(checkpoint).suffix == ".safetensors":
        from mobilesam.model.model_files import read_shape  # imports pydantic

        shape = read_shape(Path(checkpoint), "mobilesam")
    encoder = config or (TinyVitConfig() if shape is None else shape.encoder)
    state = load_state_dict_file(Path(checkpoint))
    if not any(name.startswith(HEAD_PREFIXES) for name in state):
        encoder = replace(encoder, n_classes=None)
    encoder = input_size(input_size_px, encoder)
    heads = None if shape is None else shape.heads
    source = str(checkpoint)
    return _loaded(lambda: build_mobile_sam(encoder, heads), shape, state, source).to(device)


def load_sam_mini(checkpoint: Path | str, *, device: Device = "cpu") -> Sam:
    """Builds `sam-mini` in the shape that its file states; raises what `load_mobile_sam` does."""
    device = usable_device(device)
    from mobilesam.model.model_files import read_shape

    state = load_state_dict_file(Path(checkpoint))
    shape = read_shape(Path(checkpoint), "sam-mini")
    config = None if shape is None else mini.SamMiniConfig(shape.encoder, shape.heads)
    return _loaded(lambda: mini.build_sam_mini(config), shape, state, str(checkpoint)).to(device)


def input_size(side: int | None, config: TinyVitConfig | None = None) -> TinyVitConfig:
    """The shape of an encoder with another input size, in pixels; None leaves it as it is.

    Raises:
        UsageError: The size does not fit the encoder.
    """
    config = config or TinyVitConfig()
    if side is None:
        return config
    stride = config.total_stride
    if side < 4 * stride or side % stride:
        raise UsageError(
            f"an input size of {side} px does not fit the encoder; "
            f"choose a multiple of {stride} from {4 * stride} px"
        )
    return replace(config, image_size_px=side)


class _Uninitialised(TorchFunctionMode):
    """Parameters get no values. On the meta device, some operations import torch's compiler."""

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls the function unless it draws or fills in values."""
        if getattr(func, "__module__", None) == "torch.nn.init":
            return None  # works in place
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def _loaded(
    build: Callable[[], Sam], stated: ModelShape | None, state: Mapping[str, Tensor], source: str
) -> Sam:
    """Builds a model without initialising it, and loads the state dict of a checkpoint."""
    try:
        with _Uninitialised():
            model = build()
    except UsageError as error:
        if stated is None:
            raise
        raise WeightsError(
            f"{source} states a shape that cannot be built ({error}); make or copy it again"
        ) from error
    load_strictly(model, state, source=source)
    return model


def load_strictly(model: Sam, state: Mapping[str, Tensor], *, source: str) -> None:
    """Assigns a state dict to a model without values; a WeightsError lists all differences."""
    wanted = model.state_dict()
    differences = {
        "missing tensors": sorted(wanted.keys() - state.keys()),
        "unknown tensors": sorted(state.keys() - wanted.keys()),
        "wrong shapes": [
            f"{name} is {tuple(state[name].shape)}, wanted {tuple(wanted[name].shape)}"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ],
    }
    problems = [
        f"{len(found)} {kind} (first: {found[0]})" for kind, found in differences.items() if found
    ]
    if problems:
        raise WeightsError(
            f"{source} does not fit this architecture: {'; '.join(problems)}; "
            "give the checkpoint of this very model"
        )
    # Copied, since the tensors may still be mapped from the file: reading it belongs to loading.
    materialised = {name: value.to(wanted[name].dtype, copy=True) for name, value in state.items()}
    model.load_state_dict(materialised, strict=True, assign=True)
    # No checkpoint holds these buffers, which have no values if the model is on the meta device.
    for name, values in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
        model.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
