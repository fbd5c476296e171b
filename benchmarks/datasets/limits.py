"""Limits on the size of input data; anything larger is reported and not decoded."""

from __future__ import annotations

MAX_PIXELS = 100_000_000
"""Default limit on the pixels of an image (300 MB as RGB)."""

PIXELS_CEILING = 2**31 - 1
"""Largest limit a user can set: pycocotools counts the pixels of a mask in 32 bits."""

MAX_OUTLINE_PX = 10_000_000
"""Longest outline of a polygon: the rasteriser takes 40 bytes per pixel of it; usual are 1e5."""

MAX_PROBLEMS = 100
"""Number of malformed annotations that are listed; all are counted."""
