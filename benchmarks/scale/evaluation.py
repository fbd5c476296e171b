"""Accuracy in chunks: makes those that are missing, then summarises all from their files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.comparison import unshared_lines
from benchmarks.data.parts import CutDataset, Part
from benchmarks.lanes import Lanes
from benchmarks.model_pass import ADAPTER_ERRORS, explain, malformed
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
from benchmarks.scale.chunks import Chunk, ChunkStore, chunk_key
from benchmarks.scale.pace import Pace
from benchmarks.scale.request import ScaleRequest
from benchmarks.scale.sums import sum_up
from benchmarks.scale.worker import Worker, WorkPlan, given_up, work_plan
from mobilesam.errors import UsageError

MOST_LISTED = 10_000
"""Failures that a record lists one by one; the files of the chunks hold all."""

Executor = Callable[[WorkPlan, Iterator[Part]], Iterator[Chunk | Failure]]
"""Makes the chunks of parts, in any order; a failure stands for one that could not be made."""


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
    store.sweep()
    survey = _Survey(dataset, plan.run, store, scale.chunk_images, again, reporter)
    failures = _make_missing(survey, plan, scale, reporter)
    for name in set(store.names()) - survey.keys.keys():
        store.remove(name)  # of a former cut into other chunks
    return _summarise(dataset.name, plan, store, failures)


@dataclass(slots=True)
class _Survey:
    """Looks through the parts, and tells the missing ones from those that are finished."""

    dataset: CutDataset
    run: str
    store: ChunkStore
    chunk_images: int
    again: bool
    reporter: Reporter
    keys: dict[str, str] = field(default_factory=dict)
    n_known: int = 0
    n_stale: int = 0

    def missing(self, pace: Pace) -> Iterator[Part]:
        for part in self.dataset.parts(self.chunk_images):
            key = chunk_key(self.run, part)
            self.keys[part.name] = key
            info = self.store.info(part.name)
            is_known = info is not None and info.key == key
            if info is not None and is_known and not (self.again and info.failures):
                self.n_known += 1
                pace.known(part)
                continue
            if self.store.has(part.name) and not is_known:
                self._tell_stale()
            self.store.remove(part.name)
            pace.given(part)
            yield part

    def _tell_stale(self) -> None:
        self.n_stale += 1
        if self.n_stale == 1:
            self.reporter.warn(
                f"chunks in {self.store.folder} were made from other inputs, weights, code or "
                "libraries: they are made anew"
            )


def _make_missing(
    survey: _Survey, plan: WorkPlan, scale: ScaleRequest, reporter: Reporter
) -> list[Failure]:
    """Makes all chunks that are missing; returns those that could not be made."""
    failures: list[Failure] = []
    writer = Lanes(1)
    names = ", ".join(model.entry.name for model in plan.models)
    with reporter.bar(f"accuracy of {names} in chunks", survey.dataset.n_images) as bar:
        pace = Pace(bar)

        def write(found: Chunk | Failure) -> Chunk | Failure:
            if isinstance(found, Chunk):
                survey.store.write(found)
            return found

        made = executor_of(scale)(plan, survey.missing(pace))
        try:
            for found in writer.map(write, made, lambda _: 0):
                if isinstance(found, Chunk):
                    pace.done(found)
                else:
                    failures.append(found)
        finally:
            writer.close()
    if survey.n_known:
        reporter.say(f"{survey.n_known} of {len(survey.keys)} chunks were there from before")
    reporter.say(pace.summary())
    return failures


def executor_of(scale: ScaleRequest) -> Executor:
    """Who works: this process, or a cluster."""
    if scale.cluster is None:
        return run_here
    from benchmarks.scale.on_ray import run_on_ray

    return partial(run_on_ray, scale)


def run_here(plan: WorkPlan, parts: Iterator[Part]) -> Iterator[Chunk | Failure]:
    """Makes one chunk after the other in this process."""
    worker = Worker(plan)
    try:
        for part in parts:
            try:
                yield worker.run(part)
            except ADAPTER_ERRORS as error:
                yield given_up(part, explain(error))
    finally:
        worker.close()


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
