"""A model as reference: its stored answers, looked up by question and instance."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from baselines.interface import BoolArray
from benchmarks.datasets.masks import decode_mask
from benchmarks.evaluation.predictions import Prediction
from benchmarks.prompts.protocols import AccuracyProtocol, Query, select_candidate
from mobilesam.errors import DataError


class Teacher:
    """Masks that one model predicted for all prompts of a dataset.

    Args:
        name: Name of the model.
        predictions: Its predictions.
        lost_ids: Images that could not be read, or that the model failed on.
    """

    def __init__(
        self, name: str, predictions: Iterable[Prediction], lost_ids: Collection[int] = ()
    ) -> None:
        self.name = name
        self._answers: dict[tuple[Query, int, int], Prediction] = {
            (each.question, each.image_id, each.annotation_id): each for each in predictions
        }
        answered = {image_id for _, image_id, _ in self._answers}
        self._lost_ids = frozenset(lost_ids) - answered

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """All its answers, in the order in which they were given."""
        return tuple(self._answers.values())

    def lost(self, image_id: int) -> bool:
        """Whether it failed on an image, which is then not used for comparisons with it."""
        return image_id in self._lost_ids

    def mask(self, protocol: AccuracyProtocol, image_id: int, annotation_id: int) -> BoolArray:
        """The mask that the teacher gives under a protocol that needs no reference to choose.

        Raises:
            DataError: It has not answered this prompt.
        """
        found = self._answers.get((protocol.query, image_id, annotation_id))
        if found is None:
            raise DataError(
                f"teacher {self.name} has no answer under {protocol.name} for annotation "
                f"{annotation_id} of image {image_id}; run it on the same data"
            )
        chosen = select_candidate(protocol.selection, np.array(found.scores, np.float32), [])
        return decode_mask(found.rles[chosen])
