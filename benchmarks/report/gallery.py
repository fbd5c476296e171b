"""Gallery of the HTML report: the same image and prompt through every model, with ground truth."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from baselines.interface import BoolArray, UInt8Array
from baselines.pixels import mask_box
from benchmarks.datasets import photos
from benchmarks.datasets.images import load_image
from benchmarks.datasets.masks import decode_mask, iou
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.evaluation.predictions import PREDICTIONS_FOLDER
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
MOST_CASES = 300
"""Most cases on a page, which keeps it quick to open."""
IMAGES_BUDGET_BYTES = 9_000_000
"""Most characters of all images together, which keeps a page below 15 MB."""
HOW = (
    "The gallery needs stored masks and the images that they were made from. Measure with "
    "mobilesam-bench miou --save-masks; images of COCO or SA-1B come with report --images DIR, "
    "packaged photos are found without it, and scenes of --dataset synthetic are drawn again from "
    "their seed."
)
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
_QUALITIES = ((640, 82), (512, 78), (416, 72), (320, 62), (224, 50))
"""Longest side in pixels and JPEG quality; the first that fits the budget is used."""
_OUTLINE_TOLERANCE_PX = 0.6
"""Largest distance of a simplified outline from the mask, in pixels of the shown picture."""
_SYNTHETIC = re.compile(
    r"synthetic:seed=(\d+),n=(\d+)(?:,size=(\d+)x(\d+))?(?:,objects=(\d+)-(\d+))?"
)


class Case(NamedTuple):
    """A prompt shown in the gallery, with the IoU (ground truth) of every model that answered."""

    protocol: str
    image_id: int
    annotation_id: int
    ious: Mapping[str, float]

    @property
    def lowest(self) -> float:
        """Lowest IoU of all models."""
        return min(self.ious.values())

    @property
    def failed(self) -> bool:
        """Whether any model failed."""
        return self.lowest < FAILURE_IOU


class Picture(NamedTuple):
    """An image as JPEG data URI; `scale` is its size relative to the original."""

    name: str
    uri: str
    width_px: int
    height_px: int
    scale: float


class Panel(NamedTuple):
    """Prediction of one model; without one `iou` is None, and `path` is empty for an empty mask."""

    model: str
    iou: float | None = None
    path: str = ""

    @property
    def failed(self) -> bool:
        """Whether the prediction counts as a failure."""
        return self.iou is not None and self.iou < FAILURE_IOU


class CaseView(NamedTuple):
    """A case with drawings in pixels of the picture.

    `crop`, the part that is visible at first, and `box` are x, y, width and height; `points` are x,
    y and label. `truth` is the SVG path of the reference mask. An absent prompt is empty.
    """

    case: Case
    category: str
    area_px: float
    picture: Picture
    crop: tuple[float, float, float, float]
    truth: str
    box: tuple[float, ...]
    points: tuple[tuple[float, float, int], ...]
    panels: tuple[Panel, ...]


class Gallery(NamedTuple):
    """Content of the gallery, or in `why` the reason and remedy if there is nothing to show.

    `medians` are median IoUs by protocol and model, `n_prompts` is the number of prompts that the
    cases were chosen from, and `attribution` the credit of packaged photos.
    """

    why: str | None = None
    dataset: str = ""
    protocols: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    medians: Sequence[Sequence[float | None]] = ()
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
    """Loads stored masks and images, and chooses the cases.

    Args:
        folders: Folders of the runs on the page, newest first.
        page_models: All models of the page, in order.
        images: Folder of the images; not needed for packaged photos and synthetic scenes.
        each: Number of worst, median and best prompts per model and protocol.
        failures_first: Whether cases with a failure come first.
    """
    import pandas as pd

    folders = [path for path in folders if (path / PREDICTIONS_FOLDER).is_dir()]
    if not folders:
        return Gallery(why=f"No run on this page has stored its masks. {HOW}")
    notes = [f"Failure: an IoU below {FAILURE_IOU:g} for any model."]
    try:
        stored = load_stored(folders)
    except BenchError as error:
        # Runs over different data cannot be shown side by side; the newest can be shown alone.
        try:
            stored = load_stored(folders[:1])
        except BenchError as newest:
            return Gallery(why=f"The stored masks cannot be shown: {newest}. {HOW}")
        notes.append(f"Masks of {folders[0].name} alone are shown: {error}.")
        folders = folders[:1]
    fingerprint = next(iter(stored.infos.values())).fingerprint
    try:
        scenes = scenes_of(stored.dataset, fingerprint)
        packaged = photos_of(stored.dataset, fingerprint)
        if scenes is None and packaged is None and images is None:
            return Gallery(why=f"The images of {stored.dataset} were not given. {HOW}")
        source = ImageSource(None if scenes else packaged or images, scenes, stored.file_names)
        frame = pd.concat([read_instances(folder / INSTANCES_NAME) for folder in folders])
        shown = (frame["reference"] == GROUND_TRUTH) & frame["model"].isin(list(stored.infos))
        frame = frame[shown].drop_duplicates(["image_id", "annotation_id", "model", "protocol"])
        if frame.empty:
            raise DataError("no stored prediction was scored against the ground truth")
        names = unique(n for n in (*DEFAULT_PROTOCOLS, *stored.protocols) if n in stored.protocols)
        cases = choose_cases(frame, names, each)
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
        pictures = shrink(found, IMAGES_BUDGET_BYTES)
        protocols = tuple(name for name in names if any(case.protocol == name for case in cases))
        models = tuple(model for model in page_models if model in stored.infos)
        manifests = _load_manifests(folders, protocols)
        views = list(_draw_cases(cases, pictures, stored, manifests, models))
    except DataError as error:
        return Gallery(why=f"The gallery could not be made: {error}. {HOW}")
    if missing:
        notes.append(f"{len(missing)} images are left out: {missing[0]}.")
    if any(name.startswith("clicks-") for name in protocols):
        notes.append("Of several clicks the first is drawn.")
    if failures_first:
        views.sort(key=lambda view: not view.case.failed)
    return Gallery(
        dataset=stored.dataset,
        protocols=protocols,
        models=models,
        medians=medians(frame, protocols, models),
        cases=tuple(views),
        failures_first=failures_first,
        n_prompts=len(frame.drop_duplicates(["image_id", "annotation_id", "protocol"])),
        notes=tuple(notes),
        attribution=None if packaged is None else photos.attribution(sorted(pictures)),
    )


def choose_cases(
    frame: Any, protocols: Sequence[str], each: int, most: int = MOST_CASES
) -> list[Case]:
    """Chooses `each` worst, best and median prompts of every protocol and model.

    For images that none of these show, the worst prompt under the first protocol is added. Cases
    are sorted by protocol, then by the lowest IoU of any model.

    Args:
        frame: DataFrame of instances (`benchmarks.records.instances.COLUMNS`) scored against the
            ground truth, one row per model and prompt.
        protocols: Protocols to show, the most important first.
        each: Number of each kind.
        most: Largest number of cases; all protocols and models are cut alike.
    """
    known = [name for name in protocols if (frame["protocol"] == name).any()]
    tables = {
        name: frame[frame["protocol"] == name].pivot(
            index=["image_id", "annotation_id"], columns="model", values="iou"
        )
        for name in known
    }
    queues = []
    for name, table in tables.items():
        for model in table:
            ious = table[model].dropna()
            ranked = list(ious.sort_values(kind="stable").index)
            median = list((ious - ious.median()).abs().sort_values(kind="stable").index)
            turns = zip(ranked[:each], ranked[::-1][:each], median[:each], strict=True)
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
    cases = []
    for name, key in list(dict.fromkeys(chosen))[:most]:
        ious = tables[name].loc[key].dropna()
        cases.append(
            Case(name, int(key[0]), int(key[1]), {str(m): float(v) for m, v in ious.items()})
        )
    return sorted(
        cases, key=lambda c: (known.index(c.protocol), c.lowest, c.image_id, c.annotation_id)
    )


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
    """Images of a dataset by id, from the files of a folder or from synthetic scenes.

    Files are found by the stored name of the image. Older runs have none, and the format of a file
    may have changed: then the number at the end of its stem is the id of the image, as in COCO
    (`000000000139.jpg`) and SA-1B (`sa_223750.jpg`).
    """

    def __init__(
        self,
        folder: Path | None,
        scenes: SyntheticDataset | None,
        file_names: Mapping[int, str] | None = None,
    ) -> None:
        self._folder = folder
        self._scenes = scenes
        self._file_names = file_names or {}
        self._numbered: dict[int, list[Path]] = {}
        try:
            paths = [] if folder is None else sorted(folder.iterdir())
        except OSError as error:
            raise DataError(f"--images {folder}: {error.strerror or error}") from error
        for path in paths:
            number = _number(path)
            if number is not None and path.suffix.lower() in SUFFIXES:
                self._numbered.setdefault(number, []).append(path)

    def get(self, image_id: int, size_hw: tuple[int, int]) -> tuple[str, UInt8Array]:
        """File name and (H, W, 3) uint8 RGB pixels of an image."""
        if self._scenes is not None:
            return f"scene_{image_id:06d}.png", self._scenes.scene(image_id).image
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
    from PIL import Image

    for side_px, quality in _QUALITIES:
        found: dict[int, Picture] = {}
        left = budget_bytes
        for image_id, (name, pixels) in images.items():
            height, width = pixels.shape[:2]
            scale = min(1.0, side_px / max(height, width))
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, optimize=True)
            uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            found[image_id] = Picture(name, uri, *size, scale)
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
    pictures: Mapping[int, Picture],
    stored: Stored,
    manifests: Mapping[str, PromptManifest],
    models: Sequence[str],
) -> Iterator[CaseView]:
    """Draws the cases that have a picture."""
    predictions = {
        (model, each.query, each.image_id, each.annotation_id): each
        for model in models
        for each in stored.predictions[model]
    }
    protocols = {protocol.name: protocol for protocol in find_protocols(stored.protocols)}
    for case in cases:
        picture, protocol = pictures.get(case.image_id), protocols[case.protocol]
        if picture is None:
            continue
        instance = stored.instances[case.image_id, case.annotation_id]
        truth, scale = instance.mask(), picture.scale
        masks, panels = [truth], []
        for model in models:
            key = (model, protocol.query, case.image_id, case.annotation_id)
            prediction = predictions.get(key)
            if prediction is None or model not in case.ious:
                panels.append(Panel(model))
                continue
            oracle = protocol.selection == "oracle"
            ious = [iou(decode_mask(rle), truth) for rle in prediction.rles] if oracle else []
            scores = np.array(prediction.scores, np.float32)
            chosen = select_candidate(protocol.selection, scores, ious)
            masks.append(decode_mask(prediction.rles[chosen]))
            panels.append(Panel(model, case.ious[model], mask_path(masks[-1], scale)))
        box: tuple[float, ...] = ()
        points: tuple[tuple[float, float, int], ...] = ()
        manifest = manifests.get(protocol.prompt)
        values = None if manifest is None else manifest.get(case.image_id, case.annotation_id)
        if manifest is not None and values is not None:
            labels = manifest.sampler.labels
            if manifest.sampler.prompt == "boxes":
                x0, y0, x1, y1 = (scale * values).tolist()
                box = (x0, y0, x1 - x0, y1 - y0)
            elif labels is not None:
                # Points are pixel indices; the centre of a pixel is half a pixel further.
                centres = (scale * (values + 0.5)).reshape(-1, 2).tolist()
                points = tuple((x, y, label) for (x, y), label in zip(centres, labels, strict=True))
        yield CaseView(
            case=case,
            category=instance.category,
            area_px=instance.area_px,
            picture=picture,
            crop=_crop(masks, picture),
            truth=mask_path(truth, scale),
            box=box,
            points=points,
            panels=tuple(panels),
        )


def mask_path(mask: BoolArray, scale: float) -> str:
    """Simplified outline of an (H, W) bool mask as SVG path data, with holes (even-odd rule).

    Coordinates are in pixels of the picture, `scale` per pixel of the mask; empty for an empty
    mask.
    """
    from skimage.measure import approximate_polygon, find_contours

    box = mask_box(mask)
    if box is None:
        return ""
    x0, y0, x1, y1 = box
    # A frame of background closes outlines at the border of the image.
    padded = np.pad(mask[y0:y1, x0:x1], 1).astype(np.float32)
    parts = []
    for contour in find_contours(padded, 0.5):
        outline = approximate_polygon(contour, _OUTLINE_TOLERANCE_PX / scale)[:-1]
        if len(outline) >= 3:
            # Row r of the padded crop is the centre of pixel row r + y0 - 1.
            points = (outline[:, ::-1] + (x0 - 0.5, y0 - 0.5)) * scale
            parts.append("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points.tolist()) + "Z")
    return "".join(parts)


def _crop(masks: Sequence[BoolArray], picture: Picture) -> tuple[float, float, float, float]:
    """Part of a picture around masks, with its aspect ratio; all of it if the masks are empty."""
    boxes = [box for box in map(mask_box, masks) if box is not None]
    whole = (0.0, 0.0, float(picture.width_px), float(picture.height_px))
    if not boxes:
        return whole
    x0, y0 = (picture.scale * min(box[i] for box in boxes) for i in (0, 1))
    x1, y1 = (picture.scale * max(box[i] for box in boxes) for i in (2, 3))
    aspect = picture.width_px / picture.height_px
    height = max(1.5 * (y1 - y0), 1.5 * (x1 - x0) / aspect, picture.height_px / 6)
    if height >= picture.height_px:
        return whole
    width = aspect * height
    left = min(max(0.0, (x0 + x1 - width) / 2), picture.width_px - width)
    top = min(max(0.0, (y0 + y1 - height) / 2), picture.height_px - height)
    return left, top, width, height
