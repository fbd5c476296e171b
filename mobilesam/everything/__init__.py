"""Automatic mask generation: from a grid of points, hierarchical, or object-aware."""
