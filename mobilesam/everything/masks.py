"""A mask of segment everything, and the record that it is given as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from mobilesam.errors import UsageError
from mobilesam.everything.filters import Box
from mobilesam.everything.point_grid import Crop
from mobilesam.everything.run_length import MaskRuns

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]
DEFAULT_OUTPUT: OutputMode = "binary_mask"
# Prompts that are decoded before their masks are looked at: 48 MiB of logits.
DEFAULT_BATCH = 64
DEFAULT_STABILITY_OFFSET = 1.0


@dataclass(frozen=True, slots=True)
class FoundMask:
    """One mask, before it is written down as a record.

    Attributes:
        runs: Its pixels.
        box: x0, y0, x1, y1 of its first and last columns and rows.
        score: Predicted IoU.
        stability: Stability score.
        point: xy of the prompt in pixels of the image; None for a box prompt.
        crop: Where it was looked for.
    """

    runs: MaskRuns
    box: Box
    score: float
    stability: float
    point: tuple[float, float] | None
    crop: Crop

    def record(self, output_mode: OutputMode) -> dict[str, Any]:
        """The record of `SamAutomaticMaskGenerator`."""
        forms = {
            "binary_mask": self.runs.to_mask,
            "uncompressed_rle": self.runs.uncompressed,
            "coco_rle": self.runs.compressed,
        }
        return {
            "segmentation": forms[output_mode](),
            "area": self.runs.area_px,
            "bbox": _xywh(self.box),
            "predicted_iou": self.score,
            "point_coords": [] if self.point is None else [list(self.point)],
            "stability_score": self.stability,
            "crop_box": _xywh(self.crop.box),
        }


def check_output_mode(mode: str) -> None:
    """Raises a UsageError for a mode that is none."""
    known = get_args(OutputMode)
    if mode not in known:
        raise UsageError(f"unknown output_mode {mode!r}; choose from {', '.join(known)}")


def _xywh(box: Box) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
