"""The command line: names of the commands, options of all commands, exit codes.

Each command is a function in `benchmarks.cli.commands`. Its parameters are the options, and its
docstring is the help text. These modules import nothing heavy before a command runs.
"""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter

from benchmarks import __version__
from benchmarks.child_processes import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    Terminated,
    wait_passively,
)
from benchmarks.cli.commands.printing import all_columns
from benchmarks.debugging import debugging, show_traceback
from benchmarks.records.progress import verbose_messages
from mobilesam.errors import BenchError, DataError, UsageError

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
GROUPS = {
    "weights": "List, fetch and verify published weights.",
    "data": "Make and check datasets.",
    "distill": "Train a student to imitate its teacher.",
    "regress": "Compare two versions of this code, measured in turns.",
}
COMMANDS = {
    "run": "measure:run",
    "params": "measure:params",
    "latency": "measure:latency",
    "miou": "measure:miou",
    "everything": "measure:everything",
    "paper": "paper:paper",
    "figures": "report:figures",
    "report": "report:report",
    "models": "inspection:models",
    "protocols": "inspection:protocols",
    "doctor": "inspection:doctor",
    "predict": "predict:predict",
    "demo": "demo:demo",
    "export": "export:export",
    "gate": "regression:gate",
    "compare": "regression:compare",
    "weights list": "weights:list_all",
    "weights fetch": "weights:fetch",
    "weights verify": "weights:verify",
    "data make": "data:make",
    "data boxes": "data:boxes",
    "data check": "data:check",
    "distill embed": "distill:embed",
    "distill verify": "distill:verify",
    "distill train": "distill:train",
    "distill mini": "distill:mini",
    "distill compare": "distill:compare",
    "regress run": "regression:regress_run",
    "regress measure": "regression:regress_measure",
    "regress judge": "regression:regress_judge",
}
"""Module and function of each command, below `benchmarks.cli.commands`; imported when needed."""
SECTIONS = {
    "Start": ("models", "weights", "protocols", "doctor", "predict", "demo", "data"),
    "Measure": ("run", "params", "latency", "miou", "everything", "paper"),
    "Compare": ("compare", "report", "figures", "gate", "regress"),
    "Train and export": ("distill", "export"),
}
"""Commands of each section of the help, in this order."""


def _shown_default(value: object) -> object:
    """The default that the help displays; None for flags and empty values."""
    return None if value is False or value == () else value


_EVERY_COMMAND = Group("Every command", sort_key=100)  # the last one
_COMMON = Parameter(group=_EVERY_COMMAND)
app = App(
    name="mobilesam-bench",
    help="Benchmarks for promptable segmentation: MobileSAM, SAM and FastSAM side by side.",
    version=__version__,
    default_parameter=Parameter(negative=(), show_default=_shown_default),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
_titles = {title: Group(title, sort_key=place) for place, title in enumerate(SECTIONS)}
_sections = {name: _titles[title] for title, names in SECTIONS.items() for name in names}
_apps = {"": app}
for _name, _text in GROUPS.items():
    _apps[_name] = App(name=_name, help=_text, group=_sections[_name])
    app.command(_apps[_name])
for _name, _function in COMMANDS.items():
    _group, _, _last = _name.rpartition(" ")
    _section = None if _group else _sections[_name]
    _apps[_group].command(f"benchmarks.cli.commands.{_function}", name=_last, group=_section)
app.register_install_completion_command(
    group=_EVERY_COMMAND,
    help="Install completion of commands and options for this shell.",
)
for _name in ("--help", "--version"):
    app[_name].group = _EVERY_COMMAND


@app.meta.default
def _command(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    wide: Annotated[bool, _COMMON] = False,
    verbose: Annotated[bool, _COMMON] = False,
    debug: Annotated[bool, _COMMON] = False,
) -> int:
    """Runs one command, with the options that all commands have.

    Args:
        tokens: The command and its arguments.
        wide: Print all columns of tables, however wide.
        verbose: Say what was taken from caches and earlier runs.
        debug: Show the traceback of every failure.
    """
    with debugging(wanted=debug), all_columns(wanted=wide), verbose_messages(wanted=verbose):
        return _exit_code(list(tokens))


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 something failed, 2 usage."""
    wait_passively()
    tokens = sys.argv[1:] if arguments is None else arguments
    if not tokens or {"--help", "-h"} & set(tokens):
        for each in _apps.values():
            each.resolved_commands()  # their docstrings are part of the list of commands
    try:
        code = app.meta(tokens, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return EXIT_USAGE
    return code if isinstance(code, int) else EXIT_DONE


def _exit_code(tokens: list[str]) -> int:
    try:
        code = app(tokens, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return EXIT_USAGE
    except UsageError as error:
        return _report_error(error, EXIT_USAGE)
    except BenchError as error:
        return _report_error(error, EXIT_FAILED)
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does.
        sys.stderr.close()
        return EXIT_FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        failed = DataError(f"{where}{error.strerror or error}")
        failed.__cause__ = error
        return _report_error(failed, EXIT_FAILED)
    except KeyboardInterrupt as error:
        sys.stderr.write("\ninterrupted; what was finished is kept\n")
        return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
    return code if isinstance(code, int) else EXIT_DONE


def _report_error(error: BenchError, code: int) -> int:
    show_traceback(error)
    sys.stderr.write(f"error: {error}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
