"""What pydantic says of a value that it refuses, in one line."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """The first thing that was refused: its place, the rule, and the start of the value."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "top level"
    # What a missing key should have been in is named by whoever reads it.
    value = "" if first["type"] == "missing" else f"; got {reprlib.repr(first['input'])}"
    # pydantic's message would name the class, which is internal to this code.
    is_class = first["type"] in ("model_type", "model_attributes_type", "dataclass_type")
    text = "Input should be an object with named fields" if is_class else first["msg"]
    return f"{place}: {text}{value}"
