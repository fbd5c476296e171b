"""Prompt samplers, manifests and protocols."""
