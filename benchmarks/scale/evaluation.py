"""Accuracy in chunks: makes those that are missing, then summarises all from their files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from benchmarks.comparison import unshared_lines
from benchmarks.data.parts import CutDataset
from benchmarks.model_pass import malformed
from benchmarks.planning import PlannedModel
from benchmarks.progress import Reporter
from benchmarks.protocols import GROUND_TRUTH, teacher_of
from benchmarks.records import (
    INSTANCES_NAME,
    RECORD_NAME,
    AccuracyTimeRow,
    ComparisonRow,
    Failure,
    MiouRow,
    load_record,
)
from benchmarks.run_request import RunRequest
from benchmarks.scale.aggregate import RowContext, clicks_of_files, compare_files, summary_of
from benchmarks.scale.chunks import ChunkStore
from benchmarks.scale.making import MOST_LISTED, make_missing
from benchmarks.scale.request import ScaleRequest
from benchmarks.scale.sums import sum_up
from benchmarks.scale.worker import WorkPlan, work_plan
from mobilesam.errors import UsageError


@dataclass(frozen=True, slots=True)
class ScaleResult:
    """Rows for the record, made from the files of all chunks."""

    rows: tuple[MiouRow, ...]
    comparisons: tuple[ComparisonRow, ...]
    failures: tuple[Failure, ...]
    times: tuple[AccuracyTimeRow, ...]
    warnings: tuple[str, ...]


def evaluate_request(
    request: RunRequest,
    scale: ScaleRequest,
    models: Sequence[PlannedModel],
    teachers: Sequence[PlannedModel],
    reporter: Reporter,
) -> ScaleResult:
    """Evaluates what a run asks for in chunks, below its folder.

    Raises:
        UsageError: The dataset cannot be cut, or the cluster not be used.
        DataError: The folder cannot be written.
    """
    dataset = request.dataset
    if not isinstance(dataset, CutDataset):
        raise UsageError("this dataset cannot be cut into chunks; drop --chunk")
    has_ended = (request.out / RECORD_NAME).exists() and load_record(request.out).complete
    return evaluate_in_chunks(
        dataset,
        work_plan(request, scale, models, teachers),
        scale,
        request.out / INSTANCES_NAME,  # a folder of files reads as one table
        reporter,
        # What has ended with failures and is started again may have been mended meanwhile.
        again=has_ended,
    )


def evaluate_in_chunks(
    dataset: CutDataset,
    plan: WorkPlan,
    scale: ScaleRequest,
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
    failures = make_missing(dataset, plan, scale, store, what, reporter, again=again)
    return _summarise(dataset.name, plan, store, failures)


def _summarise(
    dataset: str, plan: WorkPlan, store: ChunkStore, failures: Sequence[Failure]
) -> ScaleResult:
    files = store.files()
    found = _Tally()
    for name in store.names():
        found.add(store, name)
    rows = tuple(_rows(dataset, plan, files, found))
    comparisons: tuple[ComparisonRow, ...] = ()
    warnings: tuple[str, ...] = ()
    if len(plan.models) > 1:
        comparisons, answered = compare_files(files, dataset)
        warnings = unshared_lines(answered)
    broken = malformed(dataset, found.left_out, found.problems)
    listed = list(dict.fromkeys([*found.failures, *failures, *broken]))
    if found.n_failures > len(found.failures):
        warnings += (f"{found.n_failures:,} failures; the first {MOST_LISTED:,} are listed",)
    left_out = tuple(
        f"{dataset}: {count} annotations left out: {reason}"
        for reason, count in sorted(found.left_out.items())
        if count
    )
    return ScaleResult(
        rows,
        comparisons,
        tuple(listed),
        found.time_rows(),
        left_out + warnings,
    )


@dataclass(slots=True)
class _Tally:
    """What the chunks say of themselves, added up."""

    blank: dict[tuple[str, str, str], MiouRow] = field(default_factory=dict)
    failures: dict[Failure, None] = field(default_factory=dict)
    n_failures: int = 0
    manifests: dict[str, list[str]] = field(default_factory=dict)
    no_prompt: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    times: dict[str, AccuracyTimeRow] = field(default_factory=dict)

    def add(self, store: ChunkStore, name: str) -> None:
        info = store.info(name)
        if info is None:
            return
        for row in info.blank:
            self.blank.setdefault((row.model, row.protocol, row.reference), row)
        for failure in info.failures:
            self.n_failures += failure not in self.failures
            if len(self.failures) < MOST_LISTED:
                self.failures[failure] = None
        for rule, sha256 in info.manifests.items():
            self.manifests.setdefault(rule, []).append(sha256)
        self.no_prompt.update(info.no_prompt)
        self.left_out.update(info.left_out)
        self.problems.extend(info.problems[: max(0, MOST_LISTED - len(self.problems))])
        for time in store.times(name, info.key):
            known = self.times.get(time.model)
            self.times[time.model] = time if known is None else known.plus(time)

    def manifest(self, rule: str) -> str | None:
        """SHA-256 over the hashes of the chunks' prompts: another one where the cut is another."""
        hashes = self.manifests.get(rule)
        return None if not hashes else hashlib.sha256(json.dumps(hashes).encode()).hexdigest()

    def time_rows(self) -> tuple[AccuracyTimeRow, ...]:
        return tuple(self.times.values())


def _rows(dataset: str, plan: WorkPlan, files: Sequence[Path], found: _Tally) -> Iterator[MiouRow]:
    sums = sum_up(files)
    clicks = clicks_of_files(files, plan.protocols)
    weights = {model.entry.name: model.weights for model in (*plan.models, *plan.teachers)}
    for model, reference, protocol in product(plan.models, plan.references, plan.protocols):
        group = (model.entry.name, protocol.name, reference)
        if group in sums:
            teacher = teacher_of(reference)
            time = found.times.get(model.entry.name)
            context = RowContext(
                dataset=dataset,
                weights=model.weights,
                reference_weights=None if teacher is None else weights[teacher],
                manifest_sha256=found.manifest(protocol.prompt),
                n_left_out=found.no_prompt[protocol.prompt],
                seconds=None if time is None else time.wall_s,
                clicks=clicks.get(group[:2]) if reference == GROUND_TRUTH else None,
            )
            yield summary_of(group, sums[group], context)
        elif group in found.blank:
            yield found.blank[group]
