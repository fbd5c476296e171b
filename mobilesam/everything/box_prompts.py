"""Object-aware prompts (MobileSAMv2, arXiv 2312.09579): a detector's boxes instead of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from segment_anything.modeling import Sam

from mobilesam.errors import UsageError
from mobilesam.everything.filters import measure
from mobilesam.everything.masks import (
    DEFAULT_BATCH,
    DEFAULT_OUTPUT,
    DEFAULT_STABILITY_OFFSET,
    FoundMask,
    OutputMode,
    check_output_mode,
)
from mobilesam.everything.point_grid import Crop
from mobilesam.fast.prompting import PromptedSam, UInt8Array, as_image, as_prompted, check_image
from mobilesam.inputs import as_array


class HasBox(Protocol):
    """One object that a detector has found."""

    @property
    def box(self) -> npt.NDArray[np.float32]:
        """(4,) xyxy in pixels of the image."""


class Detector(Protocol):
    """Finds objects: `everything` of any adapter, such as FastSAM's."""

    def __call__(self, image: UInt8Array) -> Sequence[HasBox]:
        """Objects on an (H, W, 3) uint8 RGB image."""


def segment_boxes(
    model: PromptedSam | Sam,
    image: UInt8Array,
    boxes: npt.ArrayLike,
    *,
    boxes_per_batch: int = DEFAULT_BATCH,
    stability_score_offset: float = DEFAULT_STABILITY_OFFSET,
    output_mode: OutputMode = DEFAULT_OUTPUT,
) -> list[dict[str, Any]]:
    """Segments the objects in boxes, one mask each: object-aware prompts (arXiv 2312.09579).

    Nothing is filtered: a detector has decided already. Record i answers box i; a box in which
    nothing is found has an empty mask.

    Args:
        model: A `MobileSam`, or a plain `Sam` of its architecture, whose weights are then copied.
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy in pixels of the image, as an array, list, tensor or data frame; N may
            be 0.
        boxes_per_batch: Boxes that are decoded before their masks are looked at.
        stability_score_offset: As of `AutomaticMaskGenerator`.
        output_mode: As of `AutomaticMaskGenerator`.

    Returns:
        Records as of `AutomaticMaskGenerator`; `point_coords` is empty, and `prompt_box` is the
        box as a list.

    Raises:
        DataError: Not such an image, or an empty one.
        UsageError: A box that is no box, NaN, or an unknown output mode.
    """
    check_output_mode(output_mode)
    model, image = as_prompted(model), as_image(image)
    size_hw = check_image(image)
    wanted = _checked_boxes(boxes)
    if len(wanted) == 0:
        return []
    embedding = model.encode(image)
    upsampler = model.upsampler(embedding, "cpu")
    whole = Crop((0, 0, size_hw[1], size_hw[0]), 0)
    records = []
    for first in range(0, len(wanted), boxes_per_batch):
        batch = wanted[first : first + boxes_per_batch]
        logits, scores = model.decode_logits(embedding, boxes=batch)
        rows = zip(batch, logits[:, 0].float().cpu(), scores[:, 0].tolist(), strict=True)
        for box, low, score in rows:
            found = measure(
                low,
                upsampler,
                whole,
                size_hw,
                threshold=model.mask_threshold,
                offset=stability_score_offset,
            )
            assert found is not None  # noqa: S101 - no stability is asked for
            mask = FoundMask(found.runs, found.box, score, found.stability, None, whole)
            records.append({**mask.record(output_mode), "prompt_box": box.tolist()})
    return records


def segment_objects(
    model: PromptedSam | Sam,
    image: UInt8Array,
    detector: Detector,
    *,
    output_mode: OutputMode = DEFAULT_OUTPUT,
) -> list[dict[str, Any]]:
    """Segments the objects that a detector finds; see `segment_boxes`.

    Args:
        model: A `MobileSam`, or a plain `Sam` of its architecture, whose weights are then copied.
        image: (H, W, 3) uint8 RGB.
        detector: Such as `everything` of a FastSAM adapter, as MobileSAMv2 does.
        output_mode: As of `AutomaticMaskGenerator`.
    """
    image = as_image(image)
    check_image(image)
    boxes = [np.asarray(each.box, np.float64) for each in detector(image)]
    return segment_boxes(model, image, np.reshape(boxes, (-1, 4)), output_mode=output_mode)


def _checked_boxes(boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    found = as_array(boxes, "boxes").astype(np.float64)
    if found.shape == (0,):
        found = found.reshape(0, 4)
    if found.ndim != 2 or found.shape[1] != 4:
        raise UsageError(f"boxes must be (N, 4) xyxy; got shape {found.shape}")
    bad = np.flatnonzero(
        ~(np.isfinite(found).all(axis=1) & (found[:, 2:] > found[:, :2]).all(axis=1))
    )
    if len(bad):
        raise UsageError(
            f"box {bad[0]} is no box: {found[bad[0]].tolist()} (wanted x0, y0, x1, y1 with x1 > x0 "
            "and y1 > y0)"
        )
    return found
