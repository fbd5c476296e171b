"""Scores the predictions that runs have left on disk: `miou --rescore`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.evaluate import CLICKS_NEED_TRUTH
from benchmarks.accuracy.predictions import (
    PREDICTIONS_FOLDER,
    REFERENCES_NAME,
    Prediction,
    PredictionsInfo,
    load_predictions,
    load_references,
)
from benchmarks.accuracy.rescoring import Instances, rescore
from benchmarks.accuracy.summaries import clicks_needed, summarise
from benchmarks.accuracy.teachers import Teacher
from benchmarks.instances import InstanceRow
from benchmarks.protocols import GROUND_TRUTH, AccuracyProtocol, find, teacher_of
from benchmarks.records import MiouRow
from mobilesam.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Stored:
    """Predictions of several models for the same data.

    Attributes:
        infos: Of each model, by name.
        predictions: Of each model, by name.
        instances: The reference masks.
    """

    infos: dict[str, PredictionsInfo]
    predictions: dict[str, list[Prediction]]
    instances: Instances

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return next(iter(self.infos.values())).dataset

    @property
    def protocols(self) -> tuple[str, ...]:
        """All protocols that any of the files was made for."""
        return tuple({name: 0 for info in self.infos.values() for name in info.protocols})


def load_stored(paths: Sequence[Path]) -> Stored:
    """Reads predictions, and the reference masks that lie beside them.

    Args:
        paths: Files of predictions, or folders of runs.

    Raises:
        DataError: One cannot be read, or they belong to different data.
        UsageError: Two of them are of the same model.
    """
    files = [file for path in paths for file in _files(path)]
    fingerprint, instances = load_references(files[0].parent / REFERENCES_NAME)
    infos: dict[str, PredictionsInfo] = {}
    predictions: dict[str, list[Prediction]] = {}
    for file in files:
        info, rows = load_predictions(file)
        if info.fingerprint != fingerprint:
            raise DataError(f"{file} was made from other data than {files[0]}; score them apart")
        if info.model in infos:
            raise UsageError(f"{file} holds {info.model} a second time; name each model once")
        infos[info.model], predictions[info.model] = info, rows
    return Stored(infos, predictions, instances)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    folder = path / PREDICTIONS_FOLDER if (path / PREDICTIONS_FOLDER).is_dir() else path
    found = sorted(file for file in folder.glob("*.parquet") if file.name != REFERENCES_NAME)
    if not found:
        raise DataError(f"{path} holds no predictions; make them with miou --save-masks")
    return found


def score_stored(
    stored: Stored, names: Sequence[str], references: Sequence[str]
) -> tuple[list[MiouRow], list[InstanceRow]]:
    """Scores all stored models.

    Args:
        stored: Their predictions.
        names: Protocols; empty for those that the files were made for.
        references: `ground-truth`, or `teacher:NAME` where that model is among the stored ones.

    Raises:
        UsageError: A protocol is unknown, or a teacher is not stored.
        DataError: Predictions and references do not fit.
    """
    protocols = find(names or stored.protocols)
    teachers = _teachers(stored, references)
    pairs = [
        (protocol, reference)
        for reference in references
        for protocol in protocols
        if reference == GROUND_TRUTH or protocol.budget is None
    ]
    rows: list[MiouRow] = []
    instances: list[InstanceRow] = []
    for model, info in stored.infos.items():
        predictions = stored.predictions[model]
        asked = {prediction.question for prediction in predictions}
        usable = [pair for pair in pairs if pair[0].question in asked]
        found = list(rescore(model, predictions, stored.instances, usable, teachers))
        instances.extend(found)
        rows.extend(_summaries(info, protocols, references, found))
    return rows, instances


def _teachers(stored: Stored, references: Sequence[str]) -> dict[str, Teacher]:
    teachers = {}
    for name in filter(None, map(teacher_of, references)):
        if name not in stored.predictions:
            raise UsageError(
                f"no predictions of the teacher {name}; there are those of "
                f"{', '.join(stored.predictions)}"
            )
        teachers[name] = Teacher(name, stored.predictions[name])
    return teachers


def _summaries(
    info: PredictionsInfo,
    protocols: Sequence[AccuracyProtocol],
    references: Sequence[str],
    rows: Sequence[InstanceRow],
) -> Iterator[MiouRow]:
    for reference in references:
        of_reference: dict[str, list[InstanceRow]] = {}
        for row in rows:
            if row.reference == reference:
                of_reference.setdefault(row.protocol, []).append(row)
        for protocol in protocols:
            if protocol.name in of_reference:
                yield summarise(
                    of_reference[protocol.name],
                    info.dataset,
                    info.weights,
                    manifest_sha256=info.manifests.get(protocol.prompt),
                    n_left_out=info.left_out.get(protocol.prompt, 0),
                    clicks=clicks_needed(protocol, of_reference),
                )
            else:
                yield _empty(info, protocol, reference)


def _empty(info: PredictionsInfo, protocol: AccuracyProtocol, reference: str) -> MiouRow:
    no_truth = protocol.budget is not None and reference != GROUND_TRUTH
    return MiouRow(
        model=info.model,
        dataset=info.dataset,
        protocol=protocol.name,
        reference=reference,
        weights=info.weights,
        status="skipped",
        why=CLICKS_NEED_TRUTH if no_truth else f"{info.model} was not asked for {protocol.name}",
    )
