"""Accuracy in chunks: makes those that are missing, then summarises all from their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import RunConfig, ShardingConfig
from benchmarks.datasets.dataset import Dataset
from benchmarks.evaluation.aggregate import RowContext, clicks_of_files, compare_files, summary_of
from benchmarks.evaluation.comparison import unshared_lines
from benchmarks.evaluation.run_model import Attempts, none_shared
from benchmarks.evaluation.run_shards import cut_dataset, has_ended, make_missing
from benchmarks.evaluation.shard_store import ChunkStore
from benchmarks.evaluation.shard_summary import Tally
from benchmarks.evaluation.shard_worker import WorkPlan, machine_of, work_plan
from benchmarks.evaluation.sums import sum_up
from benchmarks.prompts.protocols import GROUND_TRUTH, reference_model
from benchmarks.records.progress import Reporter
from benchmarks.records.record import (
    INSTANCES_NAME,
    AccuracyTimeRow,
    ComparisonRow,
    Failure,
    MiouRow,
)


@dataclass(frozen=True, slots=True)
class ScaleResult:
    """Rows for the record, made from the files of all chunks."""

    rows: tuple[MiouRow, ...]
    comparisons: tuple[ComparisonRow, ...]
    failures: tuple[Failure, ...]
    times: tuple[AccuracyTimeRow, ...]
    warnings: tuple[str, ...]


def evaluate_request(
    request: RunConfig,
    scale: ShardingConfig,
    models: Sequence[ResolvedModel],
    teachers: Sequence[ResolvedModel],
    reporter: Reporter,
) -> ScaleResult:
    """Evaluates what a run asks for in chunks, below its folder.

    Raises:
        UsageError: The dataset cannot be cut, or the cluster not be used.
        DataError: The folder cannot be written.
    """
    return evaluate_in_chunks(
        cut_dataset(request),
        work_plan(request, scale, models, teachers),
        scale,
        request.out / INSTANCES_NAME,  # a folder of files reads as one table
        reporter,
        again=has_ended(request),
    )


def evaluate_in_chunks(
    dataset: Dataset,
    plan: WorkPlan,
    scale: ShardingConfig,
    folder: Path,
    reporter: Reporter,
    *,
    again: bool = False,
) -> ScaleResult:
    """Does what `evaluate` does, for data of any length; each finished chunk is kept in a file.

    Args:
        dataset: Images and reference masks.
        plan: What is done with them.
        scale: How they are cut, and who works on them.
        folder: Of the chunks. Those made under the same key are not made again.
        reporter: Told about progress.
        again: Chunks with failures are made once more.

    Raises:
        DataError: The folder cannot be written.
        UsageError: The cluster cannot be used.
    """
    store = ChunkStore(folder)
    what = f"accuracy of {', '.join(model.entry.name for model in plan.models)} in chunks"
    made = make_missing(dataset, plan, scale, store, what, reporter, again=again)
    # On a cluster it is not known which machine makes which chunk.
    here = machine_of(plan.models) if scale.cluster in (None, "local") else None
    tally = Tally.of(dataset.name, store, made, here)
    if tally.untimed is not None:
        reporter.warn(tally.untimed)
    return _summarise(plan, store.files(made.names), tally, made.given_up)


def _summarise(
    plan: WorkPlan, files: Sequence[Path], tally: Tally, given_up: Sequence[Failure]
) -> ScaleResult:
    comparisons: tuple[ComparisonRow, ...] = ()
    warnings: tuple[str, ...] = ()
    if len(plan.models) > 1:
        comparisons, answered = compare_files(files, tally.dataset, without=tally.broken)
        warnings = unshared_lines(answered)
    return ScaleResult(
        tuple(_rows(plan, files, tally)),
        comparisons,
        tally.listed(given_up),
        tuple(tally.times.values()),
        (*filter(None, (tally.untimed,)), *tally.warnings, *warnings),
    )


def _rows(plan: WorkPlan, files: Sequence[Path], tally: Tally) -> Iterator[MiouRow]:
    sums = sum_up(files)
    clicks = clicks_of_files(files, plan.protocols)
    weights = {model.entry.name: model.weights for model in (*plan.models, *plan.teachers)}
    for model, reference, protocol in product(plan.models, plan.references, plan.protocols):
        group = (model.entry.name, protocol.name, reference)
        teacher = reference_model(reference)
        blank = MiouRow(
            model=model.entry.name,
            dataset=tally.dataset,
            protocol=protocol.name,
            reference=reference,
            weights=model.weights,
            reference_weights=None if teacher is None else weights[teacher],
            status="error",
        )
        if model.entry.name in tally.broken:
            yield blank.model_copy(update={"why": tally.broken[model.entry.name]})
        elif teacher in tally.broken and protocol.n_clicks is None:
            why = f"{reference} failed: {tally.broken[teacher]}"
            yield blank.model_copy(update={"status": "skipped", "why": why})
        elif group in sums:
            time = tally.times.get(model.entry.name)
            context = RowContext(
                dataset=tally.dataset,
                weights=model.weights,
                reference_weights=None if teacher is None else weights[teacher],
                manifest_sha256=tally.manifest(protocol.prompt),
                n_left_out=tally.no_prompt[protocol.prompt],
                seconds=None if time is None else time.wall_s,
                clicks=clicks.get(group[:2]) if reference == GROUND_TRUTH else None,
            )
            row = summary_of(group, sums[group], context)
            yield row.model_copy(update={"why": tally.left_out(*group)})
        else:
            attempts = tally.attempts.get(model.entry.name, Attempts())
            nothing: str | None = tally.why_nothing
            if tally.n_given_up:
                nothing = tally.left_out(*group)
            elif attempts.n_answered:
                nothing = none_shared(model.entry.name, reference)
            yield tally.blank.get(group, blank.model_copy(update={"why": nothing}))
