"""Command-line arguments to one run configuration: models, weights, data."""
