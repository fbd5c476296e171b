"""Scores answers against references. Knows no model: live answers and stored ones go through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from baselines.interface import BoolArray
from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import iou
from benchmarks.evaluation.boundary_iou import Boundary
from benchmarks.evaluation.boundary_iou import iou as boundary_iou
from benchmarks.evaluation.prompt_runner import Answer
from benchmarks.evaluation.reference_models import Teacher
from benchmarks.prompts.protocols import (
    GROUND_TRUTH,
    TEACHER_PREFIX,
    AccuracyProtocol,
    Query,
    select_candidate,
)
from benchmarks.records.instances import InstanceRow

Pair = tuple[AccuracyProtocol, str]
"""A protocol and the reference that it is scored against."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A reference mask with its boundary."""

    mask: BoolArray
    boundary: Boundary | None

    @classmethod
    def of(cls, mask: BoolArray, *, boundary: bool = True) -> Target:
        """Precomputes what every comparison with the mask needs."""
        return cls(mask, Boundary.of(mask) if boundary else None)


class Targets:
    """The reference masks of one image, each made when it is first needed.

    Args:
        image_id: The image.
        instances: Its objects.
        masks: Their reference masks, or None to decode them when needed.
        teachers: By name.
        boundary: Boundaries are compared as well.
    """

    def __init__(
        self,
        image_id: int,
        instances: Sequence[Instance],
        masks: Sequence[BoolArray] | None,
        teachers: Mapping[str, Teacher],
        *,
        boundary: bool = True,
    ) -> None:
        self._boundary = boundary
        self._image_id = image_id
        self.instances = instances
        self._masks = masks
        self._teachers = teachers
        self._known: dict[tuple[str, int, AccuracyProtocol | None], Target] = {}

    def missing(self, reference: str) -> bool:
        """Whether the reference is a teacher that failed on this image."""
        teacher = self._teachers.get(reference.removeprefix(TEACHER_PREFIX))
        return reference != GROUND_TRUTH and teacher is not None and teacher.lost(self._image_id)

    def get(self, reference: str, protocol: AccuracyProtocol, index: int) -> Target:
        """The reference of one instance.

        Raises:
            DataError: The teacher has no answer for it.
        """
        # The ground truth is one and the same whatever was asked.
        asked = None if reference == GROUND_TRUTH else protocol.for_reference
        key = (reference, index, asked)
        if key not in self._known:
            self._known[key] = Target.of(
                self._mask(reference, asked, index), boundary=self._boundary
            )
        return self._known[key]

    def _mask(self, reference: str, asked: AccuracyProtocol | None, index: int) -> BoolArray:
        instance = self.instances[index]
        if asked is None:
            return instance.mask() if self._masks is None else self._masks[index]
        teacher = self._teachers[reference.removeprefix(TEACHER_PREFIX)]
        return teacher.mask(asked, self._image_id, instance.annotation_id)


class Scorer:
    """Scores the answers of one model.

    Args:
        model: Its name.
        pairs: What is scored against what.
    """

    def __init__(self, model: str, pairs: Sequence[Pair]) -> None:
        self._model = model
        self._wanted: dict[Query, list[Pair]] = {}
        for protocol, reference in pairs:
            self._wanted.setdefault(protocol.query, []).append((protocol, reference))

    def score(self, answer: Answer, targets: Targets, image_id: int) -> Iterator[InstanceRow]:
        """Yields one row for each protocol and reference that the answer is scored for.

        Yields none for a teacher that failed on the image.
        """
        boundaries: dict[int, Boundary] = {}
        instance = targets.instances[answer.index]
        for protocol, reference in self._wanted.get(answer.question, ()):
            if targets.missing(reference):
                continue
            target = targets.get(reference, protocol, answer.index)
            if protocol.selection == "oracle":
                ious = [iou(candidate, target.mask) for candidate in answer.masks]
            else:
                ious = []
            chosen = select_candidate(protocol.selection, answer.scores, ious)
            mask = answer.masks[chosen]
            if target.boundary is None:
                at_boundary = None
            else:
                if chosen not in boundaries:
                    boundaries[chosen] = Boundary.of(mask)
                at_boundary = boundary_iou(boundaries[chosen], target.boundary)
            yield InstanceRow(
                image_id=image_id,
                annotation_id=instance.annotation_id,
                model=self._model,
                protocol=protocol.name,
                reference=reference,
                iou=ious[chosen] if ious else iou(mask, target.mask),
                boundary_iou=at_boundary,
                score=float(answer.scores[chosen]),
                area=instance.area_px,
                category=instance.category,
            )
