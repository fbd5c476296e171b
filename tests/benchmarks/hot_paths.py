"""The hot paths under pytest-benchmark: `nox -s microbench`, not part of the tests.

Random weights: none of these times depends on them. The JSON holds machine and commit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.interface import Embedding, ModelOptions, Prepared, Prompts, UInt8Array
from baselines.registry import build, select
from benchmarks.datasets.dataset import Sample
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.records.environment import default_threads, use_threads

MODELS = ("mobilesam", "mobilesam-fast")
PROMPTS = (1, 10, 100)


@pytest.fixture(scope="session")
def sample() -> Sample:
    """A drawn scene of 480 x 640 with its objects."""
    use_threads(default_threads())
    return next(iter(SyntheticDataset(1, seed=0).samples()))


@pytest.fixture(scope="session", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    """A model with random weights."""
    (entry,) = select([request.param])
    return build(entry, ModelOptions(entry.name))


@pytest.fixture(scope="session")
def prepared(model: Any, sample: Sample) -> Prepared:
    """The preprocessed scene."""
    found: Prepared = model.prepare(sample.image)
    return found


@pytest.fixture(scope="session")
def embedding(model: Any, prepared: Prepared) -> Embedding:
    """What the encoder makes of it."""
    found: Embedding = model.encode(prepared)
    return found


def points(n: int, image: UInt8Array) -> Prompts:
    """N single points, the same every time."""
    size = np.array([image.shape[1], image.shape[0]])
    at = (np.random.default_rng(n).uniform(0.1, 0.9, (n, 1, 2)) * size).astype(np.float32)
    return Prompts(points=at, labels=np.ones((n, 1), np.int64))


def test_preprocess(benchmark: Any, model: Any, sample: Sample) -> None:
    """From pixels to the network's input."""
    made = benchmark(model.prepare, sample.image)
    assert made.size_hw == sample.image.shape[:2]


def test_encode(benchmark: Any, model: Any, prepared: Prepared) -> None:
    """TinyViT-5M at 1024 px."""
    made = benchmark.pedantic(model.encode, (prepared,), rounds=5, warmup_rounds=1)
    assert made.model == model.info.name


@pytest.mark.parametrize("n", PROMPTS)
def test_decode(benchmark: Any, model: Any, embedding: Embedding, sample: Sample, n: int) -> None:
    """Prompt encoder and mask decoder, without the resize."""
    prompts = points(n, sample.image)
    rounds = 3 if n == max(PROMPTS) else 10
    made = benchmark.pedantic(
        model.decode_logits, (embedding, prompts), rounds=rounds, warmup_rounds=1
    )
    assert len(made.logits) == n


def test_postprocess(benchmark: Any, model: Any, embedding: Embedding, sample: Sample) -> None:
    """Ten masks from the decoder's resolution to the image's."""
    logits = model.decode_logits(embedding, points(10, sample.image))
    made = benchmark(model.postprocess, logits)
    assert made.masks.shape[0] == 10


def test_rle(benchmark: Any, sample: Sample) -> None:
    """Every object of the scene from a mask to run lengths and back."""
    from benchmarks.datasets.masks import decode_mask, encode_mask

    masks = [instance.mask() for instance in sample.instances]
    made = benchmark(lambda: [decode_mask(encode_mask(mask)) for mask in masks])
    assert all((a == b).all() for a, b in zip(made, masks, strict=True))


def test_iou(benchmark: Any, sample: Sample) -> None:
    """IoU of every object with every other."""
    from benchmarks.datasets.masks import iou

    masks = [instance.mask() for instance in sample.instances]
    made = benchmark(lambda: [iou(a, b) for a in masks for b in masks])
    assert max(made) == 1


def test_boundary_iou(benchmark: Any, sample: Sample) -> None:
    """Boundary IoU of every object with itself, boundaries included."""
    from benchmarks.evaluation.boundary_iou import Boundary, iou

    masks = [instance.mask() for instance in sample.instances]
    made = benchmark(lambda: [iou(Boundary.of(mask), Boundary.of(mask)) for mask in masks])
    assert min(made) == 1


@pytest.mark.parametrize("name", ["box", "center", "random-3", "two-point-100"])
def test_prompts(benchmark: Any, sample: Sample, name: str) -> None:
    """A prompt for every object of the scene."""
    from benchmarks.prompts.samplers import prompt_sampler

    sampler = prompt_sampler(name)
    pairs = [(instance, instance.mask()) for instance in sample.instances]
    made = benchmark(lambda: [sampler.sample(instance, mask, 0) for instance, mask in pairs])
    assert len(made) == len(pairs)


@pytest.mark.parametrize("kind", ["coco", "sa1b"])
def test_reading(benchmark: Any, tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    """All of a dataset of four images: opened, images and masks decoded."""
    folder: Path = tmp_path_factory.mktemp(kind)
    open_dataset = _written(kind, folder)

    def read() -> list[int]:
        samples = open_dataset().samples()
        return [int(instance.mask().sum()) for each in samples for instance in each.instances]

    assert min(benchmark(read)) > 0


def _written(kind: str, folder: Path) -> Any:
    from benchmarks.datasets import writers
    from benchmarks.datasets.coco import CocoDataset
    from benchmarks.datasets.sa1b import Sa1bDataset

    scenes = SyntheticDataset(4, seed=0)
    if kind == "coco":
        writers.write_coco(scenes, folder)
        return lambda: CocoDataset(folder / "images", folder / "instances.json")
    writers.write_sa1b(scenes, folder)
    return lambda: Sa1bDataset(folder)
