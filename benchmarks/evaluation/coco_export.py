"""Stored predictions and their references as COCO files, for pycocotools and other programs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import decode_mask, iou
from benchmarks.datasets.writers import NO_CATEGORY
from benchmarks.evaluation.coco_eval import FoundMask
from benchmarks.evaluation.predictions import (
    PREDICTIONS_FOLDER,
    Prediction,
    file_stem,
    load_predictions,
    load_references,
    predictions_path,
    references_path,
)
from benchmarks.prompts.protocols import AccuracyProtocol, find_protocols, select_candidate
from benchmarks.records.record import write_atomic

INSTANCES_FILE = "coco-instances.json"
"""Reference masks, in the folder of the predictions."""


def results_path(out: Path, model: str, protocol: str) -> Path:
    """COCO results file of a model and a protocol in the folder of a run."""
    return out / PREDICTIONS_FOLDER / f"coco-{file_stem(model)}-{protocol}.json"


def export_coco(out: Path, models: Collection[str]) -> None:
    """Writes the stored predictions of models as COCO results, and the references as instances.

    A result is the mask that the protocol scores: for `center-oracle` the one with the best IoU
    with the ground truth. Its `annotation_id` is that of the instance whose prompt it answers.
    """
    known = load_references(references_path(out))
    references = known.instances
    category_ids = _category_ids(references.values())
    document = _document(references, category_ids, known.file_names)
    _write(out / PREDICTIONS_FOLDER / INSTANCES_FILE, document)
    for model in models:
        info, predictions = load_predictions(predictions_path(out, model))
        for protocol in find_protocols(info.protocols):
            rows = [
                _result(each, protocol, references[each.image_id, each.annotation_id], category_ids)
                for each in predictions
                if each.query == protocol.query
            ]
            _write(results_path(out, model, protocol.name), rows)


def _category_ids(instances: Collection[Instance]) -> dict[tuple[str, int | None], int]:
    """Id by name and id in the annotation file, which is kept; classes without ids get new ones."""
    keys = {(each.category, each.category_id) for each in instances}
    known = {key: key[1] for key in keys if key[1] is not None}
    unnumbered = sorted(key for key in keys if key[1] is None)
    return known | {
        key: number for number, key in enumerate(unnumbered, max(known.values(), default=0) + 1)
    }


def _document(
    references: Mapping[tuple[int, int], Instance],
    category_ids: Mapping[tuple[str, int | None], int],
    file_names: Mapping[int, str],
) -> dict[str, Any]:
    """COCO instances file of the reference masks; ids, areas and boxes are the annotations'."""
    sizes = {image_id: each.rle["size"] for (image_id, _), each in references.items()}
    annotations = []
    for (image_id, annotation_id), each in references.items():
        x0, y0, x1, y1 = each.box.tolist()
        annotation = {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": category_ids[each.category, each.category_id],
            "iscrowd": 0,
            "area": each.area_px,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": dict(each.rle),
        }
        annotations.append(annotation)
    return {
        "images": [
            {
                "id": image_id,
                "file_name": file_names.get(image_id, str(image_id)),
                "height": height,
                "width": width,
            }
            for image_id, (height, width) in sizes.items()
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name or NO_CATEGORY}
            for (name, _), number in sorted(category_ids.items(), key=lambda each: each[1])
        ],
    }


def _result(
    prediction: Prediction,
    protocol: AccuracyProtocol,
    reference: Instance,
    category_ids: Mapping[tuple[str, int | None], int],
) -> dict[str, Any]:
    ious: list[float] = []
    if protocol.selection == "oracle":
        truth = reference.mask()
        ious = [iou(decode_mask(rle), truth) for rle in prediction.rles]
    chosen = select_candidate(protocol.selection, np.array(prediction.scores, np.float32), ious)
    found = FoundMask(
        prediction.image_id,
        category_ids[reference.category, reference.category_id],
        prediction.rles[chosen],
        prediction.scores[chosen],
    )
    return {**found.to_result(), "annotation_id": prediction.annotation_id}


def _write(path: Path, content: object) -> None:
    write_atomic(path, json.dumps(content).encode())
