"""The commands of `distill`: embed, verify, train, mini, compare."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines, print_table
from benchmarks.config.options import (
    EmbedDataArguments,
    ModelArguments,
    OutputArguments,
    PrintJson,
    ScaleArguments,
    TrainArguments,
)
from benchmarks.records.progress import Reporter
from mobilesam.errors import UsageError

if TYPE_CHECKING:
    from mobilesam.distillation.embedding_store import Verification

_MODELS, _OUTPUT, _SCALE = ModelArguments(), OutputArguments(), ScaleArguments()
_DATA, _TRAINING = EmbedDataArguments(), TrainArguments()


def embed(
    *,
    models: ModelArguments = _MODELS,
    data: EmbedDataArguments = _DATA,
    scale: ScaleArguments = _SCALE,
    output: OutputArguments = _OUTPUT,
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
    from benchmarks.config.from_options import apply_threads, one_trained, sharding_config
    from benchmarks.config.run_config import ShardingConfig
    from benchmarks.distillation import embed as embedding
    from benchmarks.distillation.folder_images import images_to_embed

    out = _required_out(output, "distill embed needs --out STORE, the folder of the embeddings")
    if shard_size < 1:
        raise UsageError(f"--shard-size must be at least 1 (MB); got {shard_size}")
    reporter = Reporter(quiet=output.quiet)
    images_per_shard = embedding.DEFAULT_CHUNK_IMAGES
    asked = sharding_config(scale, models, images_per_shard)
    sharding = asked or ShardingConfig(images_per_shard=images_per_shard)
    chosen = apply_threads(models)
    chosen.say(reporter)
    source = images_to_embed(data, models.seed, reporter, streaming=asked is not None)
    planned = one_trained(models, "distill embed", sharding)
    task = embedding.embed_task(planned, chosen.threads, sharding)
    report = embedding.fill_store(
        task,
        source,
        sharding,
        out,
        reporter,
        shard_bytes=shard_size * 10**6,
        note=output.note,
        repair=repair,
        read_back=verify,
    )
    verification = report.verification
    if output.json:
        print_json(report.model_dump(mode="json"))
    else:
        rate, each = report.images_per_second, report.bytes_per_embedding
        bytes_text = "" if each is None else f", {each:,.0f} an embedding"
        rate_text = "" if rate is None else f", {rate:.2f} images a second"
        n_skipped = len(report.failures)
        print_lines(
            f"store       {report.store}",
            f"embeddings  {report.n_embeddings} in {report.n_shards} shards "
            f"({report.n_encoded} made now, {report.n_known} known, {n_skipped} skipped)",
            f"bytes       {report.n_bytes:,}{bytes_text}",
            f"time        {report.seconds:.1f} s{rate_text}",
            *(f"skipped     {failure.culprit}: {failure.why}" for failure in report.failures),
        )
        if verification is not None:
            _print_verification(out, verification)
    return 1 if report.failures or (verification is not None and verification.problems) else 0


def _print_verification(store: Path, found: Verification) -> None:
    print_lines(
        f"{store}: {found.n_embeddings} embeddings in {found.n_shards} intact shards, "
        f"{found.n_bytes:,} bytes",
        *(f"wrong: {problem}" for problem in found.problems),
    )


def verify(store: Path, /, *, json: PrintJson = False) -> int:
    """Read a whole embedding store, and compare it with what was written."""
    from mobilesam.distillation import embedding_store

    found = embedding_store.verify(store)
    if json:
        print_json({"store": str(store), **asdict(found)})
    else:
        _print_verification(store, found)
    return 1 if found.problems else 0


def train(
    *,
    models: ModelArguments = _MODELS,
    training: TrainArguments = _TRAINING,
    output: OutputArguments = _OUTPUT,
) -> int:
    """Distil a student from the teacher that --models names; --out resumes an interrupted run.

    Several GPUs or machines: torchrun --nproc-per-node N -m benchmarks distill train ...
    """
    from benchmarks.config.from_options import apply_threads
    from benchmarks.distillation import training as trainings
    from mobilesam.distillation.training_loop import launched_processes
    from mobilesam.fast.allocator import keep_buffers

    out = _required_out(output, "distill train needs --out DIR, the folder of the training")
    chosen = apply_threads(models)
    keep_buffers()
    device = trainings.training_device(models.device)
    with launched_processes(device) as processes:
        reporter = Reporter(quiet=output.quiet)
        if processes.rank == 0:
            chosen.say(reporter)
        evaluator = trainings.checkpoint_evaluator(models, training, out, reporter)
        scheme, data = trainings.scheme_and_data(models, training)
        scheme.to(device)
        with _locked(out, processes.rank):
            trained = trainings.run_training(scheme, data, out, reporter, processes, evaluator)
    if processes.rank:
        return 0
    if output.json:
        print_json({**asdict(trained), "path": str(trained.path)})
    else:
        print_lines(
            f"student  {trained.path}",
            f"steps    {trained.steps}",
            f"time     {trained.seconds:.1f} s",
            f"use it   mobilesam-bench miou --models mobilesam --weights mobilesam={trained.path}",
        )
    return 0


def mini(
    *,
    models: ModelArguments = _MODELS,
    output: OutputArguments = _OUTPUT,
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
    from mobilesam.distillation.training_loop import launched_processes
    from mobilesam.fast.allocator import keep_buffers

    out = _required_out(output, "distill mini needs --out DIR, for checkpoints and the two models")
    # One process renders while its siblings wait, so that it can use all their cores.
    workers = apply_threads(models).threads * siblings()
    keep_buffers()
    reporter = Reporter(quiet=output.quiet)
    with launched_processes(training_device("cpu")) as processes, _locked(out, processes.rank):
        made = make_family(
            out, scenes_root(), reporter, processes, workers=workers, only_teacher=only_teacher
        )
    if processes.rank == 0:
        print_lines(*(f"{path}  {path.stat().st_size:,} bytes" for path in made))
    return 0


def compare(
    *,
    profile: Annotated[str, Parameter(help="mini.")] = "mini",
    models: ModelArguments = _MODELS,
    output: OutputArguments = _OUTPUT,
) -> int:
    """Train one student by each scheme with several seeds, and compare their agreement.

    Trainings run at the same time, one on each of --threads threads. The same --out resumes an
    interrupted run.
    """
    from benchmarks.config.from_options import apply_threads, one_trained
    from benchmarks.distillation import experiment, scheme_comparison
    from benchmarks.distillation.experiment_runner import run_experiment
    from benchmarks.distillation.scenes import scenes_root
    from mobilesam.fast.allocator import keep_buffers

    chosen = experiment.find_profile(profile)
    out = output.out or Path("bench-runs") / f"distill-{chosen.name}"
    threads = apply_threads(models)
    keep_buffers()
    teacher = one_trained(replace(models, models=chosen.teacher), "distill compare")
    reporter = Reporter(quiet=output.quiet)
    threads.say(reporter)
    with _locked(out):
        record = run_experiment(chosen, teacher, out, scenes_root(), reporter, threads.threads)
        experiment.save_experiment(record, out)
        scheme_comparison.write_outputs(record, out)
    if output.json:
        print_json(record.model_dump(mode="json"))
    else:
        for table in (
            scheme_comparison.schemes_table(record),
            scheme_comparison.compute_table(record),
        ):
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
