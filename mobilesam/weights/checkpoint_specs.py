"""The table of published checkpoints, `checkpoints.toml`, parsed and validated."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError

from mobilesam.errors import WeightsError, first_problem
from mobilesam.frozen_model import FrozenModel

_Text = Annotated[str, Field(min_length=1)]
_SHA256 = r"^[0-9a-f]{64}$"


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size (0 if it is not known) and SHA-256 (64 lower-case hex digits) of a file."""

    n_bytes: int
    sha256: str


class _File(FrozenModel):
    model_config = ConfigDict(strict=True, populate_by_name=True)

    n_bytes: Annotated[int, Field(gt=0, alias="bytes")]
    sha256: Annotated[str, Field(pattern=_SHA256)]

    @property
    def digest(self) -> FileDigest:
        """Size and SHA-256."""
        return FileDigest(self.n_bytes, self.sha256)


class RepublishedFile(_File):
    """Another published file with the same weights; `source` is its publisher."""

    source: _Text


class ShippedFile(_File):
    """A file in `mobilesam/weights` that is used if the published file is not available."""

    file: _Text
    label: _Text  # origin and storage
    licence: _Text


class CheckpointSpec(FrozenModel):
    """A published checkpoint; `also` are other published files with the same weights.

    Without `sha256` it is unconfirmed: any content is accepted, and none of it counts as official.
    """

    model_config = ConfigDict(strict=True, populate_by_name=True)

    name: _Text  # registry name of its model
    file: Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]  # official name
    url: Annotated[str, Field(pattern=r"^https?://[^/]")]
    licence: _Text  # SPDX identifier, as the publisher states
    format: Literal["state_dict", "pickle"]  # tensors only, or a file that runs code
    n_bytes: Annotated[int | None, Field(gt=0, alias="bytes")] = None
    sha256: Annotated[str | None, Field(pattern=_SHA256)] = None
    about_mb: Annotated[float | None, Field(gt=0)] = None  # if the exact size is not known
    gate: str = ""  # what has to be done before the server provides it
    note: str = ""
    also: Annotated[tuple[RepublishedFile, ...], Field(strict=False)] = ()
    shipped: ShippedFile | None = None  # weights of the same architecture in this package

    @property
    def digests(self) -> tuple[FileDigest, ...]:
        """All published contents, the principal one first; empty if it is unconfirmed."""
        own = () if self.sha256 is None else (FileDigest(self.n_bytes or 0, self.sha256),)
        return (*own, *(other.digest for other in self.also))

    @property
    def megabytes(self) -> float:
        """Size in units of 10⁶ bytes; 0 if it is not known."""
        return self.about_mb or (self.n_bytes or 0) / 1e6

    @property
    def size(self) -> str:
        """Size as printed, such as `39 MB`."""
        return f"{self.megabytes:.0f} MB" if self.megabytes else "size not known"

    @property
    def remarks(self) -> str:
        """The note and the other published files, as one text."""
        others = (f"also {other.sha256[:12]}: {other.source}" for other in self.also)
        unconfirmed = "" if self.digests else "sha256 not confirmed: any content is accepted"
        return "; ".join(text for text in (self.note, self.gate, unconfirmed, *others) if text)

    def is_published(self, sha256: str) -> bool:
        """Whether a file with this SHA-256 is a published one."""
        return any(digest.sha256 == sha256 for digest in self.digests)


class _Table(FrozenModel):
    checkpoint: tuple[CheckpointSpec, ...]


@functools.cache
def specs() -> Mapping[str, CheckpointSpec]:
    """All published checkpoints by registry name, in the order of `checkpoints.toml`; read-only."""
    table = resources.files("mobilesam.weights").joinpath("checkpoints.toml")
    return parse_specs(table.read_text(encoding="utf-8"))


def parse_specs(text: str) -> Mapping[str, CheckpointSpec]:
    """Parses and validates a text in the format of `checkpoints.toml`."""
    try:
        table = _Table.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise WeightsError(f"checkpoints.toml is not TOML: {error}") from error
    except ValidationError as error:
        raise WeightsError(f"checkpoints.toml: {first_problem(error)}") from error
    found = {spec.name: spec for spec in table.checkpoint}
    if not len(found) == len({spec.file for spec in table.checkpoint}) == len(table.checkpoint):
        raise WeightsError("checkpoints.toml: a name or file appears twice")
    return MappingProxyType(found)
