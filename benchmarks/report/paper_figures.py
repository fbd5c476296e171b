"""The paper's Figures 4, 5 and 6: masks of all models for the same images, side by side.

Each is written with a JSON document that states the origin of everything in it.
"""

from __future__ import annotations

import difflib
import gc
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from baselines import boundary
from baselines.interface import BoolArray, Embedding, Prompts, Segmenter, UInt8Array
from baselines.registry import build
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets import MAX_PIXELS, photos
from benchmarks.datasets.dataset import Dataset, UnreadableImage
from benchmarks.datasets.images import load_image
from benchmarks.datasets.masks import center_point, iou
from benchmarks.debugging import format_error
from benchmarks.records.environment import git_state, library_versions
from benchmarks.records.progress import Reporter
from benchmarks.records.record import write_atomic
from benchmarks.records.run_folder import command_line
from benchmarks.report.mask_grid import MaskPanel, MaskRow, write_grid
from benchmarks.tables.record_queries import shipped_notes, weights_label
from mobilesam.errors import BenchError, DataError, UsageError

FigureKind = Literal["point", "box", "everything"]


@dataclass(frozen=True, slots=True, eq=False)
class FigureImage:
    """An (H, W, 3) uint8 RGB image with one prompt of points and one of a box.

    Attributes:
        name: Short name, for the figure.
        licence: Licence under which it may be shown; None if unknown.
        chosen: How the prompts were chosen.
        references: (H, W) bool ground truth of all objects, the prompted one first; may be empty.
        packaged_id: Image id of a photo of `benchmarks.datasets.photos`, whose author must be
            credited wherever it is shown; None for other images.
    """

    name: str
    image: UInt8Array
    source: str
    licence: str | None
    point: Prompts
    box: Prompts
    chosen: str
    references: tuple[BoolArray, ...] = ()
    packaged_id: int | None = None

    def prompts(self, kind: FigureKind) -> Prompts | None:
        """The `point` or the `box`; None for segment everything."""
        return {"point": self.point, "box": self.box}.get(kind)

    def shown_references(self, kind: FigureKind) -> tuple[BoolArray, ...]:
        """The prompted object, or all objects for segment everything."""
        return self.references if kind == "everything" else self.references[:1]

    @property
    def sha256(self) -> str:
        """Hash (hex) of the pixels and their shape."""
        digest = hashlib.sha256(repr(self.image.shape).encode())
        digest.update(np.ascontiguousarray(self.image).tobytes())
        return digest.hexdigest()


PHOTOS = {
    "astronaut": (
        "NASA, https://flic.kr/p/r9qvLn",
        "public domain",
        (225, 115),
        (278, 340, 508, 512),
    ),
    "chelsea": ("Stefan van der Walt", "CC0-1.0", (177, 116), (26, 0, 398, 300)),
    "coffee": ("Rachel Michetti, Pikolo Espresso Bar", "CC0-1.0", (362, 283), (172, 12, 414, 306)),
}
"""Photos in the wheel of scikit-image that its notes declare free of copyright.

Author, licence, and the prompts: a point and a box.
"""


def photo_image(name: str) -> FigureImage:
    """One of `PHOTOS`, read from the installed scikit-image."""
    from benchmarks.datasets.synthetic import load_photos

    if name not in PHOTOS:
        near = difflib.get_close_matches(name, PHOTOS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(PHOTOS)}"
        raise UsageError(f"unknown photo {name!r}; {hint}")
    found = load_photos((name,))
    if not found:
        raise DataError(f"scikit-image here lacks {name}.png; install its wheel, or give --image")
    author, licence, point, box = PHOTOS[name]
    return FigureImage(
        name=name,
        image=found[0],
        source=f"{author}, as shipped in scikit-image (skimage.data.{name})",
        licence=licence,
        point=_point_prompt(*point),
        box=Prompts(boxes=np.array([box], np.float32)),
        chosen="by hand, before any model was asked",
    )


