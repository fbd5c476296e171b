"""Every promptable segmentation model behind one interface."""
