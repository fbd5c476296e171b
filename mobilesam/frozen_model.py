"""The base class of all pydantic models of this project."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mobilesam.errors import DataError, first_problem


class FrozenModel(BaseModel):
    """An immutable model that refuses unknown fields, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_file(cls, path: Path, kind: str, hint: str = "") -> Self:
        """Reads a JSON file of some kind, such as "record".

        A `DataError` that ends with the hint if the file is missing, unreadable or something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"cannot read the {kind} {path}: {error.strerror}{hint}") from error
        except ValidationError as error:
            why = first_problem(error)
            raise DataError(f"{path} is not a {kind} of this version: {why}{hint}") from error
