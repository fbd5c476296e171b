"""What is known of the published checkpoints: `checkpoints.toml`, parsed and validated."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from mobilesam.errors import WeightsError

CheckpointFormat = Literal["state_dict", "pickle"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The identity of a file's content.

    Attributes:
        n_bytes: Size of the file.
        sha256: Full SHA-256 as 64 lower-case hex digits.

    Raises:
        WeightsError: A size below one or a malformed digest.
    """

    n_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if type(self.n_bytes) is not int or self.n_bytes < 1:
            raise WeightsError(f"bytes must be a positive integer; got {self.n_bytes!r}")
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise WeightsError(
                f"sha256 must be 64 lower-case hexadecimal digits; got {self.sha256!r}"
            )


@dataclass(frozen=True, slots=True)
class ShippedFile:
    """Weights inside this package that are used if the published file is not available.

    Attributes:
        file: Its name in `mobilesam/weights`.
        digest: Size and SHA-256.
        label: Where the weights come from and how they are stored, in a few words.
        licence: SPDX identifier.

    Raises:
        WeightsError: A field is malformed.
    """

    file: str
    digest: FileDigest
    label: str
    licence: str

    def __post_init__(self) -> None:
        for field in ("file", "label", "licence"):
            if not isinstance(getattr(self, field), str) or not getattr(self, field):
                raise WeightsError(f"{field} must be text; got {getattr(self, field)!r}")


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """A published checkpoint.

    Attributes:
        name: Registry name of the model that it belongs to.
        file: Its official file name.
        url: Where it is published (http or https).
        digests: Content that counts as published; the first is the principal one. More than one
            where publishers re-saved the same weights.
        licence: SPDX identifier of the weights' licence as their publisher states it.
        format: `state_dict` (tensors only) or `pickle` (loading it runs code).
        note: What a user should know about the figures above; may be empty.
        shipped: Weights of the same architecture inside this package, or None.

    Raises:
        WeightsError: A field is malformed.
    """

    name: str
    file: str
    url: str
    digests: tuple[FileDigest, ...]
    licence: str
    format: CheckpointFormat
    note: str = ""
    shipped: ShippedFile | None = None

    def __post_init__(self) -> None:
        for field in ("name", "file", "url", "licence", "note"):
            if not isinstance(getattr(self, field), str):
                raise WeightsError(f"{field} must be text; got {getattr(self, field)!r}")
        if not self.name or not self.licence:
            raise WeightsError("name and licence must not be empty")
        if not self.file or PurePath(self.file).name != self.file or self.file.startswith("."):
            raise WeightsError(f"file must be a bare, visible file name; got {self.file!r}")
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise WeightsError(f"url must be an http(s) address; got {self.url!r}")
        if self.format not in get_args(CheckpointFormat):
            raise WeightsError(
                f"format must be one of {', '.join(get_args(CheckpointFormat))}; "
                f"got {self.format!r}"
            )
        if not self.digests:
            raise WeightsError("at least one digest is needed")

    @property
    def n_bytes(self) -> int:
        """Size of the principal published file."""
        return self.digests[0].n_bytes

    @property
    def sha256(self) -> str:
        """Digest of the principal published file."""
        return self.digests[0].sha256

    def is_published(self, sha256: str) -> bool:
        """Tells whether a file with this full digest is a published one."""
        return any(digest.sha256 == sha256 for digest in self.digests)


@functools.cache
def specs() -> Mapping[str, CheckpointSpec]:
    """All published checkpoints by registry name, in the order of `checkpoints.toml`; read-only."""
    table = resources.files("mobilesam.weights").joinpath("checkpoints.toml")
    text = table.read_text(encoding="utf-8")
    return parse_specs(text)


def parse_specs(text: str) -> Mapping[str, CheckpointSpec]:
    """Parses the format of `checkpoints.toml`.

    Args:
        text: TOML with one `[[checkpoint]]` table a file: name, file, url, bytes, sha256, licence,
            format, and optionally note, `also` tables (bytes, sha256, source) and a `shipped` table
            (file, bytes, sha256, label, licence).

    Returns:
        A read-only mapping by name, in the order of the text.

    Raises:
        WeightsError: The text is not TOML, or an entry is malformed or named twice; the message
            says which.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WeightsError(f"checkpoints.toml is not TOML: {error}") from error
    entries = document.pop("checkpoint", None)
    if document or not isinstance(entries, list):
        raise WeightsError("checkpoints.toml must hold [[checkpoint]] tables and nothing else")
    found: dict[str, CheckpointSpec] = {}
    files: set[str] = set()
    for row, entry in enumerate(entries):
        try:
            spec = _parse_entry(entry)
            if spec.name in found or spec.file in files:
                raise WeightsError(f"{spec.name} or {spec.file} appears twice")
        except WeightsError as error:
            label = entry.get("name", f"number {row}") if isinstance(entry, dict) else row
            raise WeightsError(f"checkpoints.toml, entry {label}: {error}") from error
        found[spec.name] = spec
        files.add(spec.file)
    return MappingProxyType(found)


def _parse_entry(entry: Any) -> CheckpointSpec:
    required = {"name", "file", "url", "bytes", "sha256", "licence", "format"}
    _check_keys(entry, required, {"note", "also", "shipped"})
    others = entry.get("also", [])
    if not isinstance(others, list):
        raise WeightsError(f"also must be a list of tables; got {others!r}")
    for other in others:
        _check_keys(other, {"bytes", "sha256", "source"}, set())
    return CheckpointSpec(
        name=entry["name"],
        file=entry["file"],
        url=entry["url"],
        digests=tuple(FileDigest(each["bytes"], each["sha256"]) for each in (entry, *others)),
        licence=entry["licence"],
        format=entry["format"],
        note="; ".join(
            text
            for text in (
                entry.get("note", ""),
                *(f"also {each['sha256'][:12]}: {each['source']}" for each in others),
            )
            if text
        ),
        shipped=_parse_shipped(entry["shipped"]) if "shipped" in entry else None,
    )


def _parse_shipped(table: Any) -> ShippedFile:
    _check_keys(table, {"file", "bytes", "sha256", "label", "licence"}, set())
    digest = FileDigest(table["bytes"], table["sha256"])
    return ShippedFile(table["file"], digest, table["label"], table["licence"])


def _check_keys(table: Any, required: set[str], optional: set[str]) -> None:
    if not isinstance(table, dict):
        raise WeightsError(f"must be a table; got {table!r}")
    missing, unknown = required - table.keys(), table.keys() - required - optional
    if missing or unknown:
        raise WeightsError(f"missing keys {sorted(missing)}, unknown keys {sorted(unknown)}")
