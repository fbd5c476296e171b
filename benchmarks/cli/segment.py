"""Segments one image for the command `predict`, and draws the masks over it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from baselines import boundary
from baselines.interface import BoolArray, MaskRecord, Prompts, Segmenter, UInt8Array
from baselines.pixels import mask_box
from baselines.registry import ModelEntry, build
from benchmarks.config.from_options import one_trained, select_models
from benchmarks.config.options import ModelArguments
from benchmarks.datasets.masks import encode_mask
from benchmarks.evaluation.run_model import PROMPT_BATCH
from benchmarks.report.mask_grid import overlay
from benchmarks.report.paper_figures import check_inside
from mobilesam.errors import DataError, UsageError

_POINT_COLOURS = {1: (0, 158, 115), 0: (213, 94, 0)}
_BOX_COLOUR = (230, 159, 0)


def parse_prompts(points: Sequence[str], box: str | None) -> Prompts:
    """Converts `X,Y[,0|1]` and `X0,Y0,X1,Y1` into one prompt."""
    rows = [_numbers(text, "--point", "X,Y or X,Y,0 or X,Y,1", (2, 3)) for text in points]
    corners = None if box is None else _numbers(box, "--box", "X0,Y0,X1,Y1", (4,))
    if not rows and corners is None:
        raise UsageError("give at least one --point X,Y or one --box X0,Y0,X1,Y1")
    bad = next((row[2] for row in rows if len(row) == 3 and row[2] not in (0, 1)), None)
    if bad is not None:
        raise UsageError(f"the label of a --point is 1 (object) or 0 (background); got {bad:g}")
    labels = [int(row[2]) if len(row) == 3 else 1 for row in rows]
    return Prompts(
        points=np.array([[row[:2] for row in rows]], np.float32) if rows else None,
        labels=np.array([labels], np.int64) if rows else None,
        boxes=None if corners is None else np.array([corners], np.float32),
    )


def _numbers(text: str, option: str, form: str, lengths: tuple[int, ...]) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in lengths:
        raise UsageError(f"{option} wants {form} in pixels; got {text!r}")
    return values


def segment_one(
    image: UInt8Array,
    models: ModelArguments,
    prompts: Prompts,
    out: Path,
    mask_out: Path | None,
    name: str,
) -> tuple[dict[str, Any], str]:
    """Predicts and draws one mask; returns the JSON document and the text to print."""
    size_hw = image.shape[0], image.shape[1]
    check_inside(prompts, size_hw, name)
    model = _build(models)
    with boundary.naming(model.info.name):
        embedding = boundary.encode(model, image)
        mask, score, object_score = boundary.best_mask(model, embedding, prompts, size_hw)
    _save(Image.fromarray(draw_prompts(overlay(image, [mask]), prompts)), out, "--out")
    if mask_out is not None:
        _save(Image.fromarray(mask.astype(np.uint8) * 255), mask_out, "--mask")
    found, area = mask_box(mask), int(mask.sum())
    why = None
    if found is None:
        labels = prompts.labels
        only_background = prompts.boxes is None and labels is not None and not labels.any()
        why = (
            "all points are background (,0): add one on the object"
            if only_background
            else f"the mask is empty: {model.info.name} finds nothing at this prompt; try another "
            "point on the object, or a box around it"
        )
    document: dict[str, Any] = {
        "model": model.info.name,
        "area_px": area,
        "box": None if found is None else list(found),
        "score": score,
        "rle": encode_mask(mask),
        "why_empty": why,
        "overlay": str(out),
        "mask": None if mask_out is None else str(mask_out),
    }
    if object_score is not None:
        document["object_score"] = object_score
    share = 100 * area / mask.size
    drawn = f"box {document['box']}, score {score:.3f}"
    text = f"{model.info.name}: {area} pixels ({share:.1f} % of the image)"
    return document, f"{text}, {why or drawn}"


def segment_all(
    image: UInt8Array,
    models: ModelArguments,
    detector: str | None,
    out: Path,
    mask_out: Path | None,
) -> tuple[dict[str, Any], str]:
    """Predicts and draws all masks; returns the JSON document and the text to print.

    The boxes of the model `detector` are the prompts; None uses the model's own mode.
    """
    boxes_from = models if detector is None else replace(models, models=detector)
    both = (*select_models(models), *select_models(boxes_from))
    model = _build(models, both)
    finder = model if detector is None else _build(boxes_from, both)
    with boundary.naming(finder.info.name):
        detected = found = boundary.everything(finder, image)
    if detector is not None:
        found = _masks_in_boxes(model, image, detected)
    found = sorted(found, key=lambda record: -record.score)
    _save(Image.fromarray(overlay(image, [record.mask for record in found])), out, "--out")
    if mask_out is not None:
        _save(_label_image([record.mask for record in found], image.shape[:2]), mask_out, "--mask")
    why = None
    if not detected:
        kept = f"it keeps {finder.keeps}" if finder.keeps else "no mask passes its thresholds"
        why = f"{finder.info.name} finds none in this image ({kept})"
    elif not found:
        why = f"all masks in the {len(detected)} boxes of {finder.info.name} are empty"
    objects = [
        {
            "area_px": int(record.mask.sum()),
            "box": [float(value) for value in record.box],
            "score": record.score,
            "rle": encode_mask(record.mask),
        }
        for record in found
    ]
    name = model.info.name
    document = {
        "model": name,
        "boxes_from": detector,
        "objects": objects,
        "why_empty": why,
        "overlay": str(out),
        "mask": None if mask_out is None else str(mask_out),
    }
    covered = np.zeros(image.shape[:2], np.bool_)
    for record in found:
        covered |= record.mask
    source = "" if detector is None else f" in boxes of {detector}"
    share = f"{100 * covered.mean():.1f} % of the image"
    return document, f"{name}{source}: {len(found)} objects, {why or share}"


def _label_image(masks: Sequence[BoolArray], size_hw: tuple[int, ...]) -> Image.Image:
    """Image whose pixels have the number of their mask, from 1; 0 is background.

    Of masks that overlap, the smaller one is on top.
    """
    labels = np.zeros(size_hw, np.uint8 if len(masks) < 256 else np.uint16)
    for index in sorted(range(len(masks)), key=lambda index: -np.count_nonzero(masks[index])):
        labels[masks[index]] = index + 1
    picture = Image.fromarray(labels)
    if picture.mode == "L":  # to be seen: the numbers stay those of the pixels
        colours = np.random.default_rng(0).integers(64, 256, (256, 3), np.uint8, endpoint=False)
        colours[0] = 0
        picture.putpalette(colours.tobytes())
    return picture


def _masks_in_boxes(
    model: Segmenter, image: UInt8Array, objects: Sequence[MaskRecord]
) -> list[MaskRecord]:
    """Predicts one mask for the box of each object, in their order; omits empty masks."""
    if not objects:
        return []
    size_hw = image.shape[0], image.shape[1]
    found = []
    prompts = Prompts(boxes=np.stack([record.box for record in objects]).astype(np.float32))
    with boundary.naming(model.info.name):
        embedding = boundary.encode(model, image)
        for batch in prompts.batches(PROMPT_BATCH):
            masks = boundary.decode(model, embedding, batch, size_hw)
            found += [
                MaskRecord(mask, float(score), np.array(box, np.float32))
                for mask, score in zip(masks.masks[:, 0], masks.scores[:, 0], strict=True)
                if (box := mask_box(mask)) is not None
            ]
    return found


def _build(models: ModelArguments, others: Sequence[ModelEntry] = ()) -> Segmenter:
    resolved = one_trained(models, "predict", others=others)
    found = resolved.options.checkpoint
    if found is not None and found.shipped is not None and resolved.entry.shipped is None:
        reason = "" if resolved.reason is None else f": {resolved.reason}"
        sys.stderr.write(f"weights: {found.description}{reason}\n")
    with boundary.naming(resolved.entry.name):
        return build(resolved.entry, resolved.options)


def draw_prompts(image: UInt8Array, prompts: Prompts) -> UInt8Array:
    """Draws one prompt over an (H, W, 3) image."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    radius = max(3, max(image.shape[:2]) // 150)
    if prompts.boxes is not None:
        draw.rectangle([float(v) for v in prompts.boxes[0]], outline=_BOX_COLOUR, width=2)
    if prompts.points is not None and prompts.labels is not None:
        for (x, y), label in zip(prompts.points[0], prompts.labels[0], strict=True):
            corners = [float(x) - radius, float(y) - radius, float(x) + radius, float(y) + radius]
            draw.ellipse(corners, fill=_POINT_COLOURS[int(label)], outline=(255, 255, 255))
    return np.asarray(picture)


def _save(picture: Image.Image, out: Path, option: str) -> None:
    form = ".png or .jpg" if option == "--out" else ".png"
    try:
        picture.save(out)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot write {out}: {error}; give {option} a {form} file") from error
