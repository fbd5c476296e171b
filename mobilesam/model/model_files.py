"""Trained models as safetensors files with their shape in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from mobilesam.errors import WeightsError, first_problem
from mobilesam.files import write_atomic
from mobilesam.frozen_model import FrozenModel
from mobilesam.model.mini import MiniVitConfig
from mobilesam.model.sam_heads import HeadsConfig
from mobilesam.model.tiny_vit import TinyVitConfig

if TYPE_CHECKING:
    from torch import Tensor

Architecture = Literal["mobilesam", "sam-mini"]

_KEY = "mobilesam-bench"
_ENCODERS: Mapping[str, type[Any]] = {"mobilesam": TinyVitConfig, "sam-mini": MiniVitConfig}


class _Header(FrozenModel):
    """The header of a file, before its settings are validated."""

    architecture: Architecture
    encoder: dict[str, Any]
    heads: dict[str, Any]
    notes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Shape of a model: what `build_mobile_sam` or `build_sam_mini` needs to build it."""

    architecture: Architecture
    encoder: Any  # TinyVitConfig of a mobilesam, MiniVitConfig of a sam-mini
    heads: HeadsConfig
    notes: Mapping[str, Any]  # how it was made, for people


def save_model(
    path: Path, shape: ModelShape, state: Mapping[str, Tensor], *, half: bool = False
) -> None:
    """Writes a state dict with its shape to a `.safetensors` file, atomically.

    With `half`, float32 is stored as float16, which loading converts back.
    """
    import torch
    from safetensors.torch import save

    kept = {
        name: (value.half() if half and value.dtype == torch.float32 else value).contiguous().cpu()
        for name, value in state.items()
    }
    header = {_KEY: json.dumps({**asdict(shape), "notes": dict(shape.notes)}, sort_keys=True)}
    write_atomic(path, save(kept, header))


def read_shape(path: Path, architecture: Architecture) -> ModelShape | None:
    """The shape that a checkpoint states, if any; a WeightsError if damaged or of another kind."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (OSError, SafetensorError):
        return None  # loading the tensors reports the damage
    if text is None:
        return None
    try:
        found = _Header.model_validate_json(text)
        if found.architecture != architecture:
            raise WeightsError(
                f"{path} is a {found.architecture}, not a {architecture}; "
                f"give it with --weights {found.architecture}={path}"
            )
        kinds = {_ENCODERS[architecture]: found.encoder, HeadsConfig: found.heads}
        for kind, settings in kinds.items():
            unknown = settings.keys() - {each.name for each in fields(kind)}
            if unknown:
                raise ValueError(f"unknown settings {sorted(unknown)}")
        encoder, heads = (TypeAdapter[Any](k).validate_python(v) for k, v in kinds.items())
        return ModelShape(architecture, encoder, heads, found.notes)
    except ValueError as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error
        raise WeightsError(
            f"{path} has a damaged header ({problem}); make or copy it again"
        ) from error
