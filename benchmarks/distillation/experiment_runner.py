"""Runs the comparison of schemes: scenes, teacher embeddings, trainings, evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from baselines.interface import Checkpoint, ModelOptions
from baselines.registry import ModelEntry, select_one
from benchmarks.config.model_resolution import ResolvedModel, WeightsPolicy
from benchmarks.config.run_config import RunConfig, ShardingConfig
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.distillation import experiment
from benchmarks.distillation.embed import embed_task, fill_store
from benchmarks.distillation.process_map import map_processes
from benchmarks.distillation.scenes import SceneCache, ScenesSpec, render_with_progress
from benchmarks.distillation.training import STUDENT_NAME, run_training, sam_teacher
from benchmarks.evaluation.evaluate import evaluate
from benchmarks.prompts.protocols import GROUND_TRUTH, find_protocols
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import WeightsRow, write_atomic
from mobilesam.distillation import students
from mobilesam.distillation.schemes import SCHEMES, StoredTeacher
from mobilesam.distillation.training_loop import METRICS_NAME, ProcessGroup
from mobilesam.errors import DataError, UsageError
from mobilesam.fast.allocator import keep_buffers
from mobilesam.model.model_files import save_model
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.weights.cache import digest_file

_UNTRAINED = "untrained"
_EMBED_SECONDS = "embed-seconds.txt"
_CONDITIONS = "conditions.json"
_CURVE_POINTS = 60


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """Everything that another process needs to train one student."""

    run: experiment.PlannedRun
    student: TinyVitConfig
    teacher: ResolvedModel
    embeddings: Path
    folder: Path
    scenes_root: Path
    scenes: ScenesSpec


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A trained student, with the loss over the steps of its training."""

    run: experiment.PlannedRun
    checkpoint: Checkpoint
    seconds: float
    curve: tuple[experiment.LossPoint, ...]


def train_all(tasks: Sequence[TrainingTask], workers: int, reporter: Reporter) -> list[FinishedRun]:
    """Trains all students, one thread each, resuming interrupted trainings.

    Results are in the order of the tasks.
    """
    workers = min(workers, len(tasks))
    if workers == 1:
        return [_train(task, reporter) for task in tasks]
    with reporter.bar(f"{len(tasks)} trainings, {workers} at a time", len(tasks)) as bar:
        return map_processes(
            _train, tasks, workers, lambda done: bar.step(done.run.name), _single_threaded
        )


def _single_threaded() -> None:
    environment.use_threads(1)
    keep_buffers()


