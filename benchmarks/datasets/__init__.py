"""Datasets: images with reference masks."""
