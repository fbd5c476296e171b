"""One run: plan the models, measure what was asked for, and leave a record, tables and plots."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from baselines.interface import ModelInfo
from baselines.options import ModelOptions
from baselines.registry import ModelEntry, build
from benchmarks import accuracy, environment, latency, parameters
from benchmarks.cells import CellStore, content_key
from benchmarks.data.dataset import Dataset
from benchmarks.instances import write_instances
from benchmarks.manifests import Manifests
from benchmarks.planning import PlannedModel, WeightsPolicy, plan
from benchmarks.profiles import Profile
from benchmarks.progress import Reporter
from benchmarks.protocols import AccuracyProtocol
from benchmarks.records import (
    INSTANCES_NAME,
    RECORD_NAME,
    Environment,
    Failure,
    LatencyRow,
    MemoryRow,
    MiouRow,
    ModelRow,
    ParamsRow,
    RunRecord,
    WeightsRow,
    load_record,
    save_record,
    write_atomic,
)
from mobilesam.errors import BenchError, DataError

CELLS_FOLDER = "cells"


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is asked to do.

    Attributes:
        command: As the user typed it, for the record.
        note: What the user wants remembered, for the record.
        models: Which models, in the order of the tables.
        policy: Where weights may come from.
        out: Folder for everything the run leaves.
        threads: Threads each model is given.
        device: Torch device.
        precision: `fp32`, `fp16` or `bf16`.
        seed: Of everything that is drawn.
        profile: How thorough latency is measured; None leaves it out.
        count: Count parameters and FLOPs.
        dataset: Images for accuracy; None leaves it out.
        protocols: Of accuracy.
    """

    command: str
    note: str | None
    models: tuple[ModelEntry, ...]
    policy: WeightsPolicy
    out: Path
    threads: int
    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 0
    profile: Profile | None = None
    count: bool = False
    dataset: Dataset | None = None
    protocols: tuple[AccuracyProtocol, ...] = ()

    @property
    def needs_weights(self) -> bool:
        """Counting alone looks at shapes only."""
        return self.profile is not None or self.dataset is not None

    def config(self, models: Sequence[PlannedModel]) -> dict[str, Any]:
        """All that decides what is measured, for the record and its resume key."""
        return {
            "models": {model.entry.name: model.weights.sha256 for model in models},
            "threads": self.threads,
            "device": self.device,
            "precision": self.precision,
            "seed": self.seed,
            "profile": None if self.profile is None else asdict(self.profile),
            "params": self.count,
            "dataset": None if self.dataset is None else self.dataset.name,
            "dataset_sha256": None if self.dataset is None else self.dataset.fingerprint,
            "protocols": [protocol.name for protocol in self.protocols],
        }


