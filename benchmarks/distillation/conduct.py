"""Carries the experiment out: scenes, teacher's embeddings, trainings, evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from segment_anything.modeling import Sam

from baselines.options import Checkpoint, ModelOptions
from baselines.registry import ModelEntry, select_one
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.distillation.embed import EmbedTask, StoreFiller, StoreOptions, teacher_of
from benchmarks.distillation.experiment import (
    AGREEMENT,
    PROTOCOLS,
    CompareProfile,
    DistillationRecord,
    Finished,
    PlannedRun,
    StudentRow,
    planned_runs,
)
from benchmarks.distillation.scenes import SceneCache, render_scenes
from benchmarks.distillation.side_by_side import Training, checkpoint_of, train_all
from benchmarks.distillation.training import STUDENT_NAME, sam_teacher, shape_of
from benchmarks.evaluation.evaluate import AccuracyPlan, AccuracyResult, evaluate
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import GROUND_TRUTH, find_protocols
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import WeightsRow, write_atomic
from benchmarks.records.result_cache import ResultCache
from mobilesam.distillation.students import STUDENTS, build_student, heads_of
from mobilesam.errors import DataError, UsageError
from mobilesam.model.model_files import save_model

_UNTRAINED = "untrained"
_EMBED_SECONDS = "embed-seconds.txt"
_CONDITIONS = "conditions.json"


class Conductor:
    """One experiment in one folder; whatever of it is there already is not done again.

    Args:
        profile: What is compared.
        teacher: With trained weights.
        out: For store, trainings and evaluation.
        scenes_root: For the rendered scenes.
        reporter: Told about progress.
        workers: Processes that render, and train side by side.
    """

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
        self._segmenter = sam_teacher(teacher)
        self._teacher: Sam = self._segmenter.model

    def run(self) -> DistillationRecord:
        """Does all that is missing, and gives the record."""
        conditions = self._conditions_so_far()
        embed_seconds = self._embedded()
        tasks = [self._training(run) for run in planned_runs(self._profile)]
        finished = train_all(tasks, self._workers, self._reporter)
        models = [self._as_model(each.run.name, each.checkpoint) for each in finished]
        models.append(self._as_model(_UNTRAINED, self._untrained()))
        result = self._evaluate([*models, self._planned])
        warnings = [] if len(conditions) == 1 else [_several(conditions)]
        return self._record(finished, result, embed_seconds, warnings)

    def _conditions_so_far(self) -> list[list[str]]:
        """Machines and numbers of workers of all invocations, each of which may have taken time.

        Raises:
            DataError: The file that holds them is damaged, or cannot be written.
        """
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

    def _embedded(self) -> float:
        profile = self._profile
        with self._reporter.bar("rendering scenes", profile.scenes.n_scenes) as bar:
            for ready in render_scenes(self._scenes_root, profile.scenes, self._workers):
                bar.step(done=min(ready, profile.scenes.n_scenes))
        data = SceneCache(self._scenes_root, profile.scenes)
        task = EmbedTask(
            self._planned,
            teacher_of(self._segmenter, self._planned.options.precision),
            threads=self._workers,
            lanes=0,
            code=environment.code_version(),
            built=self._segmenter,
        )
        options = StoreOptions(self._out / "embeddings", shard_bytes=64 * 10**6)
        report = StoreFiller(
            task, data, ShardingConfig(prefetch_threads=0), options, self._reporter
        ).run()
        return self._seconds_so_far(report.seconds)

    def _seconds_so_far(self, seconds: float) -> float:
        """With those of earlier invocations: one that finds all embeddings there takes none.

        What an invocation that was killed had taken is not known.
        """
        path = self._out / _EMBED_SECONDS
        try:
            total = seconds + (float(path.read_text()) if path.exists() else 0.0)
        except ValueError as error:
            raise DataError(f"{path} holds no number; delete the folder to start anew") from error
        write_atomic(path, f"{total}\n".encode())
        return total

    def _training(self, run: PlannedRun) -> Training:
        profile = self._profile
        return Training(
            run=run,
            student=STUDENTS[profile.student],
            teacher=self._planned,
            embeddings=self._out / "embeddings",
            folder=self._out / "runs" / run.name,
            scenes_root=self._scenes_root,
            scenes=profile.scenes,
        )

    def _untrained(self) -> Checkpoint:
        """The student as it is before any step: what a score must be compared with."""
        path = self._out / _UNTRAINED / STUDENT_NAME
        shape = STUDENTS[self._profile.student]
        student = build_student(shape, heads_of(self._teacher), self._profile.seeds[0])
        student.prompt_encoder.load_state_dict(self._teacher.prompt_encoder.state_dict())
        student.mask_decoder.load_state_dict(self._teacher.mask_decoder.state_dict())
        save_model(path, shape_of(student, {"steps": 0}), student.state_dict())
        return checkpoint_of(path)

    def _as_model(self, name: str, checkpoint: Checkpoint) -> ResolvedModel:
        target = select_one("mobilesam").target
        return ResolvedModel(
            ModelEntry(name, target, "a student of this experiment"),
            ModelOptions(name, checkpoint=checkpoint),
            WeightsRow(kind="file", sha256=checkpoint.sha256, file_bytes=checkpoint.n_bytes),
        )

    def _evaluate(self, models: Sequence[ResolvedModel]) -> AccuracyResult:
        profile = self._profile
        dataset = SyntheticDataset(profile.n_images, profile.evaluation_seed)
        out = self._out / "evaluation"
        plan = AccuracyPlan(
            dataset=dataset,
            protocols=find_protocols(PROTOCOLS),
            references=(GROUND_TRUTH, f"teacher:{self._planned.entry.name}"),
            out=out,
        )
        manifests = ManifestStore(dataset.fingerprint, profile.evaluation_seed, out)
        cells = ResultCache(out / "cells")
        return evaluate(models, [self._planned], plan, manifests, cells, self._reporter)

    def _record(
        self,
        finished: Sequence[Finished],
        result: AccuracyResult,
        embed_seconds: float,
        warnings: Sequence[str],
    ) -> DistillationRecord:
        profile, name = self._profile, self._planned.entry.name
        scores = {(row.model, row.protocol, row.reference): row for row in result.rows}

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
            warnings=(*environment.warnings(here), *warnings),
        )


def _several(conditions: Sequence[Sequence[str]]) -> str:
    """Warning that times of one record were taken under several conditions."""
    texts = "; ".join(", ".join(each) for each in conditions)
    return f"times of training and embedding were taken under several conditions: {texts}"
