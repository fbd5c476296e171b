"""The commands that train: `distill train`, `distill mini` and `distill compare`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from benchmarks.cli.commands.printing import print_json, print_table
from benchmarks.config.options import (
    AccuracyArguments,
    ModelArguments,
    OutputArguments,
    TrainArguments,
)
from benchmarks.config.requests import apply_threads, listed, one_trained
from benchmarks.records.progress import Reporter
from benchmarks.records.run_folder import held
from mobilesam.errors import DataError, UsageError
from mobilesam.validation import first_problem


def train(models: ModelArguments, training: TrainArguments, output: OutputArguments) -> int:
    """Distils one student, or takes up where it was interrupted."""
    if output.out is None:
        raise UsageError("distill train needs --out DIR, the folder of the training")
    from benchmarks.distillation.training import device_of, run_training, use_memory_well
    from mobilesam.distillation.process_group import launched_world

    apply_threads(models)
    use_memory_well()
    device = device_of(models.device)
    with launched_world(device) as world:
        reporter = Reporter(quiet=output.quiet)
        watch = _watcher(models, training, output.out, reporter)
        scheme, data = _prepared(models, training)
        scheme.to(device)
        with _held(output.out, world.rank):
            trained = run_training(scheme, data, output.out, reporter, world, watch)
    if world.rank:
        return 0
    if output.json:
        print_json({**asdict(trained), "path": str(trained.path)})
    else:
        sys.stdout.write(
            f"student  {trained.path}\nsteps    {trained.steps}\n"
            f"time     {trained.seconds:.1f} s\n"
            f"use it   mobilesam-bench miou --models mobilesam --weights mobilesam={trained.path}\n"
        )
    return 0


def mini(models: ModelArguments, output: OutputArguments, *, only_teacher: bool) -> int:
    """Makes `sam-mini` and `mobilesam-mini` again, or takes up where it was interrupted."""
    if output.out is None:
        raise UsageError("distill mini needs --out DIR, for checkpoints and the two models")
    from benchmarks.distillation.mini_family import make_family
    from benchmarks.distillation.scenes import scenes_root
    from benchmarks.distillation.training import device_of, use_memory_well
    from benchmarks.records.environment import siblings
    from mobilesam.distillation.process_group import launched_world

    # One process renders, while its siblings wait: the cores of all are free for it.
    workers = apply_threads(models) * siblings()
    use_memory_well()
    with launched_world(device_of("cpu")) as world, _held(output.out, world.rank):
        made = make_family(
            output.out,
            scenes_root(),
            Reporter(quiet=output.quiet),
            world,
            workers=workers,
            only_teacher=only_teacher,
        )
    if world.rank:
        return 0
    for path in (made.teacher, made.student):
        if path is not None:
            sys.stdout.write(f"{path}  {path.stat().st_size:,} bytes\n")
    return 0


def compare(profile: str, models: ModelArguments, output: OutputArguments) -> int:
    """Answers which scheme makes the better student, or takes up where it was interrupted."""
    from benchmarks.distillation.conduct import Conductor
    from benchmarks.distillation.experiment import find_profile
    from benchmarks.distillation.publish import derive, save
    from benchmarks.distillation.scenes import scenes_root
    from benchmarks.distillation.tables import compute_table, schemes_table
    from benchmarks.distillation.training import use_memory_well

    chosen = find_profile(profile)
    out = output.out or Path("bench-runs") / f"distill-{chosen.name}"
    workers = apply_threads(models)
    use_memory_well()
    teacher = one_trained(replace(models, models=chosen.teacher), "distill compare")
    reporter = Reporter(quiet=output.quiet)
    with _held(out):
        record = Conductor(chosen, teacher, out, scenes_root(), reporter, workers).run()
        save(record, out)
        derive(record, out)
    if output.json:
        print_json(record.model_dump(mode="json"))
    else:
        for table in (schemes_table(record), compute_table(record)):
            print_table(table)
    return 0


def _held(out: Path, rank: int = 0) -> AbstractContextManager[None]:
    """Locks the folder of a training run; of several processes, only the first locks it."""
    return nullcontext() if rank else held(out)


def _watcher(
    models: ModelArguments, training: TrainArguments, out: Path, reporter: Reporter
) -> Any:
    """Who evaluates the student on the way; None where that was not asked for."""
    asked = (training.evaluate_images, training.evaluate_annotations)
    if training.evaluate is None:
        if any(asked):
            raise UsageError("--evaluate-images needs --evaluate N, the number of images")
        return None
    if training.evaluate < 1:
        raise UsageError(f"--evaluate must be at least 1 (image); got {training.evaluate}")
    if any(asked) and not all(asked):
        raise UsageError("--evaluate-images and --evaluate-annotations belong together")
    from baselines.registry import select
    from benchmarks.distillation.agreement import Agreement, Watcher

    accuracy = AccuracyArguments(
        dataset="coco" if all(asked) else "synthetic",
        images=training.evaluate_images,
        annotations=training.evaluate_annotations,
        limit=training.evaluate,
        protocol=training.evaluate_protocol,
    )
    # More than one is refused where the teacher is built.
    teacher = select(listed(models.models))[0].name
    return Watcher(Agreement(teacher, models, accuracy), out, reporter)


def _prepared(models: ModelArguments, training: TrainArguments) -> tuple[Any, Any]:
    """The scheme and its data, as the arguments say."""
    from benchmarks.distillation.training import sam_teacher
    from mobilesam.distillation.imitation import SCHEMES
    from mobilesam.distillation.students import build_student, heads_of, load_imagenet

    if training.scheme not in SCHEMES:
        raise UsageError(f"unknown scheme {training.scheme!r}; choose from {', '.join(SCHEMES)}")
    planned = one_trained(replace(models, device="cpu"), "distill train")
    teacher = sam_teacher(planned)
    config = train_config(training, models.seed)
    shape = student_config(training.student)
    student = build_student(shape, heads_of(teacher.model), config.seed)
    if training.start is not None:
        from mobilesam.model.mobile_sam import load_strictly
        from mobilesam.model.state_dicts import load_state_dict_file

        load_strictly(student, load_state_dict_file(training.start), source=str(training.start))
    elif training.imagenet is not None:
        load_imagenet(cast("Any", student.image_encoder), training.imagenet)
    source, data = _source(training, planned, teacher, shape.image_size_px)
    return SCHEMES[training.scheme](student, teacher.model, source, config), data


def _source(training: TrainArguments, planned: Any, teacher: Any, side_px: int) -> tuple[Any, Any]:
    """Stored embeddings of a folder, or the teacher itself on synthetic scenes."""
    from mobilesam.distillation.teachers import OnlineTeacher, StoredTeacher

    if training.store is not None:
        from benchmarks.distillation.embed import teacher_of
        from benchmarks.distillation.folder_images import StoredImages

        if training.images is None:
            raise UsageError("--store needs --images DIR, the folder that it was made of")
        wanted = teacher_of(teacher, planned.options.precision)
        stored = StoredTeacher(training.store, wanted)
        return stored, StoredImages(training.images, stored.store)
    if training.images is not None:
        raise UsageError("--images needs --store: make one with distill embed")
    from benchmarks.distillation.scenes import SceneCache, ScenesSpec, render_scenes, scenes_root

    spec = ScenesSpec(training.scenes, training.scenes_seed, side_px)
    for _ in render_scenes(scenes_root(), spec):
        pass
    online = OnlineTeacher(teacher.model, planned.weights.sha256, side_px)
    return online, SceneCache(scenes_root(), spec)


def train_config(training: TrainArguments, seed: int) -> Any:
    """The settings: a file's, changed by what was said on the command line.

    Raises:
        DataError: The file cannot be read.
        UsageError: A setting is out of range, or unknown.
    """
    from mobilesam.distillation.config import TrainConfig

    said: dict[str, Any] = {}
    if training.config is not None:
        said = _read_json(training.config)
    said |= {
        name: value
        for name in ("steps", "batch_size", "micro_batch", "learning_rate", "warmup_steps",
                     "precision", "checkpoint_every", "augment")
        if (value := getattr(training, name)) is not None
    }  # fmt: skip
    said.setdefault("micro_batch", said.get("batch_size"))
    said.setdefault("seed", seed)
    try:
        return TrainConfig.model_validate(said)
    except ValidationError as error:
        raise UsageError(_first(error, training.config)) from error


def student_config(text: str) -> Any:
    """A student by name, or by the JSON file of a `TinyVitConfig`.

    Raises:
        UsageError: Neither.
    """
    from mobilesam.distillation.students import STUDENTS
    from mobilesam.model.tiny_vit import TinyVitConfig

    if text in STUDENTS:
        return STUDENTS[text]
    path = Path(text)
    if path.suffix != ".json":
        raise UsageError(
            f"unknown student {text!r}; choose from {', '.join(STUDENTS)}, or give a JSON file"
        )
    try:
        return TypeAdapter(TinyVitConfig).validate_python({"n_classes": None, **_read_json(path)})
    except ValidationError as error:
        raise UsageError(_first(error, path)) from error


def _read_json(path: Path) -> dict[str, Any]:
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no JSON object")
    return found


def _first(error: ValidationError, path: Path | None) -> str:
    return f"{path or 'settings'}: {first_problem(error)}"
