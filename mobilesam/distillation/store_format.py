"""What an embedding store looks like on disk.

A store is a folder:

    manifest.json            whose embeddings these are, and of what shape
    shards.jsonl             one line a finished shard: its name, size and SHA-256
    shard-000000.safetensors float16 embeddings under their images' keys; the header lists them
    pending/                 embeddings that do not fill a shard yet, one a file
    .lock                    held by the one process that may write

A finished shard never changes. The list of shards is only ever appended to, so that writing a store
of any size takes time in proportion to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mobilesam.errors import DataError, UsageError, WeightsError
from mobilesam.validation import first_problem

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "shards.jsonl"
PENDING_NAME = "pending"
LOCK_NAME = ".lock"
SUFFIX = ".safetensors"
_HEADER_KEY = "mobilesam-bench"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pixels = Annotated[int, Field(ge=1)]
SizeHw = tuple[Pixels, Pixels]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Teacher(_Part):
    """What decides an embedding, besides the image: a store holds those of one teacher only.

    The device is left out: it decides no more than the last digits, which float16 does not hold.

    Attributes:
        name: The model's registry name.
        weights_sha256: Of its checkpoint; None for a model that has no weights.
        precision: `fp32`, `fp16` or `bf16`, what the encoder computed in.
        input_size_px: The longest side of an image is brought to this; the rest is padding.
    """

    name: str
    weights_sha256: Sha256 | None
    precision: str
    input_size_px: Pixels


class StoreManifest(_Part):
    """Whose embeddings a store holds, and how."""

    format: Literal["mobilesam-bench embeddings"] = "mobilesam-bench embeddings"
    version: Literal[1] = 1
    teacher: Teacher
    embedding_shape: tuple[Pixels, Pixels, Pixels] = Field(description="channels, rows, columns")
    dtype: Literal["float16"] = "float16"
    note: str | None = Field(default=None, description="what the user wants remembered of it")

    @property
    def embedding_bytes(self) -> int:
        """Bytes that one embedding takes, without its part of a header."""
        channels, rows, columns = self.embedding_shape
        return 2 * channels * rows * columns


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a store.

    Attributes:
        key: `image_key` of its pixels.
        name: What its dataset calls it; for people, and to find the picture again.
        size_hw: Height and width of the image, in pixels.
        inner_hw: Height and width that it was resized to, in pixels; to the right of and below it
            lies padding, up to the teacher's input size.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    key: Sha256
    name: str
    size_hw: SizeHw
    inner_hw: SizeHw


class ShardHeader(_Part):
    """What a shard says of itself, so that it is of use without the rest of its store."""

    teacher: Teacher
    entries: tuple[Entry, ...]
    data_sha256: Sha256


class ShardLine(_Part):
    """One line of the list of shards."""

    file: str = Field(pattern=r"^shard-[0-9]{6,}\.safetensors$")
    n_embeddings: Annotated[int, Field(ge=1)]
    n_bytes: Annotated[int, Field(ge=1)]
    sha256: Sha256


def image_key(image: npt.NDArray[np.uint8]) -> str:
    """The name of an image's content: SHA-256 (hex) of its size and pixels.

    Pixels and not the file's bytes: an embedding is a function of the pixels; they are what every
    dataset hands out (a tar, a folder, a rendered scene that never was a file); and one file can be
    two images, as its EXIF orientation is applied or not. What it costs: an image must be decoded
    to be found, and a decoder that rounds differently makes another key.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    digest = hashlib.sha256(f"rgb8 {image.shape[0]}x{image.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def require_teacher(found: Teacher, wanted: Teacher, folder: Path) -> None:
    """Refuses a store of another teacher, whose embeddings would be silently wrong.

    Raises:
        UsageError: Another model, precision or input size.
        WeightsError: The same model with other weights.
    """
    cure = "choose another store, or the teacher that made this one"
    for field, what in (
        ("name", "the teacher"),
        ("input_size_px", "input size (px)"),
        ("precision", "precision"),
    ):
        theirs, ours = getattr(found, field), getattr(wanted, field)
        if theirs != ours:
            raise UsageError(f"{folder} was made with {what} {theirs}, not {ours}; {cure}")
    if found.weights_sha256 != wanted.weights_sha256:
        raise WeightsError(
            f"{folder} was made by {found.name} with weights {found.weights_sha256 or 'none'}, "
            f"not {wanted.weights_sha256 or 'none'}; {cure}"
        )


def read_manifest(folder: Path) -> StoreManifest | None:
    """The manifest of a store; None where the folder holds none.

    Raises:
        DataError: It cannot be read, or is not one of this version.
    """
    path = folder / MANIFEST_NAME
    try:
        return StoreManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(
            f"{path} is not the manifest of an embedding store of this version: "
            f"{first_problem(error)}"
        ) from error


def read_index(folder: Path) -> list[ShardLine]:
    """The list of shards in order; a last line that a kill has cut short is left out.

    Raises:
        DataError: It cannot be read, or is damaged elsewhere.
    """
    path = folder / INDEX_NAME
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    lines = []
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            lines.append(ShardLine.model_validate_json(text))
        except ValidationError as error:
            raise DataError(
                f"{path} is damaged in line {number} ({first_problem(error)}); delete that file, "
                "and distill embed makes it again from the shards"
            ) from error
    return lines


def index_bytes(lines: Sequence[ShardLine]) -> bytes:
    """The list of shards, or a part of it, as it is written."""
    return "".join(f"{line.model_dump_json()}\n" for line in lines).encode()


def damage(folder: Path, line: ShardLine) -> str | None:
    """What a look at its size tells to be wrong with a shard; None if nothing."""
    path = folder / line.file
    try:
        found_bytes = path.stat().st_size
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"fails: {error.strerror}"
        return f"{path} {why} ({line.n_embeddings} embeddings)"
    if found_bytes != line.n_bytes:
        return (
            f"{path} has {found_bytes} bytes of {line.n_bytes}: cut short or overwritten "
            f"({line.n_embeddings} embeddings)"
        )
    return None


def pack(teacher: Teacher, embeddings: Sequence[tuple[Entry, Tensor]]) -> bytes:
    """A shard as bytes: the same embeddings in the same order give the same bytes.

    Args:
        teacher: Who made them.
        embeddings: Entries with (C, h, w) float16 tensors on the host.
    """
    from safetensors.torch import save

    header = ShardHeader(
        teacher=teacher,
        entries=tuple(entry for entry, _ in embeddings),
        data_sha256=data_digest([tensor for _, tensor in embeddings]),
    )
    # A single field of metadata, as the library writes several in no fixed order.
    metadata = {_HEADER_KEY: header.model_dump_json()}
    return save({entry.key: tensor for entry, tensor in embeddings}, metadata)


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A shard that is mapped into memory.

    Attributes:
        header: What it says of itself.
    """

    header: ShardHeader
    _file: Any

    def embedding(self, key: str) -> Tensor:
        """(C, h, w) float16 on the host: a view of the mapped file."""
        found: Tensor = self._file.get_tensor(key)
        return found

    def kinds(self) -> set[tuple[tuple[int, ...], str]]:
        """Shapes and types of all its tensors."""
        parts = [self._file.get_slice(entry.key) for entry in self.header.entries]
        return {(tuple(part.get_shape()), part.get_dtype()) for part in parts}


def open_shard(path: Path) -> Shard:
    """Maps a shard into memory and reads its header; the data is not looked at.

    Raises:
        DataError: Missing, cut short, or not a shard of an embedding store.
    """
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="pt")
        header = ShardHeader.model_validate_json((file.metadata() or {}).get(_HEADER_KEY, ""))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise DataError(f"{path} is damaged or cut short: {error}") from error
    except ValidationError as error:
        raise DataError(
            f"{path} is not a shard of an embedding store: {first_problem(error)}"
        ) from error
    if sorted(file.keys()) != sorted(entry.key for entry in header.entries):
        raise DataError(f"{path} is damaged: its header lists other embeddings than it holds")
    return Shard(header, file)


def unpack(path: Path) -> list[tuple[Entry, Tensor]]:
    """All of a shard, with its data compared with their hash.

    Raises:
        DataError: Missing, cut short, changed, or not a shard of an embedding store.
    """
    shard = open_shard(path)
    embeddings = [(entry, shard.embedding(entry.key)) for entry in shard.header.entries]
    if data_digest([tensor for _, tensor in embeddings]) != shard.header.data_sha256:
        raise DataError(f"{path} is damaged: its data are not those that were written")
    return embeddings


def data_digest(tensors: Sequence[Tensor]) -> str:
    """SHA-256 (hex) of the bytes of tensors, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def valid_cells(
    inner_hw: tuple[int, int], input_size_px: int, grid_hw: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of an embedding that see any of the image: the rest sees padding alone.

    Args:
        inner_hw: Height and width of the resized image, in pixels of the network's input.
        input_size_px: Side of that input.
        grid_hw: Rows and columns of the embedding.
    """
    # A cell on the edge sees both and counts, hence rounded up.
    rows, columns = (
        -(-inner * cells // input_size_px) for inner, cells in zip(inner_hw, grid_hw, strict=True)
    )
    return rows, columns
