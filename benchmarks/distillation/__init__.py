"""Distillation as an experiment: training data, the mini family, and the schemes compared."""
