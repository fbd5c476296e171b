"""Networks: TinyViT, the heads of SAM, and loading of state dicts."""
