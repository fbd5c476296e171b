"""Finished parts of a run, kept on disk under a content key, so that a restart repeats nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from benchmarks.records.environment import code_version, library_versions
from benchmarks.records.record import write_atomic
from mobilesam.frozen_model import FrozenModel

CACHE_FOLDER = "cells"
"""Folder of cached results in the folder of a run."""

ValueT = TypeVar("ValueT", bound=FrozenModel)


def content_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the parts, of this suite's own code, and of the libraries that matter."""
    whole = {"code": code_version(), "libraries": library_versions(), **parts}
    text = json.dumps(whole, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class ResultCache:
    """A folder of finished parts.

    Args:
        folder: Created when the first part is written; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, parts: Mapping[str, Any], kind: type[ValueT]) -> ValueT | None:
        """The part made under the same key, or None; an unreadable one counts as missing."""
        if self._folder is None:
            return None
        path = self._path(self._folder, parts)
        if not path.is_file():
            return None
        try:
            return kind.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def put(self, parts: Mapping[str, Any], value: FrozenModel) -> None:
        """Keeps a finished part."""
        if self._folder is not None:
            write_atomic(self._path(self._folder, parts), value.model_dump_json().encode())

    @staticmethod
    def _path(folder: Path, parts: Mapping[str, Any]) -> Path:
        return folder / f"{content_key(parts)}.json"
