"""The commands `report` and `figures`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines
from benchmarks.config.options import (
    DataArguments,
    FigureArguments,
    ModelArguments,
    OutputArguments,
    Quiet,
)
from benchmarks.records.progress import Reporter
from mobilesam.errors import UsageError

if TYPE_CHECKING:
    from baselines.interface import Prompts
    from benchmarks.report.paper_figures import FigureImage, FigureKind

DEFAULT_IMAGES = 2
_MODELS, _DATA = ModelArguments(), DataArguments()
_FIGURES, _OUTPUT = FigureArguments(), OutputArguments()


def report(
    *runs: Annotated[Path, Parameter(help="Folder of a run, or a folder that holds such folders.")],
    out: Annotated[Path, Parameter(help="File to write.")] = Path("report.html"),
    images: Annotated[Path | None, Parameter(help="Folder of the images, for the masks.")] = None,
    cases: Annotated[
        int | None,
        Parameter(help="Only N worst, median and best prompts of a model have pictures."),
    ] = None,
    failures_first: Annotated[bool, Parameter(help="Masks that fail come first.")] = False,
    quiet: Quiet = False,
) -> int:
    """Write one HTML file from the records of runs: it opens from disk, without a network."""
    from benchmarks.report.page import write_report

    merged = write_report(runs, out, images=images, cases=cases, failures_first=failures_first)
    if not quiet:
        for run_id, reason in merged.left_out.items():
            sys.stderr.write(f"run {run_id}, not in the tables: {reason}\n")
        print_lines(f"report  {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def figures(
    *,
    pictures: FigureArguments = _FIGURES,
    models: ModelArguments = _MODELS,
    data: DataArguments = _DATA,
    output: OutputArguments = _OUTPUT,
) -> int:
    """Draw the masks of all models side by side, as the paper's Figures 4, 5 and 6 do.

    Images and photos that are named come first. Images of the dataset follow if --limit gives their
    number or --dataset names another dataset than the default. Without a named image and a limit,
    these are three of the packaged photos, or the first two images of another dataset. Models
    without weights are left out unless --models names them. Exit code 1: a model failed.
    """
    from baselines.registry import select
    from benchmarks.config.from_options import (
        apply_threads,
        check_weights_are_used,
        listed,
        new_folder,
        resolve_options,
    )
    from benchmarks.records.run_folder import held
    from benchmarks.report import paper_figures

    reporter = Reporter(quiet=output.quiet)
    apply_threads(models).say(reporter)
    known = get_args(paper_figures.FigureKind)
    kinds = dict.fromkeys(listed(pictures.kinds))
    for kind in kinds:
        if kind not in known:
            raise UsageError(f"unknown kind of figure {kind!r}; choose from {', '.join(known)}")
    images = _images(pictures, data, models.seed, reporter)
    names = listed(models.models)
    # The masks of the dummy have no meaning: it is drawn only if it is named.
    entries = [each for each in select(names) if each.name != "dummy" or each.name in names]
    check_weights_are_used(models, entries)
    request = paper_figures.FigureRequest(
        kinds=tuple(cast("FigureKind", kind) for kind in kinds),
        images=images,
        models=tuple(resolve_options(models, entries)),
        note=output.note,
        trained_only=pictures.trained_only or models.models == ModelArguments.models,
        svg=pictures.svg,
    )
    folder = output.out or new_folder("figures")
    with held(folder):
        predictions = paper_figures.predict(request, reporter)
        written = paper_figures.write_figures(request, predictions, folder)
    if output.json:
        print_json({"figures": written})
    else:
        print_lines(*(f"{each['title']}: {folder / each['file']}" for each in written))
    return 1 if any(each.failed for each in predictions.values()) else 0


def _images(
    given: FigureArguments, data: DataArguments, seed: int, reporter: Reporter
) -> tuple[FigureImage, ...]:
    from benchmarks.config.from_options import check_max_pixels, open_dataset
    from benchmarks.datasets.dataset import UnreadableImage
    from benchmarks.datasets.photos import PHOTOS, SHOWN
    from benchmarks.report.paper_figures import dataset_images, file_image, photo_image

    points = _prompts(given.point, len(given.image), "--point")
    boxes = _prompts(given.box, len(given.image), "--box")
    max_pixels = check_max_pixels(data.max_pixels)
    found = [
        file_image(path, point, box, max_pixels)
        for path, point, box in zip(given.image, points, boxes, strict=True)
    ]
    found += [photo_image(name) for name in given.photo]
    if found and data.limit is None and data.dataset == DataArguments.dataset:
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
    """One prompt per image, or None for each."""
    from benchmarks.cli.segment import parse_prompts

    if not texts:
        return [None] * n_images
    if len(texts) != n_images:
        raise UsageError(
            f"{len(texts)} {option} for {n_images} --image; give one for each image, or none"
        )
    if option == "--box":
        return [parse_prompts((), text) for text in texts]
    return [parse_prompts((text,), None) for text in texts]
