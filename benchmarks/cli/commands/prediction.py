"""The command that segments one object of one picture: `predict`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from baselines import boundary
from baselines.interface import BoolArray, Prompts, UInt8Array
from baselines.pixels import mask_box
from baselines.registry import build
from benchmarks.cli.commands.printing import print_json
from benchmarks.config.from_options import check_max_pixels, one_trained, print_weights
from benchmarks.config.options import ModelArguments
from benchmarks.report.figure_images import check_inside
from mobilesam.errors import DataError, UsageError

_MASK_COLOUR = np.array([0, 114, 178], np.float32)  # Okabe and Ito's blue
_OPACITY = 0.5
_POINT_COLOURS = {1: (0, 158, 115), 0: (213, 94, 0)}


def predict(
    image_path: Path,
    arguments: ModelArguments,
    points: Sequence[str],
    box: str | None,
    out: Path,
    as_json: bool,
    max_pixels: int,
) -> int:
    """Segments one object, writes the overlay, and prints what was found."""
    from benchmarks.datasets.images import load_image

    prompts = parse_prompts(points, box)
    image = load_image(image_path, str(image_path), None, check_max_pixels(max_pixels))
    height, width = image.shape[:2]
    check_inside(prompts, (height, width), image_path.name)
    planned = one_trained(arguments, "predict")
    print_weights(planned)
    with boundary.naming(planned.entry.name):
        model = build(planned.entry, planned.options)
        embedding = boundary.encode(model, image)
        mask, score = boundary.best_mask(model, embedding, prompts, (height, width))
    _write_overlay(image, mask, prompts, out)
    _print(planned.entry.name, mask, score, out, as_json)
    return 0


def parse_prompts(points: Sequence[str], box: str | None) -> Prompts:
    """Turns `X,Y[,0|1]` and `X0,Y0,X1,Y1` into one prompt.

    Raises:
        UsageError: Malformed, or neither is given.
    """
    rows = [_numbers(text, "--point", "X,Y or X,Y,0 or X,Y,1", (2, 3)) for text in points]
    corners = None if box is None else _numbers(box, "--box", "X0,Y0,X1,Y1", (4,))
    if not rows and corners is None:
        raise UsageError("give at least one --point X,Y or one --box X0,Y0,X1,Y1")
    bad = next((row[2] for row in rows if len(row) == 3 and row[2] not in (0, 1)), None)
    if bad is not None:
        raise UsageError(f"the label of a --point is 1 (object) or 0 (background); got {bad:g}")
    return Prompts(
        points=np.array([[row[:2] for row in rows]], np.float32) if rows else None,
        labels=np.array([[int(row[2]) if len(row) == 3 else 1 for row in rows]], np.int64)
        if rows
        else None,
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


def _write_overlay(image: UInt8Array, mask: BoolArray, prompts: Prompts, out: Path) -> None:
    from PIL import Image, ImageDraw

    pixels = image.astype(np.float32)
    pixels[mask] = (1 - _OPACITY) * pixels[mask] + _OPACITY * _MASK_COLOUR
    inner = mask.copy()
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1]
    inner[1:-1, 1:-1] &= mask[1:-1, :-2] & mask[1:-1, 2:]
    pixels[mask & ~inner] = 255
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    radius = max(3, max(image.shape[:2]) // 150)
    if prompts.boxes is not None:
        draw.rectangle([float(v) for v in prompts.boxes[0]], outline=(230, 159, 0), width=2)
    if prompts.points is not None and prompts.labels is not None:
        for (x, y), label in zip(prompts.points[0], prompts.labels[0], strict=True):
            corners = [float(x) - radius, float(y) - radius, float(x) + radius, float(y) + radius]
            draw.ellipse(corners, fill=_POINT_COLOURS[int(label)], outline=(255, 255, 255))
    save_picture(np.asarray(picture), out)


def save_picture(pixels: UInt8Array, out: Path) -> None:
    """Writes (H, W, 3) uint8 RGB in the format that the name asks for.

    Raises:
        DataError: It cannot be written.
    """
    from PIL import Image

    try:
        Image.fromarray(pixels).save(out)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot write {out}: {error}; give --out a .png or .jpg file") from error


def _print(model: str, mask: BoolArray, score: float, out: Path, as_json: bool) -> None:
    found = mask_box(mask)
    box = None if found is None else list(found)
    area = int(mask.sum())
    if as_json:
        print_json(
            {"model": model, "area_px": area, "box": box, "score": score, "overlay": str(out)}
        )
    else:
        share = 100 * area / mask.size
        sys.stdout.write(
            f"{model}: {area} pixels ({share:.1f} % of the image), box {box}, "
            f"score {score:.3f}; overlay in {out}\n"
        )
