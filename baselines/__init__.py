"""Every promptable segmentation model behind one interface."""

DEFAULT_SELECTION = "default"
"""Name that selects all models that can run here, except those for tests and experiments."""
