"""`predict` for all objects of a picture: a model's own mode, or in the boxes of another model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from baselines import boundary
from baselines.interface import MaskRecord, Prompts, Segmenter, UInt8Array
from baselines.pixels import mask_box
from baselines.registry import build
from benchmarks.cli.commands.prediction import save_picture
from benchmarks.cli.commands.printing import print_json
from benchmarks.config.from_options import check_max_pixels, one_trained, print_weights
from benchmarks.config.options import ModelArguments
from benchmarks.evaluation.run_model import PROMPT_BATCH

DEFAULT_DETECTOR = "fastsam-s"
"""Its boxes are what MobileSAMv2 takes for prompts (arXiv 2312.09579): a trained detector's."""


def predict_all(
    image_path: Path,
    arguments: ModelArguments,
    detector: str | None,
    out: Path,
    as_json: bool,
    max_pixels: int,
) -> int:
    """Segments everything, writes the overlay, and prints what was found.

    Args:
        image_path: The picture.
        arguments: Which model, and with which weights.
        detector: A model whose boxes are the prompts (arXiv 2312.09579); None asks the model's own
            mode.
        out: Overlay to write.
        as_json: Print one document.
        max_pixels: A larger picture is refused.

    Raises:
        UsageError: More than one model is named.
        UnsupportedError: The model, or the detector, cannot segment everything.
        WeightsError: One of them has no trained weights here.
    """
    from benchmarks.datasets.images import load_image
    from benchmarks.report.mask_grid import overlay

    image = load_image(image_path, str(image_path), None, check_max_pixels(max_pixels))
    model = _model(arguments)
    if detector is None:
        found = _everything(model, image)
    else:
        finder = _model(replace(arguments, models=detector))
        found = in_boxes(model, image, _everything(finder, image))
    found = sorted(found, key=lambda record: -record.score)
    save_picture(overlay(image, [record.mask for record in found]), out)
    _print(model.info.name, detector, found, out, as_json)
    return 0


def _model(arguments: ModelArguments) -> Segmenter:
    planned = one_trained(arguments, "predict")
    print_weights(planned)
    with boundary.naming(planned.entry.name):
        return build(planned.entry, planned.options)


def _everything(model: Segmenter, image: UInt8Array) -> list[MaskRecord]:
    with boundary.naming(model.info.name):
        return boundary.everything(model, image)


def in_boxes(model: Segmenter, image: UInt8Array, objects: list[MaskRecord]) -> list[MaskRecord]:
    """One mask of the model for the box of each object, in their order; none for an empty mask."""
    if not objects:
        return []
    height, width = image.shape[:2]
    with boundary.naming(model.info.name):
        embedding = boundary.encode(model, image)
    prompts = Prompts(boxes=np.stack([record.box for record in objects]).astype(np.float32))
    found = []
    for batch in prompts.batches(PROMPT_BATCH):
        with boundary.naming(model.info.name):
            masks = boundary.decode(model, embedding, batch, (height, width))
        found += [
            MaskRecord(mask, float(score), np.array(box, np.float32))
            for mask, score in zip(masks.masks[:, 0], masks.scores[:, 0], strict=True)
            if (box := mask_box(mask)) is not None
        ]
    return found


def _print(
    model: str, detector: str | None, found: list[MaskRecord], out: Path, as_json: bool
) -> None:
    if as_json:
        from benchmarks.datasets.masks import encode_mask

        objects = [
            {
                "area_px": int(record.mask.sum()),
                "box": [float(value) for value in record.box],
                "score": record.score,
                "rle": encode_mask(record.mask),
            }
            for record in found
        ]
        print_json(
            {"model": model, "boxes_from": detector, "objects": objects, "overlay": str(out)}
        )
        return
    by = "" if detector is None else f" in boxes of {detector}"
    covered = np.zeros(found[0].mask.shape, np.bool_) if found else np.zeros((1, 1), np.bool_)
    for record in found:
        covered |= record.mask
    share = covered.mean()
    sys.stdout.write(
        f"{model}{by}: {len(found)} objects, {100 * share:.1f} % of the image; overlay in {out}\n"
    )
