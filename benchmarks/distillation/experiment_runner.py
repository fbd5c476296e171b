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
from benchmarks.distillation.embed import EmbedTask, StoreFiller, StoreOptions, teacher_of
from benchmarks.distillation.experiment import (
    AGREEMENT,
    PROTOCOLS,
    CompareProfile,
    DistillationRecord,
    LossPoint,
    PlannedRun,
    StudentRow,
    planned_runs,
)
from benchmarks.distillation.process_map import map_processes
from benchmarks.distillation.scenes import SceneCache, ScenesSpec, render_with_progress
from benchmarks.distillation.training import STUDENT_NAME, run_training, sam_teacher
from benchmarks.evaluation.evaluate import EvaluationResult, evaluate
from benchmarks.prompts.protocols import GROUND_TRUTH, find_protocols
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import WeightsRow, write_atomic
from mobilesam.distillation.schemes import SCHEMES, StoredTeacher
from mobilesam.distillation.students import (
    STUDENTS,
    build_student,
    build_untrained_student,
    heads_of,
    shape_of,
)
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

    run: PlannedRun
    student: TinyVitConfig
    teacher: ResolvedModel
    embeddings: Path
    folder: Path
    scenes_root: Path
    scenes: ScenesSpec


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A trained student, with the loss over the steps of its training."""

    run: PlannedRun
    checkpoint: Checkpoint
    seconds: float
    curve: tuple[LossPoint, ...]


def train_all(tasks: Sequence[TrainingTask], workers: int, reporter: Reporter) -> list[FinishedRun]:
    """Trains all students, one thread each, resuming interrupted trainings.

    Results are in the order of the tasks.

    Raises:
        BenchError: A training failed, or a process was killed; finished trainings are kept.
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
    student = build_student(task.student, heads_of(teacher), task.run.config.seed)
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
        LossPoint(
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


class ExperimentRunner:
    """Runs one experiment in one folder; finished parts are not repeated."""

    def __init__(
        self,
        profile: CompareProfile,
        teacher: ResolvedModel,
        out: Path,
        scenes_root: Path,
        reporter: Reporter,
        workers: int,
    ) -> None:
        self._profile = profile
        self._planned = teacher
        self._out = out
        self._scenes_root = scenes_root
        self._reporter = reporter
        self._workers = workers
        self._teacher = sam_teacher(teacher)

    def run(self) -> DistillationRecord:
        """Runs all missing parts and returns the record."""
        conditions = self._record_conditions()
        embed_seconds = self._embed()
        tasks = [
            TrainingTask(
                run=run,
                student=STUDENTS[self._profile.student],
                teacher=self._planned,
                embeddings=self._out / "embeddings",
                folder=self._out / "runs" / run.name,
                scenes_root=self._scenes_root,
                scenes=self._profile.scenes,
            )
            for run in planned_runs(self._profile)
        ]
        finished = train_all(tasks, self._workers, self._reporter)
        models = [_student_model(each.run.name, each.checkpoint) for each in finished]
        # The student before any step is the baseline of all scores.
        path = self._out / _UNTRAINED / STUDENT_NAME
        student = build_untrained_student(
            STUDENTS[self._profile.student], self._teacher.model, self._profile.seeds[0]
        )
        save_model(path, shape_of(student, {"steps": 0}), student.state_dict())
        models.append(_student_model(_UNTRAINED, _local_checkpoint(path)))
        result = self._evaluate([*models, self._planned])
        return self._record(finished, result, embed_seconds, conditions)

    def _record_conditions(self) -> list[list[str]]:
        """Adds machine and number of workers to those of earlier runs of this command."""
        path = self._out / _CONDITIONS
        here = [*environment.machine(self._planned.options.device), f"workers: {self._workers}"]
        try:
            known: list[list[str]] = json.loads(path.read_bytes()) if path.exists() else []
        except ValueError as error:
            raise DataError(f"{path} is no JSON; delete the folder to start anew") from error
        if here not in known:
            known.append(here)
            write_atomic(path, f"{json.dumps(known)}\n".encode())
        return known

    def _embed(self) -> float:
        """Renders the scenes and stores the teacher's embeddings.

        Returns the seconds of embedding over all runs of this command, without killed ones.
        """
        scenes = self._profile.scenes
        render_with_progress(self._scenes_root, scenes, self._workers, self._reporter)
        task = EmbedTask(
            self._planned,
            teacher_of(self._teacher, self._planned.options.precision),
            threads=self._workers,
            prefetch_threads=0,
            code=environment.code_version(),
            built=self._teacher,
        )
        options = StoreOptions(self._out / "embeddings", shard_bytes=64 * 10**6)
        data, scale = SceneCache(self._scenes_root, scenes), ShardingConfig(prefetch_threads=0)
        report = StoreFiller(task, data, scale, options, self._reporter).run()
        path = self._out / _EMBED_SECONDS
        try:
            total = report.seconds + (float(path.read_text()) if path.exists() else 0.0)
        except ValueError as error:
            raise DataError(f"{path} holds no number; delete the folder to start anew") from error
        write_atomic(path, f"{total}\n".encode())
        return total

    def _evaluate(self, models: Sequence[ResolvedModel]) -> EvaluationResult:
        profile = self._profile
        config = RunConfig(
            command="mobilesam-bench distill compare",
            note=None,
            models=tuple(model.entry for model in models),
            weights_policy=WeightsPolicy({}),
            out=self._out / "evaluation",
            threads=environment.default_threads(),
            seed=profile.evaluation_seed,
            dataset=SyntheticDataset(profile.n_images, profile.evaluation_seed),
            protocols=find_protocols(PROTOCOLS),
            references=(GROUND_TRUTH, f"teacher:{self._planned.entry.name}"),
            reference_models=(self._planned.entry,),
        )
        return evaluate(config, models, [self._planned], self._reporter)

    def _record(
        self,
        finished: Sequence[FinishedRun],
        result: EvaluationResult,
        embed_seconds: float,
        conditions: Sequence[Sequence[str]],
    ) -> DistillationRecord:
        profile, name = self._profile, self._planned.entry.name
        scores = {(row.model, row.protocol, row.reference): row for row in result.miou}

        def score(model: str, protocol: str, reference: str) -> float:
            row = scores[model, protocol, reference]
            if row.miou is None:
                raise UsageError(f"{model} could not be evaluated: {row.why}")
            return row.miou

        def truth(model: str) -> dict[str, float]:
            return {protocol: score(model, protocol, GROUND_TRUTH) for protocol in PROTOCOLS}

        teacher = f"teacher:{name}"
        rows = [
            StudentRow(
                name=each.run.name,
                scheme=each.run.scheme,
                seed=each.run.config.seed,
                batch_size=each.run.config.batch_size,
                steps=each.run.config.steps,
                train_seconds=each.seconds,
                weights_sha256=each.checkpoint.sha256,
                agreement=score(each.run.name, AGREEMENT, teacher),
                ground_truth=truth(each.run.name),
                curve=each.curve,
            )
            for each in finished
        ]
        here = environment.collect(self._workers)
        warnings = list(environment.warnings(here))
        if len(conditions) > 1:
            texts = "; ".join(", ".join(each) for each in conditions)
            warnings.append(
                f"times of training and embedding were taken under several conditions: {texts}"
            )
        return DistillationRecord(
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            profile=profile.name,
            config=profile.config.model_dump(mode="json"),
            teacher=name,
            teacher_sha256=self._planned.weights.sha256,
            teacher_ground_truth=truth(name),
            untrained_agreement=score(_UNTRAINED, AGREEMENT, teacher),
            n_training_scenes=profile.scenes.n_scenes,
            embed_seconds=embed_seconds,
            evaluation=f"synthetic:seed={profile.evaluation_seed},n={profile.n_images}",
            n_evaluation_instances=scores[name, AGREEMENT, GROUND_TRUTH].n_instances,
            students=tuple(rows),
            environment=here,
            warnings=tuple(warnings),
        )


def _student_model(name: str, checkpoint: Checkpoint) -> ResolvedModel:
    return ResolvedModel(
        ModelEntry(name, select_one("mobilesam").target, "a student of this experiment"),
        ModelOptions(name, checkpoint=checkpoint),
        WeightsRow(kind="file", sha256=checkpoint.sha256, file_bytes=checkpoint.n_bytes),
    )
