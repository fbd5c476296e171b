"""The paper's Figures 4, 5 and 6: the same prompts to every model, and its answers as rows.

Figure 4 shows masks for a point, Figure 5 for a box, Figure 6 segment everything.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from baselines import boundary
from baselines.interface import BoolArray, Embedding, Prompts, Segmenter
from baselines.registry import build
from benchmarks.cli.progress import Reporter
from benchmarks.config.model_resolution import PlannedModel
from benchmarks.datasets.masks import iou
from benchmarks.datasets.photos import attribution
from benchmarks.paper.figure_pictures import Picture, prompts_text
from benchmarks.report.mask_grid import MaskPanel, MaskRow
from benchmarks.tables.record_queries import shipped_notes, weights_label
from mobilesam.errors import BenchError, UsageError

FigureKind = Literal["point", "box", "everything"]
Key = tuple[FigureKind, int, str]


@dataclass(frozen=True, slots=True)
class _Figure:
    number: int
    title: str
    needs: str
    note: str


FIGURES: Mapping[FigureKind, _Figure] = MappingProxyType(
    {
        "point": _Figure(
            4,
            "Masks from one point (the paper's Figure 4)",
            "points",
            "Of the candidates for a point, the one that the model itself scores highest.",
        ),
        "box": _Figure(
            5,
            "Masks from a box (the paper's Figure 5)",
            "boxes",
            "The single mask that the model answers a box with.",
        ),
        "everything": _Figure(
            6,
            "Segment everything (the paper's Figure 6)",
            "everything",
            "Largest masks first, smaller ones on top; colours follow the order of area and mean "
            "nothing else.",
        ),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class FigureRequest:
    """What is to be shown.

    Attributes:
        kinds: Which figures.
        pictures: A row each.
        models: A column each, in this order.
        note: Printed below each figure and kept in its provenance.
        trained_only: Leave models without weights out of the picture; the provenance names them.
        svg: Write SVG beside PNG.
    """

    kinds: tuple[FigureKind, ...]
    pictures: tuple[Picture, ...]
    models: tuple[PlannedModel, ...]
    note: str | None = None
    trained_only: bool = False
    svg: bool = False

    def __post_init__(self) -> None:
        if not self.kinds or not self.pictures:
            raise UsageError("nothing to draw: give at least one kind of figure and one picture")
        if not self.shown:
            raise UsageError("none of these models has weights here; see mobilesam-bench models")

    @property
    def shown(self) -> tuple[PlannedModel, ...]:
        """Models that get a column."""
        return tuple(
            each
            for each in self.models
            # Weights that are there and unusable are told of, whatever else is left out.
            if each.trained or each.error is not None or not self.trained_only
        )

    @property
    def attribution(self) -> str | None:
        """The line that credits the packaged photos among the pictures; None if there are none."""
        shown = [each.packaged_id for each in self.pictures if each.packaged_id is not None]
        return attribution(shown) if shown else None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What one model said to one prompt, or why it said nothing.

    Attributes:
        masks: (H, W) bool; one for a prompt, any number for segment everything.
        score: The model's own score of the one mask.
        iou: With the ground truth; for segment everything the mean over all objects of the IoU
            with the best mask. None where there is no ground truth.
        why: Stands in the picture's place.
        failed: `why` is an error, not a limit of the model.
    """

    masks: tuple[BoolArray, ...] = ()
    score: float | None = None
    iou: float | None = None
    why: str | None = None
    failed: bool = False


def ask(request: FigureRequest, reporter: Reporter) -> dict[Key, Answer]:
    """Asks every model everything; one model is in memory at a time.

    Returns:
        By kind, index of the picture, and name of the model. What cannot be answered is there,
        with the reason.
    """
    answers: dict[Key, Answer] = {}
    for planned in request.shown:
        name = planned.entry.name
        keys: list[Key] = [
            (k, i, name) for i in range(len(request.pictures)) for k in request.kinds
        ]
        if planned.error is not None:
            reporter.warn(f"{name}: {planned.error}")
            answers |= dict.fromkeys(keys, Answer(why="weights unusable", failed=True))
            continue
        if not planned.trained:
            # A mask from random weights would look like an answer.
            answers |= dict.fromkeys(keys, Answer(why="no weights"))
            continue
        try:
            model = build(planned.entry, planned.options)
        except BenchError as error:
            answers |= dict.fromkeys(keys, _failure(name, error, reporter))
            continue
        with reporter.bar(f"{name}: {len(keys)} panels", len(keys)) as bar:
            for index, picture in enumerate(request.pictures):
                for kind, answer in _ask_about(model, picture, request.kinds, reporter):
                    answers[kind, index, name] = answer
                    bar.step(f"{picture.name}, {kind}")
        del model
        gc.collect()  # the largest models do not fit beside each other
    return answers


