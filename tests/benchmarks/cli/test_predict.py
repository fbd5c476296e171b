"""The command `predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from baselines import registry
from baselines.dummy import DummySegmenter
from baselines.interface import Embedding, MaskRecord, Masks, ModelOptions, Prepared, Prompts
from benchmarks.datasets.masks import decode_mask


class EndOfFile(DummySegmenter):
    """Breaks at whatever it is asked."""

    def prepare(self, image: Any) -> Prepared:
        raise EOFError

    def everything(self, image: Any) -> list[MaskRecord]:
        raise EOFError


def build_eof(options: ModelOptions) -> EndOfFile:
    return EndOfFile(options.name, {})


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:30, 20:50] = (250, 200, 40)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


def test_predict_draws_the_mask_over_the_image(run: Any, picture: Path, tmp_path: Path) -> None:
    done = run("predict", picture, "--model=box", "--box=20,10,50,30", "--out=o.png", "--json")
    assert done.code == 0
    assert done.json["area_px"] == 600
    assert done.json["box"] == [20, 10, 50, 30]
    before = np.asarray(Image.open(picture))
    after = np.asarray(Image.open(tmp_path / "o.png"))
    assert after.shape == before.shape
    assert (after[15, 30] != before[15, 30]).any()
    assert (after[2, 2] == before[2, 2]).all()


def test_predict_finds_an_object_with_grabcut_from_a_click(run: Any, picture: Path) -> None:
    done = run("predict", picture, "--model=grabcut", "--point=35,20", "--point=3,3,0", "--json")
    assert done.code == 0
    assert 0 < done.json["area_px"] < 2400


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model=box"], 2, "at least one --point"),
        (["--model=box", "--box=1,2,3"], 2, "X0,Y0,X1,Y1"),
        (["--model=box", "--box=50,30,20,10"], 2, "corners swapped"),
        (["--model=grabcut", "--point=a,b"], 2, "X,Y"),
        (["--model=grabcut", "--point=1,2,3"], 2, "label"),
        (["--model=grabcut", "--point=nan,2"], 2, "NaN"),
        (["--model=grabcut", "--point=600,2"], 2, "outside the image of 60 x 40"),
        (["--model=box", "--box=100,100,200,200"], 2, "outside the image"),
        (["--model=box", "--point=5,5"], 1, "takes no points"),
        (["--model=sam-*", "--point=5,5"], 2, "takes one model"),
        (["--model=sam-vit-b", "--point=5,5", "--offline"], 1, "weights fetch sam-vit-b"),
        (["--model=box", "--box=1,1,9,9", "--out=o.nope"], 1, "cannot write"),
    ],
)
def test_predict_refuses_what_makes_no_sense(
    run: Any, picture: Path, arguments: list[str], code: int, message: str
) -> None:
    done = run("predict", picture, *arguments)
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err


class NotANumber(DummySegmenter):
    """A plugin whose answers are NaN."""

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        found = super().decode(embedding, prompts, multimask=multimask)
        return Masks(found.masks, found.scores * np.float32("nan"))


def not_a_number(options: ModelOptions) -> NotANumber:
    return NotANumber(options.name, {})


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_plugin_that_answers_nan_is_one_line(
    run: Any, picture: Path, third_party: Any, form: list[str]
) -> None:
    third_party("theirs", f"{__name__}:not_a_number")
    done = run("predict", picture, "--model=theirs", "--box=20,10,50,30", *form)
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert "returned NaN or infinity" in line
    done = run("miou", "--models=theirs", "--dataset=synthetic", "--limit=1", "--out=o", "--json")
    assert done.code == 1
    whys = [each["why"] for each in done.json["failures"]]
    assert whys
    assert all("returned NaN or infinity" in why and "\n" not in why for why in whys)


def test_weights_that_are_no_numbers_are_one_line(run: Any, picture: Path, tmp_path: Path) -> None:
    save_file({"neck.0.weight": torch.full((2,), torch.nan)}, tmp_path / "nan.safetensors")
    arguments = ("--model=sam-mini", "--weights=sam-mini=nan.safetensors", "--box=20,10,50,30")
    done = run("predict", picture, *arguments, "--json")
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert "nan.safetensors: 'neck.0.weight' holds NaN or infinity" in line


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000)])
def test_predict_on_an_image_too_thin_is_one_line(
    run: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    Image.new("RGB", size).save(tmp_path / "thin.png")
    for asked in (f"--box=0,0,{size[0]},{size[1]}", "--point=0,0", "--everything"):
        done = run("predict", "thin.png", "--model=sam-mini", asked)
        assert (done.code, done.out) == (1, "")
        (line,) = done.err.splitlines()
        assert f"{size[0]} x {size[1]} pixels is too thin" in line


@pytest.mark.parametrize("arguments", [("--box=1,1,9,9",), ("--everything",)])
def test_predict_with_a_model_that_breaks_is_one_line(
    run: Any, picture: Path, third_party: Any, arguments: tuple[str, ...]
) -> None:
    third_party("eof", f"{__name__}:build_eof")
    done = run("predict", picture, "--model=eof", *arguments)
    assert done.code == 1
    assert done.err.startswith("error: eof: EOFError: (in ")
    assert len(done.err.splitlines()) == 1


def test_predict_of_what_is_no_image(run: Any, tmp_path: Path) -> None:
    (tmp_path / "note.jpg").write_text("hello")
    done = run("predict", "note.jpg", "--model=box", "--box=1,1,9,9")
    assert done.code == 1
    assert "note.jpg" in done.err


def test_predict_draws_all_objects(run: Any, picture: Path, tmp_path: Path) -> None:
    done = run("predict", picture, "--model=dummy", "--everything", "--out=all.png")
    assert done.code == 0
    assert "objects" in done.out
    drawn = np.asarray(Image.open(tmp_path / "all.png"))
    assert drawn.shape == np.asarray(Image.open(picture)).shape
    found = run("predict", picture, "--model=dummy", "--everything", "--json").json
    scores = [each["score"] for each in found["objects"]]
    assert scores == sorted(scores, reverse=True)
    assert all(each["area_px"] > 0 for each in found["objects"])


def test_predict_asks_in_the_boxes_of_another_model(run: Any, picture: Path) -> None:
    """The box model answers each box of the dummy's objects by that very box."""
    theirs = run("predict", picture, "--model=dummy", "--everything", "--json").json
    ours = run("predict", picture, "--model=box", "--boxes-from=dummy", "--json").json
    assert ours["boxes_from"] == "dummy"
    boxes = [sorted(each["box"] for each in found["objects"]) for found in (ours, theirs)]
    assert boxes[0] == boxes[1]


