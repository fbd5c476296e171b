"""Evaluation against the ground truth and reference models; failures cost one image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from evaluation_doubles import accuracy_task, read_slowly, resolved

from baselines import dummy
from baselines.dummy import DummySegmenter
from baselines.interface import Embedding, Masks, ModelOptions, Prepared, Prompts, UInt8Array
from benchmarks.config import model_resolution as planning
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Sample, ShardDataset
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_sa1b
from benchmarks.evaluation.evaluate import AccuracyResult, ShardEvaluation
from benchmarks.evaluation.run_model import FIRST_IMAGES, Prefetcher
from benchmarks.prompts.manifests import ManifestStore, PassPrompts
from benchmarks.prompts.protocols import GROUND_TRUTH, find_protocols
from benchmarks.prompts.samplers import prompt_sampler
from benchmarks.records.instances import read_instances
from benchmarks.records.result_cache import ResultCache


def rows_of(outcome: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["model"], row["protocol"], row["reference"]): row for row in outcome.json["rows"]}


def test_a_reference_model_agrees_with_itself_exactly(run: Any, scenes: Any) -> None:
    done = run(
        "miou",
        "--models=dummy,grabcut",
        *scenes.arguments,
        "--protocol=box,box-multi,center-oracle,random-2",
        "--reference=ground-truth,teacher:dummy",
        "--json",
    )
    assert done.code == 0
    found = rows_of(done)
    for protocol in ("box", "box-multi", "center-oracle", "random-2"):
        mine = found["dummy", protocol, "teacher:dummy"]
        assert (mine["miou"], mine["boundary_miou"], mine["ci95"]) == (1.0, 1.0, [1.0, 1.0])
        assert found["dummy", protocol, "ground-truth"]["miou"] < 1
        assert 0 < found["grabcut", protocol, "teacher:dummy"]["miou"] < 1


def test_a_reference_model_need_not_be_among_the_models(run: Any, scenes: Any) -> None:
    done = run(
        "miou",
        "--models=box",
        *scenes.arguments,
        "--protocol=box",
        "--reference=teacher:dummy",
        "--json",
    )
    assert done.code == 0
    (row,) = done.json["rows"]
    assert (row["model"], row["reference"], row["status"]) == ("box", "teacher:dummy", "ok")


def test_a_reference_model_without_weights_is_a_reason(run: Any, scenes: Any) -> None:
    done = run(
        "miou",
        "--models=box",
        *scenes.arguments,
        "--protocol=box",
        "--reference=teacher:sam-vit-b",
        "--offline",
        "--json",
    )
    assert done.code == 0
    (row,) = done.json["rows"]
    assert (row["status"], row["miou"]) == ("skipped", None)
    assert "teacher:sam-vit-b has no trained weights" in row["why"]


def test_clicks_have_no_reference_model_and_one_may_lack_a_prompt(run: Any, scenes: Any) -> None:
    done = run(
        "miou",
        "--models=dummy",
        *scenes.arguments,
        "--protocol=clicks-2,center",
        "--reference=teacher:box",
        "--json",
    )
    whys = {row["protocol"]: row["why"] for row in done.json["rows"]}
    assert "ground truth" in whys["clicks-2"]
    assert "box takes no points" in whys["center"]


def test_an_unknown_reference_is_a_usage_error(run: Any, scenes: Any) -> None:
    for reference in ("teacher:mobilsam", "teacher:", "truth"):
        done = run("miou", "--models=box", *scenes.arguments, f"--reference={reference}")
        assert done.code == 2, reference


def test_only_the_given_references_are_scored(run: Any, scenes: Any, tmp_path: Path) -> None:
    done = run(
        "miou",
        "--models=dummy,grabcut,box",
        *scenes.arguments,
        "--protocol=box",
        "--reference=teacher:dummy",
        "--out=o",
        "--json",
    )
    assert done.code == 0
    assert set(read_instances(tmp_path / "o" / "instances.parquet").reference) == {"teacher:dummy"}
    # Of a reference against itself there is none.
    (pair,) = done.json["comparisons"]
    assert pair["reference"] == "teacher:dummy"
    assert {pair["model_a"], pair["model_b"]} == {"grabcut", "box"}
    assert {row["reference_weights"]["kind"] for row in done.json["rows"]} == {"none"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reference=teacher:sam-*",), "name a single model"),
        (("--protocol=,",), "--protocol is empty"),
        (("--reference=,",), "--reference is empty"),
        (("--detections=boxes.json",), "detector-box"),
        (("--protocol=everything", "--reference=teacher:dummy"), "ground truth only"),
        (("--protocol=everythin",), "did you mean everything"),
        (("--limit=0",), "--limit must be at least 1"),
    ],
)
def test_contradictory_options_are_usage_errors(
    run: Any, scenes: Any, arguments: tuple[str, ...], message: str
) -> None:
    done = run("miou", "--models=box", *scenes.arguments, *arguments)
    assert done.code == 2
    assert message in done.err


class Picky(DummySegmenter):
    """Fails on one image, identified by its pixels."""

    image: np.ndarray | None = None

    def prepare(self, image: Any) -> Prepared:
        if np.array_equal(image, Picky.image):
            raise KeyError("too green")
        return super().prepare(image)


def picky(options: ModelOptions) -> Picky:
    return Picky(options.name, {})


@pytest.mark.parametrize("chunks", [(), ("--chunk=2",)])
def test_images_that_a_reference_model_failed_on_are_left_out(
    run: Any,
    scenes: Any,
    third_party: Any,
    monkeypatch: pytest.MonkeyPatch,
    chunks: tuple[str, ...],
) -> None:
    samples = list(CocoDataset(scenes.images, scenes.annotations).samples())
    monkeypatch.setattr(Picky, "image", samples[1].image)
    third_party("picky", f"{__name__}:picky")
    arguments = ("miou", "--models=dummy,picky", *scenes.arguments, "--protocol=box,center",
                 "--reference=ground-truth,teacher:picky", "--json")  # fmt: skip
    done = run(*arguments, *chunks)
    assert done.code == 1
    found = {key: row["n_images"] for key, row in rows_of(done).items()}
    for protocol in ("box", "center"):
        assert found["dummy", protocol, "ground-truth"] == 3
        assert found["picky", protocol, "ground-truth"] == 2
        assert found["dummy", protocol, "teacher:picky"] == 2
        assert found["picky", protocol, "teacher:picky"] == 2
    (failure,) = done.json["failures"]
    assert failure["culprit"] == samples[1].name
    assert "picky fails at it: KeyError: 'too green' (in prepare)" in failure["why"]
    assert {row["n_images"] for row in done.json["comparisons"]} == {2}
    lost = [line for line in done.json["warnings"] if line.startswith("picky answered")]
    assert len(lost) == 2  # one for each protocol, against the ground truth


@pytest.mark.parametrize("chunks", [(), ("--chunk=2",)])
def test_a_reference_model_that_fails_on_all_images_is_a_reason(
    run: Any,
    scenes: Any,
    third_party: Any,
    monkeypatch: pytest.MonkeyPatch,
    chunks: tuple[str, ...],
) -> None:
    def fail(self: Any, image: Any) -> Prepared:
        raise KeyError("too green")

    monkeypatch.setattr(Picky, "prepare", fail)
    third_party("picky", f"{__name__}:picky")
    done = run("miou", "--models=dummy", *scenes.arguments, "--protocol=box",
               "--reference=ground-truth,teacher:picky", "--json", *chunks)  # fmt: skip
    assert done.code == 1
    found = rows_of(done)
    assert found["dummy", "box", "ground-truth"]["status"] == "ok"
    row = found["dummy", "box", "teacher:picky"]
    why = "fails at each of the first 3 images: KeyError: 'too green' (in prepare)"
    assert (row["status"], row["why"]) == ("skipped", f"teacher:picky failed: {why}")
    assert [(each["culprit"], each["why"]) for each in done.json["failures"]] == [("picky", why)]


def test_stored_masks_of_other_weights_are_not_used(
    run: Any, scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs in one folder, the first two killed: weights A, weights B, and A again."""
    real, sha256 = planning.ResolvedModel.key.fget, ["a" * 64]  # type: ignore[attr-defined]

    def keyed(self: planning.ResolvedModel) -> dict[str, object]:
        return {**real(self), "weights": sha256[0]}

    monkeypatch.setattr(planning.ResolvedModel, "key", property(keyed))
    command = (
        "miou",
        "--models=grabcut",
        *scenes.arguments,
        "--protocol=box",
        "--reference=teacher:dummy",
        "--out=o",
        "--json",
    )

    def agreement(weights: str, part: float) -> float:
        sha256[0] = 64 * weights
        monkeypatch.setattr(dummy, "SINGLE", replace(dummy.SINGLE, part=part))
        (row,) = run(*command).json["rows"]
        (tmp_path / "o" / "record.json").unlink()  # as if it had been killed just before
        return float(row["miou"])

    first, second = agreement("a", 0.75), agreement("b", 0.5)
    assert first != second
    # The rows of this model are found again; what it is compared with must be that of weights A.
    for cell in (tmp_path / "o" / "cells").iterdir():
        if '"model":"grabcut"' in cell.read_text():
            cell.unlink()
    assert agreement("a", 0.75) == first


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


class FailsOnce(DummySegmenter):
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
    found = evaluate(shard, n_threads, tmp_path / "picky", FailsOnce())
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
    read_slowly(monkeypatch, 0.05)  # the first image fails while the next ones are read
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
    first, second = PassPrompts(manifests), PassPrompts(manifests)
    known = first.prompt(rule, sample, instance, instance.mask())
    again = second.prompt(rule, sample, instance, instance.mask())
    assert known is not None
    assert again is not None
    assert again.tolist() == known.tolist()
    assert manifests.sha256("center") is None
    second.finish(whole=False)
    assert manifests.sha256("center") is not None
