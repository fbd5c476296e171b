"""The command `figures`, which draws the paper's Figures 4, 5 and 6."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from baselines.interface import Prompts
from baselines.registry import ModelEntry, select
from benchmarks.cli.commands.prediction import parse_prompts
from benchmarks.cli.commands.printing import print_json
from benchmarks.config.from_options import (
    apply_threads,
    check_device,
    check_max_pixels,
    check_precision,
    new_folder,
    open_dataset,
    weights_policy,
)
from benchmarks.config.model_resolution import ResolvedModel, resolve_models
from benchmarks.config.options import DataArguments, ModelArguments, OutputArguments
from benchmarks.datasets.dataset import UnreadableImage
from benchmarks.datasets.photos import PHOTOS, SHOWN
from benchmarks.records.progress import Reporter
from benchmarks.records.run_folder import held
from benchmarks.report.figure_images import FigureImage, dataset_images, file_image, photo_image
from benchmarks.report.paper_figures import FigureKind, FigureRequest, predict, write_figures
from mobilesam.errors import UsageError

DEFAULT_IMAGES = 2


@dataclass(frozen=True, slots=True)
class PictureArguments:
    """Images and prompts of the figures.

    Attributes:
        images: Files of the user.
        points: `X,Y` for each of `images`, in their order; none for the centre of each.
        boxes: `X0,Y0,X1,Y1` for each of `images`; none for a box around the centre of each.
        photos: Names of `benchmarks.report.figure_images.PHOTOS`.
        kinds: Kinds of figures, `point`, `box`, `everything`, separated by commas.
        trained_only: Leave models without weights out even if they are named.
        svg: Write SVG beside PNG.
    """

    images: tuple[Path, ...] = ()
    points: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    kinds: str = "point,box"
    trained_only: bool = False
    svg: bool = False


def figures(
    models: ModelArguments,
    data: DataArguments,
    pictures: PictureArguments,
    output: OutputArguments,
) -> int:
    """Draws the figures, writes them with their provenance, and prints their paths.

    Named images and photos come first. Images of the dataset follow if `--limit` gives their number
    or `--dataset` names another dataset than the default. Without a named image and a limit, these
    are three of the packaged photos, or the first two images of another dataset. Models without
    weights are left out unless `--models` names them.

    Returns:
        Exit code: 1 if a model failed.
    """
    reporter = Reporter(quiet=output.quiet)
    apply_threads(models)
    kinds = _kinds(pictures.kinds)
    request = FigureRequest(
        kinds=kinds,
        images=_images(pictures, data, models.seed, reporter),
        models=_models(models),
        note=output.note,
        trained_only=pictures.trained_only or models.models == ModelArguments().models,
        svg=pictures.svg,
    )
    folder = output.out or new_folder("figures")
    with held(folder):
        predictions = predict(request, reporter)
        written = write_figures(request, predictions, folder)
    if output.json:
        print_json({"figures": written})
    else:
        for each in written:
            sys.stdout.write(f"{each['title']}: {folder / each['file']}\n")
    return 1 if any(each.failed for each in predictions.values()) else 0


def _kinds(text: str) -> tuple[FigureKind, ...]:
    known = get_args(FigureKind)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UsageError(f"unknown kind of figure {name!r}; choose from {', '.join(known)}")
    return tuple(cast("FigureKind", name) for name in dict.fromkeys(names))


def _models(models: ModelArguments) -> tuple[ResolvedModel, ...]:
    patterns = [each.strip() for each in models.models.split(",") if each.strip()]
    return tuple(
        resolve_models(
            [entry for entry in select(patterns) if _wanted(entry, patterns)],
            weights_policy(models),
            device=check_device(models.device),
            precision=check_precision(models.precision),
            seed=models.seed,
        )
    )


def _wanted(entry: ModelEntry, patterns: Sequence[str]) -> bool:
    """Whether to show a model; the dummy, whose masks have no meaning, only if it is named."""
    return entry.name != "dummy" or entry.name in patterns


def _images(
    given: PictureArguments, data: DataArguments, seed: int, reporter: Reporter
) -> tuple[FigureImage, ...]:
    points = _prompts(given.points, len(given.images), "--point")
    boxes = _prompts(given.boxes, len(given.images), "--box")
    max_pixels = check_max_pixels(data.max_pixels)
    found = [
        file_image(path, point, box, max_pixels)
        for path, point, box in zip(given.images, points, boxes, strict=True)
    ]
    found += [photo_image(name) for name in given.photos]
    if found and data.limit is None and data.dataset == DataArguments().dataset:
        return tuple(found)
    n_images, only = data.limit or DEFAULT_IMAGES, None
    if data.limit is None and data.dataset == PHOTOS:
        n_images, only = len(SHOWN), SHOWN
    for image in dataset_images(open_dataset(data, n_images, seed), n_images, only):
        if isinstance(image, UnreadableImage):
            reporter.warn(f"{image.name} left out: {image.reason}")
        else:
            found.append(image)
    return tuple(found)


def _prompts(texts: Sequence[str], n_images: int, option: str) -> list[Prompts | None]:
    """One prompt for each image, or None for each."""
    if not texts:
        return [None] * n_images
    if len(texts) != n_images:
        raise UsageError(
            f"{len(texts)} {option} for {n_images} --image; give one for each image, or none"
        )
    if option == "--box":
        return [parse_prompts((), text) for text in texts]
    return [parse_prompts((text,), None) for text in texts]
