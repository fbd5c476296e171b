"""Scores stored predictions again, without a model and without images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import decode_mask
from benchmarks.evaluation.predictions import Prediction, by_image
from benchmarks.evaluation.prompt_runner import Answer
from benchmarks.evaluation.reference_models import Teacher
from benchmarks.evaluation.scoring import Pair, Scorer, Targets
from benchmarks.records.instances import InstanceRow
from mobilesam.errors import DataError

Instances = Mapping[tuple[int, int], Instance]


def rescore(
    model: str,
    predictions: Sequence[Prediction],
    instances: Instances,
    pairs: Sequence[Pair],
    teachers: Mapping[str, Teacher],
    *,
    boundary: bool = True,
) -> Iterator[InstanceRow]:
    """Rows as a live evaluation gives them, in the same order.

    Args:
        model: Who answered.
        predictions: Its answers.
        instances: By image and annotation id.
        pairs: What is scored against what; protocols whose questions were not asked give no rows.
        teachers: By name; all that `pairs` names.
        boundary: Boundaries are compared as well.

    Raises:
        DataError: A prediction is for an annotation that the references do not hold.
    """
    scorer = Scorer(model, pairs)
    for image_id, group in by_image(predictions):
        found = [_instance(instances, image_id, each.annotation_id) for each in group]
        distinct = list({each.annotation_id: each for each in found}.values())
        targets = Targets(image_id, distinct, None, teachers, boundary=boundary)
        where = {each.annotation_id: i for i, each in enumerate(targets.instances)}
        for each in group:
            masks = np.stack([decode_mask(rle) for rle in each.rles])
            scores = np.array(each.scores, np.float32)
            answer = Answer(each.question, where[each.annotation_id], masks, scores)
            yield from scorer.score(answer, targets, image_id)


def _instance(instances: Instances, image_id: int, annotation_id: int) -> Instance:
    found = instances.get((image_id, annotation_id))
    if found is None:
        raise DataError(
            f"the references hold no annotation {annotation_id} of image {image_id}; "
            "score predictions against the data they were made from"
        )
    return found
