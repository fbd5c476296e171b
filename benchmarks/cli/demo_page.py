"""The page of the command `demo`: masks of several models for a click or a box, with their times.

Gradio serves it on this machine alone; the page and the server ask nothing of the network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from baselines import boundary
from baselines.interface import Embedding, Prompts, Segmenter, UInt8Array
from baselines.registry import build
from benchmarks.cli.segment import draw_prompts, parse_prompts
from benchmarks.config.from_options import (
    apply_threads,
    check_weights_are_used,
    resolve_options,
    select_models,
)
from benchmarks.config.model_resolution import ResolvedModel, weights_notes
from benchmarks.config.options import ModelArguments
from benchmarks.datasets import photos
from benchmarks.datasets.images import load_image
from benchmarks.debugging import format_error
from benchmarks.latency.timer import milliseconds, time_calls, time_once
from benchmarks.records.progress import Reporter
from benchmarks.report.mask_grid import overlay
from benchmarks.report.paper_figures import check_inside
from mobilesam.errors import BenchError, UsageError, WeightsError

DECODE_CALLS = 3
HOST = "127.0.0.1"
_KEPT_IMAGES = 4
_WARM_UP_HW = (480, 640)
_WARM_UP = {True: "320,240", False: "160,120,480,360"}
_POINT, _BACKGROUND, _BOX = "Point on the object", "Point on the background", "Corner of a box"
_NOTE = (
    f"Times of this machine, warm: every model has run once on another image before. Encode: one "
    "call, with resizing, once an image. Decode: the median of "
    f"{DECODE_CALLS} calls with the mask at the size of the image. Models run one after another. "
    "Times with intervals: `mobilesam-bench latency`."
)
_CSS = """
.photos .grid-container {grid-template-columns: repeat(auto-fill, minmax(64px, 1fr)) !important}
footer {display: none !important}
"""


@dataclass(eq=False)
class DemoModel:
    """A model of the page: built and warm, or the reason why it cannot be used."""

    name: str
    model: Segmenter | None = None
    error: str | None = None
    _embeddings: dict[str, tuple[Embedding, float]] = field(default_factory=dict)

    def segment(self, image: UInt8Array, prompts: Prompts) -> tuple[UInt8Array | None, str]:
        """The image with the mask drawn over it, None after an error, and a caption."""
        if self.model is None:
            return None, f"**{self.name}**: {self.error}"
        model, size_hw = self.model, (image.shape[0], image.shape[1])
        try:
            embedding, encode_ms = self._encoded(model, image)
            found: list[boundary.BestMask] = []
            decode_ms = time_calls(
                lambda: found.append(boundary.best_mask(model, embedding, prompts, size_hw)),
                DECODE_CALLS,
                lambda: None,  # the masks are on the host
            )
        except BenchError as error:
            return None, f"**{self.name}**: {format_error(error)}"
        mask = found[-1].mask
        shown = draw_prompts(overlay(image, [mask]), prompts)
        encode, decode = milliseconds(encode_ms), milliseconds(float(np.median(decode_ms)))
        covered = f"{100 * mask.mean():.1f} % of the image" if mask.any() else "the mask is empty"
        times = f"encode {encode}, decode {decode}"
        return shown, f"**{self.name}**: {times}; {covered}, score {found[-1].score:.2f}"

    def _encoded(self, model: Segmenter, image: UInt8Array) -> tuple[Embedding, float]:
        """Embedding of an image, with the milliseconds that it took when it was computed."""
        key = hashlib.sha256(image.tobytes()).hexdigest() + str(image.shape)
        if key not in self._embeddings:
            made: list[Embedding] = []
            ms = time_once(lambda: made.append(boundary.encode(model, image)), lambda: None)
            for oldest in list(self._embeddings)[: 1 - _KEPT_IMAGES]:
                del self._embeddings[oldest]
            self._embeddings[key] = made[0], ms
        return self._embeddings[key]


def load_models(models: ModelArguments, reporter: Reporter) -> list[DemoModel]:
    """Builds the models that the options name, and runs each once.

    Raises:
        UsageError: An option is invalid.
        WeightsError: None of the models can be used.
    """
    apply_threads(models)
    entries = select_models(models)
    check_weights_are_used(models, entries)
    resolved = resolve_options(models, entries)
    for line in weights_notes(resolved):
        reporter.say(line)
    found = [_loaded(each) for each in resolved]
    for each in found:
        if each.error is not None:
            reporter.warn(f"{each.name}: {each.error}")
    if all(each.model is None for each in found):
        raise WeightsError("none of these models can be used; choose others with --models")
    return found


def _loaded(resolved: ResolvedModel) -> DemoModel:
    name = resolved.entry.name
    if not resolved.trained:
        # Masks of random weights would look like an answer.
        return DemoModel(name, error=resolved.error or resolved.weights.why or "no weights")
    image = np.random.default_rng(0).integers(0, 256, (*_WARM_UP_HW, 3), np.uint8)
    try:
        model = build(resolved.entry, resolved.options)
        embedding = boundary.encode(model, image)
        takes_points = "points" in model.info.supports
        boundary.best_mask(model, embedding, prompts_of([_WARM_UP[takes_points]]), _WARM_UP_HW)
    except BenchError as error:
        return DemoModel(name, error=format_error(error))
    return DemoModel(name, model)


def prompts_of(texts: Sequence[str]) -> Prompts:
    """The prompt of some `X,Y,LABEL` for points and `X0,Y0,X1,Y1` for a box, the last one."""
    boxes = [text for text in texts if text.count(",") == 3]
    points = [text for text in texts if text.count(",") < 3]
    return parse_prompts(points, boxes[-1] if boxes else None)


def add_click(texts: Sequence[str], corner: str | None, kind: str, x: float, y: float) -> Any:
    """Prompts and the first corner of an unfinished box after a click at a pixel."""
    if kind != _BOX:
        return [*texts, f"{x:g},{y:g},{int(kind == _POINT)}"], corner
    if corner is None:
        return [*texts], f"{x:g},{y:g}"
    x0, y0 = map(float, corner.split(","))
    if x0 == x or y0 == y:
        return [*texts], corner  # a box needs an area
    (left, right), (top, bottom) = sorted((x0, x)), sorted((y0, y))
    kept = [text for text in texts if text.count(",") < 3]
    return [*kept, f"{left:g},{top:g},{right:g},{bottom:g}"], None


def require_gradio() -> None:
    """Raises a UsageError if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise UsageError('demo needs gradio: pip install "mobilesam-bench[demo]"')


