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
from benchmarks.latency.timer import time_calls, time_once
from benchmarks.records.progress import Reporter
from benchmarks.report.mask_grid import overlay
from benchmarks.report.paper_figures import check_inside
from benchmarks.tables.formatting import milliseconds
from mobilesam.errors import BenchError, UsageError, WeightsError

DECODE_CALLS = 3
HOST = "127.0.0.1"
_KEPT_IMAGES = 4
_WARM_UP_HW = (480, 640)
_WARM_UP = {True: "320,240", False: "160,120,480,360"}
_POINT, _BACKGROUND, _BOX = "Point on the object", "Point on the background", "Corner of a box"
_TITLE = "Masks of several models, side by side"
_OPEN = "Choose a photo, or open an image: drop a file, or click on the empty field."
_CLICK, _CORNER = "Click on an object.", "Click on the opposite corner."
_NOTE = (
    f"Times of this machine, warm: every model has run once on another image before. Encode: one "
    "call, with resizing, once an image. Decode: the median of "
    f"{DECODE_CALLS} calls with the mask at the size of the image. Models run one after another. "
    "Times with intervals: `mobilesam-bench latency`."
)
_CSS = """
.photos .grid-container {grid-template-columns: repeat(auto-fill, minmax(64px, 1fr)) !important}
#hint {font-weight: 600}
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


def describe(texts: Sequence[str]) -> str:
    """Prompts in words, such as `point 10,20; background 3,4; box 5,6 to 7,8`."""
    found = []
    for text in texts:
        values = text.split(",")
        kind = "background" if len(values) == 3 and values[2] == "0" else "point"
        ends = ("box", f"{','.join(values[:2])} to {','.join(values[2:])}")
        found.append(" ".join(ends if len(values) == 4 else (kind, ",".join(values[:2]))))
    return f"Prompt: {'; '.join(found)}"


def draw_marks(image: UInt8Array, texts: Sequence[str], corner: str | None) -> UInt8Array:
    """Draws prompts, and a small square at the first corner of an unfinished box."""
    shown = draw_prompts(image, prompts_of(texts)) if texts else image
    if corner is None:
        return shown
    x, y = map(float, corner.split(","))
    half = max(4, max(image.shape[:2]) // 120)
    square = f"{x - half:g},{y - half:g},{x + half:g},{y + half:g}"
    return draw_prompts(shown, prompts_of([square]))


class DemoPage:
    """The page and what it does: handlers get the state and return new values of its parts.

    The state is the image, its prompts as texts, and the first corner of an unfinished box.
    """

    def __init__(self, models: Sequence[DemoModel]) -> None:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
        import gradio as gr

        self.models = models
        self.photos = sorted(photos.images_folder().glob("*.jpg"))
        self._gr, self._lock = gr, Lock()  # two models at once would slow each other down

    def opened(self, image: UInt8Array | None) -> list[Any]:
        """A new image without prompts, and empty results."""
        return [image, image, [], None, _OPEN if image is None else _CLICK, *self._empty()]

    def photo(self, index: int) -> list[Any]:
        """Opens a packaged photo."""
        path = self.photos[index]
        return self.opened(load_image(path, path.name))

    def answers(
        self, image: UInt8Array | None, texts: list[str], corner: str | None
    ) -> Iterator[list[Any]]:
        """The image with its prompts, and the masks as soon as each model has answered."""
        shown = None if image is None else draw_marks(image, texts, corner)
        head = [shown, texts, corner]
        if image is None or not texts or corner:
            hint = _OPEN if image is None else _CORNER if corner else _CLICK
            yield [*head, hint, *self._empty()]
            return
        prompts = prompts_of(texts)
        try:
            check_inside(prompts, (image.shape[0], image.shape[1]), "this image")
        except UsageError as error:
            yield [*head, str(error), *self._empty()]
            return
        waiting = [f"**{model.name}**: ..." for model in self.models]
        yield [*head, describe(texts), *self._results(waiting, [None] * len(self.models))]
        for index, model in enumerate(self.models):
            with self._lock:
                picture, caption = model.segment(image, prompts)
            # A picture sent twice is written twice, to the file that a browser may be reading.
            changes = [self._gr.skip()] * (len(head) + 1 + 2 * len(self.models))
            first = len(head) + 1 + 2 * index
            changes[first : first + 2] = caption, picture
            yield changes

    def clicked(
        self, image: UInt8Array | None, texts: list[str], corner: str | None, kind: str, event: Any
    ) -> Iterator[list[Any]]:
        """Adds a click, a `gradio.SelectData`."""
        x, y = event.index
        yield from self.answers(image, *add_click(texts, corner, kind, x, y))

    def typed(
        self, image: UInt8Array | None, texts: list[str], corner: str | None, text: str
    ) -> Iterator[list[Any]]:
        """Adds a prompt that was typed."""
        try:
            prompts_of([text])
        except UsageError as error:
            raise self._gr.Error(str(error)) from error
        yield from self.answers(image, [*texts, text], corner)

    def undone(
        self, image: UInt8Array | None, texts: list[str], corner: str | None
    ) -> Iterator[list[Any]]:
        """Removes the first corner of a box, or else the last prompt."""
        yield from self.answers(image, texts if corner else texts[:-1], None)

    def _empty(self) -> list[Any]:
        names = [f"**{model.name}**" for model in self.models]
        return self._results(names, [None] * len(names))

    @staticmethod
    def _results(captions: Sequence[str], pictures: Sequence[Any]) -> list[Any]:
        return [each for pair in zip(captions, pictures, strict=True) for each in pair]

    def build(self) -> Any:
        """The `gradio.Blocks`, not served yet."""
        gr = self._gr
        with gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True) as page:
            gr.Markdown(f"# {_TITLE}")
            image, texts, corner = gr.State(None), gr.State([]), gr.State(None)
            with gr.Row():
                with gr.Column(scale=3):
                    shown = gr.Image(
                        show_label=False, type="numpy", sources=["upload", "clipboard"],
                        buttons=[], format="png", height=470, elem_id="image",
                    )  # fmt: skip
                with gr.Column(scale=2):
                    hint = gr.Markdown(_OPEN, elem_id="hint")
                    kinds = [_POINT, _BACKGROUND, _BOX]
                    kind = gr.Radio(kinds, value=_POINT, label="A click is a")
                    with gr.Row():
                        undo = gr.Button("Undo", size="sm")
                        clear = gr.Button("Clear prompts", size="sm")
                    label = "Or type X,Y (,0 for background) or X0,Y0,X1,Y1 in pixels, then Enter"
                    text = gr.Textbox(label=label, max_lines=1)
                    chosen = gr.Gallery(
                        [str(path) for path in self.photos],
                        label="Photos", show_label=False, height=170, allow_preview=False,
                        buttons=[], elem_classes="photos",
                    )  # fmt: skip
            results: list[Any] = []
            with gr.Row():
                for model in self.models:
                    with gr.Column(min_width=240):
                        results.append(gr.Markdown(f"**{model.name}**", elem_classes="caption"))
                        look = {"show_label": False, "interactive": False, "buttons": []}
                        results.append(gr.Image(**look))
            gr.Markdown(_NOTE)
            gr.Markdown(photos.attribution(sorted(int(path.stem) for path in self.photos)))
            new = [shown, image, texts, corner, hint, *results]
            after = [shown, texts, corner, hint, *results]
            state = [image, texts, corner]
            alone: dict[str, Any] = {"concurrency_id": "models", "show_progress": "hidden"}

            def photo(event: Any) -> Any:
                return self.photo(event.index)

            def clicked(image: Any, texts: Any, corner: Any, kind: Any, event: Any) -> Any:
                yield from self.clicked(image, texts, corner, kind, event)

            for handler in (photo, clicked):  # gets the event for this annotation alone
                handler.__annotations__["event"] = gr.SelectData
            chosen.select(photo, None, new, **alone)
            shown.upload(self.opened, shown, new, **alone)
            shown.clear(lambda: self.opened(None), None, new, **alone)
            shown.select(clicked, [*state, kind], after, **alone)
            text.submit(self.typed, [*state, text], after, **alone)
            undo.click(self.undone, state, after, **alone)
            clear.click(self.opened, image, new, **alone)
        return page.queue(default_concurrency_limit=1)


def make_page(models: Sequence[DemoModel]) -> Any:
    """The page, a `gradio.Blocks` that is not served yet."""
    return DemoPage(models).build()


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
