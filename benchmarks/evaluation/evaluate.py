"""Evaluates models under the protocols that have prompts; see the package for an overview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import DEFAULT_PREFETCH_THREADS, RunConfig
from benchmarks.evaluation.accuracy_worker import AccuracyWorker
from benchmarks.evaluation.comparison import compare_tables, unshared_prompt_lines
from benchmarks.evaluation.scoring import CLICKS_NEED_TRUTH
from benchmarks.evaluation.shard_store import ShardSummary
from benchmarks.evaluation.shard_worker import EvaluationTask, run_task
from benchmarks.evaluation.summaries import count_clicks, sum_tables
from benchmarks.prompts.protocols import TEACHER_PREFIX, AccuracyProtocol, reference_model
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
    by_name = {model.entry.name: model for model in (*models, *reference_models)}
    sums = sum_tables(tables)
    clicks = count_clicks(tables, config.protocols)
    broken = summary.broken
    rows: list[MiouRow] = []
    for model, reference, protocol in product(models, config.references, config.protocols):
        name, other = model.entry.name, reference_model(reference)
        row = MiouRow(
            model=name,
            dataset=summary.dataset,
            protocol=protocol.name,
            reference=reference,
            weights=model.weights,
            reference_weights=None if other is None else by_name[other].weights,
        )
        group = (name, protocol.name, reference)
        update: dict[str, Any]
        if group in sums and name not in broken and other not in broken:
            row = sums[group].summarize(row)
            time = summary.times.get(name)
            update = {
                "n_left_out": summary.no_prompt[protocol.prompt],
                "clicks": clicks.get(group[:2]) if other is None else None,
                "why": summary.left_out_text(name),
                "manifest_sha256": summary.manifest(protocol.prompt),
                "seconds": None if time is None else time.wall_s,
            }
        else:
            why_not = _why_no_reference(
                summary, None if other is None else by_name[other], protocol
            )
            status, why = _why_empty(summary, name, protocol, reference, why_not)
            update = {"status": status, "why": why}
        rows.append(row.model_copy(update=update))
    comparisons: tuple[ComparisonRow, ...] = ()
    unshared: tuple[str, ...] = ()
    if len(models) > 1:
        comparisons, n_prompts = compare_tables(
            map(read_instances, tables), config.dataset.name, without=broken
        )
        unshared = unshared_prompt_lines(n_prompts)
    return EvaluationResult(
        miou=tuple(rows),
        comparisons=comparisons,
        accuracy_times=tuple(summary.times.values()),
        failures=summary.failures,
        warnings=(*summary.all_warnings, *unshared),
    )


def _why_empty(
    summary: ShardSummary,
    model: str,
    protocol: AccuracyProtocol,
    reference: str,
    why: str | None,
) -> tuple[Status, str]:
    """Status and reason of a row without figures; `why` if the reference cannot be used."""
    if model in summary.unavailable:
        return summary.unavailable[model].status, summary.unavailable[model].why
    if model in summary.broken:
        return "error", summary.broken[model]
    why = why or summary.unsupported.get(model, {}).get(protocol.name)
    n_without = summary.no_prompt[protocol.prompt]
    if why is None and n_without:
        why = f"none of the {n_without} instances has a prompt {protocol.prompt}"
    if why is not None:
        return "skipped", why
    if summary.attempts_of(model).n_answered and not summary.n_given_up:
        return "error", f"no image was answered both by {model} and by {reference}"
    return "error", summary.why_nothing(model)


def _why_no_reference(
    summary: ShardSummary, model: ResolvedModel | None, protocol: AccuracyProtocol
) -> str | None:
    """Reason why a protocol cannot be scored against a reference model; None if it can."""
    if model is None:
        return None
    if protocol.n_clicks is not None:
        return CLICKS_NEED_TRUTH
    name = model.entry.name
    reference = f"{TEACHER_PREFIX}{name}"
    if model.error is not None:
        return f"{reference} cannot be used: {model.error}"
    if not model.trained:
        return f"{reference} has no trained weights: {model.weights.why}"
    if name in summary.unavailable:
        return f"{reference} failed: {summary.unavailable[name].why}"
    if name in summary.broken:
        return f"{reference} failed: {summary.broken[name]}"
    if (why := summary.unsupported.get(name, {}).get(protocol.name)) is not None:
        return f"{reference} has no answer: {why}"
    return None
