"""One training as `distill train` runs it, and the evaluation of its student on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import TypeAdapter, ValidationError

from baselines.boundary import naming
from baselines.registry import build, select
from baselines.sam import SamSegmenter
from benchmarks.config.from_options import listed, make_config, one_trained
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.options import (
    AccuracyArguments,
    ModelArguments,
    OutputArguments,
    TrainArguments,
)
from benchmarks.distillation import scenes
from benchmarks.distillation.embed import teacher_of
from benchmarks.distillation.folder_images import StoredImages
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.progress import Reporter
from benchmarks.records.record import RECORD_NAME, RunRecord
from benchmarks.run import execute
from benchmarks.tables.formatting import percent
from mobilesam.distillation import schemes, students, training_loop
from mobilesam.distillation.batches import TrainingSet
from mobilesam.distillation.train_config import TrainConfig
from mobilesam.errors import DataError, UsageError, first_problem
from mobilesam.files import write_atomic
from mobilesam.model.mobile_sam import load_strictly
from mobilesam.model.model_files import save_model
from mobilesam.model.state_dicts import load_state_dict_file
from mobilesam.model.tiny_vit import TinyVitConfig

STUDENT_NAME = "student.safetensors"
EVALUATIONS_NAME = "evaluations.jsonl"
_EVALUATED = {"protocol", "reference", "miou", "ci95", "n_images", "n_instances", "why"}
_SETTINGS = (
    "steps", "batch_size", "micro_batch", "learning_rate", "warmup_steps", "precision",
    "checkpoint_every", "augment",
)  # fmt: skip
"""Settings of `TrainConfig` that are options."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of a training; steps and seconds are those of all resumed runs."""

    path: Path
    steps: int
    seconds: float
    loss: float | None  # of the last step; None if no step was left


def scheme_and_data(
    models: ModelArguments, training: TrainArguments
) -> tuple[schemes.Scheme, TrainingSet]:
    """The scheme with its student and teacher, and the training set, that the options name."""
    if training.scheme not in schemes.SCHEMES:
        raise UsageError(
            f"unknown scheme {training.scheme!r}; choose from {', '.join(schemes.SCHEMES)}"
        )
    planned = one_trained(replace(models, device="cpu"), "distill train")
    teacher = sam_teacher(planned)
    config = train_config(training, models.seed)
    shape = student_config(training.student)
    student = students.build_student(shape, students.heads_of(teacher.model), config.seed)
    if training.start is not None:
        load_strictly(student, load_state_dict_file(training.start), source=str(training.start))
    elif training.imagenet is not None:
        students.load_imagenet(cast("Any", student.image_encoder), training.imagenet)
    source: schemes.EmbeddingSource
    data: TrainingSet
    if training.store is not None:
        if training.images is None:
            raise UsageError("--store needs --images DIR, the folder that was embedded")
        wanted = teacher_of(teacher, planned.options.precision)
        source = stored = schemes.StoredTeacher(training.store, wanted)
        data = StoredImages(training.images, stored.store)
    elif training.images is not None:
        raise UsageError("--images needs --store: make one with distill embed")
    else:
        side_px = shape.image_size_px
        spec = scenes.ScenesSpec(training.scenes, training.scenes_seed, side_px)
        for _ in scenes.render_scenes(scenes.scenes_root(), spec):
            pass
        source = schemes.OnlineTeacher(teacher.model, planned.weights.sha256, side_px)
        data = scenes.SceneCache(scenes.scenes_root(), spec)
    return schemes.SCHEMES[training.scheme](student, teacher.model, source, config), data


def sam_teacher(planned: ResolvedModel) -> SamSegmenter:
    """Builds a teacher; refuses one without SAM heads to copy."""
    with naming(planned.entry.name):
        model = build(planned.entry, planned.options)
    if not isinstance(model, SamSegmenter):
        raise UsageError(
            f"{planned.entry.name} has no heads of SAM to copy; choose another teacher"
        )
    return model


def train_config(training: TrainArguments, seed: int) -> TrainConfig:
    """Settings from `--config`, overridden by options."""
    settings = {} if training.config is None else _read_json(training.config)
    options = {name: getattr(training, name) for name in _SETTINGS}
    settings |= {name: value for name, value in options.items() if value is not None}
    settings.setdefault("micro_batch", settings.get("batch_size"))
    settings.setdefault("seed", seed)
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"{training.config or 'settings'}: {first_problem(error)}") from error


def student_config(text: str) -> TinyVitConfig:
    """A student's encoder by name, or from the JSON file of a `TinyVitConfig`."""
    if text in students.STUDENTS:
        return students.STUDENTS[text]
    path = Path(text)
    if path.suffix != ".json":
        known = ", ".join(students.STUDENTS)
        raise UsageError(f"unknown student {text!r}; choose from {known}, or give a JSON file")
    try:
        return TypeAdapter(TinyVitConfig).validate_python({"n_classes": None, **_read_json(path)})
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no JSON object")
    return found


