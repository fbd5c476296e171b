"""The boundary around adapters: what they raise becomes one kind, what they answer is checked."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from baselines import boundary
from baselines.boundary import AdapterError, adapter_call
from baselines.dummy import DummySegmenter
from baselines.interface import Embedding, MaskRecord, Masks, Prepared, Prompts
from mobilesam.errors import BenchError, DataError, UnsupportedError

IMAGE = np.zeros((6, 9, 3), np.uint8)
SIZE = (6, 9)
BOXES = Prompts(boxes=np.array([[0, 0, 4, 4], [1, 1, 5, 5]], np.float32))
EMBEDDING = Embedding(None, SIZE, "dummy")


class OwnError(Exception):
    """A plugin's own."""


@pytest.mark.parametrize(
    "error",
    [
        OwnError("a\n  b"),
        cv2.error("a b"),
        EOFError("a b"),
        MemoryError("a b"),
        StopIteration("a b"),
    ],
)
def test_whatever_is_raised_becomes_one_line_with_its_type_and_place(error: Exception) -> None:
    with pytest.raises(AdapterError) as caught, adapter_call("encode"):
        raise error
    assert str(caught.value) == f"{type(error).__name__}: a b (in encode)"
    assert caught.value.__cause__ is error


def test_errors_of_ours_pass_as_they_are() -> None:
    with pytest.raises(UnsupportedError, match="no"), adapter_call("encode"):
        raise UnsupportedError("no")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_ends_the_program_is_not_stopped(error: type[BaseException]) -> None:
    with pytest.raises(error), adapter_call("encode"):
        raise error


class Broken(DummySegmenter):
    """Fails in one of its methods."""

    def __init__(self, where: str) -> None:
        super().__init__(delays_ms={})
        self._where = where

    def _fail(self, method: str) -> None:
        if method == self._where:
            raise OwnError("x")

    def prepare(self, image: Any) -> Prepared:
        self._fail("prepare")
        return super().prepare(image)

    def encode(self, prepared: Prepared) -> Embedding:
        self._fail("encode")
        return super().encode(prepared)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        self._fail("decode")
        return super().decode(embedding, prompts, multimask=multimask)

    def everything(self, image: Any) -> list[MaskRecord]:
        self._fail("everything")
        return super().everything(image)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("prepare", lambda model: boundary.encode(model, IMAGE)),
        ("encode", lambda model: boundary.encode(model, IMAGE)),
        ("decode", lambda model: boundary.decode(model, EMBEDDING, BOXES, SIZE)),
        ("everything", lambda model: boundary.everything(model, IMAGE)),
    ],
)
def test_each_method_is_called_behind_the_boundary(
    method: str, call: Callable[[DummySegmenter], object]
) -> None:
    with pytest.raises(AdapterError, match=rf"^OwnError: x \(in {method}\)$"):
        call(Broken(method))
    call(Broken("nowhere"))


def masks(shape: tuple[int, ...], **fields: Any) -> Masks:
    scores = np.ones(shape[:2], np.float32)
    return Masks(np.zeros(shape, np.bool_), **{"scores": scores, **fields})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "dummy.decode gave a NoneType; wanted bool masks of shape (2, C, 6, 9) as Masks"),
        (np.zeros((2, 1, 6, 9)), "dummy.decode gave a ndarray; wanted bool masks of shape (2, C"),
        (
            masks((1, 1, 6, 9)),
            "gave bool masks of shape (1, 1, 6, 9); wanted bool masks of shape (2",
        ),
        (
            masks((2, 1, 9, 6)),
            "gave bool masks of shape (2, 1, 9, 6); wanted bool masks of shape (2",
        ),
        (
            masks((2, 0, 6, 9)),
            "gave bool masks of shape (2, 0, 6, 9); wanted bool masks of shape (2",
        ),
        (
            masks((2, 1, 6, 9), low_res_logits=np.zeros((2, 3, 4, 4), np.float32)),
            "low_res_logits that are an array of shape (2, 3, 4, 4); wanted a numpy array of",
        ),
        (
            masks((2, 1, 6, 9), object_scores=np.zeros((2, 1), np.float32)),
            "object_scores that are an array of shape (2, 1); wanted a numpy array of shape (2,)",
        ),
        (masks((2, 1, 6, 9), low_res_logits=[1]), "low_res_logits that are list; wanted a numpy"),
        (
            masks((2, 1, 6, 9), scores=np.array([["a"], ["b"]])),
            "dummy.decode gave scores that are no numbers",
        ),
    ],
)
def test_an_answer_that_breaks_the_interface_names_method_and_shapes(
    answer: Any, said: str
) -> None:
    model = DummySegmenter(delays_ms={}, answer=lambda *_: answer)
    with pytest.raises(DataError) as caught:
        boundary.decode(model, EMBEDDING, BOXES, SIZE)
    assert said in str(caught.value)


