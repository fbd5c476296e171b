"""Evaluates models under the protocols that have prompts; see the package for an overview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import DEFAULT_PREFETCH_THREADS, RunConfig
from benchmarks.evaluation.comparison import compare_tables, unshared_prompt_lines
from benchmarks.evaluation.scoring import CLICKS_NEED_TRUTH
from benchmarks.evaluation.shard_store import ShardSummary
from benchmarks.evaluation.shard_worker import AccuracyWorker, EvaluationTask, run_task
from benchmarks.evaluation.summaries import count_clicks, sum_tables
from benchmarks.prompts.protocols import AccuracyProtocol, reference_model
from benchmarks.records.instances import read_instances
from benchmarks.records.progress import Reporter
from benchmarks.records.record import (
    INSTANCES_NAME,
    AccuracyTimeRow,
    ComparisonRow,
    DetectorRow,
    EverythingRow,
    Failure,
    MiouRow,
    Status,
)


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Rows for the record; fields are named as in `RunRecord`."""

    miou: tuple[MiouRow, ...] = ()
    comparisons: tuple[ComparisonRow, ...] = ()
    accuracy_times: tuple[AccuracyTimeRow, ...] = ()
    detector: tuple[DetectorRow, ...] = ()
    everything: tuple[EverythingRow, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()

    def rows(self) -> dict[str, tuple[Any, ...]]:
        """Rows by field of the record."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def evaluate(
    config: RunConfig,
    models: Sequence[ResolvedModel],
    reference_models: Sequence[ResolvedModel],
    reporter: Reporter,
) -> EvaluationResult:
    """Evaluates every model under every protocol, against every reference.

    Instances are stored in `config.out`, as one file or as one for each shard. A model without
    trained weights has rows with a reason; a model that fails has rows with its error. Reference
    models need not be among the models. Without protocols the result is empty.

    Raises:
        DataError: The folder cannot be written.
        UsageError: The cluster cannot be used.
    """
    if config.dataset is None or not config.protocols:
        return EvaluationResult()
    sharding = config.sharding
    task = EvaluationTask.of_run(
        config,
        models,
        reference_models,
        AccuracyWorker,
        prefetch_threads=DEFAULT_PREFETCH_THREADS
        if sharding is None
        else sharding.prefetch_threads,
        protocols=[protocol.name for protocol in config.protocols],
        references=list(config.references),
        seed=config.seed,
        boundary=config.boundary,
    )
    tables, summary = run_task(task, config.dataset, INSTANCES_NAME, reporter)
    if summary.untimed is not None:
        reporter.warn(summary.untimed)
        summary.warnings.append(summary.untimed)
    rows = _RowBuilder(config, [*models, *reference_models], tables, summary)
    miou = tuple(
        rows.row(model, protocol, reference)
        for model, reference, protocol in product(models, config.references, config.protocols)
    )
    comparisons: tuple[ComparisonRow, ...] = ()
    unshared: tuple[str, ...] = ()
    if len(models) > 1:
        comparisons, n_prompts = compare_tables(
            map(read_instances, tables), config.dataset.name, without=summary.broken
        )
        unshared = unshared_prompt_lines(n_prompts)
    return EvaluationResult(
        miou=miou,
        comparisons=comparisons,
        accuracy_times=tuple(summary.times.values()),
        failures=summary.failures,
        warnings=(*summary.all_warnings, *unshared),
    )


class _RowBuilder:
    """Makes rows from the instance tables and the summary of all shards."""

    def __init__(
        self,
        config: RunConfig,
        models: Sequence[ResolvedModel],
        tables: Sequence[Path],
        summary: ShardSummary,
    ) -> None:
        self._models = {model.entry.name: model for model in models}
        self._summary = summary
        self._sums = sum_tables(tables)
        self._clicks = count_clicks(tables, config.protocols)

    def row(self, model: ResolvedModel, protocol: AccuracyProtocol, reference: str) -> MiouRow:
        """Row of a model under a protocol against a reference; with a reason if it is empty."""
        summary, name = self._summary, model.entry.name
        other = reference_model(reference)
        group = (name, protocol.name, reference)
        blank = MiouRow(
            model=name,
            dataset=summary.dataset,
            protocol=protocol.name,
            reference=reference,
            weights=model.weights,
            reference_weights=None if other is None else self._models[other].weights,
        )
        if group not in self._sums or name in summary.broken or other in summary.broken:
            status, why = self._reason(model, protocol, reference)
            return blank.model_copy(update={"status": status, "why": why})
        time = summary.times.get(name)
        filled = {
            "n_left_out": summary.no_prompt[protocol.prompt],
            "clicks": self._clicks.get(group[:2]) if other is None else None,
            "why": summary.left_out_text(name),
            "manifest_sha256": summary.manifest(protocol.prompt),
            "seconds": None if time is None else time.wall_s,
        }
        return self._sums[group].summarize(blank).model_copy(update=filled)

    def _reason(
        self, model: ResolvedModel, protocol: AccuracyProtocol, reference: str
    ) -> tuple[Status, str]:
        """Status and reason of a row without figures."""
        summary, name = self._summary, model.entry.name
        if name in summary.unavailable:
            return summary.unavailable[name].status, summary.unavailable[name].why
        if name in summary.broken:
            return "error", summary.broken[name]
        why = self._why_no_reference(protocol, reference)
        why = why or summary.unsupported.get(name, {}).get(protocol.name)
        n_without = summary.no_prompt[protocol.prompt]
        if why is None and n_without:
            why = f"none of the {n_without} instances has a prompt {protocol.prompt}"
        if why is not None:
            return "skipped", why
        if summary.attempts_of(name).n_answered and not summary.n_given_up:
            return "error", f"no image was answered both by {name} and by {reference}"
        return "error", summary.why_nothing(name)

    def _why_no_reference(self, protocol: AccuracyProtocol, reference: str) -> str | None:
        """Reason why a protocol cannot be scored against a reference; None if it can."""
        summary, other = self._summary, reference_model(reference)
        if other is None:
            return None
        if protocol.n_clicks is not None:
            return CLICKS_NEED_TRUTH
        model = self._models[other]
        if model.error is not None:
            return f"{reference} cannot be used: {model.error}"
        if not model.trained:
            return f"{reference} has no trained weights: {model.weights.why}"
        if other in summary.unavailable:
            return f"{reference} failed: {summary.unavailable[other].why}"
        if other in summary.broken:
            return f"{reference} failed: {summary.broken[other]}"
        unsupported = summary.unsupported.get(other, {})
        if protocol.name in unsupported:
            return f"{reference} has no answer: {unsupported[protocol.name]}"
        return None
