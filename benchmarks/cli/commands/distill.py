"""The commands of `distill`: embed, verify, train, mini, compare."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from benchmarks.config.options import (
    AccuracyArguments,
    EmbedDataArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
    TrainArguments,
)
from mobilesam.errors import DataError, UsageError, first_problem

if TYPE_CHECKING:
    from baselines.sam import SamSegmenter
    from benchmarks.config.model_resolution import ResolvedModel
    from benchmarks.distillation.embed import EmbedReport, ShardedImages
    from benchmarks.distillation.training import CheckpointEvaluator
    from benchmarks.records.progress import Reporter
    from mobilesam.distillation.batches import TrainingSet
    from mobilesam.distillation.embedding_store import Verification
    from mobilesam.distillation.schemes import EmbeddingSource, Scheme
    from mobilesam.distillation.train_config import TrainConfig
    from mobilesam.model.tiny_vit import TinyVitConfig

_DEFAULT_MODELS = ModelArguments()
_DEFAULT_DATA = EmbedDataArguments()
_DEFAULT_OUTPUT = OutputArguments()
_DEFAULT_SCALE = ScaleArguments()
_DEFAULT_TRAINING = TrainArguments()


def embed(
    *,
    models: ModelArguments = _DEFAULT_MODELS,
    data: EmbedDataArguments = _DEFAULT_DATA,
    scale: ScaleArguments = _DEFAULT_SCALE,
    output: OutputArguments = _DEFAULT_OUTPUT,
    shard_size: Annotated[int, Parameter(help="Largest size of a file of the store, in MB.")] = 64,
    verify: Annotated[bool, Parameter(help="Read the whole store at the end.")] = False,
    repair: Annotated[
        bool, Parameter(help="Make the embeddings of damaged or missing files again.")
    ] = False,
) -> int:
    """Run a teacher's encoder over images once, and keep its embeddings in --out.

    The images are those of a dataset, or of a folder if only --images is given. The same --out
    resumes an interrupted run and adds new images; files of --shard-size are written whole, and an
    unfinished one is made again. --cluster runs several processes or machines, which take shards of
    --chunk images (8 by default, 2 MB of memory an image).
    """
    from benchmarks.cli.commands.printing import print_json
    from benchmarks.config.from_options import apply_threads, one_trained, sharding_config
    from benchmarks.config.run_config import ShardingConfig
    from benchmarks.distillation.embed import (
        DEFAULT_CHUNK_IMAGES,
        StoreFiller,
        StoreOptions,
        embed_task,
    )
    from benchmarks.records.progress import Reporter

    out = _required_out(output, "distill embed needs --out STORE, the folder of the embeddings")
    if shard_size < 1:
        raise UsageError(f"--shard-size must be at least 1 (MB); got {shard_size}")
    options = StoreOptions(out, shard_size * 10**6, output.note, repair, verify)
    reporter = Reporter(quiet=output.quiet)
    asked = sharding_config(scale, models, DEFAULT_CHUNK_IMAGES)
    request = asked or ShardingConfig(images_per_shard=DEFAULT_CHUNK_IMAGES)
    threads = apply_threads(models)
    source = _images(data, models.seed, reporter, streaming=asked is not None)
    planned = one_trained(models, "distill embed", request)
    task = embed_task(planned, models.precision, threads, request)
    report = StoreFiller(task, source, request, options, reporter).run()
    verification = report.verification
    if output.json:
        print_json(report.model_dump(mode="json"))
    else:
        _print_report(report)
        if verification is not None:
            _print_verification(out, verification)
    return 1 if report.failures or (verification is not None and verification.problems) else 0


def verify(
    store: Path,
    /,
    *,
    json: Annotated[bool, Parameter(help="Print one JSON document on standard output.")] = False,
) -> int:
    """Read a whole embedding store, and compare it with what was written."""
    from benchmarks.cli.commands.printing import print_json
    from mobilesam.distillation import embedding_store

    found = embedding_store.verify(store)
    if json:
        print_json({"store": str(store), **asdict(found)})
    else:
        _print_verification(store, found)
    return 1 if found.problems else 0


def train(
    *,
    models: ModelArguments = _DEFAULT_MODELS,
    training: TrainArguments = _DEFAULT_TRAINING,
    output: OutputArguments = _DEFAULT_OUTPUT,
) -> int:
    """Distil a student from the teacher that --models names; --out resumes an interrupted run.

    Several GPUs or machines: torchrun --nproc-per-node N -m benchmarks distill train ...
    """
    from benchmarks.cli.commands.printing import print_json
    from benchmarks.config.from_options import apply_threads
    from benchmarks.distillation.training import run_training, training_device
    from benchmarks.records.progress import Reporter
    from mobilesam.distillation.training_loop import launched_processes
    from mobilesam.fast.allocator import keep_buffers

    out = _required_out(output, "distill train needs --out DIR, the folder of the training")
    apply_threads(models)
    keep_buffers()
    device = training_device(models.device)
    with launched_processes(device) as processes:
        reporter = Reporter(quiet=output.quiet)
        evaluator = _evaluator(models, training, out, reporter)
        scheme, data = _scheme_and_data(models, training)
        scheme.to(device)
        with _locked(out, processes.rank):
            trained = run_training(scheme, data, out, reporter, processes, evaluator)
    if processes.rank:
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


def mini(
    *,
    models: ModelArguments = _DEFAULT_MODELS,
    output: OutputArguments = _DEFAULT_OUTPUT,
    only_teacher: Annotated[bool, Parameter(help="Stop after sam-mini.")] = False,
) -> int:
    """Train the shipped models again from random weights: sam-mini, then mobilesam-mini.

    It takes a little over three hours on two cores with torchrun --nproc-per-node 2 -m benchmarks
    distill mini, which nox -s mini runs. The same --out resumes an interrupted run.
    """
    from benchmarks.config.from_options import apply_threads
    from benchmarks.distillation.mini_family import make_family
    from benchmarks.distillation.scenes import scenes_root
    from benchmarks.distillation.training import training_device
    from benchmarks.records.environment import siblings
    from benchmarks.records.progress import Reporter
    from mobilesam.distillation.training_loop import launched_processes
    from mobilesam.fast.allocator import keep_buffers

    out = _required_out(output, "distill mini needs --out DIR, for checkpoints and the two models")
    # One process renders while its siblings wait, so that it can use all their cores.
    workers = apply_threads(models) * siblings()
    keep_buffers()
    with launched_processes(training_device("cpu")) as processes, _locked(out, processes.rank):
        made = make_family(
            out,
            scenes_root(),
            Reporter(quiet=output.quiet),
            processes,
            workers=workers,
            only_teacher=only_teacher,
        )
    if processes.rank:
        return 0
    for path in (made.teacher, made.student):
        if path is not None:
            sys.stdout.write(f"{path}  {path.stat().st_size:,} bytes\n")
    return 0


def compare(
    *,
    profile: Annotated[str, Parameter(help="mini.")] = "mini",
    models: ModelArguments = _DEFAULT_MODELS,
    output: OutputArguments = _DEFAULT_OUTPUT,
) -> int:
    """Train one student by each scheme with several seeds, and compare their agreement.

    Trainings run at the same time, one on each of --threads threads. The same --out resumes an
    interrupted run.
    """
    from benchmarks.cli.commands.printing import print_json, print_table
    from benchmarks.config.from_options import apply_threads, one_trained
    from benchmarks.distillation.comparison_plots import write_outputs
    from benchmarks.distillation.comparison_tables import compute_table, schemes_table
    from benchmarks.distillation.experiment import find_profile, save_experiment
    from benchmarks.distillation.experiment_runner import ExperimentRunner
    from benchmarks.distillation.scenes import scenes_root
    from benchmarks.records.progress import Reporter
    from mobilesam.fast.allocator import keep_buffers

    chosen = find_profile(profile)
    out = output.out or Path("bench-runs") / f"distill-{chosen.name}"
    workers = apply_threads(models)
    keep_buffers()
    teacher = one_trained(replace(models, models=chosen.teacher), "distill compare")
    reporter = Reporter(quiet=output.quiet)
    with _locked(out):
        runner = ExperimentRunner(chosen, teacher, out, scenes_root(), reporter, workers)
        record = runner.run()
        save_experiment(record, out)
        write_outputs(record, out)
    if output.json:
        print_json(record.model_dump(mode="json"))
    else:
        for table in (schemes_table(record), compute_table(record)):
            print_table(table)
    return 0


def _required_out(output: OutputArguments, message: str) -> Path:
    if output.out is None:
        raise UsageError(message)
    return output.out


def _locked(out: Path, rank: int = 0) -> AbstractContextManager[None]:
    """Locks the folder of a training; of several processes, only the first locks it."""
    from benchmarks.records.run_folder import held

    return nullcontext() if rank else held(out)


def _images(
    data: EmbedDataArguments, seed: int, reporter: Reporter, *, streaming: bool
) -> ShardedImages:
    """The dataset or folder to embed; a folder if only `--images` is given."""
    from benchmarks.config.from_options import STANDARD_SCENES, check_max_pixels, open_dataset
    from benchmarks.distillation.folder_images import FolderImages

    if (
        data.images is None
        or data.annotations is not None
        or data.dataset != EmbedDataArguments.dataset
    ):
        return open_dataset(data, STANDARD_SCENES, seed, streaming=streaming)
    if data.root:
        raise UsageError("--images and --root are two sources; give one")
    folder = FolderImages(data.images, data.limit, check_max_pixels(data.max_pixels))
    if folder.n_others:
        reporter.say(f"{data.images}: {folder.n_others} files that are no images are skipped")
    return folder


def _print_report(report: EmbedReport) -> None:
    rate, each = report.images_per_second, report.bytes_per_embedding
    lines = [
        f"store       {report.store}",
        f"embeddings  {report.n_embeddings} in {report.n_shards} shards "
        f"({report.n_encoded} made now, {report.n_known} known, {len(report.failures)} skipped)",
        f"bytes       {report.n_bytes:,}" + ("" if each is None else f", {each:,.0f} an embedding"),
        f"time        {report.seconds:.1f} s"
        + ("" if rate is None else f", {rate:.2f} images a second"),
    ]
    lines += [f"skipped     {each.culprit}: {each.why}" for each in report.failures]
    sys.stdout.write("\n".join(lines) + "\n")


def _print_verification(store: Path, found: Verification) -> None:
    lines = [
        f"{store}: {found.n_embeddings} embeddings in {found.n_shards} intact shards, "
        f"{found.n_bytes:,} bytes"
    ]
    lines += [f"wrong: {problem}" for problem in found.problems]
    sys.stdout.write("\n".join(lines) + "\n")


def _evaluator(
    models: ModelArguments, training: TrainArguments, out: Path, reporter: Reporter
) -> CheckpointEvaluator | None:
    """The evaluator of the student during training; None without `--evaluate`."""
    given = (training.evaluate_images, training.evaluate_annotations)
    if training.evaluate is None:
        if any(given):
            raise UsageError("--evaluate-images needs --evaluate N, the number of images")
        return None
    if training.evaluate < 1:
        raise UsageError(f"--evaluate must be at least 1 (image); got {training.evaluate}")
    if any(given) and not all(given):
        raise UsageError("--evaluate-images and --evaluate-annotations belong together")
    from baselines.registry import select
    from benchmarks.config.from_options import listed
    from benchmarks.distillation.training import CheckpointEvaluator, StudentEvaluation

    accuracy = AccuracyArguments(
        dataset="coco" if all(given) else "synthetic",
        images=training.evaluate_images,
        annotations=training.evaluate_annotations,
        limit=training.evaluate,
        protocol=training.evaluate_protocol,
    )
    teacher = select(listed(models.models))[0].name  # `one_trained` refuses more than one later
    return CheckpointEvaluator(StudentEvaluation(teacher, models, accuracy), out, reporter)


def _scheme_and_data(
    models: ModelArguments, training: TrainArguments
) -> tuple[Scheme, TrainingSet]:
    from benchmarks.config.from_options import one_trained
    from benchmarks.distillation.training import sam_teacher
    from mobilesam.distillation.schemes import SCHEMES
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
    source, data = _embeddings_and_data(training, planned, teacher, shape.image_size_px)
    return SCHEMES[training.scheme](student, teacher.model, source, config), data


def _embeddings_and_data(
    training: TrainArguments, planned: ResolvedModel, teacher: SamSegmenter, side_px: int
) -> tuple[EmbeddingSource, TrainingSet]:
    """Stored embeddings of a folder of images, or the teacher itself on synthetic scenes."""
    from mobilesam.distillation.schemes import OnlineTeacher, StoredTeacher

    if training.store is not None:
        from benchmarks.distillation.embed import teacher_of
        from benchmarks.distillation.folder_images import StoredImages

        if training.images is None:
            raise UsageError("--store needs --images DIR, the folder that was embedded")
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


def train_config(training: TrainArguments, seed: int) -> TrainConfig:
    """Settings from `--config`, overridden by options.

    Raises:
        DataError: The file cannot be read.
        UsageError: A setting is out of range or unknown.
    """
    from pydantic import ValidationError

    from mobilesam.distillation.train_config import TrainConfig

    settings = {} if training.config is None else _read_json(training.config)
    settings |= {
        name: value
        for name in ("steps", "batch_size", "micro_batch", "learning_rate", "warmup_steps",
                     "precision", "checkpoint_every", "augment")
        if (value := getattr(training, name)) is not None
    }  # fmt: skip
    settings.setdefault("micro_batch", settings.get("batch_size"))
    settings.setdefault("seed", seed)
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"{training.config or 'settings'}: {first_problem(error)}") from error


def student_config(text: str) -> TinyVitConfig:
    """A student's encoder by name, or from the JSON file of a `TinyVitConfig`.

    Raises:
        UsageError: Unknown name or invalid file.
        DataError: The file cannot be read.
    """
    from pydantic import TypeAdapter, ValidationError

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
        raise UsageError(f"{path}: {first_problem(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no JSON object")
    return found
