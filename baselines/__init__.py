"""Every promptable segmentation model behind one interface."""

DEFAULT_SELECTION = "default"
"""In place of a model's name: all models that can run here, except those for tests."""
