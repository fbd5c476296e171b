"""Help, version and imports of the command line."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.cli.app import COMMANDS, GROUPS, app
from mobilesam.errors import BenchError, UsageError

HEAVY = """
import sys
from benchmarks.cli.app import main
for line in {lines!r}:
    main(line.split())
heavy = {{'torch', 'numpy', 'pandas', 'matplotlib', 'scipy', 'cv2', 'pydantic'}}
sys.exit(f'imported {{heavy & set(sys.modules)}}' if heavy & set(sys.modules) else 0)
"""


def test_help_lists_all_commands_and_imports_nothing_heavy() -> None:
    """Help is slow if imports are slow; commands import heavy modules when they run."""
    lines = ["--help", *(f"{command} --help" for command in COMMANDS)]
    code = HEAVY.format(lines=lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listing = done.stdout.partition("Usage: mobilesam-bench run")[0]
    for command in (*GROUPS, *(name for name in COMMANDS if " " not in name)):
        assert f" {command} " in listing
    assert "Measure mean IoU under named protocols" in listing


def test_each_command_has_a_summary() -> None:
    for name in COMMANDS:
        command = app
        for part in name.split():
            command = command[part]
        assert command.help, name
        assert command.default_command is not None, name


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "benchmarks", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.1.0"


def test_usage_errors_are_bench_errors() -> None:
    assert issubclass(UsageError, BenchError)
