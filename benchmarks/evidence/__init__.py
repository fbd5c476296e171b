"""Measurements and pages about this project itself: speed, scale, power of the gate, README."""
