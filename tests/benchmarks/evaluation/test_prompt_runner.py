"""One encoder call per image, prompts in batches, clicks on errors, cached embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from baselines.dummy import DummySegmenter
from baselines.interface import Embedding, Masks, Prepared, Prompts
from benchmarks.datasets.dataset import Sample
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.evaluation import prompt_runner
from benchmarks.evaluation.prefetch import Stopwatch
from benchmarks.evaluation.prompt_runner import EmbeddingCache, PromptRunner, QueryMasks
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import Query, find_protocols


class Counting(DummySegmenter):
    """Counts encoder calls and records prompts."""

    def __init__(self) -> None:
        super().__init__(delays_ms={})
        self.encoded = 0
        self.prompts: list[Prompts] = []

    def encode(self, prepared: Prepared) -> Embedding:
        self.encoded += 1
        return super().encode(prepared)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        self.prompts.append(prompts)
        return super().decode(embedding, prompts, multimask=multimask)


@pytest.fixture(scope="module")
def sample() -> Sample:
    dataset = SyntheticDataset(n_images=1, seed=3, size_hw=(96, 128))
    (found,) = dataset.samples()
    assert isinstance(found, Sample)
    return found


def predict(
    model: DummySegmenter, sample: Sample, folder: Path, *names: str
) -> Iterator[QueryMasks]:
    prompts = ManifestStore("fingerprint", 0, folder).begin_pass()
    cache = EmbeddingCache(None)
    runner = PromptRunner(model, find_protocols(names), prompts, Stopwatch(), cache)
    masks = [instance.mask() for instance in sample.instances]
    return runner.predict(sample, masks, runner.prompts(sample, masks))


def test_the_encoder_runs_once_for_all_protocols(sample: Sample, tmp_path: Path) -> None:
    model = Counting()
    names = ("box", "box-multi", "center", "center-oracle", "random-2", "clicks-3")
    predicted = list(predict(model, sample, tmp_path, *names))
    assert model.encoded == 1
    assert len({each.query for each in predicted}) == 7
    assert len(predicted) == 7 * len(sample.instances)


def test_nothing_is_encoded_without_prompts(sample: Sample, tmp_path: Path) -> None:
    model = Counting()
    assert list(predict(model, sample, tmp_path, "annotation-point")) == []
    assert model.encoded == 0


@pytest.mark.parametrize("batch", [1, 2, 3, 1000])
def test_the_batch_size_changes_no_mask(
    batch: int, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("box", "box-multi", "clicks-3")
    expected = {(a.query, a.index): a.masks for a in predict(Counting(), sample, tmp_path, *names)}
    monkeypatch.setattr(prompt_runner, "PROMPT_BATCH", batch)
    found = {(a.query, a.index): a.masks for a in predict(Counting(), sample, tmp_path, *names)}
    assert found.keys() == expected.keys()
    for key, masks in found.items():
        np.testing.assert_array_equal(masks, expected[key])


class Perfect(Counting):
    """Predicts the reference from the second click on, and returns logits to be fed back."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self._masks = [instance.mask() for instance in sample.instances]
        self.info = DummySegmenter().info
        object.__setattr__(self.info, "supports", self.info.supports | {"masks"})

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        self.prompts.append(prompts)
        assert prompts.points is not None
        height, width = embedding.size_hw
        masks = np.zeros((len(prompts), 1, height, width), np.bool_)
        for row, points in enumerate(prompts.points):
            if len(points) > 1:
                x, y = points[0].astype(int)
                masks[row, 0] = next(mask for mask in self._masks if mask[y, x])
        logits = np.full((len(prompts), 1, 4, 4), len(self.prompts), np.float32)
        return Masks(masks, np.ones((len(prompts), 1), np.float32), logits)


def test_clicks_stop_without_errors_and_feed_logits_back(sample: Sample, tmp_path: Path) -> None:
    model = Perfect(sample)
    predicted = list(predict(model, sample, tmp_path, "clicks-4"))
    assert [prompts.points.shape[1] for prompts in model.prompts if prompts.points is not None] == [
        1,
        2,
    ]
    second = model.prompts[1]
    assert second.mask_inputs is not None
    assert (second.mask_inputs == 1).all()
    for each in predicted:
        truth = sample.instances[each.index].mask()
        is_right = bool((each.masks[0] == truth).all())
        assert is_right == (each.query.clicks > 1)
    assert {each.query for each in predicted} == {
        Query("center", clicks=each) for each in (1, 2, 3, 4)
    }


def test_a_missed_object_gets_a_foreground_click(sample: Sample, tmp_path: Path) -> None:
    model = Perfect(sample)
    list(predict(model, sample, tmp_path, "clicks-2"))
    second = model.prompts[1]
    assert second.labels is not None
    assert (second.labels == 1).all()
