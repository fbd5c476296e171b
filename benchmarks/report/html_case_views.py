"""One case of the report's gallery as the page shows it: outlines, prompt, and what is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baselines.interface import BoolArray
from benchmarks.datasets.masks import decode_mask, iou
from benchmarks.evaluation.predictions import Prediction
from benchmarks.evaluation.rescore import Stored
from benchmarks.prompts.manifests import PromptManifest
from benchmarks.prompts.protocols import AccuracyProtocol, find_protocols, select_candidate
from benchmarks.report.gallery_images import Picture, mask_path, view_box
from benchmarks.report.html_cases import FAILURE_IOU, Case
from benchmarks.tables.record_queries import unique


@dataclass(frozen=True, slots=True)
class Panel:
    """One answer to a prompt.

    Attributes:
        model: Who answered.
        iou: With the ground truth; None where the model has no answer.
        path: Outline of the mask; empty for an empty mask.
        label: What the panel shows, for who does not see it.
    """

    model: str
    iou: float | None
    path: str
    label: str

    @property
    def failed(self) -> bool:
        """Whether the answer counts as a failure."""
        return self.iou is not None and self.iou < FAILURE_IOU


@dataclass(frozen=True, slots=True)
class CaseView:
    """One case as the page shows it.

    Attributes:
        case: What was chosen.
        category: Of the object; empty where the dataset has none.
        area_px: Of the annotation.
        picture: The image.
        crop: The part of it that is shown first: x, y, width, height.
        truth: Outline of the reference mask.
        box: x, y, width and height of the prompt's box; empty for points.
        points: x, y and label of the prompt's points.
        panels: One a model.
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


def load_manifests(folders: Sequence[Path], protocols: Sequence[str]) -> dict[str, PromptManifest]:
    """Prompts by rule, as far as they lie beside the records."""
    found = {}
    for rule in unique(protocol.prompt for protocol in find_protocols(protocols)):
        paths = [folder / f"prompts-{rule}.parquet" for folder in folders]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[rule] = PromptManifest.load(path)
    return found


class CaseMaker:
    """Makes views of cases.

    Args:
        stored: All answers.
        manifests: Prompts by rule.
        models: Whose answers are shown, in order.
    """

    def __init__(
        self,
        stored: Stored,
        manifests: Mapping[str, PromptManifest],
        models: Sequence[str],
    ) -> None:
        self._stored = stored
        self._manifests = manifests
        self._models = models
        self._answers = {
            model: {(p.question, p.image_id, p.annotation_id): p for p in rows}
            for model, rows in stored.predictions.items()
        }
        self._protocols = {p.name: p for p in find_protocols(stored.protocols)}

    def view(self, case: Case, picture: Picture) -> CaseView:
        """Everything that the page needs of a case."""
        instance = self._stored.instances[case.image_id, case.annotation_id]
        truth = instance.mask()
        protocol = self._protocols[case.protocol]
        masks = {model: self._mask(model, case, protocol, truth) for model in self._models}
        shown = [truth, *(mask for mask in masks.values() if mask is not None)]
        box, points = self._prompt(case, protocol, picture.scale)
        return CaseView(
            case=case,
            category=instance.category,
            area_px=instance.area_px,
            picture=picture,
            crop=view_box(shown, picture),
            truth=mask_path(truth, picture.scale),
            box=box,
            points=points,
            panels=tuple(self._panel(case, model, masks[model], picture) for model in masks),
        )

    def _mask(
        self, model: str, case: Case, protocol: AccuracyProtocol, truth: BoolArray
    ) -> BoolArray | None:
        """The mask that was scored; None where the model did not answer."""
        key = (protocol.query, case.image_id, case.annotation_id)
        answer: Prediction | None = self._answers[model].get(key)
        if answer is None or model not in case.ious:
            return None
        oracle = protocol.selection == "oracle"
        ious = [iou(decode_mask(rle), truth) for rle in answer.rles] if oracle else []
        return decode_mask(
            answer.rles[
                select_candidate(protocol.selection, np.array(answer.scores, np.float32), ious)
            ]
        )

    def _panel(self, case: Case, model: str, mask: BoolArray | None, picture: Picture) -> Panel:
        if mask is None:
            return Panel(model, None, "", f"{model}: no answer")
        path = mask_path(mask, picture.scale)
        value = case.ious[model]
        what = "mask" if path else "empty mask"
        label = f"{what} of {model}, IoU {value:.3f} with the ground truth"
        return Panel(model, value, path, label)

    def _prompt(
        self, case: Case, protocol: AccuracyProtocol, scale: float
    ) -> tuple[tuple[float, ...], tuple[tuple[float, float, int], ...]]:
        """Box (x, y, width, height) or points (x, y, label) in pixels of the picture."""
        manifest = self._manifests.get(protocol.prompt)
        values = None if manifest is None else manifest.get(case.image_id, case.annotation_id)
        if manifest is None or values is None:
            return (), ()
        numbers = (scale * values).tolist()
        if manifest.sampler.labels is None:
            x0, y0, x1, y1 = numbers
            return (x0, y0, x1 - x0, y1 - y0), ()
        # A point names a pixel, whose middle lies half a pixel further.
        half = scale / 2
        labels = manifest.sampler.labels
        return (), tuple(
            (numbers[2 * i] + half, numbers[2 * i + 1] + half, label)
            for i, label in enumerate(labels)
        )
