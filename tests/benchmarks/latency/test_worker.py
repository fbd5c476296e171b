"""Requests to the timing process: models, tasks, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.dummy import DummySegmenter
from baselines.interface import Embedding, Masks, ModelOptions, Prepared, Prompts, Segmenter
from benchmarks.latency import worker
from benchmarks.latency.controller import model_setup
from benchmarks.latency.worker import Server, SubjectError, model_call, task_call
from mobilesam.errors import DataError


class SplitDecoderModel(Segmenter):
    """A model that records the calls of the two parts of its decoder."""

    def __init__(self) -> None:
        self.info = DummySegmenter().info
        self.calls: list[str] = []

    def prepare(self, image: Any) -> Prepared:
        return Prepared(None, image.shape[:2])

    def encode(self, prepared: Prepared) -> Embedding:
        return Embedding(None, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        shape = (len(prompts), 1, *embedding.size_hw)
        return Masks(np.zeros(shape, np.bool_), np.zeros(shape[:2], np.float32))

    def decode_logits(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False):
        self.calls.append("decode")

    def postprocess(self, found: object) -> None:
        self.calls.append("postprocess")


def server(tmp_path: Path, name: str = "dummy") -> Server:
    image = tmp_path / "image.npy"
    np.save(image, np.zeros((40, 60, 3), np.uint8))
    setup = model_setup(ModelOptions(name), image, threads=1)
    return Server({**setup.subject, "threads": 1})


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Server, SplitDecoderModel]:
    model = SplitDecoderModel()
    monkeypatch.setattr("baselines.registry.build", lambda *_: model)
    return server(tmp_path), model


def test_network_and_resize_of_a_split_decoder_are_timed_separately(
    split: tuple[Server, SplitDecoderModel],
) -> None:
    served, model = split
    assert served.answer({"do": "first_call"})["splits_decoding"]
    for phase in ("decode", "postprocess"):
        model.calls.clear()
        served.answer({"do": "time", "phase": phase, "n_prompts": 3, "calls": 2})
        assert model.calls == [phase] * 2
    # Postprocessing that is timed first gets its input outside the timed region.
    model.calls.clear()
    served.answer({"do": "time", "phase": "postprocess", "n_prompts": 4, "calls": 1})
    assert model.calls == ["decode", "postprocess"]


@pytest.mark.parametrize(
    ("shape", "got"),
    [
        ((1, 1, 60, 40), r"masks of shape \(1, 1, 60, 40\); .*\(1, C, 40, 60\)"),
        ((1, 1, 40, 60), r"masks of shape \(1, 1, 40, 60\); .*\(2, C, 40, 60\)"),
        (None, r"a NoneType; wanted bool masks of shape \(1, C, 40, 60\)"),
    ],
)
def test_wrong_masks_are_refused_before_they_are_timed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...] | None,
    got: str,
) -> None:
    def decode(*_: Any, **__: Any) -> Masks | None:
        if shape is None:
            return None
        return Masks(np.zeros(shape, np.bool_), np.zeros(shape[:2], np.float32))

    monkeypatch.setattr(DummySegmenter, "decode", decode)
    with pytest.raises(SubjectError, match=rf"^dummy\.decode gave {got}; fix the adapter$"):
        server(tmp_path).answer({"do": "first_call"})


def test_prompts_are_seeded_and_inside_the_image(
    split: tuple[Server, SplitDecoderModel],
) -> None:
    first, again = (split[0].subject._prompts(10) for _ in range(2))
    assert np.array_equal(first.points, again.points)
    assert (first.points >= 0).all()
    assert (first.points < [60, 40]).all()


def test_memory_of_the_process_and_its_weights(tmp_path: Path) -> None:
    found = server(tmp_path).answer({"do": "memory", "weights": True})
    assert found["weight_bytes"] == 0
    assert 0 < found["rss_before_load_bytes"] <= found["peak_rss_bytes"]


def run_twice(factor: int) -> Any:
    """A task: its only call returns twice the factor."""
    if factor < 0:
        raise DataError("the factor is negative")
    return {"run": lambda: [2 * factor]}.__getitem__


def test_a_task_is_called_by_its_path() -> None:
    setup = {"kind": "task", "path": f"{__name__}:run_twice", "threads": 1}
    served = Server({**setup, "arguments": {"factor": 3}})
    took = served.answer({"do": "call", "phase": "run"})
    assert took["ms"] >= 0
    assert took["cpu_ms"] >= 0
    assert served.answer({"do": "output"}) == {"value": [6]}
    with pytest.raises(SubjectError, match=r"^the factor is negative$"):
        Server({**setup, "arguments": {"factor": -1}})


@pytest.mark.parametrize(
    ("ms", "first", "median", "left"),
    [
        ([30.0, *[10.0] * 9, 1.0], 30.0, 10.0, 5),  # 50 ms are five calls
        ([90.0, 40.0, 60.0, 50.0, 1.0], 90.0, 50.0, 1),  # three at least
        ([100.0, 1.0], 100.0, 100.0, 1),  # not repeated
    ],
)
def test_a_block_of_calls_has_a_first_one_and_the_median_of_others(
    monkeypatch: pytest.MonkeyPatch, ms: list[float], first: float, median: float, left: int
) -> None:
    times = iter(ms)

    def time_once(call: Any, _: Any) -> float:
        call()
        return next(times)

    monkeypatch.setattr(worker.timer, "time_once", time_once)
    setup = {"kind": "task", "path": f"{__name__}:run_twice", "threads": 1}
    served = Server({**setup, "arguments": {"factor": 3}})
    took = served.answer({"do": "call", "phase": "run", "block_ms": 50.0, "long_ms": 100.0})
    assert (took["first_ms"], took["ms"]) == (first, median)
    assert len(list(times)) == left


def test_only_models_are_foreign_code() -> None:
    with (
        pytest.raises(SubjectError, match=r"^KeyError: 'colour' \(in encode\)$"),
        model_call("encode"),
    ):
        raise KeyError("colour")
    with pytest.raises(SubjectError, match=r"^no colour$"), model_call("encode"):
        raise DataError("no colour")
    with pytest.raises(KeyError), task_call():
        raise KeyError("colour")


def test_a_model_of_another_tree_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "image.npy"
    np.save(image, np.zeros((4, 4, 3), np.uint8))
    setup = model_setup(ModelOptions("dummy"), image, threads=1, tree=tmp_path)
    with pytest.raises(SystemExit, match=f"not from {tmp_path}"):
        Server({**setup.subject, "threads": 1})
