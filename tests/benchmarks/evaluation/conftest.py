"""Small shards in SA-1B's format."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_sa1b


@pytest.fixture(scope="session")
def shards_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven scenes in three tars."""
    folder = tmp_path_factory.mktemp("scale-shards")
    scenes = SyntheticDataset(n_images=11, seed=2, size_hw=(48, 64), n_objects=(2, 4))
    write_sa1b(scenes, folder, tar=True, images_per_tar=4)
    return folder


@pytest.fixture
def shards(shards_source: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    import shutil

    return Path(shutil.copytree(shards_source, tmp_path / "shards"))
