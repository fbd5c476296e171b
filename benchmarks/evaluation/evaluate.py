"""Evaluates models under the accuracy protocols, against ground truth and against teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from baselines.interface import Segmenter
from baselines.options import ModelOptions
from baselines.registry import ModelEntry, build
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets.dataset import Dataset
from benchmarks.debugging import format_error
from benchmarks.evaluation.dataset_notes import remember
from benchmarks.evaluation.embedding_cache import EmbeddingCache
from benchmarks.evaluation.evaluate_model import STAGE, PassPlan, PassResult, run_pass
from benchmarks.evaluation.predictions import (
    PREDICTIONS_FOLDER,
    REFERENCES_NAME,
    load_predictions,
    load_references,
    predictions_key,
    predictions_path,
)
from benchmarks.evaluation.prefetch import Lanes
from benchmarks.evaluation.reference_models import Teacher
from benchmarks.evaluation.rescoring import rescore
from benchmarks.evaluation.run_model import (
    TIMED_ELSEWHERE,
    Attempts,
    left_out_text,
    none_shared,
    nothing_read,
    require_trained,
)
from benchmarks.evaluation.scoring import Pair
from benchmarks.evaluation.summaries import by_protocol, clicks_needed, headline, summarise
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import GROUND_TRUTH, AccuracyProtocol, reference_model
from benchmarks.records.environment import timed_with
from benchmarks.records.instances import InstanceRow
from benchmarks.records.progress import Reporter
from benchmarks.records.record import AccuracyTimeRow, Failure, MiouRow, WeightsRow
from benchmarks.records.result_cache import ResultCache, content_key
from mobilesam.errors import BenchError

CLICKS_NEED_TRUTH = "clicks are placed on errors against the ground truth, so it is the reference"


@dataclass(frozen=True, slots=True)
class AccuracyPlan:
    """What is evaluated.

    Attributes:
        dataset: Images and reference masks.
        protocols: Which prompts are given and which answers scored.
        references: `ground-truth` and `teacher:NAME`, at least one.
        out: Folder of the run.
        save_masks: Keep every answer in `out`, to be scored again.
        embeddings: Folder of image embeddings that outlive the run; None keeps none.
        boundary: Boundary IoU is scored as well.
        lanes: What overlaps with the models.
        build: Makes a model, or gives the one that was made before.
        whole: The dataset is complete, not part of a larger one; see `PassPlan`.
    """

    dataset: Dataset
    protocols: tuple[AccuracyProtocol, ...]
    references: tuple[str, ...]
    out: Path
    save_masks: bool = False
    embeddings: Path | None = None
    boundary: bool = True
    lanes: Lanes = field(default_factory=Lanes)
    build: Callable[[ModelEntry, ModelOptions], Segmenter] = build
    whole: bool = True


@dataclass(frozen=True, slots=True)
class AccuracyResult:
    """Rows for the record, and the table of instances.

    Attributes:
        rows: One for each model, protocol and reference.
        instances: One for each prompt.
        failures: Images that cannot be read, and models that failed.
        times: Times of each model, taken under the conditions of this process.
        warnings: One line for each model whose time was taken under other conditions.
    """

    rows: tuple[MiouRow, ...]
    instances: tuple[InstanceRow, ...]
    failures: tuple[Failure, ...]
    times: tuple[AccuracyTimeRow, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswersResult:
    """Table of instances of one part of a dataset, to be summarised with those of other parts.

    Attributes:
        instances: In the order of `AccuracyResult`.
        blank: Rows of models, protocols and references that have no instance, with the reason.
        failures: Images that cannot be read, and models that cannot be built.
        times: Times of each model.
        attempts: Images that each model answered and failed on.
    """

    instances: tuple[InstanceRow, ...]
    blank: tuple[MiouRow, ...]
    failures: tuple[Failure, ...]
    times: tuple[AccuracyTimeRow, ...]
    attempts: dict[str, Attempts]


def evaluate(
    models: Sequence[ResolvedModel],
    teachers: Sequence[ResolvedModel],
    plan: AccuracyPlan,
    manifests: ManifestStore,
    cells: ResultCache,
    reporter: Reporter,
) -> AccuracyResult:
    """Evaluates every model under every protocol, against every reference.

    A model without trained weights gets rows that say so; one that fails gets rows with its error.

    Args:
        models: In the order of the tables.
        teachers: Models that are references, whether or not they are among `models`.
        plan: What is asked, and against what it is scored.
        manifests: The prompts, the same for all models.
        cells: Models that a former, interrupted run has finished.
        reporter: Told about progress.
    """
    return _Evaluation(models, teachers, plan, manifests, cells, reporter).run()


def answer_all(
    models: Sequence[ResolvedModel],
    teachers: Sequence[ResolvedModel],
    plan: AccuracyPlan,
    manifests: ManifestStore,
    reporter: Reporter,
) -> AnswersResult:
    """Does what `evaluate` does, but for the summaries and for taking up an interrupted run."""
    return _Evaluation(models, teachers, plan, manifests, ResultCache(None), reporter).answer()


class _Evaluation:
    """One evaluation; teachers answer before the models that are compared with them."""

    def __init__(
        self,
        models: Sequence[ResolvedModel],
        teachers: Sequence[ResolvedModel],
        plan: AccuracyPlan,
        manifests: ManifestStore,
        cells: ResultCache,
        reporter: Reporter,
    ) -> None:
        self._models = models
        self._planned = {model.entry.name: model for model in teachers}
        self._plan = plan
        self._manifests = manifests
        self._cells = cells
        self._reporter = reporter
        self._passes: dict[str, PassResult] = {}
        self._teachers: dict[str, Teacher] = {}
        self._kept: dict[str, str] = {}
        self._warnings: list[str] = []

    def run(self) -> AccuracyResult:
        pairs = self._ask_all()
        rows: list[MiouRow] = []
        instances: list[InstanceRow] = []
        for model in self._models:
            found = self._rows_of(model, pairs)
            instances.extend(found)
            rows.extend(self._summaries(model, found))
        return AccuracyResult(
            tuple(rows),
            tuple(instances),
            self._failures(),
            tuple(self._times()),
            tuple(self._warnings),
        )

    def answer(self) -> AnswersResult:
        pairs = self._ask_all()
        instances = [row for model in self._models for row in self._rows_of(model, pairs)]
        there = {(row.model, row.protocol, row.reference) for row in instances}
        rows = (
            self._blank(model, protocol, reference)
            for model in self._models
            for reference in self._plan.references
            for protocol in self._plan.protocols
            if (model.entry.name, protocol.name, reference) not in there
        )
        # Failures of models and unreadable images are judged over all parts together.
        blank = (
            row
            for row in rows
            if row.status == "skipped" or self._passes[row.model].error is not None
        )
        return AnswersResult(
            tuple(instances),
            tuple(blank),
            self._failures(),
            tuple(self._times()),
            {name: found.attempts for name, found in self._passes.items()},
        )

    def _ask_all(self) -> tuple[Pair, ...]:
        """Runs all models; returns what is scored against what."""
        wanted = {model.entry.name for model in self._models}
        is_wanted = GROUND_TRUTH in self._plan.references
        truth = tuple(self._pairs(GROUND_TRUTH)) if is_wanted else ()
        for name, model in self._planned.items():
            self._pass(model, truth if name in wanted else (), keep=True)
            path = predictions_path(self._plan.out, name)
            # A model that supports none of the prompts writes no predictions, but the folder may
            # hold predictions of other weights from a run that was killed.
            if name in self._kept and predictions_key(path) == self._kept[name]:
                info, answers = load_predictions(path)
                self._teachers[name] = Teacher(name, answers, info.lost_ids)
        pairs = tuple(pair for each in self._plan.references for pair in self._pairs(each))
        for model in self._models:
            if model.entry.name not in self._passes:
                self._pass(model, pairs, keep=self._plan.save_masks)
        return pairs

    def _pairs(self, reference: str) -> Iterator[Pair]:
        for protocol in self._plan.protocols:
            if self._why_no_reference(protocol, reference) is None:
                yield protocol, reference

    def _why_no_reference(self, protocol: AccuracyProtocol, reference: str) -> str | None:
        """Why a protocol cannot be scored against a reference; None if it can."""
        name = reference_model(reference)
        if name is None:
            return None
        if protocol.n_clicks is not None:
            return CLICKS_NEED_TRUTH
        model = self._planned[name]
        if model.error is not None:
            return f"{reference} cannot be used: {model.error}"
        if not model.trained:
            return f"{reference} has no trained weights: {model.weights.why}"
        found = self._passes[name]
        why = found.error or found.attempts.broken
        if why is not None:
            return f"{reference} failed: {why}"
        if protocol.name in found.unsupported:
            return f"{reference} has no answer: {found.unsupported[protocol.name]}"
        return None

    def _pass(self, model: ResolvedModel, pairs: tuple[Pair, ...], *, keep: bool) -> None:
        name = model.entry.name
        if model.error is not None:
            self._passes[name] = PassResult(error=model.error)
        elif not model.trained or not (pairs or keep):
            self._passes[name] = PassResult()
        else:
            self._passes[name] = found = self._run(model, pairs, keep=keep)
            if found.time is not None and found.rows:
                self._reporter.say(f"{name}: {headline(found.rows)}, {found.time.wall_s:.0f} s")

    def _run(self, model: ResolvedModel, pairs: tuple[Pair, ...], *, keep: bool) -> PassResult:
        options, plan = model.options, self._plan
        key = self._key(model, pairs, keep=keep)
        known = self._cells.get(key, PassResult)
        kept = content_key(key) if keep else None
        path = predictions_path(plan.out, options.name)
        if known is not None and (kept is None or predictions_key(path) == kept):
            if kept is not None:
                self._kept[options.name] = kept
            self._reporter.say(f"accuracy of {options.name}: taken from the interrupted run")
            return self._resumed(model, known)
        asked = tuple({protocol: 0 for protocol, _ in pairs})
        if keep:  # clicks are of no use to those who compare themselves with this model
            asked = tuple(p for p in plan.protocols if p in asked or p.n_clicks is None)
        cache = EmbeddingCache(plan.embeddings, options.precision, options.device)
        work = PassPlan(
            plan.dataset,
            asked,
            pairs,
            self._teachers,
            keep,
            plan.out,
            cache,
            plan.lanes,
            plan.boundary,
            plan.whole,
            kept,
        )
        try:
            segmenter = require_trained(plan.build(model.entry, options))
            found = run_pass(segmenter, model.weights, work, self._manifests, self._reporter)
        except BenchError as error:
            return PassResult(error=format_error(error))
        if kept is not None and found.error is None:
            self._kept[options.name] = kept
        # Not cached after a failure, so that repaired images are evaluated in the next pass.
        if found.error is None and not found.failures:
            remember(self._cells, plan.dataset)
            here = timed_with(options.device)
            self._cells.put(key, found.model_copy(update={"timed_with": here}))
        return found

    def _resumed(self, model: ResolvedModel, known: PassResult) -> PassResult:
        """A cached result, without its time if that was taken under other conditions.

        The conditions are not part of the key, since accuracy does not depend on them.
        """
        if known.time is None or known.timed_with == timed_with(model.options.device):
            return known
        warning = f"accuracy of {model.entry.name}: {TIMED_ELSEWHERE}"
        self._warnings.append(warning)
        self._reporter.warn(warning)
        return known.model_copy(update={"time": None})

    def _key(
        self, model: ResolvedModel, pairs: tuple[Pair, ...], *, keep: bool
    ) -> dict[str, object]:
        return {
            "kind": "accuracy",
            **model.key,
            "dataset": self._plan.dataset.fingerprint,
            "images": self._plan.dataset.images_state,
            "protocols": [protocol.name for protocol in self._plan.protocols],
            "pairs": [(protocol.name, reference) for protocol, reference in pairs],
            "teachers": {name: self._planned[name].weights.sha256 for name in self._teachers},
            "keep": keep,
            "boundary": self._plan.boundary,
        }

    def _rows_of(self, model: ResolvedModel, pairs: Sequence[Pair]) -> list[InstanceRow]:
        """A model's rows; a teacher's own against teachers come from its stored answers."""
        name = model.entry.name
        rows = list(self._passes[name].rows)
        if name in self._teachers:
            against = [pair for pair in pairs if pair[1] != GROUND_TRUTH]
            folder = self._plan.out / PREDICTIONS_FOLDER
            _, instances = load_references(folder / REFERENCES_NAME)
            answers = self._teachers[name].predictions
            again = rescore(
                name, answers, instances, against, self._teachers, boundary=self._plan.boundary
            )
            rows.extend(again)
        return rows

    def _summaries(self, model: ResolvedModel, rows: Sequence[InstanceRow]) -> Iterator[MiouRow]:
        groups = by_protocol(rows)
        for reference in self._plan.references:
            of_reference = groups.get(reference, {})
            for protocol in self._plan.protocols:
                yield self._summary(model, protocol, reference, of_reference)

    def _summary(
        self,
        model: ResolvedModel,
        protocol: AccuracyProtocol,
        reference: str,
        rows: Mapping[str, Sequence[InstanceRow]],
    ) -> MiouRow:
        plan, found = self._plan, self._passes[model.entry.name]
        if protocol.name in rows:
            why = left_out_text(len(found.failures))
            return summarise(
                rows[protocol.name],
                plan.dataset.name,
                model.weights,
                manifest_sha256=self._manifests.sha256(protocol.prompt),
                n_left_out=self._manifests.left_out(protocol.prompt),
                seconds=None if found.time is None else found.time.wall_s,
                clicks=clicks_needed(protocol, rows),
                reference_weights=self._reference_weights(reference),
            ).model_copy(update={"why": why})
        return self._blank(model, protocol, reference)

    def _blank(self, model: ResolvedModel, protocol: AccuracyProtocol, reference: str) -> MiouRow:
        status, why = self._why_no_rows(model, protocol, reference)
        return MiouRow.model_validate(
            {
                "model": model.entry.name,
                "dataset": self._plan.dataset.name,
                "protocol": protocol.name,
                "reference": reference,
                "weights": model.weights,
                "reference_weights": self._reference_weights(reference),
                "status": status,
                "why": why,
            }
        )

    def _reference_weights(self, reference: str) -> WeightsRow | None:
        name = reference_model(reference)
        return None if name is None else self._planned[name].weights

    def _why_no_rows(
        self, model: ResolvedModel, protocol: AccuracyProtocol, reference: str
    ) -> tuple[str, str]:
        found = self._passes[model.entry.name]
        if found.error is not None:
            return "error", found.error
        if not model.trained:
            return "skipped", f"no accuracy from random weights: {model.weights.why}"
        no_reference = self._why_no_reference(protocol, reference)
        if no_reference is not None:
            return "skipped", no_reference
        if protocol.name in found.unsupported:
            return "skipped", found.unsupported[protocol.name]
        broken = found.attempts.broken  # for one part of a dataset, not an error of the pass
        if broken is not None:
            return "error", broken
        left_out = self._manifests.left_out(protocol.prompt)
        if left_out:
            return "skipped", f"none of the {left_out} instances has a prompt {protocol.prompt}"
        if found.attempts.n_answered:
            return "error", none_shared(model.entry.name, reference)
        return "error", nothing_read(len(found.lost_ids))

    def _failures(self) -> tuple[Failure, ...]:
        failures: dict[Failure, None] = {}
        planned = {model.entry.name: model for model in self._models} | self._planned
        for name, found in self._passes.items():
            failures.update(dict.fromkeys(found.failures))
            if found.error is not None and planned[name].error is None:
                failures[Failure(stage=STAGE, culprit=name, why=found.error)] = None
        return tuple(failures)

    def _times(self) -> Iterator[AccuracyTimeRow]:
        for found in self._passes.values():
            if found.time is not None:
                yield found.time