def _train(task: TrainingTask, reporter: Reporter | None = None) -> FinishedRun:
    teacher = sam_teacher(task.teacher).model
    student = students.build_student(task.student, students.heads_of(teacher), task.run.config.seed)
    source = StoredTeacher(task.embeddings)
    scheme = SCHEMES[task.run.scheme](student, teacher, source, task.run.config)
    data = SceneCache(task.scenes_root, task.scenes)
    reporter = reporter or Reporter(quiet=True)
    trained = run_training(scheme, data, task.folder, reporter, ProcessGroup())
    lines = (task.folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    width = max(1, len(rows) // _CURVE_POINTS)
    stretches = [rows[start : start + width] for start in range(0, len(rows), width)]
    curve = tuple(
        experiment.LossPoint(
            step=part[-1]["step"],
            seconds=part[-1]["seconds"],
            loss=sum(row["loss"] for row in part) / len(part),
        )
        for part in stretches
    )
    return FinishedRun(task.run, _local_checkpoint(trained.path), trained.seconds, curve)


def _local_checkpoint(path: Path) -> Checkpoint:
    found = digest_file(path)
    return Checkpoint(path, found.sha256, official=False, n_bytes=found.n_bytes, trusted=True)


def run_experiment(
    profile: experiment.CompareProfile,
    planned: ResolvedModel,
    out: Path,
    scenes_root: Path,
    reporter: Reporter,
    workers: int,
) -> experiment.DistillationRecord:
    """Runs one experiment with the teacher `planned` in a folder; finished parts are kept."""
    teacher, scenes, embeddings = sam_teacher(planned), profile.scenes, out / "embeddings"
    here = [*environment.machine(planned.options.device), f"workers: {workers}"]
    conditions = _known_conditions(out / _CONDITIONS, here)
    render_with_progress(scenes_root, scenes, workers, reporter)
    sharding = ShardingConfig(prefetch_threads=0)
    task, data = embed_task(planned, workers, sharding), SceneCache(scenes_root, scenes)
    report = fill_store(task, data, sharding, embeddings, reporter, shard_bytes=64 * 10**6)
    embed_seconds = _add_seconds(out / _EMBED_SECONDS, report.seconds)
    shape = students.STUDENTS[profile.student]
    tasks = [
        TrainingTask(run, shape, planned, embeddings, out / "runs" / run.name, scenes_root, scenes)
        for run in experiment.planned_runs(profile)
    ]
    finished = train_all(tasks, workers, reporter)
    # The student before any step is the baseline of all scores.
    path = out / _UNTRAINED / STUDENT_NAME
    student = students.build_untrained_student(shape, teacher.model, profile.seeds[0])
    save_model(path, students.shape_of(student, {"steps": 0}), student.state_dict())
    models = [_student_model(each.run.name, each.checkpoint) for each in finished]
    models += [_student_model(_UNTRAINED, _local_checkpoint(path)), planned]
    config = RunConfig(
        command="mobilesam-bench distill compare",
        note=None,
        models=tuple(model.entry for model in models),
        weights_policy=WeightsPolicy({}),
        out=out / "evaluation",
        threads=environment.default_threads(),
        seed=profile.evaluation_seed,
        dataset=SyntheticDataset(profile.n_images, profile.evaluation_seed),
        protocols=find_protocols(experiment.PROTOCOLS),
        references=(GROUND_TRUTH, f"teacher:{planned.entry.name}"),
        reference_models=(planned.entry,),
    )
    result = evaluate(config, models, [planned], reporter)
    described = environment.collect(workers)
    warnings = list(environment.warnings(described))
    if len(conditions) > 1:
        texts = "; ".join(", ".join(each) for each in conditions)
        warnings.append(
            f"times of training and embedding were taken under several conditions: {texts}"
        )
    name = planned.entry.name
    scores = {(row.model, row.protocol, row.reference): row for row in result.miou}

    def score(model: str, protocol: str, reference: str) -> float:
        row = scores[model, protocol, reference]
        if row.miou is None:
            raise UsageError(f"{model} could not be evaluated: {row.why}")
        return row.miou

    def agreement(model: str) -> float:
        return score(model, experiment.AGREEMENT, f"teacher:{name}")

    def truth(model: str) -> dict[str, float]:
        return {protocol: score(model, protocol, GROUND_TRUTH) for protocol in experiment.PROTOCOLS}

    rows = [
        experiment.StudentRow(
            name=each.run.name,
            scheme=each.run.scheme,
            seed=each.run.config.seed,
            batch_size=each.run.config.batch_size,
            steps=each.run.config.steps,
            train_seconds=each.seconds,
            weights_sha256=each.checkpoint.sha256,
            agreement=agreement(each.run.name),
            ground_truth=truth(each.run.name),
            curve=each.curve,
        )
        for each in finished
    ]
    return experiment.DistillationRecord(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        profile=profile.name,
        config=profile.config.model_dump(mode="json"),
        teacher=name,
        teacher_sha256=planned.weights.sha256,
        teacher_ground_truth=truth(name),
        untrained_agreement=agreement(_UNTRAINED),
        n_training_scenes=scenes.n_scenes,
        embed_seconds=embed_seconds,
        evaluation=f"synthetic:seed={profile.evaluation_seed},n={profile.n_images}",
        n_evaluation_instances=scores[name, experiment.AGREEMENT, GROUND_TRUTH].n_instances,
        students=tuple(rows),
        environment=described,
        warnings=tuple(warnings),
    )


def _known_conditions(path: Path, here: list[str]) -> list[list[str]]:
    """Adds machine and number of workers to those of earlier runs of this command."""
    try:
        known: list[list[str]] = json.loads(path.read_bytes()) if path.exists() else []
    except ValueError as error:
        raise DataError(f"{path} is no JSON; delete the folder to start anew") from error
    if here not in known:
        known.append(here)
        write_atomic(path, f"{json.dumps(known)}\n".encode())
    return known


def _add_seconds(path: Path, seconds: float) -> float:
    """Adds the time of embedding to that of earlier runs of this command, without killed ones."""
    try:
        total = seconds + (float(path.read_text()) if path.exists() else 0.0)
    except ValueError as error:
        raise DataError(f"{path} holds no number; delete the folder to start anew") from error
    write_atomic(path, f"{total}\n".encode())
    return total


def _student_model(name: str, checkpoint: Checkpoint) -> ResolvedModel:
    return ResolvedModel(
        ModelEntry(name, select_one("mobilesam").target, "a student of this experiment"),
        ModelOptions(name, checkpoint=checkpoint),
        WeightsRow(kind="file", sha256=checkpoint.sha256, file_bytes=checkpoint.n_bytes),
    )
