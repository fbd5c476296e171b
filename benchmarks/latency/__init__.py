"""Timing in fresh worker processes; parameters and FLOPs."""
