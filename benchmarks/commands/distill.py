"""The commands that distil: `distill embed` and `distill verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from baselines.registry import build
from benchmarks.cli_options import DataArguments, ModelArguments, OutputArguments
from benchmarks.commands.printing import print_json
from benchmarks.commands.requests import (
    STANDARD_SCENES,
    apply_threads,
    check_max_pixels,
    one_trained,
    open_dataset,
)
from benchmarks.distillation.embed import EmbedReport, StoreOptions, teacher_of
from benchmarks.distillation.embed import embed as make_embeddings
from benchmarks.distillation.sources import DatasetImages, FolderImages, ImageSource
from benchmarks.progress import Reporter
from mobilesam.allocator import keep_buffers
from mobilesam.distillation.store_check import Verification
from mobilesam.distillation.store_check import verify as verify_store
from mobilesam.errors import UsageError, WeightsError


def embed(
    models: ModelArguments,
    data: DataArguments,
    output: OutputArguments,
    *,
    shard_size_mb: int,
    verify: bool,
    repair: bool,
) -> int:
    """Fills an embedding store, and prints what it holds.

    Returns:
        1 if an image was skipped or the verification found something, else 0.
    """
    if output.out is None:
        raise UsageError("distill embed needs --out STORE, the folder of the embeddings")
    if shard_size_mb < 1:
        raise UsageError(f"--shard-size must be at least 1 (MB); got {shard_size_mb}")
    reporter = Reporter(quiet=output.quiet)
    apply_threads(models)
    source = _source(data, models.seed, reporter)
    planned = one_trained(models, "distill embed")
    keep_buffers()  # a process that only encodes would ask the kernel for the same pages each time
    model = build(planned.entry, planned.options)
    if model.info.weights.kind == "random":
        raise WeightsError(f"{planned.entry.name} has random weights: nothing is learnt from it")
    options = StoreOptions(output.out, shard_size_mb * 10**6, output.note, repair, verify)
    report = make_embeddings(model, teacher_of(model, models.precision), source, options, reporter)
    found = report.verification
    if output.json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(report)
        if found is not None:
            _print_verification(output.out, found)
    return 1 if report.failures or (found is not None and found.problems) else 0


def verify(store: Path, *, as_json: bool) -> int:
    """Reads all of a store, and prints what is wrong with it; returns 1 if anything is."""
    found = verify_store(store)
    if as_json:
        print_json({"store": str(store), **asdict(found)})
    else:
        _print_verification(store, found)
    return 1 if found.problems else 0


def _source(data: DataArguments, seed: int, reporter: Reporter) -> ImageSource:
    """The images that the user named: a folder where nothing but `--images` is said."""
    if data.images is None or data.annotations is not None or data.dataset != DataArguments.dataset:
        return DatasetImages(open_dataset(data, STANDARD_SCENES, seed))
    if data.root:
        raise UsageError("--images and --root are two sources; give one")
    folder = FolderImages(data.images, data.limit, check_max_pixels(data.max_pixels))
    if folder.n_others:
        reporter.say(f"{data.images}: {folder.n_others} files that are no images are left alone")
    return folder


def _print(report: EmbedReport) -> None:
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
        f"{store}: {found.n_embeddings} embeddings in {found.n_shards} whole shards, "
        f"{found.n_bytes:,} bytes"
    ]
    if found.n_pending:
        lines.append(f"{found.n_pending} embeddings wait for their shard: run distill embed again")
    lines += [f"wrong: {problem}" for problem in found.problems]
    sys.stdout.write("\n".join(lines) + "\n")
