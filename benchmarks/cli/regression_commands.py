"""The command line of the guard against regressions: it parses, calls and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from benchmarks.config.options import OutputArguments, RegressArguments

_DEFAULT_OUTPUT = OutputArguments()
_Threshold = Annotated[
    float | None, Parameter(help="Ratio from which on a change is a regression; 1.1.")
]
_Json = Annotated[bool, Parameter(help="Print one JSON document on standard output.")]

regress_app = App(name="regress", help="Compare two versions of this code, measured in turns.")


def gate(
    *,
    models: Annotated[str, Parameter(help="Names or wildcards, separated by commas.")] = "*",
    baseline: Annotated[
        Path | None, Parameter(help="Its file; results/baselines/gate.json unless told.")
    ] = None,
    update: Annotated[bool, Parameter(help="Write the baseline anew; say what changed.")] = False,
    json: _Json = False,
    quiet: Annotated[bool, Parameter(help="Say only what is wrong.")] = False,
) -> int:
    """Compare all that needs no clock with the committed baseline: sizes, outputs, accuracy.

    Exit code 1: something changed. It takes a minute or two, no network and no other weights than
    the shipped ones.
    """
    from benchmarks.cli.commands import gate as command

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
    from benchmarks.cli.commands import compare as command

    return command.compare(a, b, threshold, output)


@regress_app.command(name="run")
def regress_run(
    *, versions: RegressArguments, threshold: _Threshold = None, json: _Json = False
) -> int:
    """Measure --base and this working tree in turns, judge, and repeat what looks worse.

    Exit code 1: something is slower, larger or less accurate, and the repetition confirms it.
    """
    from benchmarks.cli.commands import regress

    return regress.run(versions, threshold, as_json=json)


@regress_app.command(name="measure")
def regress_measure(*, versions: RegressArguments) -> int:
    """Measure both versions once and keep the record; judge nothing."""
    from benchmarks.cli.commands import regress

    return regress.measure(versions)


@regress_app.command(name="judge")
def regress_judge(folder: Path, /, *, threshold: _Threshold = None, json: _Json = False) -> int:
    """Judge what regress run or measure has left in a folder, perhaps by another threshold."""
    from benchmarks.cli.commands import regress

    return regress.judge_again(folder, threshold, as_json=json)


def add_commands(app: App) -> None:
    """Adds the guard's commands to the command line."""
    app.command(gate)
    app.command(compare)
    app.command(regress_app)
