"""Datasets: images with reference masks; data beyond the limits is reported and not decoded."""

MAX_PIXELS = 100_000_000
"""Default limit on the pixels of an image (300 MB as RGB)."""
PIXELS_CEILING = 2**31 - 1
"""Largest limit a user can set: pycocotools counts the pixels of a mask in 32 bits."""
MAX_PROBLEMS = 100
"""Number of malformed annotations that are listed; all are counted."""
