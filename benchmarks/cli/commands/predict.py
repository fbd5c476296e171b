"""The command `predict`: masks of one image, for a prompt or for all objects."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from benchmarks.config.options import DataArguments, ModelArguments
from mobilesam.errors import DataError, UsageError

if TYPE_CHECKING:
    from baselines.interface import BoolArray, MaskRecord, Prompts, Segmenter, UInt8Array

DEFAULT_DETECTOR = "fastsam-s"
"""Detector whose boxes are the prompts, as in MobileSAMv2 (arXiv 2312.09579)."""
_POINT_COLOURS = {1: (0, 158, 115), 0: (213, 94, 0)}


def predict(
    image: Path,
    /,
    *,
    model: Annotated[str, Parameter(help="Name of one model.")],
    point: Annotated[
        tuple[str, ...],
        Parameter(metavar="X,Y[,0|1]", help="A point in pixels, 0 for background; repeatable."),
    ] = (),
    box: Annotated[str | None, Parameter(metavar="X0,Y0,X1,Y1", help="A box in pixels.")] = None,
    everything: Annotated[bool, Parameter(help="All objects instead, without a prompt.")] = False,
    objects: Annotated[bool, Parameter(help="All objects in the boxes of a detector.")] = False,
    boxes_from: Annotated[
        str | None, Parameter(metavar="MODEL", help="That detector; fastsam-s by default.")
    ] = None,
    out: Annotated[Path, Parameter(help="Image file to write.")] = Path("overlay.png"),
    weights: Annotated[tuple[str, ...], Parameter(metavar="NAME=PATH", help="Local weights.")] = (),
    offline: bool = False,
    trust: bool = False,
    device: str = ModelArguments.device,
    max_pixels: Annotated[int, Parameter(help="Larger images are refused.")] = (
        DataArguments.max_pixels
    ),
    json: bool = False,
) -> int:
    """Segment one object of one image, or all of them, and draw the masks over it."""
    from benchmarks.config.from_options import check_max_pixels
    from benchmarks.datasets.images import load_image

    models = ModelArguments(
        models=model, weights=weights, offline=offline, trust=trust, device=device
    )
    if everything or objects or boxes_from is not None:
        if point or box is not None or (everything and (objects or boxes_from is not None)):
            raise UsageError("give --point and --box, or --everything, or --objects alone")
        pixels = load_image(image, str(image), None, check_max_pixels(max_pixels))
        detector = None if everything else boxes_from or DEFAULT_DETECTOR
        document, text = _segment_all(pixels, models, detector, out)
    else:
        prompts = parse_prompts(point, box)
        pixels = load_image(image, str(image), None, check_max_pixels(max_pixels))
        document, text = _segment_one(pixels, models, prompts, out, image.name)
    if json:
        from benchmarks.cli.commands.printing import print_json

        print_json(document)
    else:
        sys.stdout.write(f"{text}; overlay in {out}\n")
    return 0


def _segment_one(
    image: UInt8Array, models: ModelArguments, prompts: Prompts, out: Path, name: str
) -> tuple[dict[str, Any], str]:
    """Predicts and draws one mask; returns the JSON document and the text to print."""
    from baselines import boundary
    from baselines.pixels import mask_box
    from benchmarks.report.figure_images import check_inside

    size_hw = image.shape[0], image.shape[1]
    check_inside(prompts, size_hw, name)
    model = _build(models)
    with boundary.naming(model.info.name):
        embedding = boundary.encode(model, image)
        mask, score = boundary.best_mask(model, embedding, prompts, size_hw)
    save_picture(_draw(image, mask, prompts), out)
    found, area = mask_box(mask), int(mask.sum())
    corners = None if found is None else list(found)
    document = {
        "model": model.info.name,
        "area_px": area,
        "box": corners,
        "score": score,
        "overlay": str(out),
    }
    share = 100 * area / mask.size
    return document, (
        f"{model.info.name}: {area} pixels ({share:.1f} % of the image), box {corners}, "
        f"score {score:.3f}"
    )


def _segment_all(
    image: UInt8Array, models: ModelArguments, detector: str | None, out: Path
) -> tuple[dict[str, Any], str]:
    """Predicts and draws all masks; returns the JSON document and the text to print.

    Args:
        image: (H, W, 3) uint8 RGB.
        models: The model, with its weights.
        detector: Model whose boxes are the prompts; None uses the model's own mode.
        out: Image file to write.

    Raises:
        UsageError: More than one model is named.
        UnsupportedError: The model, or the detector, cannot segment everything.
        WeightsError: One of them has no trained weights here.
    """
    import numpy as np

    from benchmarks.datasets.masks import encode_mask
    from benchmarks.report.mask_grid import overlay

    model = _build(models)
    if detector is None:
        found = _everything(model, image)
    else:
        finder = _build(replace(models, models=detector))
        found = masks_in_boxes(model, image, _everything(finder, image))
    found = sorted(found, key=lambda record: -record.score)
    save_picture(overlay(image, [record.mask for record in found]), out)
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
    document = {"model": name, "boxes_from": detector, "objects": objects, "overlay": str(out)}
    covered = np.zeros(image.shape[:2], np.bool_)
    for record in found:
        covered |= record.mask
    source = "" if detector is None else f" in boxes of {detector}"
    return document, (
        f"{name}{source}: {len(found)} objects, {100 * covered.mean():.1f} % of the image"
    )


def _build(models: ModelArguments) -> Segmenter:
    from baselines import boundary
    from baselines.registry import build
    from benchmarks.config.from_options import one_trained, print_weights

    resolved = one_trained(models, "predict")
    print_weights(resolved)
    with boundary.naming(resolved.entry.name):
        return build(resolved.entry, resolved.options)


def _everything(model: Segmenter, image: UInt8Array) -> list[MaskRecord]:
    from baselines import boundary

    with boundary.naming(model.info.name):
        return boundary.everything(model, image)


def masks_in_boxes(
    model: Segmenter, image: UInt8Array, objects: Sequence[MaskRecord]
) -> list[MaskRecord]:
    """Predicts one mask for the box of each object, in their order; omits empty masks."""
    import numpy as np

    from baselines import boundary
    from baselines.interface import MaskRecord, Prompts
    from baselines.pixels import mask_box
    from benchmarks.evaluation.run_model import PROMPT_BATCH

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


def parse_prompts(points: Sequence[str], box: str | None) -> Prompts:
    """Converts `X,Y[,0|1]` and `X0,Y0,X1,Y1` into one prompt.

    Raises:
        UsageError: Malformed, or neither is given.
    """
    import numpy as np

    from baselines.interface import Prompts

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


def _draw(image: UInt8Array, mask: BoolArray, prompts: Prompts) -> UInt8Array:
    """Draws a mask with its outline and its prompts over an image."""
    import numpy as np
    from PIL import Image, ImageDraw

    from benchmarks.report.mask_grid import overlay

    picture = Image.fromarray(overlay(image, [mask]))
    draw = ImageDraw.Draw(picture)
    radius = max(3, max(image.shape[:2]) // 150)
    if prompts.boxes is not None:
        draw.rectangle([float(v) for v in prompts.boxes[0]], outline=(230, 159, 0), width=2)
    if prompts.points is not None and prompts.labels is not None:
        for (x, y), label in zip(prompts.points[0], prompts.labels[0], strict=True):
            corners = [float(x) - radius, float(y) - radius, float(x) + radius, float(y) + radius]
            draw.ellipse(corners, fill=_POINT_COLOURS[int(label)], outline=(255, 255, 255))
    return np.asarray(picture)


def save_picture(pixels: UInt8Array, out: Path) -> None:
    """Writes an (H, W, 3) uint8 RGB array in the format of the file name.

    Raises:
        DataError: It cannot be written.
    """
    from PIL import Image

    try:
        Image.fromarray(pixels).save(out)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot write {out}: {error}; give --out a .png or .jpg file") from error
