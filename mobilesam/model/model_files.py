"""Trained models as safetensors files with their shape in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mobilesam.errors import WeightsError, first_problem
from mobilesam.files import write_atomic
from mobilesam.model.mini import MiniVitConfig, SamMiniConfig
from mobilesam.model.sam_heads import HeadsConfig
from mobilesam.model.tiny_vit import TinyVitConfig

if TYPE_CHECKING:
    from torch import Tensor

Architecture = Literal["mobilesam", "sam-mini"]

_KEY = "mobilesam-bench"
_ENCODERS: Mapping[str, type[Any]] = {"mobilesam": TinyVitConfig, "sam-mini": MiniVitConfig}


class _Header(BaseModel):
    """The header of a file, before its settings are validated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture
    encoder: dict[str, Any]
    heads: dict[str, Any]
    notes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Shape of a model.

    Attributes:
        architecture: Selects the builder: `build_mobile_sam` or `build_sam_mini`.
        encoder: Shape of the image encoder.
        heads: Shape of prompt encoder and mask decoder.
        notes: How it was made, for people.
    """

    architecture: Architecture
    encoder: TinyVitConfig | MiniVitConfig
    heads: HeadsConfig
    notes: Mapping[str, Any]

    def tiny_vit(self) -> tuple[TinyVitConfig, HeadsConfig]:
        """The shape of a `mobilesam`; raises a WeightsError for another architecture."""
        if not isinstance(self.encoder, TinyVitConfig):
            raise WeightsError(f"a {self.architecture} was given where a mobilesam is wanted")
        return self.encoder, self.heads

    def mini(self) -> SamMiniConfig:
        """The shape of a `sam-mini`; raises a WeightsError for another architecture."""
        if not isinstance(self.encoder, MiniVitConfig):
            raise WeightsError(f"a {self.architecture} was given where a sam-mini is wanted")
        return SamMiniConfig(self.encoder, self.heads)


def save_model(
    path: Path, shape: ModelShape, state: Mapping[str, Tensor], *, half: bool = False
) -> None:
    """Writes a state dict with its shape, atomically.

    Args:
        path: Ends in `.safetensors`.
        shape: Shape to build before loading.
        state: Tensors by name.
        half: Store float32 as float16, which halves the file; loading converts back to float32.

    Raises:
        DataError: The folder cannot be written, or the disk is full.
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
    """Reads the shape that a checkpoint states; None if it states none.

    Raises:
        WeightsError: It is of another architecture, or its header is damaged.
    """
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
        encoder = _validated(_ENCODERS[architecture], found.encoder)
        heads = _validated(HeadsConfig, found.heads)
        return ModelShape(architecture, encoder, heads, found.notes)
    except ValueError as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error
        raise WeightsError(
            f"{path} has a damaged header ({problem}); make or copy it again"
        ) from error


def _validated(kind: type[Any], found: Mapping[str, Any]) -> Any:
    unknown = found.keys() - {each.name for each in fields(kind)}
    if unknown:
        raise ValueError(f"unknown settings {sorted(unknown)}")
    return TypeAdapter(kind).validate_python(found)
