"""Rendered scenes: content, resume, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.distillation import scenes
from benchmarks.distillation.mini_family import TRAINING_SCENES
from benchmarks.distillation.scenes import SceneCache, ScenesSpec, render_scenes
from mobilesam.errors import DataError, UsageError

SPEC = ScenesSpec(n_scenes=3, seed=5, side_px=64, shard_scenes=2)


def test_cached_scenes_equal_drawn_ones(tmp_path: Path) -> None:
    assert list(render_scenes(tmp_path, SPEC)) == [0, 2, 4]
    cache = SceneCache(tmp_path, SPEC)
    assert len(cache) == 3
    for index in range(3):
        drawn = SyntheticDataset(1, seed=5).scene(index)
        sample = cache.sample(index)
        small = Image.fromarray(drawn.image).resize((64, 48), Image.Resampling.BILINEAR)
        assert np.array_equal(sample.image, np.asarray(small))
        assert sample.labels is not None
        assert sample.labels.shape == (96, 128)
        shares = [(sample.labels == number + 1).mean() for number in range(len(drawn.masks))]
        assert shares == pytest.approx([mask.mean() for mask in drawn.masks], abs=0.01)
    assert cache.sample(0).key != cache.sample(1).key


def test_rendered_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendering = render_scenes(tmp_path, SPEC)
    assert [next(rendering), next(rendering)] == [0, 2]
    rendering.close()
    done: list[int] = []
    real = scenes._render_shard

    def counted(job: tuple[Path, ScenesSpec, int]) -> int:
        done.append(job[2])
        return real(job)

    monkeypatch.setattr(scenes, "_render_shard", counted)
    assert list(render_scenes(tmp_path, SPEC)) == [2, 4]
    assert done == [1]
    assert list(render_scenes(tmp_path, SPEC)) == [4]


def test_damaged_file(tmp_path: Path) -> None:
    list(render_scenes(tmp_path, SPEC))
    shard = tmp_path / SPEC.folder_name / "labels-00001.npy"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DataError, match="labels-00001"):
        SceneCache(tmp_path, SPEC)
    shard.unlink()
    with pytest.raises(DataError, match="missing"):
        SceneCache(tmp_path, SPEC)


def test_invalid_specs_and_training_seed() -> None:
    with pytest.raises(UsageError):
        ScenesSpec(0, 1, 64)
    assert TRAINING_SCENES.seed != 0
