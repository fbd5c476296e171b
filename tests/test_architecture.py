"""Imports between rooms point downwards in the table of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mobilesam", "baselines", "benchmarks")
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE)
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def room_of(module: str) -> str:
    """The longest row of the table that the module's name begins with."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def imports(path: Path) -> Iterator[str]:
    """Modules of this project that a file imports, at its top or in functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = [f"{node.module}.{each.name}" for each in node.names]
            names = [each if each in MODULES else node.module for each in members]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def test_every_room_is_in_the_table_and_holds_modules() -> None:
    folders = {
        f"benchmarks.{path.name}"
        for path in (ROOT / "benchmarks").iterdir()
        if (path / "__init__.py").is_file()
    }
    assert folders <= set(ROOMS)
    assert set(ROOMS) == {room_of(module) for module in MODULES}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downwards(room: str) -> None:
    above = ROOMS[: ROOMS.index(room)]
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES
        if room_of(module_of(path)) == room
        for name in imports(path)
        if room_of(name) in above and module_of(path) != "benchmarks"  # names of the API are lazy
    }
    assert not found


def test_files_that_the_page_names_exist() -> None:
    named = re.findall(r"`((?:mobilesam|baselines|benchmarks|tests)/[\w/.*-]+)", PAGE)
    assert named
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=str)
def test_no_folder_holds_twenty_files(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) < 20
