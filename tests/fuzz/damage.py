"""Hypothesis strategies that damage valid input: documents by key, files by byte."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_REMOVED = object()
_TWICE = object()

Path = tuple[str | int, ...]


def _hostile() -> st.SearchStrategy[Any]:
    odd_numbers = [0, -1, 1, 2**31, 2**32, 2**63, -(2**63) - 1, 10**400, 0.5, 1e9, 1e308]
    odd_texts = ["", "\ud800", "\0", "a\nb", "../x.png", "/etc/passwd", "x" * 5000, "é", "NaN"]
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**40), 2**40),
        st.sampled_from(odd_numbers),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(odd_texts),
    )
    nested = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=6,
    )
    return st.one_of(nested, st.just(deep), st.just(_REMOVED), st.just(_TWICE))


HOSTILE = _hostile()
"""Invalid and valid values of all types, and two markers: remove the value, repeat the value."""


def damaged_document(document: Any) -> st.SearchStrategy[Any]:
    """Copies of a JSON document with one to three values replaced, removed or repeated."""
    places = list(_places(document, ()))
    changes = st.lists(st.tuples(st.sampled_from(places), HOSTILE), min_size=1, max_size=3)
    return changes.map(lambda found: _changed(document, found))


def _places(value: Any, path: Path) -> Iterator[Path]:
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in items or (enumerate(value) if isinstance(value, list) else ()):
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _changed(document: Any, changes: list[tuple[Path, Any]]) -> Any:
    result = copy.deepcopy(document)
    for (*parents, last), value in changes:
        at = result
        try:
            for key in parents:
                at = at[key]
            if value is _REMOVED:
                del at[last]
            elif value is _TWICE:
                at.append(copy.deepcopy(at[last]))
            else:
                at[last] = copy.deepcopy(value)
        except (LookupError, TypeError, AttributeError):
            continue  # an earlier change has removed this place
    return result


def damaged(good: bytes, head_bytes: int | None = None) -> st.SearchStrategy[bytes]:
    """Copies of a file with bytes changed, removed or inserted, or truncated copies.

    Args:
        good: Content of the valid file.
        head_bytes: Size of the header; half of the changes are made in it.
    """
    last = len(good) - 1
    places = st.integers(0, last)
    if head_bytes is not None:
        places = st.one_of(st.integers(0, min(head_bytes, last)), places)
    pieces = st.one_of(
        st.binary(min_size=1, max_size=1),
        st.binary(max_size=12),
        st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f" * 4]),
    )
    edits = st.lists(st.tuples(places, st.integers(0, 8), pieces), min_size=1, max_size=4)
    return st.one_of(
        edits.map(lambda found: _edited(good, found)),
        places.map(lambda place: good[:place]),
    )


def _edited(good: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    result = bytearray(good)
    for place, n_bytes, piece in edits:
        # Mostly in place: most readers detect an insertion at once, since it moves all later bytes.
        width = len(piece) if n_bytes else 0
        result[place : place + width] = piece
    return bytes(result)
