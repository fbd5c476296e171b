"""Evaluation of one model on a shard: overlapping stages change no row, failures cost one image."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import pytest
from evaluation_doubles import accuracy_task, resolved

from baselines.dummy import DummySegmenter
from baselines.interface import Embedding, Masks, Prepared, Prompts, UInt8Array
from benchmarks.datasets.dataset import ImageReader, Sample, ShardDataset, UnreadableImage
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_sa1b
from benchmarks.evaluation.accuracy_worker import AccuracyResult, ShardEvaluation
from benchmarks.evaluation.prefetch import Prefetcher
from benchmarks.evaluation.run_model import FIRST_IMAGES
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import GROUND_TRUTH, find_protocols
from benchmarks.prompts.samplers import prompt_sampler
from benchmarks.records.result_cache import ResultCache

PROTOCOLS = find_protocols(
    ("box", "box-multi", "center-oracle", "random-2", "clicks-3", "annotation-point")
)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    folder = tmp_path_factory.mktemp("pairs")
    write_sa1b(SyntheticDataset(n_images=6, seed=4, size_hw=(48, 64)), folder)
    (folder / "sa_3.jpg").write_bytes(b"not a picture")
    (whole,) = Sa1bDataset(folder, streaming=True).shards(10)
    return ShardDataset(whole)


def evaluate(
    shard: ShardDataset,
    n_threads: int,
    out: Path,
    model: DummySegmenter,
    manifests: ManifestStore | None = None,
) -> AccuracyResult:
    target = "baselines.dummy:build_instant"
    worker = accuracy_task(out, target).worker(ResultCache(out / "cache"))
    worker.prefetcher = Prefetcher(n_threads, budget_bytes=10_000)
    manifests = manifests or ManifestStore(shard.fingerprint, 0, out)
    pairs = tuple((protocol, GROUND_TRUTH) for protocol in PROTOCOLS)
    try:
        evaluation = ShardEvaluation(worker, shard, manifests, out)
        return evaluation.measure(model, resolved("dummy", target), PROTOCOLS, pairs)
    finally:
        worker.close()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_overlap_changes_no_row(shard: ShardDataset, n_threads: int, tmp_path: Path) -> None:
    alone = evaluate(shard, 0, tmp_path / "alone", DummySegmenter(delays_ms={}))
    together = evaluate(shard, n_threads, tmp_path / "together", DummySegmenter(delays_ms={}))
    assert together.rows == alone.rows
    assert together.failures == alone.failures
    assert len(alone.failures) == 1
    assert len({row.protocol for row in alone.rows}) == 8


class Picky(DummySegmenter):
    """Fails on its third image."""

    def __init__(self) -> None:
        super().__init__(delays_ms={})
        self.seen = 0

    def prepare(self, image: UInt8Array) -> Prepared:
        self.seen += 1
        if self.seen == 3:
            raise RuntimeError("too green")
        return super().prepare(image)


@pytest.mark.parametrize("n_threads", [0, 2])
def test_an_image_that_a_model_fails_on_costs_no_other(
    shard: ShardDataset, n_threads: int, tmp_path: Path
) -> None:
    whole = evaluate(shard, 0, tmp_path / "whole", DummySegmenter(delays_ms={}))
    found = evaluate(shard, n_threads, tmp_path / "picky", Picky())
    assert found.attempts.broken is None
    assert found.rows == tuple(row for row in whole.rows if row.image_id != 2)
    (unread,), (failed,) = found.failures, found.attempts.failures
    assert (unread.culprit, failed.culprit) == ("sa_3.jpg", "sa_2.jpg")
    assert "dummy fails at it: RuntimeError: too green (in prepare)" in failed.why
    assert (found.attempts.n_answered, found.attempts.n_failed) == (4, 1)


class Late(DummySegmenter):
    """Answers the boxes of an image, and fails on the points that follow."""

    def __init__(self, fails_at: int) -> None:
        super().__init__(delays_ms={})
        self.fails_at = fails_at
        self.seen = 0

    def encode(self, prepared: Prepared) -> Embedding:
        self.seen += 1
        return super().encode(prepared)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        if prompts.points is not None and self.seen == self.fails_at:
            raise cv2.error("no such colour")
        return super().decode(embedding, prompts, multimask=multimask)


@pytest.mark.parametrize("n_threads", [0, 2])
def test_masks_before_a_failure_on_the_same_image_do_not_count(
    shard: ShardDataset, n_threads: int, tmp_path: Path
) -> None:
    whole = evaluate(shard, 0, tmp_path / "whole", DummySegmenter(delays_ms={}))
    found = evaluate(shard, n_threads, tmp_path / "late", Late(fails_at=5))
    assert found.rows == tuple(row for row in whole.rows if row.image_id != 5)
    assert "fails at it: error: no such colour (in decode_pair)" in found.attempts.failures[0].why


@pytest.mark.parametrize("n_threads", [0, 2])
def test_a_model_that_fails_on_each_of_the_first_images_is_broken(
    shard: ShardDataset, n_threads: int, tmp_path: Path
) -> None:
    class Broken(DummySegmenter):
        def prepare(self, image: UInt8Array) -> Prepared:
            raise EOFError

    found = evaluate(shard, n_threads, tmp_path, Broken(delays_ms={}))
    assert found.attempts.broken == "fails at each of the first 5 images: EOFError: (in prepare)"
    assert found.rows == ()
    assert [each.culprit for each in found.failures] == ["sa_3.jpg"]
    assert FIRST_IMAGES == 5


class Fails(DummySegmenter):
    """Fails on every image."""

    def prepare(self, image: UInt8Array) -> Prepared:
        raise RuntimeError("too green")


def test_a_read_that_outlasts_a_failed_model_adds_nothing_to_the_next(
    shard: ShardDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ShardDataset.read

    def slow(self: ShardDataset, index: int, reader: ImageReader) -> Sample | UnreadableImage:
        time.sleep(0.05 * min(index, 1))  # the first image fails while the next ones are read
        return real(self, index, reader)

    monkeypatch.setattr(ShardDataset, "read", slow)
    manifests = ManifestStore(shard.fingerprint, 0, tmp_path)
    failed = evaluate(shard, 3, tmp_path, Fails(delays_ms={}), manifests)
    assert "too green" in (failed.attempts.broken or "")
    found = evaluate(shard, 3, tmp_path, DummySegmenter(delays_ms={}), manifests)
    alone = evaluate(shard, 0, tmp_path / "alone", DummySegmenter(delays_ms={}))
    assert found.rows == alone.rows


def test_prompts_that_are_not_finished_are_not_stored(shard: ShardDataset, tmp_path: Path) -> None:
    manifests = ManifestStore(shard.fingerprint, 0, tmp_path)
    sample = next(each for each in shard.samples() if isinstance(each, Sample))
    (instance, *_), rule = sample.instances, prompt_sampler("center")
    first, second = manifests.begin_pass(), manifests.begin_pass()
    known = first.prompt(rule, sample, instance, instance.mask())
    again = second.prompt(rule, sample, instance, instance.mask())
    assert known is not None
    assert again is not None
    assert again.tolist() == known.tolist()
    assert manifests.sha256("center") is None
    second.finish(whole=False)
    assert manifests.sha256("center") is not None
