"""Scores stored predictions, without a model and without images: `miou --rescore`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import decode_mask
from benchmarks.evaluation.predictions import (
    PREDICTIONS_FOLDER,
    REFERENCES_NAME,
    Prediction,
    PredictionsInfo,
    load_predictions,
    load_references,
    prediction_files,
)
from benchmarks.evaluation.prompt_runner import QueryMasks
from benchmarks.evaluation.scoring import CLICKS_NEED_TRUTH, Pair, ReferenceModel, Scorer, Targets
from benchmarks.evaluation.summaries import count_clicks, sum_tables
from benchmarks.prompts.protocols import (
    NOC_IOUS,
    AccuracyProtocol,
    find_protocols,
    reference_model,
)
from benchmarks.records.instances import InstanceRow, parquet_file
from benchmarks.records.record import RECORD_NAME, MiouRow
from mobilesam.errors import DataError, UsageError

Instances = Mapping[tuple[int, int], Instance]
"""Instances by image and annotation id."""


def rescore(
    model: str,
    predictions: Sequence[Prediction],
    instances: Instances,
    pairs: Sequence[Pair],
    reference_models: Mapping[str, ReferenceModel],
    *,
    boundary: bool = True,
) -> Iterator[InstanceRow]:
    """Yields the rows that an evaluation with the model gives, in the same order.

    Predictions for an image are consecutive; protocols whose queries were not run give no rows.
    """
    scorer = Scorer(model, pairs)
    for image_id, rows in groupby(predictions, key=lambda each: each.image_id):
        group = list(rows)
        positions = {
            annotation_id: position
            for position, annotation_id in enumerate(
                dict.fromkeys(each.annotation_id for each in group)
            )
        }
        for annotation_id in positions:
            if (image_id, annotation_id) not in instances:
                raise DataError(
                    f"the references hold no annotation {annotation_id} of image {image_id}; "
                    "score predictions against the data they were made from"
                )
        found = [instances[image_id, annotation_id] for annotation_id in positions]
        targets = Targets(image_id, found, None, reference_models, boundary)
        for each in group:
            masks = np.stack([decode_mask(rle) for rle in each.rles])
            scores = np.array(each.scores, np.float32)
            predicted = QueryMasks(each.query, positions[each.annotation_id], masks, scores)
            yield from scorer.score(predicted, targets)


@dataclass(frozen=True, slots=True)
class Stored:
    """Predictions of several models, by name, for the same data; names of image files by id."""

    infos: dict[str, PredictionsInfo]
    predictions: dict[str, list[Prediction]]
    instances: Instances
    file_names: Mapping[int, str]

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return next(iter(self.infos.values())).dataset

    @property
    def protocols(self) -> tuple[str, ...]:
        """All protocols that any of the files was made for."""
        return tuple({name: 0 for info in self.infos.values() for name in info.protocols})

    @property
    def keys(self) -> list[tuple[int, int]]:
        """Image and annotation ids of the instances that have predictions."""
        rows = (row for part in self.predictions.values() for row in part)
        found = {(row.image_id, row.annotation_id) for row in rows}
        return sorted(found & self.instances.keys())


def load_stored(
    paths: Sequence[Path], names: Mapping[Path, Mapping[str, str]] = MappingProxyType({})
) -> Stored:
    """Reads predictions from files, their folders or folders of runs, and the reference masks.

    `names` are new names of models by the folder of a run, see `RunRecord.names`.
    """
    files: list[Path] = []
    for path in paths:
        is_run = (path / RECORD_NAME).is_file() or (path / PREDICTIONS_FOLDER).is_dir()
        folder = path / PREDICTIONS_FOLDER if is_run else path
        found = [path]
        if path.is_dir():
            found = list(prediction_files(folder))
        if not found:
            raise DataError(f"{path} holds no predictions; make them with miou --save-masks")
        files += found
    references = load_references(files[0].parent / REFERENCES_NAME)
    infos: dict[str, PredictionsInfo] = {}
    predictions: dict[str, list[Prediction]] = {}
    for file in files:
        info, rows = load_predictions(file)
        if info.fingerprint != references.fingerprint:
            raise DataError(f"{file} was made from other data than {files[0]}; score them apart")
        model = names.get(file.parent.parent, {}).get(info.model, info.model)
        if model in infos:
            raise UsageError(f"{file} holds {model} a second time; name each model once")
        for other in infos.values():
            for rule in info.manifests.keys() & other.manifests.keys():
                if info.manifests[rule] != other.manifests[rule]:
                    raise DataError(
                        f"{info.model} and {other.model} answered different {rule} prompts "
                        "(another --seed?), so they cannot be compared; score them apart"
                    )
        infos[model], predictions[model] = info, rows
    return Stored(infos, predictions, references.instances, references.file_names)


def score_stored(
    stored: Stored,
    names: Sequence[str],
    references: Sequence[str],
    noc_ious: Sequence[float] = NOC_IOUS,
) -> tuple[list[MiouRow], list[InstanceRow]]:
    """Scores all stored models against references, `ground-truth` or `teacher:NAME`.

    Without names of protocols, those that the files were made for are used. `noc_ious` are the IoUs
    until which clicks are counted.

    Raises:
        DataError: Only the masks of some images were kept, or a reference mask is missing.
        UsageError: There are no predictions of a reference.
    """
    for info in stored.infos.values():
        n_kept = len(stored.predictions[info.model])
        if info.n_prompts is not None and n_kept < info.n_prompts:
            raise DataError(
                f"{n_kept} of {info.n_prompts} answers of {info.model} were kept, for the report: "
                "they cannot be scored again; measure with --save-masks"
            )
    protocols = find_protocols(names or stored.protocols)
    models = {}
    for name in filter(None, map(reference_model, references)):
        if name not in stored.predictions:
            raise UsageError(
                f"no predictions of the teacher {name}; there are those of "
                f"{', '.join(stored.predictions)}"
            )
        models[name] = ReferenceModel(name, stored.predictions[name], stored.infos[name].lost_ids)
    queries = {
        model: {protocol.query for protocol in find_protocols(info.protocols)}
        for model, info in stored.infos.items()
    }
    answered = {model: {row.query for row in rows} for model, rows in stored.predictions.items()}

    def why_not(model: str, protocol: AccuracyProtocol, reference: str) -> str | None:
        """Reason why a model cannot be scored under a protocol; None if it can."""
        other = reference_model(reference)
        if other is not None and protocol.n_clicks is not None:
            return CLICKS_NEED_TRUTH
        for name in filter(None, (model, other)):
            if protocol.query not in queries[name]:
                return f"{name} was not asked for {protocol.name}"
        if protocol.query not in answered[model]:
            left_out = stored.infos[model].left_out.get(protocol.prompt, 0)
            return f"none of the {left_out} instances has a prompt {protocol.prompt}"
        return None

    pairs = [(protocol, reference) for reference in references for protocol in protocols]
    instances: list[InstanceRow] = []
    for model, predictions in stored.predictions.items():
        usable = [pair for pair in pairs if why_not(model, *pair) is None]
        instances.extend(rescore(model, predictions, stored.instances, usable, models))
    table = parquet_file(InstanceRow, instances)
    sums = sum_tables([io.BytesIO(table)])
    clicks = count_clicks([io.BytesIO(table)], protocols, noc_ious)
    rows: list[MiouRow] = []
    for info, (reference, protocol) in product(
        stored.infos.values(), product(references, protocols)
    ):
        other = reference_model(reference)
        group = (info.model, protocol.name, reference)
        row = MiouRow(
            model=info.model,
            dataset=info.dataset,
            protocol=protocol.name,
            reference=reference,
            weights=info.weights,
            reference_weights=None if other is None else stored.infos[other].weights,
        )
        if group in sums:
            row = sums[group].summarize(row)
            update = {
                "n_left_out": info.left_out.get(protocol.prompt, 0),
                "clicks": clicks.get(group[:2]) if other is None else None,
                "manifest_sha256": info.manifests.get(protocol.prompt),
            }
        else:
            update = {"status": "skipped", "why": why_not(info.model, protocol, reference)}
        rows.append(row.model_copy(update=update))
    return rows, instances
