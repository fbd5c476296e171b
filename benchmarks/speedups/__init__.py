"""Committed benchmarks behind this project's own claims of speed: ratios within one run."""