def file_image(
    path: Path,
    point: Prompts | None = None,
    box: Prompts | None = None,
    max_pixels: int = MAX_PIXELS,
) -> FigureImage:
    """An image of the user; prompts that are not given are for the centre."""
    image = load_image(path, str(path), None, max_pixels)
    height, width = image.shape[:2]
    given = {"point": point, "box": box}
    for prompts in given.values():
        if prompts is not None:
            check_inside(prompts, (height, width), path.name)
    # At least a pixel wide, however small the image.
    corners = (width / 4, height / 4, max(3 * width / 4, 1), max(3 * height / 4, 1))
    origins = [f"{kind}: given" for kind in given if given[kind] is not None]
    origins += [f"{kind}: the image's centre" for kind in given if given[kind] is None]
    return FigureImage(
        name=path.stem,
        image=image,
        source=f"file {path.name}",
        licence=None,
        point=point or _point_prompt(width // 2, height // 2),
        box=box or Prompts(boxes=np.array([corners], np.float32)),
        chosen="; ".join(origins),
    )


def dataset_images(
    dataset: Dataset, n: int, only: Collection[int] | None = None
) -> Iterator[FigureImage | UnreadableImage]:
    """The first `n` images of a dataset, each with prompts for its object of the largest area.

    Only those whose ids are in `only`, if it is given. Yields the error of an unreadable image.
    """
    samples = (each for each in dataset.samples() if only is None or each.image_id in only)
    for sample in islice(samples, n):
        if isinstance(sample, UnreadableImage):
            yield sample
            continue
        masks = [instance.mask() for instance in sample.instances]
        first = int(np.argmax([np.count_nonzero(mask) for mask in masks]))
        instance = sample.instances[first]
        source, licence = f"{dataset.name}, {sample.name}", None
        packaged = dataset.name == photos.PHOTOS
        if packaged:
            source, licence = f"{source}, {photos.source_of(sample.image_id)}", photos.LICENCE
        elif dataset.name.startswith("synthetic:"):
            licence = "Apache-2.0, rendered by mobilesam-bench"
        yield FigureImage(
            name=Path(sample.name).stem,
            image=sample.image,
            source=source,
            licence=licence,
            point=_point_prompt(*center_point(masks[first])),
            box=Prompts(boxes=instance.box[None]),
            chosen=f"largest object (annotation {instance.annotation_id}): its centre, its box",
            references=(masks[first], *masks[:first], *masks[first + 1 :]),
            packaged_id=sample.image_id if packaged else None,
        )


def check_inside(prompts: Prompts, size_hw: tuple[int, int], name: str) -> None:
    """Checks that the points of a prompt lie in an image and that its box touches it."""
    height, width = size_hw
    where = f"outside the image of {width} x {height} pixels ({name})"
    if prompts.points is not None:
        for x, y in prompts.points[0].tolist():
            if not (0 <= x < width and 0 <= y < height):
                raise UsageError(f"point {x:g},{y:g} lies {where}")
    if prompts.boxes is not None:
        x0, y0, x1, y1 = prompts.boxes[0].tolist()
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise UsageError(f"box {x0:g},{y0:g},{x1:g},{y1:g} lies {where}")


def _point_prompt(x: float, y: float) -> Prompts:
    return Prompts(points=np.array([[[x, y]]], np.float32), labels=np.ones((1, 1), np.int64))


def prompts_text(prompts: Prompts, *, whole: bool = False) -> str:
    """One prompt as text: `point 12,34`, `points 1,2 and 3,4 (not)`, `box 1,2,3,4`."""

    def numbers(values: Sequence[float]) -> str:
        return ",".join(f"{round(value) if whole else value:g}" for value in values)

    if prompts.boxes is not None:
        return f"box {numbers(prompts.boxes[0].tolist())}"
    assert prompts.points is not None  # noqa: S101 - Prompts holds one or the other
    assert prompts.labels is not None  # noqa: S101 - they come together
    pairs = zip(prompts.points[0].tolist(), prompts.labels[0].tolist(), strict=True)
    texts = [numbers(xy) + ("" if label else " (not)") for xy, label in pairs]
    return f"point{'s' * (len(texts) > 1)} {' and '.join(texts)}"


class _Figure(NamedTuple):
    number: int
    title: str
    prompt_kind: str
    note: str


_POINT = "Of the candidate masks for a point, the one with the highest score."
_BOX = "The single mask that the model predicts for a box."
_ALL = "Smaller masks are drawn over larger ones; colours follow the order of area."
FIGURES: Mapping[FigureKind, _Figure] = {
    "point": _Figure(4, "Masks from one point (the paper's Figure 4)", "points", _POINT),
    "box": _Figure(5, "Masks from a box (the paper's Figure 5)", "boxes", _BOX),
    "everything": _Figure(6, "Segment everything (the paper's Figure 6)", "everything", _ALL),
}


@dataclass(frozen=True, slots=True, eq=False)
class FigureRequest:
    """Figures to draw: a row for each image, a column for each model.

    The note is printed below each figure. With `trained_only`, models without weights are left out;
    the provenance names them. With `svg`, SVG is written beside PNG.
    """

    kinds: tuple[FigureKind, ...]
    images: tuple[FigureImage, ...]
    models: tuple[ResolvedModel, ...]
    note: str | None = None
    trained_only: bool = False
    svg: bool = False

    def __post_init__(self) -> None:
        if not self.kinds or not self.images:
            raise UsageError("nothing to draw: give at least one kind of figure and one picture")
        if not self.shown:
            raise UsageError("none of these models has weights here; see mobilesam-bench models")

    @property
    def shown(self) -> list[ResolvedModel]:
        """Models with a column; those with unusable weights have one, which gives the error."""
        return [
            each
            for each in self.models
            if each.trained or each.error is not None or not self.trained_only
        ]

    @property
    def left_out(self) -> list[ResolvedModel]:
        """Models without a column."""
        return [each for each in self.models if each not in self.shown]

    @property
    def attribution(self) -> str | None:
        """Credit of the packaged photos among the images; None if there are none."""
        shown = [each.packaged_id for each in self.images if each.packaged_id is not None]
        return photos.attribution(shown) if shown else None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """(H, W) bool masks of one model for one image and kind of figure, or the reason `why` not.

    `iou` is that with the ground truth; for segment everything, the mean over all objects of the
    IoU with the best mask. `failed` tells an error from a limit of the model.
    """

    masks: tuple[BoolArray, ...] = ()
    score: float | None = None
    iou: float | None = None
    why: str | None = None
    failed: bool = False


Key = tuple[FigureKind, int, str]
Predictions = Mapping[Key, Prediction]
"""Predictions by kind, index of the image, and name of the model."""


def predict(request: FigureRequest, reporter: Reporter) -> dict[Key, Prediction]:
    """Runs every model on every image; one model is in memory at a time."""
    predictions: dict[Key, Prediction] = {}
    for resolved in request.shown:
        name = resolved.entry.name
        keys = [(kind, i, name) for i in range(len(request.images)) for kind in request.kinds]
        if resolved.error is not None:
            reporter.warn(f"{name}: {resolved.error}")
        if resolved.error is not None or not resolved.trained:
            # A mask from random weights would look like a result.
            failed = resolved.error is not None
            missing = Prediction(why="weights unusable" if failed else "no weights", failed=failed)
            predictions |= dict.fromkeys(keys, missing)
            continue
        try:
            model = build(resolved.entry, resolved.options)
        except BenchError as error:
            predictions |= dict.fromkeys(keys, _failure(name, error, reporter))
            continue
        with reporter.bar(f"{name}: {len(keys)} panels", len(keys)) as bar:
            for index, image in enumerate(request.images):
                for kind, prediction in _predict_image(model, image, request.kinds, reporter):
                    predictions[kind, index, name] = prediction
                    bar.step(f"{image.name}, {kind}")
        del model
        gc.collect()  # the largest models do not fit into memory together
    return predictions


def _predict_image(
    model: Segmenter, image: FigureImage, kinds: Sequence[FigureKind], reporter: Reporter
) -> Iterator[tuple[FigureKind, Prediction]]:
    embedding: Embedding | None = None
    height, width = image.image.shape[:2]
    for kind in kinds:
        if FIGURES[kind].prompt_kind not in model.info.supports:
            takes = "takes prompts only" if kind == "everything" else f"takes no {kind} prompts"
            yield kind, Prediction(why=takes)
            continue
        prompts, references = image.prompts(kind), image.shown_references(kind)
        try:
            if prompts is None:
                masks = tuple(each.mask for each in boundary.everything(model, image.image))
                score = None
            else:
                embedding = embedding or boundary.encode(model, image.image)
                mask, score, _ = boundary.best_mask(model, embedding, prompts, (height, width))
                masks = (mask,)
        except BenchError as error:
            yield kind, _failure(f"{model.info.name}, {image.name}, {kind}", error, reporter)
            continue
        best = [max((iou(mask, each) for mask in masks), default=0.0) for each in references]
        yield kind, Prediction(masks, score, float(np.mean(best)) if best else None)


def _failure(where: str, error: BenchError, reporter: Reporter) -> Prediction:
    text = " ".join(format_error(error).split()) or type(error).__name__
    reporter.warn(f"{where}: {text}")
    return Prediction(why=f"failed: {text}"[:160], failed=True)


def grid_rows(request: FigureRequest, predictions: Predictions, kind: FigureKind) -> list[MaskRow]:
    """Rows of the grid of one figure."""
    rows = []
    for index, image in enumerate(request.images):
        panels = []
        for resolved in request.shown:
            prediction = predictions[kind, index, resolved.entry.name]
            captions = {"none": "no weights needed", "random": ""}
            label = f"weights {weights_label(resolved.weights)}"
            caption = captions.get(resolved.weights.kind, label)
            parts = []
            if kind == "everything" and prediction.why is None:
                n_masks = len(prediction.masks)
                parts.append(f"{n_masks} mask{'s' * (n_masks != 1)}")
            elif prediction.masks and not prediction.masks[0].any():
                parts.append("nothing found")
            if prediction.iou is not None:
                parts.append(f"IoU {prediction.iou:.2f}")
            values = (caption, ", ".join(parts), prediction.masks, prediction.why)
            panels.append(MaskPanel(resolved.entry.name, *values))
        prompts, references = image.prompts(kind), image.shown_references(kind)
        caption = "no prompt" if prompts is None else prompts_text(prompts, whole=True)
        value = "ground truth outlined" if references else ""
        row = (image.name, image.image, prompts, references, tuple(panels), caption, value)
        rows.append(MaskRow(*row))
    return rows


def figure_notes(request: FigureRequest, kind: FigureKind) -> list[str]:
    """Notes below a figure: its content, the licences of photos, and their credit."""
    notes = [FIGURES[kind].note]
    if any(image.references for image in request.images):
        notes.append(
            "IoU: of each object outlined in yellow with the best of all masks, mean over the "
            "picture's objects."
            if kind == "everything"
            else "IoU: with the ground truth, outlined in yellow."
        )
    files = [each.weights for each in request.shown if each.weights.kind == "file"]
    if any(each.shipped is None for each in files):
        notes.append("Weights are named by the first digits of their file's sha256.")
    notes += shipped_notes(files)
    if request.left_out:
        names = ", ".join(each.entry.name for each in request.left_out)
        notes.append(f"Not shown, since their weights are not here: {names}.")
    if request.note:
        notes.append(f"{request.note.rstrip('.')}.")
    # Photos have authors to be credited, unlike rendered scenes and files of the user.
    licensed = [each for each in request.images if each.licence and not each.references]
    free = "; ".join(f"{each.name}: {each.licence}" for each in licensed)
    return [
        " ".join(notes),
        *([f"Photos: {free}."] if free else []),
        *([] if request.attribution is None else [request.attribution]),
    ]


def write_figures(
    request: FigureRequest, predictions: Predictions, folder: Path
) -> list[dict[str, Any]]:
    """Writes `figure-N-KIND.png` and its provenance `figure-N-KIND.json`; returns the latter."""
    written = []
    for kind in request.kinds:
        figure = FIGURES[kind]
        stem = f"figure-{figure.number}-{kind}"
        rows = grid_rows(request, predictions, kind)
        notes = figure_notes(request, kind)
        files = write_grid(figure.title, rows, notes, folder, stem, svg=request.svg)
        provenance = _provenance(request, predictions, kind, files[0])
        text = json.dumps(provenance, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(folder / f"{stem}.json", f"{text}\n".encode())
        written.append(provenance)
    return written


def _provenance(
    request: FigureRequest, predictions: Predictions, kind: FigureKind, picture: Path
) -> dict[str, Any]:
    """Origin of a figure and of everything in it; prompts are in pixels of the original."""
    commit, dirty = git_state()
    pictures, panels = [], []
    for index, image in enumerate(request.images):
        prompts = image.prompts(kind)
        pictures.append(
            {
                "name": image.name,
                "source": image.source,
                "licence": image.licence,
                "height_px": image.image.shape[0],
                "width_px": image.image.shape[1],
                "pixels_sha256": image.sha256,
                "prompt": None if prompts is None else prompts_text(prompts),
                "chosen": None if prompts is None else image.chosen,
                "n_references": len(image.shown_references(kind)),
            }
        )
        for resolved in request.shown:
            prediction = predictions[kind, index, resolved.entry.name]
            masks = prediction.masks
            panels.append(
                {
                    "picture": image.name,
                    "model": resolved.entry.name,
                    "n_masks": len(masks),
                    "area_px": int(np.count_nonzero(np.any(masks, axis=0))) if masks else 0,
                    "score": prediction.score,
                    "iou": prediction.iou,
                    "why": prediction.why,
                }
            )
    models, left_out = (
        [
            {
                "model": each.entry.name,
                "weights": each.weights.model_dump(mode="json"),
                "why": each.error,
            }
            for each in group
        ]
        for group in (request.shown, request.left_out)
    )
    return {
        "figure": FIGURES[kind].number,
        "kind": kind,
        "title": FIGURES[kind].title,
        "file": picture.name,
        "file_sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
        "note": request.note,
        "attribution": request.attribution,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "git_commit": commit,
        "git_dirty": dirty,
        "libraries": library_versions(),
        "pictures": pictures,
        "models": models,
        "not_shown": left_out,
        "panels": panels,
    }
