"""Images of a folder, in shards that any process can read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.dataset import Sample, UnreadableImage
from benchmarks.distillation.folder_images import FolderImages


def test_shards_read_the_same_images_from_any_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "a.jpg").write_bytes(b"no picture")
    Path(os.fsdecode(bytes(pictures) + b"/d\xff.png")).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    source = FolderImages(Path("pictures"), limit=13)
    shards = pickle.loads(pickle.dumps(list(source.shards(4))))
    monkeypatch.chdir(pictures)
    assert (source.name, source.n_images) == ("folder:pictures", 13)
    assert [len(shard.readers) for shard in shards] == [4, 4, 4, 1]
    assert [shard.name for shard in shards] == sorted({shard.name for shard in shards})
    assert len({shard.fingerprint for shard in shards}) == 4
    assert sum(shard.share for shard in shards) == pytest.approx(1)
    names = [name for shard in shards for _, name in shard.images]
    samples = [reader().sample for shard in shards for reader in shard.readers]
    assert names == [sample.name for sample in samples]
    bad = [sample for sample in samples if isinstance(sample, UnreadableImage)]
    assert [sample.name for sample in bad] == ["a.jpg", r"'d\udcff.png'"]
    for sample in samples:
        if isinstance(sample, Sample):
            wanted = np.asarray(Image.open(pictures / sample.name))
            assert np.array_equal(sample.image, wanted)
            assert sample.instances == ()
