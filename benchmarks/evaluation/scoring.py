"""Scores predicted masks against references; predicted and stored masks are scored alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from baselines.interface import BoolArray
from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import decode_mask, iou
from benchmarks.evaluation.boundary_iou import Boundary
from benchmarks.evaluation.boundary_iou import iou as boundary_iou
from benchmarks.evaluation.predictions import Prediction
from benchmarks.evaluation.prompt_runner import QueryMasks
from benchmarks.prompts.protocols import (
    GROUND_TRUTH,
    TEACHER_PREFIX,
    AccuracyProtocol,
    Query,
    select_candidate,
)
from benchmarks.records.instances import InstanceRow
from mobilesam.errors import DataError

Pair = tuple[AccuracyProtocol, str]
"""A protocol and the reference that it is scored against."""
CLICKS_NEED_TRUTH = "clicks are placed on errors against the ground truth, so it is the reference"


class ReferenceModel:
    """A model as reference: its stored predictions by query and instance."""

    def __init__(
        self, name: str, predictions: Iterable[Prediction], lost_ids: Collection[int] = ()
    ) -> None:
        self.name = name
        self._predictions: dict[tuple[Query, int, int], Prediction] = {
            (each.query, each.image_id, each.annotation_id): each for each in predictions
        }
        predicted_ids = {image_id for _, image_id, _ in self._predictions}
        self._lost_ids = frozenset(lost_ids) - predicted_ids

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """All its predictions, in their order."""
        return tuple(self._predictions.values())

    def has_lost(self, image_id: int) -> bool:
        """Whether it has no masks of an image, which is then not used for comparisons with it."""
        return image_id in self._lost_ids

    def mask(self, protocol: AccuracyProtocol, image_id: int, annotation_id: int) -> BoolArray:
        """Returns its mask under a protocol that needs no reference to choose one.

        Raises:
            DataError: It has no prediction for this prompt.
        """
        found = self._predictions.get((protocol.query, image_id, annotation_id))
        if found is None:
            raise DataError(
                f"teacher {self.name} has no answer under {protocol.name} for annotation "
                f"{annotation_id} of image {image_id}; run it on the same data"
            )
        chosen = select_candidate(protocol.selection, np.array(found.scores, np.float32), [])
        return decode_mask(found.rles[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """A reference mask with its boundary; without one if boundary IoU is not scored."""

    mask: BoolArray
    boundary: Boundary | None


class Targets:
    """Reference masks of one image, each computed when it is first needed.

    Args:
        image_id: The image.
        instances: Its objects.
        masks: Their reference masks, or None to decode them when needed.
        reference_models: By name.
        boundary: Whether boundary IoU is scored.
    """

    def __init__(
        self,
        image_id: int,
        instances: Sequence[Instance],
        masks: Sequence[BoolArray] | None,
        reference_models: Mapping[str, ReferenceModel],
        *,
        boundary: bool = True,
    ) -> None:
        self.image_id = image_id
        self.instances = instances
        self._masks = masks
        self._reference_models = reference_models
        self._boundary = boundary
        self._known: dict[tuple[str, int, AccuracyProtocol | None], _Target] = {}

    def is_missing(self, reference: str) -> bool:
        """Whether the reference is a model that failed on this image."""
        model = self._reference_models.get(reference.removeprefix(TEACHER_PREFIX))
        return reference != GROUND_TRUTH and model is not None and model.has_lost(self.image_id)

    def get(self, reference: str, protocol: AccuracyProtocol, index: int) -> _Target:
        """Reference mask of one instance.

        Raises:
            DataError: The reference model has no mask for it.
        """
        # The ground truth does not depend on the protocol.
        used = None if reference == GROUND_TRUTH else protocol.for_reference
        key = (reference, index, used)
        if key not in self._known:
            mask = self._mask(reference, used, index)
            self._known[key] = _Target(mask, Boundary.of(mask) if self._boundary else None)
        return self._known[key]

    def _mask(self, reference: str, protocol: AccuracyProtocol | None, index: int) -> BoolArray:
        instance = self.instances[index]
        if protocol is None:
            return instance.mask() if self._masks is None else self._masks[index]
        model = self._reference_models[reference.removeprefix(TEACHER_PREFIX)]
        return model.mask(protocol, self.image_id, instance.annotation_id)


class Scorer:
    """Scores the masks of one model."""

    def __init__(self, model: str, pairs: Sequence[Pair]) -> None:
        self._model = model
        self._pairs: dict[Query, list[Pair]] = {}
        for protocol, reference in pairs:
            self._pairs.setdefault(protocol.query, []).append((protocol, reference))

    def score(self, predicted: QueryMasks, targets: Targets) -> Iterator[InstanceRow]:
        """Yields one row for each protocol and reference that the masks are scored for.

        There is none for a reference model that failed on the image.
        """
        boundaries: dict[int, Boundary] = {}
        instance = targets.instances[predicted.index]
        for protocol, reference in self._pairs.get(predicted.query, ()):
            if targets.is_missing(reference):
                continue
            target = targets.get(reference, protocol, predicted.index)
            if protocol.selection == "oracle":
                ious = [iou(candidate, target.mask) for candidate in predicted.masks]
            else:
                ious = []
            chosen = select_candidate(protocol.selection, predicted.scores, ious)
            mask = predicted.masks[chosen]
            at_boundary = None
            if target.boundary is not None:
                if chosen not in boundaries:
                    boundaries[chosen] = Boundary.of(mask)
                at_boundary = boundary_iou(boundaries[chosen], target.boundary)
            yield InstanceRow(
                image_id=targets.image_id,
                annotation_id=instance.annotation_id,
                model=self._model,
                protocol=protocol.name,
                reference=reference,
                iou=ious[chosen] if ious else iou(mask, target.mask),
                boundary_iou=at_boundary,
                score=float(predicted.scores[chosen]),
                area=instance.area_px,
                category=instance.category,
            )