def _ask_about(
    model: Segmenter, picture: Picture, kinds: Sequence[FigureKind], reporter: Reporter
) -> Iterator[tuple[FigureKind, Answer]]:
    embedding: Embedding | None = None
    for kind in kinds:
        if FIGURES[kind].needs not in model.info.supports:
            takes = "answers prompts only" if kind == "everything" else f"takes no {kind} prompts"
            yield kind, Answer(why=takes)
            continue
        try:
            if kind == "everything":
                answer = _everything(model, picture)
            else:
                embedding = embedding or boundary.encode(model, picture.image)
                answer = _prompted(model, embedding, picture, kind)
        except BenchError as error:
            answer = _failure(f"{model.info.name}, {picture.name}, {kind}", error, reporter)
        yield kind, answer


def _failure(where: str, error: Exception, reporter: Reporter) -> Answer:
    text = " ".join(str(error).split()) or type(error).__name__
    reporter.warn(f"{where}: {text}")
    return Answer(why=f"failed: {text}"[:160], failed=True)


def _prompted(model: Segmenter, embedding: Embedding, picture: Picture, kind: FigureKind) -> Answer:
    prompts = prompts_of(picture, kind)
    assert prompts is not None  # noqa: S101 - only everything has none
    # One click is ambiguous: ask for all candidates and keep the best by the model's own score.
    multimask = prompts.points is not None and prompts.points.shape[1] == 1
    height, width = picture.image.shape[:2]
    answer = boundary.decode(model, embedding, prompts, (height, width), multimask=multimask)
    best = int(np.argmax(answer.scores[0]))
    mask = answer.masks[0, best]
    truth = iou(mask, picture.references[0]) if picture.references else None
    return Answer((mask,), float(answer.scores[0, best]), truth)


def _everything(model: Segmenter, picture: Picture) -> Answer:
    masks = tuple(record.mask for record in boundary.everything(model, picture.image))
    best = [max((iou(mask, each) for mask in masks), default=0.0) for each in picture.references]
    return Answer(masks, iou=float(np.mean(best)) if best else None)


def prompts_of(picture: Picture, kind: FigureKind) -> Prompts | None:
    """The prompt of a picture for one figure; None for segment everything."""
    return {"point": picture.point, "box": picture.box, "everything": None}[kind]


def grid_rows(
    request: FigureRequest, answers: Mapping[Key, Answer], kind: FigureKind
) -> list[MaskRow]:
    """What `mask_grid` draws of one figure."""
    rows = []
    for index, picture in enumerate(request.pictures):
        prompts = prompts_of(picture, kind)
        shown = picture.references if kind == "everything" else picture.references[:1]
        rows.append(
            MaskRow(
                title=picture.name,
                image=picture.image,
                prompts=prompts,
                references=shown,
                panels=tuple(
                    _panel(each, answers[kind, index, each.entry.name], kind)
                    for each in request.shown
                ),
                caption="no prompt" if prompts is None else prompts_text(prompts, whole=True),
                value="ground truth outlined" if shown else "",
            )
        )
    return rows


def _panel(planned: PlannedModel, answer: Answer, kind: FigureKind) -> MaskPanel:
    captions = {"none": "no weights needed", "random": ""}
    label = f"weights {weights_label(planned.weights)}"
    caption = captions.get(planned.weights.kind, label)
    parts = []
    if kind == "everything" and answer.why is None:
        parts.append(f"{len(answer.masks)} mask{'s' * (len(answer.masks) != 1)}")
    elif answer.masks and not answer.masks[0].any():
        parts.append("nothing found")
    if answer.iou is not None:
        parts.append(f"IoU {answer.iou:.2f}")
    return MaskPanel(planned.entry.name, caption, ", ".join(parts), answer.masks, answer.why)


def figure_notes(request: FigureRequest, kind: FigureKind) -> list[str]:
    """What is printed below a figure."""
    notes = [FIGURES[kind].note]
    if any(picture.references for picture in request.pictures):
        meaning = "IoU: with the ground truth, outlined in yellow."
        if kind == "everything":
            meaning = (
                "IoU: of each object outlined in yellow with the best of all masks, mean over "
                "the picture's objects."
            )
        notes.append(meaning)
    files = [each.weights for each in request.shown if each.weights.kind == "file"]
    if any(each.shipped is None for each in files):
        notes.append("Weights are named by the first digits of their file's sha256.")
    notes += shipped_notes(files)
    absent = [each.entry.name for each in request.models if each not in request.shown]
    if absent:
        notes.append(f"Not shown, since their weights are not here: {', '.join(absent)}.")
    if request.note:
        notes.append(f"{request.note.rstrip('.')}.")
    free = [f"{each.name}: {each.licence}" for each in request.pictures if _is_photo(each)]
    credit = request.attribution
    return [
        " ".join(notes),
        *([f"Photos: {'; '.join(free)}."] if free else []),
        *([] if credit is None else [credit]),
    ]


def _is_photo(picture: Picture) -> bool:
    """It has an author to be credited, unlike a rendered scene or a file of the user's own."""
    return picture.licence is not None and not picture.references