def run_training(
    scheme: schemes.Scheme,
    data: TrainingSet,
    folder: Path,
    reporter: Reporter,
    processes: training_loop.ProcessGroup,
    on_checkpoint: training_loop.CheckpointCallback | None = None,
) -> Trained:
    """Trains a student, resuming an interrupted run, and writes it; raises as `train` does."""
    losses: list[float] = []
    with progress(scheme.config, f"{scheme.name} distillation", reporter, processes) as show:

        def on_step(report: training_loop.StepReport) -> None:
            losses[:] = [report.loss]
            show(report)

        state = training_loop.train(
            scheme, data, folder, processes=processes, on_step=on_step, on_checkpoint=on_checkpoint
        )
    path = folder / STUDENT_NAME
    if processes.rank == 0:
        save_model(path, students.shape_of(scheme.student, training_notes(state)), state.result())
    processes.wait()
    return Trained(path, state.step, state.seconds, losses[0] if losses else None)


def training_notes(state: training_loop.TrainState) -> dict[str, Any]:
    """How a student was trained, for the header of its file."""
    return {**state.identity, "steps": state.step, "seconds": round(state.seconds, 1)}


@contextmanager
def progress(
    config: TrainConfig, title: str, reporter: Reporter, processes: training_loop.ProcessGroup
) -> Iterator[training_loop.StepCallback]:
    """A progress bar over the steps of a training, in the first process only."""
    shown = reporter if processes.rank == 0 else Reporter(quiet=True)
    with shown.bar(title, config.steps) as bar:

        def on_step(report: training_loop.StepReport) -> None:
            left_s = report.seconds / report.step * (config.steps - report.step)
            bar.step(f"loss {report.loss:.4f}, {left_s / 60:.1f} min left", done=report.step)

        yield on_step


def training_device(name: str) -> torch.device:
    """Device of this process; with several GPUs the one that `torchrun` assigned."""
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(f"cuda:{os.environ['LOCAL_RANK']}")
    return torch.device(name)


def evaluate_student(
    student: Path,
    teacher: str,
    models: ModelArguments,  # devices, threads and the teacher's weights
    accuracy: AccuracyArguments,  # `reference` is not used
    out: Path,
    reporter: Reporter,
) -> RunRecord:
    """Evaluates the file of a student against its teacher and ground truth, as `miou` does."""
    name = "mobilesam-fast" if teacher == "mobilesam" else "mobilesam"
    config = make_config(
        "miou",
        replace(models, models=name, weights=(*models.weights, f"{name}={student}")),
        OutputArguments(out=out),
        accuracy=replace(accuracy, reference=f"teacher:{teacher},{GROUND_TRUTH}"),
    )
    return execute(config, reporter)


def checkpoint_evaluator(
    models: ModelArguments, training: TrainArguments, out: Path, reporter: Reporter
) -> training_loop.CheckpointCallback | None:
    """Evaluates the student at the start and at each checkpoint; None without `--evaluate`.

    The callback appends JSON lines to a file; a resumed training repeats no finished evaluation.
    """
    given = (training.evaluate_images, training.evaluate_annotations)
    if training.evaluate is None:
        if any(given):
            raise UsageError("--evaluate-images needs --evaluate N, the number of images")
        return None
    if training.evaluate < 1:
        raise UsageError(f"--evaluate must be at least 1 (image); got {training.evaluate}")
    if any(given) and not all(given):
        raise UsageError("--evaluate-images and --evaluate-annotations belong together")
    accuracy = AccuracyArguments(
        dataset="coco" if all(given) else "synthetic",
        images=training.evaluate_images,
        annotations=training.evaluate_annotations,
        limit=training.evaluate,
        protocol=training.evaluate_protocol,
    )
    teacher = select(listed(models.models))[0].name  # `one_trained` refuses more than one later
    folder, path = out / "evaluation", out / EVALUATIONS_NAME

    def evaluate(state: training_loop.TrainState) -> None:
        """Scores the student at this step and appends a line to the file, unless it has one."""
        lines: list[dict[str, Any]] = []
        if path.exists():
            try:
                lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            except ValueError as error:
                raise DataError(f"{path} is damaged: {error}; delete it") from error
        if any(line["step"] == state.step for line in lines):
            return
        student = folder / "evaluated.safetensors"
        shape = students.shape_of(state.scheme.student, training_notes(state))
        save_model(student, shape, state.result())
        # The record is of an earlier step; the teacher's predictions in its folder are reused.
        (folder / RECORD_NAME).unlink(missing_ok=True)
        quiet = Reporter(quiet=True)
        record = evaluate_student(student, teacher, models, accuracy, folder, quiet)
        found = [
            {"step": state.step, **row.model_dump(mode="json", include=_EVALUATED)}
            for row in record.miou
        ]
        write_atomic(path, "".join(f"{json.dumps(line)}\n" for line in [*lines, *found]).encode())
        scores = ", ".join(
            f"{line['protocol']} vs {line['reference']} "
            + (line["why"] if line["miou"] is None else f"{percent(line['miou'])} %")
            for line in found
        )
        reporter.say(f"  after {state.step} steps, mIoU: {scores}")

    return evaluate
