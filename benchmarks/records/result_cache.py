"""Cache of finished results of a run, so that a resumed run repeats nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from benchmarks.records.environment import code_version, library_versions
from mobilesam.files import write_atomic
from mobilesam.frozen_model import FrozenModel

CACHE_FOLDER = "cells"
"""Folder of cached results in the folder of a run."""

ResultT = TypeVar("ResultT", bound=FrozenModel)


def content_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the parts, the code of this suite and the versions of libraries."""
    whole = {"code": code_version(), "libraries": library_versions(), **parts}
    text = json.dumps(whole, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class ResultCache:
    """A folder of results, one JSON file per key; without a folder, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, parts: Mapping[str, Any], kind: type[ResultT]) -> ResultT | None:
        """Returns the result stored under a key, see `content_key`; None if there is none.

        An unreadable file counts as missing.
        """
        if self._folder is None:
            return None
        path = self._folder / f"{content_key(parts)}.json"
        try:
            return kind.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def put(self, parts: Mapping[str, Any], result: FrozenModel) -> None:
        """Stores a result under its key."""
        if self._folder is not None:
            path = self._folder / f"{content_key(parts)}.json"
            write_atomic(path, result.model_dump_json().encode())
