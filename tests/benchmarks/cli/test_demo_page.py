"""The command `demo`: its page in a browser, prompts of clicks, and models that fail."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cli.demo_page import (
    _BACKGROUND,
    _BOX,
    _POINT,
    DECODE_CALLS,
    DemoModel,
    add_click,
    load_models,
    make_page,
    prompts_of,
    serve,
)
from benchmarks.config.options import ModelArguments
from benchmarks.records.progress import Reporter
from mobilesam.errors import UsageError, WeightsError

BROKEN = """
from baselines.dummy import DummySegmenter


class Broken(DummySegmenter):
    warm = False

    def decode(self, embedding, prompts, *, multimask=False):
        if self.warm:
            raise RuntimeError("no colour for it")
        self.warm = True
        return super().decode(embedding, prompts, multimask=multimask)


def build(options):
    return Broken(options.name, {})
"""


def test_clicks_become_prompts() -> None:
    texts, corner = add_click([], None, _POINT, 10, 20)
    texts, corner = add_click(texts, corner, _BACKGROUND, 3, 4)
    assert (texts, corner) == (["10,20,1", "3,4,0"], None)
    prompts = prompts_of(texts)
    assert prompts.points is not None
    assert prompts.labels is not None
    assert prompts.points.tolist() == [[[10, 20], [3, 4]]]
    assert prompts.labels.tolist() == [[1, 0]]
    texts, corner = add_click(texts, corner, _BOX, 50, 60)
    assert corner == "50,60"
    assert add_click(texts, corner, _BOX, 50, 90) == (texts, corner)  # it needs an area
    texts, corner = add_click(texts, corner, _BOX, 20, 70)
    assert (texts[2:], corner) == (["20,60,50,70"], None)
    boxes = prompts_of(texts).boxes
    assert boxes is not None
    assert boxes.tolist() == [[20, 60, 50, 70]]
    # A further box replaces it.
    texts, corner = add_click(*add_click(texts, corner, _BOX, 1, 2), _BOX, 5, 6)
    assert texts == ["10,20,1", "3,4,0", "1,2,5,6"]


@pytest.fixture
def models(tmp_path: Path) -> list[DemoModel]:
    (tmp_path / "broken.py").write_text(BROKEN)
    names = f"dummy,sam-vit-b,{tmp_path / 'broken.py'},grabcut"
    arguments = ModelArguments(models=names, offline=True, threads=1)
    return load_models(arguments, Reporter(quiet=True))


def test_a_failing_model_leaves_the_others(
    models: list[DemoModel], capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:50] = (200, 40, 40)
    found = {each.name: each.segment(image, prompts_of(["20,10,50,30"])) for each in models}
    assert list(found) == ["dummy", "sam-vit-b", "broken", "grabcut"]
    for name in ("dummy", "grabcut"):
        shown, caption = found[name]
        assert shown is not None
        assert (shown != image).any()
        assert caption.startswith(f"**{name}**: encode ")
        assert "% of the image, score" in caption
    assert found["broken"] == (None, "**broken**: RuntimeError: no colour for it (in decode)")
    assert found["sam-vit-b"][0] is None
    assert "weights fetch sam-vit-b" in found["sam-vit-b"][1]
    with pytest.raises(WeightsError, match="none of these models"):
        load_models(ModelArguments(models="sam-vit-b", offline=True), Reporter(quiet=True))


def test_an_image_is_encoded_once(models: list[DemoModel], monkeypatch: pytest.MonkeyPatch) -> None:
    from baselines.dummy import DummySegmenter

    calls: list[str] = []
    for name in ("encode", "decode"):
        method = getattr(DummySegmenter, name)

        def counted(*args: Any, _name: str = name, _method: Any = method, **kwargs: Any) -> Any:
            calls.append(_name)
            return _method(*args, **kwargs)

        monkeypatch.setattr(DummySegmenter, name, counted)
    image = np.zeros((40, 60, 3), np.uint8)
    captions = [models[0].segment(image, prompts_of([f"{x},10"]))[1] for x in (9, 19)]
    assert calls == ["encode", *["decode"] * 2 * DECODE_CALLS]
    assert captions[0].split(", decode")[0] == captions[1].split(", decode")[0]
    models[0].segment(image.reshape(60, 40, 3), prompts_of(["9,9"]))
    assert calls.count("encode") == 2


def test_missing_gradio_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    done = run("demo", "--models=box")
    assert done.code == 2
    assert done.err == 'error: demo needs gradio: pip install "mobilesam-bench[demo]"\n'


@pytest.fixture
def served(models: list[DemoModel]) -> Iterator[str]:
    pytest.importorskip("gradio", reason="gradio is not installed (extra demo)")
    page = make_page(models)
    address = serve(page, None)
    with pytest.raises(UsageError, match="is taken"):
        serve(make_page(models), int(address.rstrip("/").rsplit(":", 1)[1]))
    yield address
    page.close(verbose=False)
    gc.collect()  # while warnings of gradio are ignored


@pytest.mark.filterwarnings("ignore")  # of gradio
def test_a_click_on_a_photo_shows_the_masks(served: str, chromium: Any) -> None:
    troubles: list[str] = []
    page = chromium.new_page(viewport={"width": 400, "height": 900})
    page.set_default_timeout(20_000)
    page.on("console", lambda said: troubles.append(f"console: {said.text}"))
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))

    def ask(request: Any) -> None:
        if not request.url.startswith((served, "data:", "blob:")):
            troubles.append(f"request: {request.url}")

    page.on("request", ask)
    page.goto(served)
    page.locator(".photos img").nth(2).click()
    page.locator("#hint", has_text="Click on an object.").wait_for()
    image = page.locator("#image img")
    image.wait_for()
    image.click()
    captions = page.locator(".caption:visible")
    for name in ("dummy", "grabcut"):
        captions.filter(has_text=f"{name}: encode").first.wait_for()
    assert captions.filter(has_text="broken: RuntimeError: no colour for it").count()
    assert page.locator("#hint", has_text="Prompt: point 3").count()  # the middle of 640 px
    sources = page.locator("img").evaluate_all("(all) => all.map((each) => each.src)")
    n_shown = len(sources)
    page.get_by_label("Or type X,Y").fill("100,100,400,300")
    page.keyboard.press("Enter")
    page.locator("#hint", has_text="box 100,100 to 400,300").wait_for()
    page.get_by_role("button", name="Clear prompts").click()
    page.locator("#hint", has_text="Click on an object.").wait_for()
    page.wait_for_function("(n) => document.querySelectorAll('img').length === n - 2", arg=n_shown)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()
    assert troubles == []
