"""One run: plan the models, measure what was asked for, and leave a record, tables and plots."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.interface import ModelInfo
from baselines.options import ModelOptions
from baselines.registry import build, derive
from benchmarks.child_processes import interrupted_by_term
from benchmarks.config.model_resolution import (
    ResolvedModel,
    deferral_notes,
    resolve_models,
    weights_notes,
)
from benchmarks.config.run_config import RunConfig
from benchmarks.datasets.dataset import Dataset
from benchmarks.debugging import format_error
from benchmarks.evaluation.comparison import compare_models, unshared_images, unshared_prompts
from benchmarks.evaluation.dataset_notes import notes_of
from benchmarks.evaluation.detector_boxes import evaluate_detections
from benchmarks.evaluation.evaluate import AccuracyPlan, evaluate
from benchmarks.evaluation.everything import evaluate_everything
from benchmarks.evaluation.run_model import malformed
from benchmarks.latency import parameters
from benchmarks.latency import runner as latency
from benchmarks.latency.idle import wait_until_idle
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import DETECTOR_BOX, EVERYTHING
from benchmarks.records import environment
from benchmarks.records.instances import to_frame, write_instances
from benchmarks.records.progress import Reporter
from benchmarks.records.record import (
    INSTANCES_NAME,
    RECORD_NAME,
    AccuracyTimeRow,
    ComparisonRow,
    DetectorRow,
    Environment,
    EverythingRow,
    Failure,
    LatencyRow,
    MemoryRow,
    MiouRow,
    ModelRow,
    ParamsRow,
    RunRecord,
    Status,
    WeightsRow,
    load_record,
    save_record,
    write_atomic,
)
from benchmarks.records.result_cache import ResultCache, content_key
from benchmarks.records.run_folder import held
from mobilesam.errors import BenchError, DataError
from mobilesam.fast.allocator import keep_buffers

if TYPE_CHECKING:
    from benchmarks.evaluation.sharded import ScaleResult

CELLS_FOLDER = "cells"


@dataclass(slots=True)
class _Found:
    """What has been measured so far."""

    models: list[ModelRow] = field(default_factory=list)
    params: list[ParamsRow] = field(default_factory=list)
    latency: list[LatencyRow] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)
    miou: list[MiouRow] = field(default_factory=list)
    comparisons: list[ComparisonRow] = field(default_factory=list)
    accuracy_times: list[AccuracyTimeRow] = field(default_factory=list)
    detector: list[DetectorRow] = field(default_factory=list)
    everything: list[EverythingRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    instances: str | None = None
    complete: bool = False


def execute(request: RunConfig, reporter: Reporter) -> RunRecord:
    """Runs the request, and writes `record.json` (and the instances) into `request.out`.

    A folder with cached results of the same run, interrupted or with failures, is resumed. On
    Ctrl-C or SIGTERM the record of the finished stages is written, cached results of the other
    stages are kept, and the interrupt is raised again.

    Raises:
        DataError: The folder cannot be written, another process writes to it, or it holds the
            record of another run.
        BusyMachineError: The run is to be published, and the machine stays busy.
    """
    with executed(request, reporter) as record:
        return record


@contextmanager
def executed(request: RunConfig, reporter: Reporter) -> Iterator[RunRecord]:
    """Runs the request as `execute` does, and keeps the folder locked until the block has ended.

    The block may write further files into `request.out`, such as tables and plots.

    Raises:
        BenchError: As `execute` does.
    """
    with held(request.out, request.command), interrupted_by_term():
        yield _execute_held(request, reporter)


def _execute_held(request: RunConfig, reporter: Reporter) -> RunRecord:
    start = time.monotonic()
    _require_writable(request.out)
    models, teachers = _plan(request)
    config = request.to_dict(models, teachers)
    key = content_key(config)
    # Not part of the key, so that a run with failures is resumed after images were repaired.
    images = None if request.dataset is None else request.dataset.images_state or None
    if images is not None:
        config["images_state"] = images
    finished = _finished(request.out, key, images, reporter)
    if finished is not None:
        return finished
    other_load = wait_until_idle(reporter.say) if request.publishable else None
    here = environment.collect(request.threads, other_load)
    found = _Found(warnings=list(environment.warnings(here)))
    for text in found.warnings:
        reporter.warn(text)
    try:
        _measure(request, models, teachers, found, reporter)
        found.complete = True
    except KeyboardInterrupt:
        reporter.warn(f"interrupted: the same command with --out {request.out} goes on from here")
        raise
    finally:
        record = _to_record(request, config, key, here, found, time.monotonic() - start)
        save_record(record, request.out)
    return record


def _plan(request: RunConfig) -> tuple[list[ResolvedModel], list[ResolvedModel]]:
    """The models, and the teachers, each planned once."""
    entries = {entry.name: entry for entry in (*request.models, *request.reference_models)}
    planned = resolve_models(
        entries.values(),
        request.weights_policy if request.needs_weights else None,
        device=request.device,
        precision=request.precision,
        seed=request.seed,
    )
    by_name = {model.entry.name: model for model in planned}
    models = [by_name[entry.name] for entry in request.models]
    return (
        [replace(model, deferred=request.deferral(model)) for model in models],
        [by_name[entry.name] for entry in request.reference_models],
    )


def _to_record(
    request: RunConfig,
    config: dict[str, Any],
    key: str,
    here: Environment,
    found: _Found,
    duration_s: float,
) -> RunRecord:
    created = datetime.now(UTC)
    return RunRecord(
        id=f"{created:%Y%m%dT%H%M%SZ}-{key[:8]}",
        created_utc=created.isoformat(timespec="seconds"),
        command=request.command,
        note=request.note,
        profile=None if request.profile is None else request.profile.name,
        config=config,
        resume_key=key,
        environment=here,
        models=tuple(found.models),
        params=tuple(found.params),
        latency=tuple(found.latency),
        memory=tuple(found.memory),
        miou=tuple(found.miou),
        comparisons=tuple(found.comparisons),
        accuracy_times=tuple(found.accuracy_times),
        detector=tuple(found.detector),
        everything=tuple(found.everything),
        failures=tuple(found.failures),
        warnings=tuple(found.warnings),
        instances=found.instances,
        duration_s=duration_s,
        complete=found.complete,
    )


def _require_writable(out: Path) -> None:
    """Finds out before hours of work whether their result can be written."""
    probe = out / ".writable"
    write_atomic(probe, b"")
    probe.unlink()


def _finished(out: Path, key: str, images: str | None, reporter: Reporter) -> RunRecord | None:
    """The record of the same run if the folder holds one; refuses another run's folder."""
    if not (out / RECORD_NAME).exists():
        return None
    record = load_record(out)
    if record.resume_key != key:
        raise DataError(
            f"{out} holds a run of other inputs, weights, code or libraries; choose another --out"
        )
    if record.complete and not record.failures:
        if record.config.get("images_state") != images:
            raise DataError(
                f"{out} holds this run on image files that were moved or changed since; choose "
                "another --out"
            )
        reporter.say(f"{out} already holds this run, finished {record.created_utc}: nothing to do")
        return record
    reporter.say(f"taking up the run in {out}, which was interrupted or had failures")
    return None