def make_page(models: Sequence[DemoModel]) -> Any:
    """The page, a `gradio.Blocks` that is not served yet."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    import gradio as gr

    lock = Lock()  # two models at once would slow each other down
    paths = sorted(photos.images_folder().glob("*.jpg"))

    def drawn(image: UInt8Array | None, texts: Sequence[str], corner: str | None) -> Any:
        if image is None:
            return None
        marks = [*texts, *([] if corner is None else [f"{corner},1"])]
        return draw_prompts(image, prompts_of(marks)) if marks else image

    def opened(image: UInt8Array | None) -> Any:
        """A new image without prompts, and empty results."""
        hint = "Click on an object." if image is not None else "Choose a photo, or open an image."
        return [image, image, [], None, hint, *([None, ""] * len(models))]

    def answers(image: UInt8Array | None, texts: list[str], corner: str | None) -> Iterator[Any]:
        """The image with its prompts, and the masks as soon as each model has answered."""
        results: list[Any] = [None, ""] * len(models)
        head = [drawn(image, texts, corner), texts, corner]
        if image is None or not texts or corner:
            hint = "Click on the opposite corner." if corner else "Click on an object."
            yield [*head, hint, *results]
            return
        prompts = prompts_of(texts)
        said = "Prompt: " + "; ".join(texts)
        try:
            check_inside(prompts, (image.shape[0], image.shape[1]), "this image")
        except UsageError as error:
            yield [*head, str(error), *results]
            return
        results[1::2] = ["..."] * len(models)
        yield [*head, said, *results]
        for index, model in enumerate(models):
            with lock:
                answer = model.segment(image, prompts)
            # A picture sent twice is written twice, to the file that a browser may be reading.
            changes = [gr.skip()] * (len(head) + 1 + len(results))
            first = len(head) + 1 + 2 * index
            changes[first : first + 2] = answer
            yield changes

    def clicked(
        image: UInt8Array | None,
        texts: list[str],
        corner: str | None,
        kind: str,
        event: gr.SelectData,
    ) -> Iterator[Any]:
        x, y = event.index
        yield from answers(image, *add_click(texts, corner, kind, x, y))

    def typed(
        image: UInt8Array | None, texts: list[str], corner: str | None, text: str
    ) -> Iterator[Any]:
        try:
            prompts_of([text])
        except UsageError as error:
            raise gr.Error(str(error)) from error
        yield from answers(image, [*texts, text], corner)

    def undone(image: UInt8Array | None, texts: list[str], corner: str | None) -> Iterator[Any]:
        yield from answers(image, texts if corner else texts[:-1], None)

    # Gradio looks for annotations by name, and finds no local ones.
    clicked.__annotations__["event"] = gr.SelectData
    with gr.Blocks(title="mobilesam-bench demo", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("# Masks of several models, side by side")
        image, texts, corner = gr.State(None), gr.State([]), gr.State(None)
        with gr.Row():
            with gr.Column(scale=3):
                shown = gr.Image(
                    label="Image: open or drop a file, then click on it",
                    type="numpy",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    format="png",
                    height=420,
                    elem_id="image",
                )
            with gr.Column(scale=2):
                kind = gr.Radio([_POINT, _BACKGROUND, _BOX], value=_POINT, label="A click is a")
                with gr.Row():
                    undo, clear = gr.Button("Undo"), gr.Button("Clear prompts")
                text = gr.Textbox(
                    label="Or type X,Y (,0 for background) or X0,Y0,X1,Y1 in pixels, then Enter",
                    max_lines=1,
                )
                hint = gr.Markdown("Choose a photo, or open an image.", elem_id="hint")
                chosen = gr.Gallery(
                    [str(path) for path in paths],
                    label="Photos",
                    show_label=False,
                    height=230,
                    allow_preview=False,
                    buttons=[],
                    elem_classes="photos",
                )
        results: list[Any] = []
        with gr.Row():
            for model in models:
                with gr.Column(min_width=240):
                    results.append(gr.Image(label=model.name, interactive=False, buttons=[]))
                    results.append(gr.Markdown(elem_classes="caption"))
        gr.Markdown(_NOTE)
        gr.Markdown(photos.attribution(sorted(int(path.stem) for path in paths)))
        new = [shown, image, texts, corner, hint, *results]
        after = [shown, texts, corner, hint, *results]
        state = [image, texts, corner]
        alone: dict[str, Any] = {"concurrency_id": "models", "show_progress": "hidden"}

        def photo(event: gr.SelectData) -> Any:
            path = paths[event.index]
            return opened(load_image(path, path.name))

        photo.__annotations__["event"] = gr.SelectData
        chosen.select(photo, None, new, **alone)
        shown.upload(opened, shown, new, **alone)
        shown.clear(lambda: opened(None), None, new, **alone)
        shown.select(clicked, [*state, kind], after, **alone)
        text.submit(typed, [*state, text], after, **alone)
        undo.click(undone, state, after, **alone)
        clear.click(opened, image, new, **alone)
    return page.queue(default_concurrency_limit=1)


def serve(page: Any, port: int | None) -> str:
    """Serves the page on this machine alone, and returns its address; does not wait.

    Raises:
        UsageError: The port is taken.
    """
    import gradio as gr

    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own server whether it answers
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), HOST)))
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("monospace",)),
            css=_CSS,
        )
    except OSError as error:
        where = "none from 7860 on is free" if port is None else f"{port} is taken"
        raise UsageError(f"--port: {where}; choose another") from error
    return str(address)
