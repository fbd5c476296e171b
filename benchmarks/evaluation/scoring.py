"""Scores predicted masks against references; predicted and stored masks are scored alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from baselines.interface import BoolArray
from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import boundary_complexity, decode_mask, iou
from benchmarks.evaluation.boundary_iou import Boundary
from benchmarks.evaluation.boundary_iou import iou as boundary_iou
from benchmarks.evaluation.predictions import Prediction
from benchmarks.evaluation.prompt_runner import QueryMasks
from benchmarks.prompts.protocols import (
    AccuracyProtocol,
    Query,
    reference_model,
    select_candidate,
)
from benchmarks.records.instances import InstanceRow
from mobilesam.errors import DataError

Pair = tuple[AccuracyProtocol, str]
"""A protocol and the reference that it is scored against."""
CLICKS_NEED_TRUTH = "clicks are placed on errors against the ground truth, so it is the reference"


class ReferenceModel:
    """A model as reference: its stored predictions by query and instance.

    Images in `lost_ids` without predictions are not used for comparisons with it.
    """

    def __init__(
        self, name: str, predictions: Iterable[Prediction], lost_ids: Collection[int] = ()
    ) -> None:
        self.name = name
        self._predictions: dict[tuple[Query, int, int], Prediction] = {
            (each.query, each.image_id, each.annotation_id): each for each in predictions
        }
        self.lost_ids = frozenset(lost_ids) - {image_id for _, image_id, _ in self._predictions}

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """All its predictions, in their order."""
        return tuple(self._predictions.values())

    def mask(self, protocol: AccuracyProtocol, image_id: int, annotation_id: int) -> BoolArray:
        """Its mask under a protocol that needs no reference to choose one."""
        found = self._predictions.get((protocol.query, image_id, annotation_id))
        if found is None:
            raise DataError(
                f"teacher {self.name} has no answer under {protocol.name} for annotation "
                f"{annotation_id} of image {image_id}; run it on the same data"
            )
        chosen = select_candidate(protocol.selection, np.array(found.scores, np.float32), [])
        return decode_mask(found.rles[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Reference masks of one image, each decoded and bounded when it is first needed."""

    image_id: int
    instances: Sequence[Instance]
    masks: Sequence[BoolArray] | None
    reference_models: Mapping[str, ReferenceModel]
    boundary: bool = True
    _complexities: dict[int, float | None] = field(default_factory=dict, init=False)
    _known: dict[tuple[str, int, AccuracyProtocol | None], tuple[BoolArray, Boundary | None]] = (
        field(default_factory=dict, init=False)
    )

    def get(
        self, reference: str, protocol: AccuracyProtocol, index: int
    ) -> tuple[BoolArray, Boundary | None] | None:
        """Reference mask of one instance with its boundary, if boundary IoU is scored.

        None for a reference model that failed on this image.
        """
        name = reference_model(reference)
        model = None if name is None else self.reference_models[name]
        if model is not None and self.image_id in model.lost_ids:
            return None
        # The ground truth does not depend on the protocol.
        key = (reference, index, None if model is None else protocol.for_reference)
        if key not in self._known:
            instance = self.instances[index]
            if model is not None:
                mask = model.mask(protocol.for_reference, self.image_id, instance.annotation_id)
            else:
                mask = instance.mask() if self.masks is None else self.masks[index]
            self._known[key] = mask, Boundary.of(mask) if self.boundary else None
        return self._known[key]

    def complexity(self, index: int) -> float | None:
        """Boundary complexity of the annotated mask of one instance."""
        if index not in self._complexities:
            mask = self.instances[index].mask() if self.masks is None else self.masks[index]
            self._complexities[index] = boundary_complexity(mask)
        return self._complexities[index]


class Scorer:
    """Scores the masks of one model."""

    def __init__(self, model: str, pairs: Sequence[Pair]) -> None:
        self._model = model
        self._pairs: dict[Query, list[Pair]] = {}
        for protocol, reference in pairs:
            self._pairs.setdefault(protocol.query, []).append((protocol, reference))

    def score(self, predicted: QueryMasks, targets: Targets) -> Iterator[InstanceRow]:
        """Yields one row for each protocol and reference that the masks are scored for."""
        boundaries: dict[int, Boundary] = {}
        instance = targets.instances[predicted.index]
        for protocol, reference in self._pairs.get(predicted.query, ()):
            found = targets.get(reference, protocol, predicted.index)
            if found is None:
                continue
            target, target_boundary = found
            ious: list[float] = []
            if protocol.selection == "oracle":
                ious = [iou(candidate, target) for candidate in predicted.masks]
            chosen = select_candidate(protocol.selection, predicted.scores, ious)
            mask = predicted.masks[chosen]
            at_boundary = None
            if target_boundary is not None:
                if chosen not in boundaries:
                    boundaries[chosen] = Boundary.of(mask)
                at_boundary = boundary_iou(boundaries[chosen], target_boundary)
            yield InstanceRow(
                image_id=targets.image_id,
                annotation_id=instance.annotation_id,
                model=self._model,
                protocol=protocol.name,
                reference=reference,
                iou=ious[chosen] if ious else iou(mask, target),
                boundary_iou=at_boundary,
                score=float(predicted.scores[chosen]),
                area=instance.area_px,
                category=instance.category,
                boundary_complexity=targets.complexity(predicted.index),
            )
