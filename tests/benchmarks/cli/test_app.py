"""Help, version and imports of the command line."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from benchmarks.cli.app import COMMANDS, GROUPS, SECTIONS, app
from benchmarks.prompts.protocols import EXPLAINED, find_protocols
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


def test_every_command_is_in_one_section_of_the_help() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted({name.partition(" ")[0] for name in COMMANDS})


def test_the_help_names_all_protocols_and_a_command_explains_them(run: Any) -> None:
    text = " ".join(run("miou", "--help").out.replace("│", " ").split())
    for name in EXPLAINED:
        assert f"{name}," in text or f"{name} (" in text or f"{name};" in text, name
    found = run("protocols", "--json").json
    assert [row["protocol"] for row in found["rows"]] == list(EXPLAINED)
    whole = ("detector-box", "detector-box-multi", "everything")
    examples = [name.replace("-K", "-3").replace("-D", "-9").replace("-P", "-10")
                for name in EXPLAINED if name not in whole]  # fmt: skip
    assert len(find_protocols(examples)) >= len(examples) - 2


def test_completion_knows_commands_and_options() -> None:
    script = app.generate_completion(shell="bash")  # noqa: S604 - runs nothing
    for word in ("miou", "predict", "weights", "--protocol", "--boxes-from", "--mask"):
        assert word in script


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "benchmarks", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.1.0"


def test_usage_errors_are_bench_errors() -> None:
    assert issubclass(UsageError, BenchError)
