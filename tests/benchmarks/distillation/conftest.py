"""A tiny teacher that another package provides, and pictures for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TEACHER = '''
import os
import signal
import time
from pathlib import Path

import numpy as np

from baselines.interface import Embedding, ModelInfo, Prepared, Segmenter, WeightsInfo


class Tiny(Segmenter):
    """Embeds an image as the mean colours of its cells; writes down each that it encodes."""

    def __init__(self, options):
        sha256 = options.checkpoint.sha256 if options.checkpoint else None
        self.info = ModelInfo(
            name=options.name, family="test", input_size_px=int(os.environ.get("TINY_PX", 32)),
            licence="Apache-2.0", decode_kind="decoder", supports=frozenset(),
            weights=WeightsInfo("file" if sha256 else "none", sha256),
        )

    def prepare(self, image):
        return Prepared(image, image.shape[:2])

    def encode(self, prepared):
        image = prepared.payload
        if image[0, 0, 0] == 13:
            raise RuntimeError("out of memory")
        if os.environ.get("TINY_KILL") == str(image[0, 0, 0]):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("TINY_S", 0)))
        log = os.environ.get("TINY_LOG")
        if log:
            with Path(log).open("a") as file:
                file.write(f"{image.sum()}\\n")
        cells = [
            part.mean(axis=(0, 1)) for row in np.array_split(image, 2) for part in
            np.array_split(row, 2, axis=1)
        ]
        features = np.array(cells, np.float32).T.reshape(1, 3, 2, 2)
        return Embedding(features, prepared.size_hw, self.info.name)

    def decode(self, embedding, prompts, *, multimask=False):
        raise NotImplementedError

    def embedding_arrays(self, embedding):
        return {"features": embedding.payload}

    def embedding_from(self, arrays, size_hw):
        return Embedding(arrays["features"], size_hw, self.info.name)


def build(options):
    return Tiny(options)
'''


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, on the path of this or another process, is an installed model `tiny`."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "tiny_teacher-1.dist-info"
    info.mkdir()
    (folder / "tiny_teacher.py").write_text(TEACHER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-teacher\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mobilesam_bench.models]\ntiny = tiny_teacher:build\n")
    return folder


@pytest.fixture
def package(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the model `tiny`, which is installed in this process."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "tiny_teacher", raising=False)
    return site


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the teacher has encoded so far, one word an image."""
    log = tmp_path / "encoded.txt"
    monkeypatch.setenv("TINY_LOG", str(log))
    return lambda: log.read_text().split() if log.exists() else []


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Twelve different pictures, two of them in a folder below."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number in range(12):
        below = "more/" if number > 9 else ""
        pixels = rng.integers(20, 256, (12 + number, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{below}p{number:02d}.png")
    return folder
