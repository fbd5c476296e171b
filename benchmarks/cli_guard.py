"""The command line of the guard against regressions: it parses, calls and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from benchmarks.cli_options import OutputArguments

_DEFAULT_OUTPUT = OutputArguments()


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


def compare(
    a: Path,
    b: Path,
    /,
    *,
    threshold: Annotated[
        float | None, Parameter(help="Ratio from which on times count as different; 1.05.")
    ] = None,
    output: OutputArguments = _DEFAULT_OUTPUT,
) -> int:
    """Show two runs side by side: what got better, what worse, what is the same within noise.

    A and B are folders of runs, or their records: two versions, two machines, two days.
    """
    from benchmarks.commands import compare as command

    return command.compare(a, b, threshold, output)


def add_commands(app: App) -> None:
    """Adds the guard's commands to the command line."""
    app.command(gate)
    app.command(compare)
