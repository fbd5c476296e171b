"""MobileSAM: SAM's image encoder distilled into a 5M-parameter TinyViT (arXiv 2306.14289)."""

from mobilesam.deferred_package import defer_package

# Its `__init__` imports torchvision, which takes as long as torch; the networks need neither.
defer_package("segment_anything")
