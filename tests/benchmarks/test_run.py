"""A run imports only what it needs, and imports between packages point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILES = 60
"""Project files that `miou` imports until its record is written, besides models and datasets."""
SCRIPT = """
import sys
from benchmarks import api
from benchmarks.cli.app import main

def stop(record, folder):
    packages = ("mobilesam", "baselines", "benchmarks")
    files = {m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in packages}
    print(*sorted(f for f in files if f and not f.endswith("__init__.py")), sep="\\n")
    sys.exit()

api.write_tables_and_plots = stop
main(["miou", "--models=box", "--dataset=synthetic", "--limit=1", "--protocol=box", "--out=out",
      "--quiet"])
"""


def test_miou_imports_few_files_until_its_record_is_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    # Models and datasets are imported by name: `box` and `synthetic` here.
    own = ("baselines/classical.py", "datasets/synthetic.py", "datasets/scene.py")
    files = [file for file in done.stdout.split() if not file.endswith(own)]
    assert (tmp_path / "out" / "record.json").is_file()
    assert any(file.endswith("benchmarks/run.py") for file in files)
    assert len(files) <= MAX_FILES, "\n".join(files)


LOWER = ("records", "datasets", "prompts", "config")
FORBIDDEN = {
    **dict.fromkeys(LOWER, ("evaluation", "tables", "paper", "report", "regression")),
    "latency": ("evaluation", "tables", "paper", "report", "regression"),
    "evaluation": ("tables", "paper", "report", "regression"),
}
"""Packages that a package may not import, besides `cli` and those above `regression`."""
TOP = ("distillation", "evidence", "cli")


def imported(path: Path) -> Iterator[str]:
    """Names of modules that a file imports, at its top or in functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_lower_packages_do_not_import_higher_ones(package: str) -> None:
    higher = {f"benchmarks.{name}" for name in (*FORBIDDEN[package], *TOP, "run", "api")}
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "benchmarks" / package).rglob("*.py")
        for name in imported(path)
        if ".".join(name.split(".")[:2]) in higher
    }
    assert not found


def test_only_the_command_line_imports_itself() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "benchmarks").rglob("*.py")
        for name in imported(path)
        if name.startswith("benchmarks.cli") and "cli" not in path.parts
    }
    assert {line.partition(":")[0] for line in found} == {"benchmarks/__main__.py"}


def test_models_do_not_import_the_benchmarks() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for package, higher in (
            ("mobilesam", ("baselines", "benchmarks")),
            ("baselines", ("benchmarks",)),
        )
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] in higher
    }
    assert not found