def test_predict_asks_fastsam_for_boxes_where_no_detector_is_named(
    run: Any, picture: Path, tmp_path: Path
) -> None:
    named = run("predict", picture, "--model=box", "--boxes-from=dummy", "--objects", "--json").json
    assert named["boxes_from"] == "dummy"
    missing = tmp_path / "absent.pt"
    done = run("predict", picture, "--model=box", "--objects", f"--weights=fastsam-s={missing}")
    assert done.code == 1
    assert "absent.pt" in done.err
    done = run("predict", picture, "--model=box", "--objects", "--offline")
    assert done.code == 1
    assert "fastsam-s" in done.err
    done = run("predict", picture, "--model=box", "--box=1,1,9,9", f"--weights=fastsam-s={missing}")
    assert done.code == 2
    assert "--weights fastsam-s=...: no model here uses them" in done.err


def test_predict_writes_the_mask(run: Any, picture: Path, tmp_path: Path) -> None:
    done = run("predict", picture, "--model=box", "--box=20,10,50,30", "--mask=m.png", "--json")
    assert done.code == 0
    mask = np.asarray(Image.open(tmp_path / "m.png"))
    expected = np.zeros((40, 60), np.uint8)
    expected[10:30, 20:50] = 255
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(decode_mask(done.json["rle"]), expected > 0)
    assert done.json["mask"] == "m.png"
    assert done.json["why_empty"] is None
    done = run("predict", picture, "--model=box", "--box=20,10,50,30", "--mask=m.jpg")
    assert done.code == 2
    assert "--mask writes a .png file" in done.err


