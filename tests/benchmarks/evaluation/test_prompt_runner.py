"""One encoder call per image, prompts in batches, clicks on errors, cached embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.dummy import DummySegmenter
from baselines.interface import Embedding, Float32Array, Masks, Prepared, Prompts, WeightsInfo
from baselines.sam import SamSegmenter
from benchmarks.datasets.dataset import Sample
from benchmarks.datasets.masks import encode_mask
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.evaluation import prompt_runner
from benchmarks.evaluation.prompt_runner import EmbeddingCache, PromptRunner, QueryMasks
from benchmarks.evaluation.run_model import Stopwatch
from benchmarks.prompts.manifests import ManifestStore, PassPrompts
from benchmarks.prompts.protocols import Query, find_protocols
from mobilesam.errors import DataError


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
    prompts = PassPrompts(ManifestStore("fingerprint", 0, folder))
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


class Trained(DummySegmenter):
    """A model with weights whose embeddings can be cached."""

    encoded = 0

    def __init__(self, sha256: str | None) -> None:
        super().__init__("trained", delays_ms={})
        object.__setattr__(self.info, "weights", WeightsInfo("file", sha256))

    def encode(self, prepared: Prepared) -> Embedding:
        type(self).encoded += 1
        return Embedding(np.ones(3, np.float32), prepared.size_hw, self.info.name)

    def embedding_arrays(self, embedding: Embedding) -> dict[str, Float32Array]:
        return {"a": embedding.payload}

    def embedding_from(
        self, arrays: dict[str, Float32Array], size_hw: tuple[int, int]
    ) -> Embedding:
        if "a" not in arrays:
            raise DataError("not mine")
        return Embedding(arrays["a"], size_hw, self.info.name)


def test_embeddings_are_cached_by_image_and_weights(tmp_path: Path) -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    other = image + 1
    cache = EmbeddingCache(tmp_path)
    model = Trained("a" * 64)
    assert cache.get(model, image) is None
    cache.put(model, image, model.encode(model.prepare(image)))
    found = cache.get(model, image)
    assert found is not None
    np.testing.assert_array_equal(found.payload, np.ones(3))
    assert found.size_hw == (8, 9)
    assert cache.get(model, other) is None
    assert cache.get(model, image.reshape(9, 8, 3)) is None
    assert cache.get(Trained("b" * 64), image) is None
    assert EmbeddingCache(tmp_path, precision="bf16").get(model, image) is None
    assert EmbeddingCache(None).get(model, image) is None


def test_without_a_hash_of_weights_nothing_is_cached(tmp_path: Path) -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    model = Trained(None)
    cache = EmbeddingCache(tmp_path)
    cache.put(model, image, model.encode(model.prepare(image)))
    assert list(tmp_path.iterdir()) == []
    assert cache.get(model, image) is None


def test_a_damaged_embedding_is_computed_again(tmp_path: Path) -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    model = Trained("a" * 64)
    cache = EmbeddingCache(tmp_path)
    cache.put(model, image, model.encode(model.prepare(image)))
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    for broken in (whole[:20], b"", whole[:-30], b"nonsense"):
        file.write_bytes(broken)
        assert cache.get(model, image) is None


def test_a_model_whose_embeddings_cannot_be_cached_is_evaluated(
    run: Any, scenes: Any, tmp_path: Path
) -> None:
    done = run(
        "miou", "--models=dummy", *scenes.arguments, "--protocol=box", "--embeddings=e", "--json"
    )
    assert done.code == 0
    assert list((tmp_path / "e").iterdir()) == []


def test_cached_embeddings_give_the_same_masks(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, encoded = SamSegmenter.encode, []

    def counted(model: SamSegmenter, prepared: Prepared) -> Embedding:
        encoded.append(prepared)
        return encode(model, prepared)

    monkeypatch.setattr(SamSegmenter, "encode", counted)
    command = (
        "miou",
        "--models=mobilesam-mini",
        "--offline",
        "--limit=1",
        "--protocol=box,center-multi",
        "--no-boundary",
        "--embeddings=kept",
        "--json",
    )
    first = run(*command, "--out=a")
    assert len(encoded) == 1
    second = run(*command, "--out=b")
    # A run that encodes nothing is faster, by how much is up to what else the machine does.
    assert len(encoded) == 1
    assert [row["miou"] for row in first.json["rows"]] == [
        row["miou"] for row in second.json["rows"]
    ]
    (cold,), (warm,) = first.json["times"], second.json["times"]
    assert (cold["cached_embeddings"], warm["cached_embeddings"]) == (0, 1)


def test_a_folder_of_embeddings_that_cannot_be_written_is_a_usage_error(
    run: Any, scenes: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = run("miou", "--models=box", *scenes.arguments, "--embeddings=file/inside")
    assert done.code == 2
    assert "--embeddings" in done.err


@pytest.mark.parametrize("protocol", ["box", "clicks-3"])
def test_ignored_pixels_are_in_no_mask_and_get_no_click(
    sample: Sample, tmp_path: Path, protocol: str
) -> None:
    band = np.zeros(sample.image.shape[:2], np.bool_)
    band[:, ::2] = True
    instances = tuple(
        replace(each, rle=encode_mask(each.mask() & ~band), ignored=encode_mask(band))
        for each in sample.instances
    )
    marked = replace(sample, instances=instances)
    model = Counting()
    predicted = list(predict(model, marked, tmp_path, protocol))
    assert predicted
    assert not any(each.masks[:, band].any() for each in predicted)
    clicks = [each.points for each in model.prompts if each.points is not None]
    assert all((points[:, 1:, 0] % 2 == 1).all() for points in clicks)
