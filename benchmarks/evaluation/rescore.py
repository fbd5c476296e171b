"""Scores the predictions that runs have left on disk: `miou --rescore`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evaluation.evaluate import CLICKS_NEED_TRUTH
from benchmarks.evaluation.predictions import (
    PREDICTIONS_FOLDER,
    REFERENCES_NAME,
    Prediction,
    PredictionsInfo,
    load_predictions,
    load_references,
)
from benchmarks.evaluation.reference_models import Teacher
from benchmarks.evaluation.rescoring import Instances, rescore
from benchmarks.evaluation.summaries import by_protocol, clicks_needed, summarise
from benchmarks.prompts.protocols import AccuracyProtocol, Query, find_protocols, reference_model
from benchmarks.records.instances import InstanceRow
from benchmarks.records.record import RECORD_NAME, MiouRow, WeightsRow
from mobilesam.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Stored:
    """Predictions of several models for the same data.

    Attributes:
        infos: Of each model, by name.
        predictions: Of each model, by name.
        instances: The reference masks.
        asked: Questions put to each model, by name.
        answered: Those of them that some instance has a prompt for.
    """

    infos: dict[str, PredictionsInfo]
    predictions: dict[str, list[Prediction]]
    instances: Instances
    asked: dict[str, set[Query]]
    answered: dict[str, set[Query]]

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
        for other in infos.values():
            _check_same_prompts(info, other)
        infos[info.model], predictions[info.model] = info, rows
    asked = {
        model: {protocol.query for protocol in find_protocols(info.protocols)}
        for model, info in infos.items()
    }
    answered = {model: {row.question for row in rows} for model, rows in predictions.items()}
    return Stored(infos, predictions, instances, asked, answered)


def _check_same_prompts(one: PredictionsInfo, other: PredictionsInfo) -> None:
    for rule in one.manifests.keys() & other.manifests.keys():
        if one.manifests[rule] != other.manifests[rule]:
            raise DataError(
                f"{one.model} and {other.model} answered different {rule} prompts (another "
                "--seed?), so they cannot be compared; score them apart"
            )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    is_run = (path / RECORD_NAME).is_file() or (path / PREDICTIONS_FOLDER).is_dir()
    folder = path / PREDICTIONS_FOLDER if is_run else path
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
    protocols = find_protocols(names or stored.protocols)
    teachers = _teachers(stored, references)
    pairs = [(protocol, reference) for reference in references for protocol in protocols]
    rows: list[MiouRow] = []
    instances: list[InstanceRow] = []
    for model, info in stored.infos.items():
        predictions = stored.predictions[model]
        usable = [pair for pair in pairs if _why_not(stored, model, *pair) is None]
        found = list(rescore(model, predictions, stored.instances, usable, teachers))
        instances.extend(found)
        rows.extend(_summaries(stored, info, protocols, references, found))
    return rows, instances


def _teachers(stored: Stored, references: Sequence[str]) -> dict[str, Teacher]:
    teachers = {}
    for name in filter(None, map(reference_model, references)):
        if name not in stored.predictions:
            raise UsageError(
                f"no predictions of the teacher {name}; there are those of "
                f"{', '.join(stored.predictions)}"
            )
        lost_ids = stored.infos[name].lost_ids
        teachers[name] = Teacher(name, stored.predictions[name], lost_ids)
    return teachers


def _why_not(stored: Stored, model: str, protocol: AccuracyProtocol, reference: str) -> str | None:
    """Why a model's answers cannot be scored under a protocol; None if they can."""
    teacher = reference_model(reference)
    if teacher is not None and protocol.n_clicks is not None:
        return CLICKS_NEED_TRUTH
    for name in (model, teacher):
        if name is None:
            continue
        if protocol.query not in stored.asked[name]:
            return f"{name} was not asked for {protocol.name}"
    left_out = stored.infos[model].left_out.get(protocol.prompt, 0)
    if protocol.query not in stored.answered[model]:
        return f"none of the {left_out} instances has a prompt {protocol.prompt}"
    return None


def _summaries(
    stored: Stored,
    info: PredictionsInfo,
    protocols: Sequence[AccuracyProtocol],
    references: Sequence[str],
    rows: Sequence[InstanceRow],
) -> Iterator[MiouRow]:
    groups = by_protocol(rows)
    for reference in references:
        of_reference = groups.get(reference, {})
        for protocol in protocols:
            if protocol.name in of_reference:
                yield summarise(
                    of_reference[protocol.name],
                    info.dataset,
                    info.weights,
                    manifest_sha256=info.manifests.get(protocol.prompt),
                    n_left_out=info.left_out.get(protocol.prompt, 0),
                    clicks=clicks_needed(protocol, of_reference),
                    reference_weights=_reference_weights(stored, reference),
                )
            else:
                yield _empty(stored, info, protocol, reference)


def _reference_weights(stored: Stored, reference: str) -> WeightsRow | None:
    name = reference_model(reference)
    return None if name is None else stored.infos[name].weights


def _empty(
    stored: Stored, info: PredictionsInfo, protocol: AccuracyProtocol, reference: str
) -> MiouRow:
    return MiouRow(
        model=info.model,
        dataset=info.dataset,
        protocol=protocol.name,
        reference=reference,
        weights=info.weights,
        status="skipped",
        reference_weights=_reference_weights(stored, reference),
        why=_why_not(stored, info.model, protocol, reference),
    )