def _measure(
    request: RunConfig,
    models: Sequence[ResolvedModel],
    teachers: Sequence[ResolvedModel],
    found: _Found,
    reporter: Reporter,
) -> None:
    cells = ResultCache(request.out / CELLS_FOLDER)
    planned = {each.entry.name: each for each in (*models, *teachers)}.values()
    for line in (*weights_notes(planned), *deferral_notes(models)):
        reporter.say(line)
    for model in planned:
        if model.error is not None:
            found.failures.append(
                Failure(stage="weights", culprit=model.entry.name, why=model.error)
            )
    infos, models = _describe(request, models, found, reporter)
    models = [model for model in models if model.deferred is None]
    if request.profile is not None:
        config = latency.LatencyConfig(request.profile, request.threads, request.seed)
        timed = latency.measure(models, infos, config, cells, reporter)
        found.latency, found.memory = timed.rows, timed.memory
        found.failures.extend(timed.failures)
    if request.dataset is not None:
        # Before accuracy, which changes the allocator: `everything` is timed as it comes.
        _whole_images(request, request.dataset, models, cells, found, reporter)
        if request.protocols:
            _accuracy(request, request.dataset, models, teachers, cells, found, reporter)
        _note_data(request.dataset, cells, found)
        for note in request.dataset.notes:
            reporter.warn(f"{request.dataset.name}: {note}")
    # A model that cannot be built fails in every stage for the same reason.
    for line in dict.fromkeys(f"{failure.culprit}: {failure.why}" for failure in found.failures):
        reporter.warn(line)
    if found.failures:
        stages = Counter(failure.stage for failure in found.failures)
        counts = ", ".join(f"{count} of {stage}" for stage, count in sorted(stages.items()))
        reporter.warn(f"{len(found.failures)} failures ({counts}); the rest is kept")


def _describe(
    request: RunConfig, models: Sequence[ResolvedModel], found: _Found, reporter: Reporter
) -> tuple[dict[str, ModelInfo], list[ResolvedModel]]:
    """Builds every architecture without memory for its weights; counts it if that is asked for.

    Returns:
        What the models say of themselves, and the models, of which one that has networks but was
        given no weights is known to run with random ones.
    """
    infos: dict[str, ModelInfo] = {}
    known: list[ResolvedModel] = []
    with reporter.bar("parameters", len(models)) as bar:
        for model in models:
            name = model.entry.name
            bar.note(name)
            known.append(model)
            try:
                shape = build(model.entry, ModelOptions(name, device="meta"))
                rows = parameters.count(shape) if request.count_parameters else []
            except BenchError as error:
                why = format_error(error)
                found.failures.append(Failure(stage="build", culprit=name, why=why))
                if request.count_parameters:
                    found.params.append(
                        ParamsRow(model=name, component="all", status="error", why=why)
                    )
                continue
            infos[name] = shape.info
            if model.weights.kind == "none" and shape.info.weights.kind == "random":
                needed = f"give them with --weights {name}=PATH" if request.needs_weights else None
                known[-1] = model = replace(model, weights=WeightsRow(kind="random", why=needed))
            if model.deferred is None and (model.trained or request.profile is not None):
                known[-1] = model = _derived(model, found)
            found.params.extend(rows)
            found.models.append(_model_row(model, shape.info))
            bar.step(name)
    return infos, known


