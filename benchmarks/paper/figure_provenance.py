"""Writes the paper's figures, each with a document that says where all of it comes from."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.config.model_resolution import PlannedModel
from benchmarks.paper.figure_pictures import Picture, prompts_text
from benchmarks.paper.figures import (
    FIGURES,
    Answer,
    FigureKind,
    FigureRequest,
    Key,
    figure_notes,
    grid_rows,
    prompts_of,
)
from benchmarks.records.environment import git_state, library_versions
from benchmarks.records.record import Value, WeightsRow, write_atomic
from benchmarks.report.mask_grid import write_grid


class PictureRow(Value):
    """A picture of a figure: prompts are in pixels of the original image."""

    name: str
    source: str
    licence: str | None
    height_px: int
    width_px: int
    pixels_sha256: str
    prompt: str | None
    chosen: str | None
    n_references: int


class ModelShown(Value):
    """A model of a figure; `why` says what is wrong with its weights."""

    model: str
    weights: WeightsRow
    why: str | None = None


class PanelRow(Value):
    """What one panel shows."""

    picture: str
    model: str
    n_masks: int
    area_px: int
    score: float | None = None
    iou: float | None = None
    why: str | None = None


class FigureProvenance(Value):
    """Where a figure comes from; stored beside it as `STEM.json`."""

    figure: int
    kind: FigureKind
    title: str
    file: str
    file_sha256: str
    note: str | None
    attribution: str | None = None
    created_utc: str
    command: str
    git_commit: str | None
    git_dirty: bool | None
    libraries: dict[str, str]
    pictures: tuple[PictureRow, ...]
    models: tuple[ModelShown, ...]
    not_shown: tuple[ModelShown, ...]
    panels: tuple[PanelRow, ...]


def write_figures(
    request: FigureRequest, answers: Mapping[Key, Answer], folder: Path
) -> list[FigureProvenance]:
    """Writes `figure-N-KIND.png` and `.json` for every figure asked for.

    Args:
        request: What was asked.
        answers: From `ask`.
        folder: Made where absent; older files of the same names are replaced.

    Raises:
        DataError: The folder cannot be written.
    """
    written = []
    for kind in request.kinds:
        figure = FIGURES[kind]
        stem = f"figure-{figure.number}-{kind}"
        rows = grid_rows(request, answers, kind)
        files = write_grid(
            figure.title, rows, figure_notes(request, kind), folder, stem, svg=request.svg
        )
        provenance = _provenance(request, answers, kind, files[0])
        text = json.dumps(provenance.model_dump(mode="json"), indent=1, ensure_ascii=False)
        write_atomic(folder / f"{stem}.json", f"{text}\n".encode())
        written.append(provenance)
    return written


def _provenance(
    request: FigureRequest, answers: Mapping[Key, Answer], kind: FigureKind, picture: Path
) -> FigureProvenance:
    commit, dirty = git_state()
    left_out = [each for each in request.models if each not in request.shown]
    return FigureProvenance(
        figure=FIGURES[kind].number,
        kind=kind,
        title=FIGURES[kind].title,
        file=picture.name,
        file_sha256=hashlib.sha256(picture.read_bytes()).hexdigest(),
        note=request.note,
        attribution=request.attribution,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["mobilesam-bench", *sys.argv[1:]]),
        git_commit=commit,
        git_dirty=dirty,
        libraries=library_versions(),
        pictures=tuple(_picture_row(each, kind) for each in request.pictures),
        models=tuple(_model_shown(each) for each in request.shown),
        not_shown=tuple(_model_shown(each) for each in left_out),
        panels=tuple(
            _panel_row(picture, each.entry.name, answers[kind, index, each.entry.name])
            for index, picture in enumerate(request.pictures)
            for each in request.shown
        ),
    )


def _model_shown(planned: PlannedModel) -> ModelShown:
    return ModelShown(model=planned.entry.name, weights=planned.weights, why=planned.error)


def _picture_row(picture: Picture, kind: FigureKind) -> PictureRow:
    prompts = prompts_of(picture, kind)
    return PictureRow(
        name=picture.name,
        source=picture.source,
        licence=picture.licence,
        height_px=picture.image.shape[0],
        width_px=picture.image.shape[1],
        pixels_sha256=picture.sha256,
        prompt=None if prompts is None else prompts_text(prompts),
        chosen=None if prompts is None else picture.chosen,
        n_references=len(picture.references)
        if kind == "everything"
        else len(picture.references[:1]),
    )


def _panel_row(picture: Picture, model: str, answer: Answer) -> PanelRow:
    area_px = np.count_nonzero(np.any(answer.masks, axis=0)) if answer.masks else 0
    return PanelRow(
        picture=picture.name,
        model=model,
        n_masks=len(answer.masks),
        area_px=int(area_px),
        score=answer.score,
        iou=answer.iou,
        why=answer.why,
    )
