"""segment-anything without torchvision: what a first prediction imports, and deferred packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilesam.deferred_package import defer_package

ROOT = Path(__file__).resolve().parents[2]
FIRST_BOX = """
import sys
import numpy as np
from mobilesam.predictor import MobileSam

model = MobileSam.from_checkpoint("mobilesam/weights/mobilesam-mini.safetensors")
model.set_image(np.zeros((60, 80, 3), np.uint8))
model.predict(box=np.array([10, 10, 50, 50]))
heavy = "torchvision torch._dynamo sympy pandas matplotlib scipy cv2 pycocotools".split()
assert not sys.modules.keys() & set(heavy), sys.modules.keys() & set(heavy)
import baselines.sam  # the published model, as it is timed and scored
assert "torchvision" not in sys.modules
"""


def test_a_first_box_imports_neither_torchvision_nor_the_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_BOX], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package whose `__init__` counts its executions in a file."""
    folder = tmp_path / "deferred_example"
    folder.mkdir()
    (folder / "part.py").write_text("value = 1\n")
    (folder / "__init__.py").write_text(
        "from pathlib import Path\n"
        "with (Path(__file__).parent / 'count').open('a') as file:\n    file.write('x')\n"
        "from .part import value as name\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield str(folder)
    for name in ("deferred_example", "deferred_example.part"):
        sys.modules.pop(name, None)


def test_a_package_is_executed_once_by_a_name_of_it_and_not_by_a_submodule(package: str) -> None:
    defer_package("deferred_example")
    import deferred_example.part

    count = Path(package) / "count"
    assert not count.exists()
    assert not hasattr(deferred_example, "__wrapped__")
    assert deferred_example.part.value == 1
    from deferred_example import name

    assert name == 1
    assert not hasattr(deferred_example, "other")
    assert count.read_text() == "x"


def test_packages_that_are_imported_or_missing_stay_as_they_are() -> None:
    import json as before

    defer_package("json")
    assert sys.modules["json"] is before
    defer_package("no_such_package_here")
    assert "no_such_package_here" not in sys.modules
