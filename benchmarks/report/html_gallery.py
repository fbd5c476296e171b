"""The report's gallery: the same image and prompt through every model, beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from baselines.interface import UInt8Array
from benchmarks.datasets.photos import attribution
from benchmarks.evaluation.predictions import PREDICTIONS_FOLDER
from benchmarks.evaluation.rescore import Stored, load_stored
from benchmarks.prompts.protocols import DEFAULT_PROTOCOLS, GROUND_TRUTH
from benchmarks.records.instances import read_instances
from benchmarks.records.record import INSTANCES_NAME
from benchmarks.report.gallery_images import Images, Picture, photos_of, scenes_of, shrink
from benchmarks.report.html_case_views import CaseMaker, CaseView, load_manifests
from benchmarks.report.html_cases import FAILURE_IOU, Case, choose_cases, medians
from benchmarks.tables.record_queries import unique
from mobilesam.errors import BenchError, DataError

IMAGES_BUDGET_BYTES = 9_000_000
"""Most characters of all images together, so that a page stays below 15 MB."""
HOW = (
    "The gallery needs stored masks and the images that they were made from. Measure with "
    "mobilesam-bench miou --save-masks; images of COCO or SA-1B come with report --images DIR, "
    "packaged photos are found without it, and scenes of --dataset synthetic are drawn again from "
    "their seed."
)


@dataclass(frozen=True, slots=True)
class Gallery:
    """What the section shows.

    Attributes:
        why: Why there is nothing to see, and how to change that; None where there is.
        dataset: Name of the dataset.
        protocols: In the order of the page.
        models: In the order of the page.
        medians: Median IoU by protocol and model.
        cases: In the order in which they stand without scripts.
        failures_first: Whether cases with a failure come first.
        n_prompts: Prompts that the cases were chosen from.
        notes: Plain sentences.
        attribution: Credit of the packaged photos that are shown; None where there are none.
    """

    why: str | None = None
    dataset: str = ""
    protocols: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    medians: list[list[float | None]] = field(default_factory=list)
    cases: tuple[CaseView, ...] = ()
    failures_first: bool = False
    n_prompts: int = 0
    notes: tuple[str, ...] = ()
    attribution: str | None = None


def build_gallery(
    folders: Sequence[Path],
    page_models: Sequence[str],
    *,
    images: Path | None = None,
    each: int,
    failures_first: bool = False,
) -> Gallery:
    """Reads stored masks and images, and chooses what to show.

    Args:
        folders: Of the runs on the page, the newest first.
        page_models: Every model on the page, in order.
        images: Folder of the dataset's images; packaged photos and drawn scenes need none.
        each: Worst, median and best prompts of a model and protocol, so many of each.
        failures_first: Cases in which some model failed come first.

    Returns:
        The gallery; one with a reason where masks or images are missing.
    """
    stored_in = [path for path in folders if (path / PREDICTIONS_FOLDER).is_dir()]
    if not stored_in:
        return Gallery(why=f"No run on this page has stored its masks. {HOW}")
    try:
        stored, stored_in, notes = _load(stored_in)
    except BenchError as error:
        return Gallery(why=f"The stored masks cannot be shown: {error}. {HOW}")
    fingerprint = next(iter(stored.infos.values())).fingerprint
    try:
        scenes = scenes_of(stored.dataset, fingerprint)
        packaged = photos_of(stored.dataset, fingerprint)
        folder = packaged or images
        if scenes is None and folder is None:
            return Gallery(why=f"The images of {stored.dataset} were not given. {HOW}")
        source = Images(None if scenes else folder, scenes)
        frame = _frame(stored_in, stored)
        gallery = _gallery(stored, stored_in, source, frame, page_models, each)
        if packaged is not None:
            shown = sorted({view.case.image_id for view in gallery.cases})
            gallery = replace(gallery, attribution=attribution(shown))
    except DataError as error:
        return Gallery(why=f"The gallery could not be made: {error}. {HOW}")
    return _ordered(gallery, notes, failures_first=failures_first)


def _load(folders: list[Path]) -> tuple[Stored, list[Path], list[str]]:
    """Stored masks, the folders that they are from, and what is to be said of others."""
    try:
        return load_stored(folders), folders, []
    except BenchError as error:
        if len(folders) == 1:
            raise
        # Runs over different data cannot stand side by side; the newest one alone can be shown.
        note = f"Masks of {folders[0].name} alone are shown: {error}."
        return load_stored(folders[:1]), folders[:1], [note]


def _ordered(gallery: Gallery, notes: Sequence[str], *, failures_first: bool) -> Gallery:
    cases = gallery.cases
    if failures_first:
        cases = tuple(sorted(cases, key=lambda view: not view.case.failed))
    return replace(
        gallery,
        cases=cases,
        failures_first=failures_first,
        notes=(*gallery.notes, *notes),
    )


def _frame(folders: Sequence[Path], stored: Stored) -> Any:
    """IoU of every stored answer with the ground truth, each prompt once a model."""
    import pandas as pd

    frame = pd.concat([read_instances(folder / INSTANCES_NAME) for folder in folders])
    frame = frame[(frame["reference"] == GROUND_TRUTH) & frame["model"].isin(list(stored.infos))]
    if frame.empty:
        raise DataError("no stored answer was scored against the ground truth")
    return frame.drop_duplicates(["image_id", "annotation_id", "model", "protocol"])


def _gallery(
    stored: Stored,
    folders: Sequence[Path],
    source: Images,
    frame: Any,
    page_models: Sequence[str],
    each: int,
) -> Gallery:
    names = [name for name in DEFAULT_PROTOCOLS if name in stored.protocols]
    names += [name for name in stored.protocols if name not in names]
    models = [model for model in page_models if model in stored.infos]
    cases = choose_cases(frame, names, each)
    pictures, missing = _pictures(cases, source, stored)
    if not pictures:
        raise DataError(
            f"none of {len(missing)} images can be shown, the first because {missing[0]}"
        )
    protocols = [name for name in names if any(case.protocol == name for case in cases)]
    maker = CaseMaker(stored, load_manifests(folders, protocols), models)
    views = tuple(maker.view(case, pictures[case.image_id]) for case in cases
                  if case.image_id in pictures)  # fmt: skip
    notes = [f"Failure: an IoU below {FAILURE_IOU:g} for some model."]
    if missing:
        notes.append(f"{len(missing)} images are left out: {missing[0]}.")
    if any(name.startswith("clicks-") for name in protocols):
        notes.append("Of several clicks the first is drawn.")
    return Gallery(
        dataset=stored.dataset,
        protocols=tuple(protocols),
        models=tuple(models),
        medians=medians(frame, protocols, models),
        cases=views,
        n_prompts=len(frame.drop_duplicates(["image_id", "annotation_id", "protocol"])),
        notes=tuple(notes),
    )


def _pictures(
    cases: Sequence[Case], source: Images, stored: Stored
) -> tuple[dict[int, Picture], list[str]]:
    """Pictures by image id, and one reason for each image that is left out."""
    sizes = {image_id: tuple(each.rle["size"]) for (image_id, _), each in stored.instances.items()}
    found: dict[int, tuple[str, UInt8Array]] = {}
    missing = []
    for image_id in sorted(unique(case.image_id for case in cases)):
        try:
            found[image_id] = source.get(image_id, sizes[image_id])
        except DataError as error:
            missing.append(str(error))
    return shrink(found, IMAGES_BUDGET_BYTES), missing
