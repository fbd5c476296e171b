"""MobileSAM: SAM's image encoder distilled into a 5M-parameter TinyViT (arXiv 2306.14289)."""
