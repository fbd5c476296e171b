"""Gallery of the HTML report: the same image and prompt through every model, with ground truth."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from baselines.interface import UInt8Array
from benchmarks.datasets import photos
from benchmarks.datasets.images import load_image, small_jpeg
from benchmarks.datasets.masks import Rle, decode_mask, encode_mask, iou, rle_area_px, rle_box
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.evaluation.predictions import (
    PREDICTIONS_FOLDER,
    StoredPicture,
    load_pictures,
    pictures_path,
)
from benchmarks.evaluation.rescore import Stored, load_stored
from benchmarks.prompts.manifests import PromptManifest
from benchmarks.prompts.protocols import (
    DEFAULT_PROTOCOLS,
    GROUND_TRUTH,
    find_protocols,
    select_candidate,
)
from benchmarks.records.instances import read_instances
from benchmarks.records.record import INSTANCES_NAME
from benchmarks.tables.record_queries import unique
from mobilesam.errors import BenchError, DataError

FAILURE_IOU = 0.5
"""A lower IoU counts as a failure: most of the mask or of the object is wrong."""
CASES_EACH = 6
"""Default number of worst, median and best prompts of each model and protocol that are kept if not
all fit."""
MOST_CASES = 300
"""Most cases that are chosen, before all others on the same images."""
IMAGES_BUDGET_BYTES, MASKS_BUDGET_BYTES = 9_000_000, 4_000_000
"""Most characters of all images together, and of all masks: a page stays below 15 MB."""
HOW = (
    "Pictures need stored masks and the images that they were made from: mobilesam-bench run keeps "
    "some of both, miou --save-masks keeps all masks. Images of such a run come with report "
    "--images DIR; packaged photos are found without it, and scenes of --dataset synthetic are "
    "drawn again from their seed."
)
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
_QUALITIES = ((1024, 82), (640, 82), (512, 78), (416, 72), (320, 62), (224, 50))
"""Longest side in pixels and JPEG quality; the first that fits the budget is used."""
_LONGEST_SIDE_PX = 2048
"""Masks of larger images are made smaller, since a browser holds them pixel by pixel."""
_SYNTHETIC = re.compile(
    r"synthetic:seed=(\d+),n=(\d+)(?:,size=(\d+)x(\d+))?(?:,objects=(\d+)-(\d+))?"
)


class Case(NamedTuple):
    """A prompt shown in the gallery, with the IoU (ground truth) of every model that answered."""

    protocol: str
    image_id: int
    annotation_id: int
    ious: Mapping[str, float]


class Picture(NamedTuple):
    """An image as JPEG data URI."""

    name: str
    uri: str
    width_px: int
    height_px: int


class Panel(NamedTuple):
    """Prediction of one model as compressed run lengths, None if it was not stored.

    Without a prediction `iou` is None.
    """

    model: str
    iou: float | None = None
    counts: str | None = None


class CaseView(NamedTuple):
    """A case with masks as compressed run lengths of `size_hw`, in whose pixels everything is.

    `crop`, the part that is visible at first, and `box` are x, y, width and height; `points` are x,
    y and label. `truth` is the reference mask. An absent prompt is empty.
    """

    case: Case
    category: str
    area_px: float
    size_hw: tuple[int, int]
    crop: tuple[float, ...]
    truth: str
    box: tuple[float, ...]
    points: tuple[tuple[float, float, int], ...]
    panels: tuple[Panel, ...]

    @property
    def n_chars(self) -> int:
        """Length of all masks."""
        return len(self.truth) + sum(len(panel.counts or "") for panel in self.panels)


class Gallery(NamedTuple):
    """Content of the gallery, or in `why` the reason and remedy if there is nothing to show.

    `pictures` are those of the cases by id of the image, `medians` are median IoUs by protocol and
    model, `n_prompts` is the number of prompts that the cases were chosen from, and `attribution`
    the credit of packaged photos.
    """

    why: str | None = None
    dataset: str = ""
    protocols: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    pictures: Mapping[int, Picture] = MappingProxyType({})
    medians: Sequence[Sequence[float | None]] = ()
    cases: tuple[CaseView, ...] = ()
    failures_first: bool = False
    n_prompts: int = 0
    notes: tuple[str, ...] = ()
    attribution: str | None = None

    @property
    def n_objects(self) -> int:
        """Number of objects with at least one case."""
        return len({(each.case.image_id, each.case.annotation_id) for each in self.cases})

    def document(self) -> dict[str, Any] | None:
        """All of it for the scripts of the page, as JSON; None if there is nothing to show."""
        if self.why is not None:
            return None
        objects: dict[tuple[int, int], dict[str, Any]] = {}
        numbers: dict[tuple[int, int], int] = {}
        cases = []
        for view in self.cases:
            case = view.case
            key = case.image_id, case.annotation_id
            number = numbers.setdefault(key, len(numbers))
            objects[key] = {
                "image": case.image_id,
                "annotation": case.annotation_id,
                "category": view.category,
                "area": view.area_px,
                "size": view.size_hw,
                "truth": view.truth,
            }
            masks = [None if each.iou is None else [each.iou, each.counts] for each in view.panels]
            cases.append(
                {
                    "object": number,
                    "protocol": self.protocols.index(case.protocol),
                    "crop": view.crop,
                    "box": view.box,
                    "points": view.points,
                    "masks": masks,
                }
            )
        return {
            "models": self.models,
            "protocols": self.protocols,
            "medians": self.medians,
            "failure": FAILURE_IOU,
            "failures_first": self.failures_first,
            "images": {
                image_id: {"name": each.name, "uri": each.uri}
                for image_id, each in self.pictures.items()
            },
            "objects": list(objects.values()),
            "cases": cases,
        }


def build_gallery(
    folders: Sequence[Path],
    page_models: Sequence[str],
    *,
    images: Path | None = None,
    each: int | None = None,
    failures_first: bool = False,
    names: Mapping[Path, Mapping[str, str]] = MappingProxyType({}),
) -> Gallery:
    """Loads stored masks and images, and chooses the cases.

    Args:
        folders: Folders of the runs on the page, newest first.
        page_models: All models of the page, in order.
        images: Folder of the images; not needed for packaged photos, synthetic scenes, and images
            that were stored with their masks.
        each: Number of worst, median and best prompts per model and protocol; None shows as many
            as fit.
        failures_first: Whether cases with a failure come first.
        names: `RunRecord.names` by folder.
    """
    import pandas as pd

    folders = [path for path in folders if (path / PREDICTIONS_FOLDER).is_dir()]
    if not folders:
        return Gallery(why=f"No run on this page has stored its masks. {HOW}")
    notes: list[str] = []
    try:
        stored = load_stored(folders, names)
    except BenchError as error:
        # Runs over different data cannot be shown side by side; the newest can be shown alone.
        try:
            stored = load_stored(folders[:1], names)
        except BenchError as newest:
            return Gallery(why=f"The stored masks cannot be shown: {newest}. {HOW}")
        notes.append(f"Masks of {folders[0].name} alone are shown: {error}.")
        folders = folders[:1]
    fingerprint = next(iter(stored.infos.values())).fingerprint
    try:
        scenes = scenes_of(stored.dataset, fingerprint)
        packaged = photos_of(stored.dataset, fingerprint)
        pictures: dict[int, StoredPicture] = {}
        for folder in reversed(folders):
            pictures |= load_pictures(pictures_path(folder), fingerprint)
        source = ImageSource(packaged or images, scenes, stored.file_names, pictures)
        if not source:
            return Gallery(why=f"The images of {stored.dataset} were not given. {HOW}")
        tables = {folder: read_instances(folder / INSTANCES_NAME) for folder in folders}
        frame = pd.concat([table.replace(names.get(path, {})) for path, table in tables.items()])
        usable = (frame["reference"] == GROUND_TRUTH) & frame["model"].isin(list(stored.infos))
        frame = frame[usable].drop_duplicates(["image_id", "annotation_id", "model", "protocol"])
        rules = unique(n for n in (*DEFAULT_PROTOCOLS, *stored.protocols) if n in stored.protocols)
        with_masks = frame.set_index(["image_id", "annotation_id"]).index.isin(stored.keys)
        cases = choose_cases(frame[with_masks], rules, each)
        if not cases:
            raise DataError("no stored prediction was scored against the ground truth")
        sizes = {image_id: rle.rle["size"] for (image_id, _), rle in stored.instances.items()}
        found: dict[int, tuple[str, UInt8Array]] = {}
        missing = []
        for image_id in sorted({case.image_id for case in cases}):
            try:
                found[image_id] = source.get(image_id, tuple(sizes[image_id]))
            except DataError as error:
                missing.append(str(error))
        if not found:
            raise DataError(
                f"none of {len(missing)} images can be shown, the first because {missing[0]}"
            )
        protocols = tuple(name for name in rules if any(case.protocol == name for case in cases))
        models = tuple(model for model in page_models if model in stored.infos)
        manifests = _load_manifests(folders, protocols)
        cases = [case for case in cases if case.image_id in found]
        views = list(_fitting(_draw_cases(cases, stored, manifests, models), MASKS_BUDGET_BYTES))
        seen = {view.case.image_id for view in views}
        shown = shrink({i: found[i] for i in sorted(seen)}, IMAGES_BUDGET_BYTES)
    except DataError as error:
        return Gallery(why=f"The gallery could not be made: {error}. {HOW}")
    if missing:
        notes.append(f"{len(missing)} images are left out: {missing[0]}.")
    if any(name.startswith("clicks-") for name in protocols):
        notes.append("Of several clicks the first is drawn.")
    n_prompts = len(frame.drop_duplicates(["image_id", "annotation_id", "protocol"]))
    if len(views) < n_prompts:
        others = "" if each is not None else ", and others as far as they fit"
        notes.append(
            f"{len(views):,} of {n_prompts:,} prompts have pictures here: the worst, median and "
            f"best of every model and protocol among those whose masks were kept{others}."
        )
    return Gallery(
        dataset=stored.dataset,
        protocols=protocols,
        models=models,
        pictures=shown,
        medians=medians(frame, protocols, models),
        cases=tuple(sorted(views, key=lambda view: protocols.index(view.case.protocol))),
        failures_first=failures_first,
        n_prompts=n_prompts,
        notes=tuple(notes),
        attribution=None if packaged is None else photos.attribution(sorted(shown)),
    )


def _fitting(views: Iterable[CaseView], budget_chars: int) -> Iterator[CaseView]:
    """The first views whose masks fit the budget together; at least one."""
    left = budget_chars
    for view in views:
        yield view
        left -= view.n_chars
        if left <= 0:
            return


def choose_cases(
    frame: Any, protocols: Sequence[str], each: int | None = None, most: int = MOST_CASES
) -> list[Case]:
    """Chooses worst, best and median prompts of every protocol and model, the most important first.

    For images that none of these show, the worst prompt under the first protocol is added.

    Args:
        frame: DataFrame of instances (`benchmarks.records.instances.COLUMNS`) scored against the
            ground truth, one row per model and prompt.
        protocols: Protocols to show, the most important first.
        each: Number of each kind. None takes `CASES_EACH`, and adds all other prompts on the same
            images.
        most: Largest number of cases before these others; all protocols and models are cut alike.
    """
    known = [name for name in protocols if (frame["protocol"] == name).any()]
    tables = {
        name: frame[frame["protocol"] == name].pivot(
            index=["image_id", "annotation_id"], columns="model", values="iou"
        )
        for name in known
    }
    n, queues = CASES_EACH if each is None else each, []
    for name, table in tables.items():
        for model in table:
            ious = table[model].dropna()
            ranked = list(ious.sort_values(kind="stable").index)
            median = list((ious - ious.median()).abs().sort_values(kind="stable").index)
            turns = zip(ranked[:n], ranked[::-1][:n], median[:n], strict=True)
            queues.append([(name, key) for turn in turns for key in turn])
    # Taken in turns, so that the first of every queue is kept if not all cases fit.
    chosen = [pair for turn in zip_longest(*queues) for pair in turn if pair is not None]
    seen = {key[0] for _, key in chosen}
    for name, table in tables.items():
        lowest = table.min(axis=1)
        lowest = lowest[~lowest.index.get_level_values(0).isin(seen)]
        worst = lowest.groupby(level=0).idxmin()
        chosen += [(name, key) for key in worst]
        seen |= set(worst.index)
    chosen = list(dict.fromkeys(chosen))[:most]
    if each is None:
        seen = {key[0] for _, key in chosen}
        rest = [(key, name) for name, table in tables.items() for key in table.index]
        chosen += [(name, key) for key, name in sorted(rest) if key[0] in seen]
    cases = []
    for name, key in dict.fromkeys(chosen):
        ious = tables[name].loc[key].dropna()
        cases.append(
            Case(name, int(key[0]), int(key[1]), {str(m): float(v) for m, v in ious.items()})
        )
    return cases


def medians(
    frame: Any, protocols: Sequence[str], models: Sequence[str]
) -> list[list[float | None]]:
    """Median IoU by protocol and model; None without predictions."""
    found = frame.groupby(["protocol", "model"], observed=True)["iou"].median().round(4).to_dict()
    return [[found.get((protocol, model)) for model in models] for protocol in protocols]


def scenes_of(dataset: str, fingerprint: str) -> SyntheticDataset | None:
    """The synthetic dataset of that name; None for the name of another dataset."""
    match = _SYNTHETIC.fullmatch(dataset)
    if match is None:
        return None
    seed, n, *pairs = (None if group is None else int(group) for group in match.groups())
    named: dict[str, Any] = {"size_hw": tuple(pairs[:2]), "n_objects": tuple(pairs[2:])}
    options = {name: pair for name, pair in named.items() if None not in pair}
    scenes = SyntheticDataset(n or 0, seed or 0, **options)
    if scenes.fingerprint != fingerprint:
        raise DataError(f"{dataset} was drawn by another version of this suite; measure it again")
    return scenes


def photos_of(dataset: str, fingerprint: str) -> Path | None:
    """Folder of the packaged photos; None for the name of another dataset."""
    if dataset != photos.PHOTOS:
        return None
    if not photos.is_packaged(fingerprint):
        raise DataError(
            f"the photos were measured with another version of this suite; measure {dataset} again"
        )
    return photos.images_folder()


class ImageSource:
    """Images of a dataset by id: files of a folder, synthetic scenes, or stored pictures.

    Files are found by the stored name of the image. Older runs have none, and the format of a file
    may have changed: then the number at the end of its stem is the id of the image, as in COCO
    (`000000000139.jpg`) and SA-1B (`sa_223750.jpg`).
    """

    def __init__(
        self,
        folder: Path | None,
        scenes: SyntheticDataset | None,
        file_names: Mapping[int, str] | None = None,
        pictures: Mapping[int, StoredPicture] | None = None,
    ) -> None:
        self._folder = folder
        self._scenes = scenes
        self._file_names = file_names or {}
        self._pictures = pictures or {}
        self._numbered: dict[int, list[Path]] = {}
        try:
            paths = [] if folder is None else sorted(folder.iterdir())
        except OSError as error:
            raise DataError(f"--images {folder}: {error.strerror or error}") from error
        for path in paths:
            number = _number(path)
            if number is not None and path.suffix.lower() in SUFFIXES:
                self._numbered.setdefault(number, []).append(path)

    def __bool__(self) -> bool:
        return bool(self._folder or self._scenes or self._pictures)

    def get(self, image_id: int, size_hw: tuple[int, int]) -> tuple[str, UInt8Array]:
        """File name and (H, W, 3) uint8 RGB pixels of an image; a stored picture may be smaller."""
        if self._scenes is not None:
            return f"scene_{image_id:06d}.png", self._scenes.scene(image_id).image
        if self._folder is None and (stored := self._pictures.get(image_id)) is not None:
            return stored.name, stored.pixels()
        path = self._find(image_id)
        return path.name, load_image(path, path.name, size_hw)

    def _find(self, image_id: int) -> Path:
        stored = self._file_names.get(image_id)
        if stored is not None and self._folder is not None:
            name = Path(stored)
            inside = [] if name.is_absolute() or ".." in name.parts else [name]
            for each in (*inside, Path(name.name)):
                if (self._folder / each).is_file():
                    return self._folder / each
            if _number(name) != image_id:
                raise DataError(f"--images {self._folder} has no file {stored}")
        found = self._numbered.get(image_id, [])
        if not found:
            raise DataError(f"no file in the folder ends with its number, {image_id}")
        if len(found) > 1:
            raise DataError(
                f"--images {self._folder}: {found[0].name} and {found[1].name} end with the same "
                "number, so that it is not clear which of them was measured"
            )
        return found[0]


def _number(path: Path) -> int | None:
    match = re.search(r"\d+$", path.stem)
    return None if match is None else int(match[0])


def shrink(images: Mapping[int, tuple[str, UInt8Array]], budget_bytes: int) -> dict[int, Picture]:
    """Downscales and compresses images, by id, until all data URIs together fit a budget.

    It is exceeded only if the coarsest setting is not enough.
    """
    for side_px, quality in _QUALITIES:
        found: dict[int, Picture] = {}
        left = budget_bytes
        for image_id, (name, pixels) in images.items():
            data, (width_px, height_px) = small_jpeg(pixels, side_px, quality)
            uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
            found[image_id] = Picture(name, uri, width_px, height_px)
            left -= len(uri)
            if left < 0 and (side_px, quality) != _QUALITIES[-1]:
                break
        else:
            break
    return found


def _load_manifests(folders: Sequence[Path], protocols: Sequence[str]) -> dict[str, PromptManifest]:
    """Prompts by rule, where they are stored beside the records."""
    found = {}
    for rule in unique(protocol.prompt for protocol in find_protocols(protocols)):
        paths = [folder / f"prompts-{rule}.parquet" for folder in folders]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[rule] = PromptManifest.load(path)
    return found


def _draw_cases(
    cases: Sequence[Case],
    stored: Stored,
    manifests: Mapping[str, PromptManifest],
    models: Sequence[str],
) -> Iterator[CaseView]:
    by_name = {protocol.name: protocol for protocol in find_protocols(stored.protocols)}
    predictions = {
        (model, each.image_id, each.annotation_id, each.query): each
        for model in models
        for each in stored.predictions[model]
    }
    for case in cases:
        protocol, key = by_name[case.protocol], (case.image_id, case.annotation_id)
        instance = stored.instances[key]
        truth, scale = _fitted(instance.rle)
        panels, shown = [], [truth]
        for model in models:
            prediction = predictions.get((model, *key, protocol.query))
            if model not in case.ious:
                panels.append(Panel(model))
                continue
            if prediction is None:
                panels.append(Panel(model, case.ious[model], None))
                continue
            oracle = protocol.selection == "oracle"
            ious = [iou(decode_mask(r), instance.mask()) for r in prediction.rles] if oracle else []
            scores = np.array(prediction.scores, np.float32)
            chosen = select_candidate(protocol.selection, scores, ious)
            shown.append(_fitted(prediction.rles[chosen])[0])
            panels.append(Panel(model, case.ious[model], shown[-1]["counts"]))
        box: tuple[float, ...] = ()
        points: tuple[tuple[float, float, int], ...] = ()
        manifest = manifests.get(protocol.prompt)
        values = None if manifest is None else manifest.get(*key)
        if manifest is not None and values is not None:
            labels = manifest.sampler.labels
            if manifest.sampler.prompt == "boxes":
                x0, y0, x1, y1 = (scale * values).round(1).tolist()
                box = (x0, y0, x1 - x0, y1 - y0)
            elif labels is not None:
                # Points are pixel indices; the centre of a pixel is half a pixel further.
                centres = (scale * (values + 0.5)).round(1).reshape(-1, 2).tolist()
                points = tuple((x, y, label) for (x, y), label in zip(centres, labels, strict=True))
        yield CaseView(
            case=case,
            category=instance.category,
            area_px=instance.area_px,
            size_hw=tuple(truth["size"]),
            crop=_crop([rle_box(rle).tolist() for rle in shown if rle_area_px(rle)], truth["size"]),
            truth=truth["counts"],
            box=box,
            points=points,
            panels=tuple(panels),
        )


def _fitted(rle: Rle) -> tuple[Rle, float]:
    """A mask with at most `_LONGEST_SIDE_PX` in each direction, and its scale."""
    scale = min(1.0, _LONGEST_SIDE_PX / max(rle["size"]))
    if scale == 1:
        return rle, scale
    rows, columns = (
        np.minimum(((np.arange(max(1, round(n * scale))) + 0.5) / scale).astype(int), n - 1)
        for n in rle["size"]
    )
    return encode_mask(decode_mask(rle)[np.ix_(rows, columns)]), scale


def _crop(boxes: Sequence[Sequence[float]], size_hw: Sequence[int]) -> tuple[float, ...]:
    """Part of an image around boxes, with its aspect ratio; all of it without any box."""
    height_px, width_px = size_hw
    if not boxes:
        return (0, 0, width_px, height_px)
    x0, y0 = (min(box[i] for box in boxes) for i in (0, 1))
    x1, y1 = (max(box[i] for box in boxes) for i in (2, 3))
    aspect = width_px / height_px
    height = max(1.5 * (y1 - y0), 1.5 * (x1 - x0) / aspect, height_px / 6)
    if height >= height_px:
        return (0, 0, width_px, height_px)
    width = aspect * height
    left = min(max(0.0, (x0 + x1 - width) / 2), width_px - width)
    top = min(max(0.0, (y0 + y1 - height) / 2), height_px - height)
    return tuple(round(value, 1) for value in (left, top, width, height))