def _derived(model: ResolvedModel, found: _Found) -> ResolvedModel:
    """The model, once the files that it runs are there; with its error if they cannot be made."""
    if model.error is not None:
        return model
    try:
        derive(model.entry, model.options)
    except BenchError as error:
        why = format_error(error)
        found.failures.append(Failure(stage="build", culprit=model.entry.name, why=why))
        return replace(model, error=why)
    return model


def _model_row(model: ResolvedModel, info: ModelInfo) -> ModelRow:
    status: Status
    status, why = ("ok", None) if model.deferred is None else ("skipped", model.deferred)
    if model.error is not None:
        status, why = "error", model.error
    return ModelRow(
        model=info.name,
        family=info.family,
        input_size_px=info.input_size_px,
        licence=info.licence,
        decode_kind=info.decode_kind,
        weights=model.weights,
        status=status,
        why=why,
    )


def _accuracy(
    request: RunConfig,
    dataset: Dataset,
    models: Sequence[ResolvedModel],
    teachers: Sequence[ResolvedModel],
    cells: ResultCache,
    found: _Found,
    reporter: Reporter,
) -> None:
    if request.sharding is not None:
        from benchmarks.evaluation.sharded import evaluate_request

        _take(evaluate_request(request, request.sharding, models, teachers, reporter), found)
        return
    # Nothing is timed here that is compared with anything; fresh pages for every call would be
    # half of the time. Latency has processes of its own, with the allocator as it is.
    keep_buffers()
    manifests = ManifestStore(dataset.fingerprint, request.seed, request.out)
    work = AccuracyPlan(
        dataset,
        request.protocols,
        request.references,
        request.out,
        request.save_masks,
        request.embeddings,
        request.boundary,
    )
    result = evaluate(models, teachers, work, manifests, cells, reporter)
    found.miou = list(result.rows)
    found.accuracy_times = list(result.times)
    found.failures.extend(result.failures)
    write_instances(result.instances, request.out / INSTANCES_NAME)
    found.instances = INSTANCES_NAME
    frame = to_frame(result.instances)
    found.comparisons = list(compare_models(frame, dataset.name))
    found.warnings.extend((*result.warnings, *unshared_prompts(frame)))


def _take(result: ScaleResult, found: _Found) -> None:
    found.miou = list(result.rows)
    found.accuracy_times = list(result.times)
    # Whole images in chunks have told of the same data.
    found.failures = list(dict.fromkeys([*found.failures, *result.failures]))
    found.instances = INSTANCES_NAME
    found.comparisons = list(result.comparisons)
    found.warnings = list(dict.fromkeys([*found.warnings, *result.warnings]))


def _whole_images(
    request: RunConfig,
    dataset: Dataset,
    models: Sequence[ResolvedModel],
    cells: ResultCache,
    found: _Found,
    reporter: Reporter,
) -> None:
    """The protocols that judge all masks of an image together."""
    if request.detector is not None:
        for mask in request.detector_masks:
            rows, failures = evaluate_detections(
                models, request.detector, cells, request.out, reporter, mask
            )
            found.detector.extend(rows)
            found.warnings.extend(unshared_images(rows, f"{DETECTOR_BOX} ({mask})"))
            found.failures.extend(failures)
    if request.everything and request.sharding is not None:
        from benchmarks.evaluation.recall import recall_of_request

        recall = recall_of_request(request, request.sharding, models, reporter)
        found.everything = list(recall.rows)
        found.failures.extend(recall.failures)
        found.warnings.extend(recall.warnings)
    elif request.everything:
        recalls, failures = evaluate_everything(models, dataset, cells, reporter)
        found.everything = recalls
        found.failures.extend(failures)
    found.warnings.extend(unshared_images(found.everything, EVERYTHING))


def _note_data(dataset: Dataset, cells: ResultCache, found: _Found) -> None:
    """What of the data was not used: crowds are a note, what is malformed is a failure."""
    notes = notes_of(cells, dataset)
    for reason, count in notes.left_out.items():
        found.warnings.append(f"{dataset.name}: {count} annotations left out: {reason}")
    found.warnings.extend(f"{dataset.name}: {note}" for note in dataset.notes)
    found.failures.extend(malformed(dataset.name, notes.left_out, notes.problems))