@dataclass(slots=True)
class _Found:
    """What has been measured so far."""

    models: list[ModelRow] = field(default_factory=list)
    params: list[ParamsRow] = field(default_factory=list)
    latency: list[LatencyRow] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)
    miou: list[MiouRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    instances: str | None = None
    complete: bool = False


def execute(request: RunRequest, reporter: Reporter) -> RunRecord:
    """Does what is asked, and writes `record.json` (and the instances) into `request.out`.

    A folder that holds cells of the same run, interrupted or with failures, is taken up where it
    stopped. On Ctrl-C the record of the stages that are done is written, the cells of the rest
    stay, and the interrupt goes on.

    Raises:
        DataError: The folder cannot be written, or holds the record of another run.
    """
    start = time.monotonic()
    _require_writable(request.out)
    here = environment.collect(request.threads)
    models = plan(
        request.models,
        request.policy if request.needs_weights else None,
        device=request.device,
        precision=request.precision,
        seed=request.seed,
    )
    config = request.config(models)
    key = content_key(config)
    finished = _finished(request.out, key, reporter)
    if finished is not None:
        return finished
    found = _Found(warnings=list(environment.warnings(here)))
    for text in found.warnings:
        reporter.warn(text)
    try:
        _measure(request, models, found, reporter)
        found.complete = True
    except KeyboardInterrupt:
        reporter.warn(f"interrupted: the same command with --out {request.out} goes on from here")
        raise
    finally:
        record = _to_record(request, config, key, here, found, time.monotonic() - start)
        save_record(record, request.out)
    return record


def _to_record(
    request: RunRequest,
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


def _finished(out: Path, key: str, reporter: Reporter) -> RunRecord | None:
    """The record of the same run if the folder holds one; refuses another run's folder."""
    if not (out / RECORD_NAME).exists():
        return None
    record = load_record(out)
    if record.resume_key != key:
        raise DataError(
            f"{out} holds a run of other inputs, weights, code or libraries; choose another --out"
        )
    if record.complete and not record.failures:
        reporter.say(f"{out} already holds this run, finished {record.created_utc}: nothing to do")
        return record
    reporter.say(f"taking up the run in {out}, which was interrupted or had failures")
    return None


def _measure(
    request: RunRequest, models: Sequence[PlannedModel], found: _Found, reporter: Reporter
) -> None:
    cells = CellStore(request.out / CELLS_FOLDER)
    for model in models:
        if model.weights.why is not None and model.error is None:
            reporter.say(f"{model.entry.name}: {model.weights.why}")
        if model.error is not None:
            found.failures.append(
                Failure(stage="weights", culprit=model.entry.name, why=model.error)
            )
    infos, models = _describe(request, models, found, reporter)
    if request.profile is not None:
        config = latency.LatencyConfig(request.profile, request.threads, request.seed)
        timed = latency.measure(models, infos, config, cells, reporter)
        found.latency, found.memory = timed.rows, timed.memory
        found.failures.extend(timed.failures)
    if request.dataset is not None:
        _accuracy(request, request.dataset, models, cells, found, reporter)
    for failure in found.failures:
        reporter.warn(f"{failure.culprit}: {failure.why}")


def _describe(
    request: RunRequest, models: Sequence[PlannedModel], found: _Found, reporter: Reporter
) -> tuple[dict[str, ModelInfo], list[PlannedModel]]:
    """Builds every architecture without memory for its weights; counts it if that is asked for.

    Returns:
        What the models say of themselves, and the models, of which one that has networks but was
        given no weights is known to run with random ones.
    """
    infos: dict[str, ModelInfo] = {}
    known: list[PlannedModel] = []
    with reporter.bar("architectures", len(models)) as bar:
        for model in models:
            name = model.entry.name
            bar.note(name)
            known.append(model)
            try:
                shape = build(model.entry, ModelOptions(name, device="meta"))
                rows = parameters.count(shape) if request.count else []
            except accuracy.ADAPTER_ERRORS as error:
                why = str(error) if isinstance(error, BenchError) else repr(error)
                found.failures.append(Failure(stage="build", culprit=name, why=why))
                if request.count:
                    found.params.append(
                        ParamsRow(model=name, component="all", status="error", why=why)
                    )
                continue
            infos[name] = shape.info
            if model.weights.kind == "none" and shape.info.weights.kind == "random":
                needed = f"give them with --weights {name}=PATH" if request.needs_weights else None
                known[-1] = model = replace(model, weights=WeightsRow(kind="random", why=needed))
            found.params.extend(rows)
            found.models.append(_model_row(model, shape.info))
            bar.step(name)
    return infos, known


def _model_row(model: PlannedModel, info: ModelInfo) -> ModelRow:
    return ModelRow(
        model=info.name,
        family=info.family,
        input_size_px=info.input_size_px,
        licence=info.licence,
        decode_kind=info.decode_kind,
        weights=model.weights,
        status="ok" if model.error is None else "error",
        why=model.error,
    )


def _accuracy(
    request: RunRequest,
    dataset: Dataset,
    models: Sequence[PlannedModel],
    cells: CellStore,
    found: _Found,
    reporter: Reporter,
) -> None:
    manifests = Manifests(dataset.fingerprint, request.seed, request.out)
    result = accuracy.evaluate(models, dataset, request.protocols, manifests, cells, reporter)
    found.miou = list(result.rows)
    found.failures.extend(result.failures)
    for reason, count in dataset.left_out.items():
        if count:
            found.warnings.append(f"{dataset.name}: {count} annotations left out: {reason}")
    found.warnings.extend(dataset.problems)
    write_instances(result.instances, request.out / INSTANCES_NAME)
    found.instances = INSTANCES_NAME
