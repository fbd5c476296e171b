"""Fuzz tests of the readers of user files, and of models that threads share."""
