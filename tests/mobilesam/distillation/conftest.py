"""Small embeddings for the tests of the store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_store import Pair, fill
from torch import Tensor

from mobilesam.distillation.embedding_store import Entry, Teacher

SHAPE = (2, 3, 4)


@pytest.fixture
def teacher() -> Teacher:
    return Teacher(name="t", weights_sha256="a" * 64, precision="fp32", input_size_px=64)


@pytest.fixture
def pair() -> Pair:
    """Entry and embedding number i, always the same."""

    def make(i: int) -> tuple[Entry, Tensor]:
        entry = Entry(f"{i:064x}", f"image {i}.jpg", (10 + i, 20), (32, 64))
        generator = torch.Generator().manual_seed(i)
        return entry, torch.randn(SHAPE, generator=generator).half()

    return make


@pytest.fixture
def five(tmp_path: Path, teacher: Teacher, pair: Pair) -> Path:
    """Five embeddings in three shards."""
    fill(tmp_path / "five", teacher, pair, range(5))
    return tmp_path / "five"
