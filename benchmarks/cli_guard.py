"""The command line of the guard against regressions: it parses, calls and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter


def gate(
    *,
    models: Annotated[str, Parameter(help="Names or wildcards, separated by commas.")] = "*",
    baseline: Annotated[
        Path | None, Parameter(help="Its file; results/baselines/gate.json unless told.")
    ] = None,
    update: Annotated[bool, Parameter(help="Write the baseline anew; say what changed.")] = False,
    json: Annotated[bool, Parameter(help="Print one JSON document on standard output.")] = False,
    quiet: Annotated[bool, Parameter(help="Say only what is wrong.")] = False,
) -> int:
    """Compare all that needs no clock with the committed baseline: sizes, outputs, accuracy.

    Exit code 1: something changed. It takes a minute or two, no network and no other weights than
    the shipped ones.
    """
    from benchmarks.commands import gate as command

    return command.gate(models, baseline, update=update, as_json=json, quiet=quiet)


def add_commands(app: App) -> None:
    """Adds the guard's commands to the command line."""
    app.command(gate)
