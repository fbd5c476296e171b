from __future__ import annotations

import inspect

import pytest
import torch

from mobilesam.fast import decoder_scripts, scripts
from mobilesam.fast.scripts import compiled

FUNCTIONS = [
    function
    for module in (scripts, decoder_scripts)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: str(each.__name__))
def test_torchscript_compiles_it(function: object) -> None:
    """Otherwise the network would work, and wait for the interpreter's lock."""
    assert compiled(function) is not function  # type: ignore[type-var]


def test_what_torchscript_does_not_know_runs_in_python() -> None:
    def unknown(values: set[int]) -> object:
        return dict.fromkeys(values, torch)

    assert compiled(unknown)({1}) == {1: torch}
