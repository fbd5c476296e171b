"""How much is read at most: what is larger is reported, and never unpacked."""

from __future__ import annotations

MAX_PIXELS = 100_000_000
"""Larger pictures are refused unless the user allows them (this many are 300 MB as RGB)."""

PIXELS_CEILING = 2**31 - 1
"""What a user can allow at most: pycocotools counts the pixels of a mask in 32 bits."""

MAX_OUTLINE_PX = 10_000_000
"""Longest outline of a polygon. The rasteriser takes 40 bytes a pixel of it; real ones have 1e5."""

MAX_PROBLEMS = 100
"""Malformed annotations that are told one by one; all are counted."""