def test_the_numbers_of_a_mask_of_all_objects_are_those_of_json(
    run: Any, picture: Path, tmp_path: Path
) -> None:
    found = run("predict", picture, "--model=dummy", "--everything", "--mask=m.png", "--json").json
    labels = np.asarray(Image.open(tmp_path / "m.png"))
    assert labels.max() == len(found["objects"]) == 4
    for number, each in enumerate(found["objects"], start=1):  # of the dummy, none overlap
        np.testing.assert_array_equal(labels == number, decode_mask(each["rle"]))


class Blind(DummySegmenter):
    """Finds nothing."""

    keeps = "masks that never occur"

    def everything(self, image: Any) -> list[MaskRecord]:
        return []

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        found = super().decode(embedding, prompts, multimask=multimask)
        return Masks(np.zeros_like(found.masks), found.scores)


def blind(options: ModelOptions) -> Blind:
    return Blind(options.name, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model=blind", "--everything"), "0 objects, blind finds none in this image (it keeps "
         "masks that never occur)"),
        (("--model=dummy", "--boxes-from=blind"), "blind finds none in this image"),
        (("--model=blind", "--boxes-from=dummy"), "0 objects, all masks in the 4 boxes of dummy "
         "are empty"),
        (("--model=blind", "--box=1,1,9,9"), "0 pixels (0.0 % of the image), the mask is empty"),
    ],
)  # fmt: skip
def test_predict_explains_that_nothing_is_found(
    run: Any, picture: Path, third_party: Any, arguments: tuple[str, ...], message: str
) -> None:
    third_party("blind", f"{__name__}:blind")
    done = run("predict", picture, *arguments, "--mask=m.png")
    assert done.code == 0
    assert message in done.out
    assert run("predict", picture, *arguments, "--json").json["why_empty"] in done.out


def test_thresholds_in_messages_are_those_of_the_generators() -> None:
    import inspect

    from segment_anything import SamAutomaticMaskGenerator

    from baselines.fast_sam import FastSamSegmenter, MaskSearch
    from baselines.sam import SamSegmenter
    from mobilesam.everything.generator import AutomaticMaskGenerator

    for generator in (SamAutomaticMaskGenerator, AutomaticMaskGenerator):
        defaults = inspect.signature(generator).parameters
        for name in ("pred_iou_thresh", "stability_score_thresh"):
            assert f"{defaults[name].default}" in SamSegmenter.keeps
    assert f"{MaskSearch().confidence}" in FastSamSegmenter.keeps


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--everything", "--point=1,1"), "--everything, or --objects alone"),
        (("--everything", "--boxes-from=dummy"), "--everything, or --objects alone"),
        (("--everything", "--objects"), "--everything, or --objects alone"),
        (("--boxes-from=dumy",), "did you mean dummy"),
    ],
)
def test_predict_refuses_two_kinds_of_question(
    run: Any, picture: Path, extra: tuple[str, ...], message: str
) -> None:
    done = run("predict", picture, "--model=box", *extra)
    assert done.code == 2
    assert message in done.err


class Unsure(DummySegmenter):
    """Says of each prompt that it is not on an object."""

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        found = super().decode(embedding, prompts, multimask=multimask)
        return replace(found, object_scores=np.full(len(prompts), -1.5, np.float32))


def build_unsure(options: ModelOptions) -> Unsure:
    return Unsure(options.name, {})


def test_the_object_score_is_printed(
    run: Any, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = registry.entries()["dummy"]
    asked = ("predict", picture, "--model=dummy", "--point=35,20", "--json")
    assert "object_score" not in run(*asked).json
    unsure = replace(entry, target=f"{__name__}:build_unsure")
    monkeypatch.setattr(registry, "entries", lambda: {"dummy": unsure})
    assert run(*asked).json["object_score"] == -1.5
