"""Regression checks: the gate, comparison of runs, A/B measurement of commits."""
