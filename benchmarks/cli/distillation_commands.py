"""The command line of distillation: it parses, calls and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from benchmarks.config.options import (
    EmbedDataArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
    TrainArguments,
)

_DEFAULT_MODELS = ModelArguments()
_DEFAULT_DATA = EmbedDataArguments()
_DEFAULT_OUTPUT = OutputArguments()
_DEFAULT_SCALE = ScaleArguments()
_DEFAULT_TRAINING = TrainArguments()

distill_app = App(name="distill", help="Train a student to see as its teacher does.")


@distill_app.command(name="embed")
def distill_embed(
    *,
    models: ModelArguments = _DEFAULT_MODELS,
    data: EmbedDataArguments = _DEFAULT_DATA,
    scale: ScaleArguments = _DEFAULT_SCALE,
    output: OutputArguments = _DEFAULT_OUTPUT,
    shard_size: Annotated[int, Parameter(help="Largest size of a file of the store, in MB.")] = 64,
    verify: Annotated[bool, Parameter(help="Read all of the store in the end.")] = False,
    repair: Annotated[
        bool, Parameter(help="Make embeddings of damaged or missing files again.")
    ] = False,
) -> int:
    """Run a teacher's encoder over images once, and keep its embeddings in --out.

    The images are those of a dataset, or of a folder if only --images is given. The same --out
    resumes an interrupted run and adds new images; files of --shard-size are written whole, and an
    unfinished one is made again. --cluster runs several processes or machines, which take shards of
    --chunk images (8 by default, 2 MB of memory an image).
    """
    from benchmarks.cli.commands import distill

    return distill.embed(
        models, data, scale, output, shard_size_mb=shard_size, verify=verify, repair=repair
    )


@distill_app.command(name="verify")
def distill_verify(
    store: Path,
    /,
    *,
    json: Annotated[bool, Parameter(help="Print one JSON document on standard output.")] = False,
) -> int:
    """Read all of an embedding store, and compare it with what was written."""
    from benchmarks.cli.commands import distill

    return distill.verify(store, as_json=json)


@distill_app.command(name="train")
def distill_train(
    *,
    models: ModelArguments = _DEFAULT_MODELS,
    training: TrainArguments = _DEFAULT_TRAINING,
    output: OutputArguments = _DEFAULT_OUTPUT,
) -> int:
    """Distil a student from the teacher that --models names; --out is taken up if interrupted.

    Several GPUs or machines: torchrun --nproc-per-node N -m benchmarks distill train ...
    """
    from benchmarks.cli.commands import training as commands

    return commands.train(models, training, output)


@distill_app.command(name="mini")
def distill_mini(
    *,
    models: ModelArguments = _DEFAULT_MODELS,
    output: OutputArguments = _DEFAULT_OUTPUT,
    only_teacher: Annotated[bool, Parameter(help="Stop when sam-mini is there.")] = False,
) -> int:
    """Make the shipped models again, from nothing: sam-mini, then mobilesam-mini.

    A little over three hours on two cores with torchrun --nproc-per-node 2 -m benchmarks
    distill mini, which is what nox -s mini does. A run that was interrupted is taken up by
    the same --out.
    """
    from benchmarks.cli.commands import training as commands

    return commands.mini(models, output, only_teacher=only_teacher)


@distill_app.command(name="compare")
def distill_compare(
    *,
    profile: Annotated[str, Parameter(help="mini.")] = "mini",
    models: ModelArguments = _DEFAULT_MODELS,
    output: OutputArguments = _DEFAULT_OUTPUT,
) -> int:
    """Train the same student by each scheme, several times, and say which is nearer its teacher.

    Trainings run side by side, one on each of --threads threads. A run that was interrupted is
    taken up with the same --out.
    """
    from benchmarks.cli.commands import training as commands

    return commands.compare(profile, models, output)