def test_a_mask_of_the_wrong_type_names_method_and_type() -> None:
    def answer(prompts: Prompts, size_hw: tuple[int, int], multimask: bool) -> Masks:
        del multimask
        shape = (len(prompts), 1, *size_hw)
        return Masks(np.zeros(shape, np.float32), np.ones(shape[:2], np.float32))  # type: ignore[arg-type]

    model = DummySegmenter(delays_ms={}, answer=answer)
    said = r"masks must be bool \(N,C,H,W\), not float32 \(2, 1, 6, 9\) \(in decode\)"
    with pytest.raises(AdapterError, match=said):
        boundary.decode(model, EMBEDDING, BOXES, SIZE)


def record(mask: Any, score: Any = 1.0) -> MaskRecord:
    return MaskRecord(mask, score, np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([3], "dummy.everything gave a int; wanted MaskRecord values"),
        ([record([[True]])], "dummy.everything gave a MaskRecord; wanted MaskRecord values"),
        (
            [record(np.zeros((6, 8), np.bool_))],
            "dummy.everything gave a bool mask of shape (6, 8); wanted a bool mask of shape (6, 9)",
        ),
        ([record(np.zeros(SIZE, np.uint8))], "dummy.everything gave a uint8 mask of shape (6, 9)"),
        ([record(np.zeros(SIZE, np.bool_), "1")], "dummy.everything gave a mask the score '1'"),
    ],
)
def test_objects_that_break_the_interface_name_method_and_shapes(
    found: list[Any], said: str
) -> None:
    class Odd(DummySegmenter):
        def everything(self, image: Any) -> list[MaskRecord]:
            return found

    with pytest.raises(DataError) as caught:
        boundary.everything(Odd(), IMAGE)
    assert said in str(caught.value)
    assert isinstance(caught.value, BenchError)


ROOT = Path(__file__).resolve().parents[2]
METHODS = frozenset(
    "prepare encode decode decode_pair everything embedding_arrays embedding_from decode_logits "
    "postprocess run_network find_masks synchronize modules probes".split()
)
BOUNDARIES = frozenset(("adapter_call", "model_call"))
NOT_ADAPTERS = frozenset(("boundary", "captions", "coco_mask", "measure"))


def unguarded(node: ast.AST, *, guarded: bool = False, inside: bool = False) -> Iterator[ast.Call]:
    """Calls of adapter methods outside of the boundary.

    Lambdas and functions within functions are left out: a timer calls them, behind the boundary.
    """
    if isinstance(node, ast.Lambda) or (inside and isinstance(node, ast.FunctionDef)):
        return
    if isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items]
        names = {call.func.id for call in calls
                 if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}  # fmt: skip
        guarded = guarded or bool(names & BOUNDARIES)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not guarded:
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        # Text and bytes have methods of the same names, which take no object.
        codec = node.func.attr in ("encode", "decode") and (
            not node.args or isinstance(node.args[0], ast.Constant)
        )
        if node.func.attr in METHODS and owner not in NOT_ADAPTERS and not codec:
            yield node
    for child in ast.iter_child_nodes(node):
        inner = inside or isinstance(node, ast.FunctionDef)
        yield from unguarded(child, guarded=guarded, inside=inner)


def test_every_call_into_an_adapter_is_behind_the_boundary() -> None:
    files = sorted((ROOT / "benchmarks").rglob("*.py"))
    files.remove(ROOT / "benchmarks" / "evidence" / "cuda_check.py")  # calls no adapters
    assert len(files) > 80
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
        for path in files
        for call in unguarded(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "n_found"),
    [
        ("model.encode(x)", 1),
        ("self._model.decode(x, y)", 1),
        ("with adapter_call('encode'):\n    model.encode(x)", 0),
        ("with open('a'):\n    model.encode(x)", 1),
        ("boundary.encode(model, x)", 0),
        ("text.encode('utf-8')", 0),
        ("text.encode()", 0),
        ("timer.phase('encode', lambda: model.encode(x))", 0),
    ],
)
def test_the_search_for_calls_finds_them(source: str, n_found: int) -> None:
    assert len(list(unguarded(ast.parse(source)))) == n_found
