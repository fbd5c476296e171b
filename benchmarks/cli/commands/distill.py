"""The commands that distil: `distill embed` and `distill verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

from baselines.interface import Segmenter
from baselines.registry import build
from benchmarks.cli.commands.printing import print_json
from benchmarks.cli.progress import Reporter
from benchmarks.config.model_resolution import PlannedModel
from benchmarks.config.options import (
    EmbedDataArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
)
from benchmarks.config.requests import (
    STANDARD_SCENES,
    apply_threads,
    check_max_pixels,
    one_trained,
    open_dataset,
)
from benchmarks.config.scale_options import ScaleRequest
from benchmarks.config.sharding import scale_request
from benchmarks.datasets.dataset import Dataset
from benchmarks.distillation.embed import EmbedReport, StoreOptions, teacher_of
from benchmarks.distillation.embed import embed as make_embeddings
from benchmarks.distillation.embed_chunks import DEFAULT_CHUNK_IMAGES, embed_in_chunks
from benchmarks.distillation.embedding_shards import EmbedPlan
from benchmarks.distillation.sources import DatasetImages, FolderImages
from benchmarks.records.environment import code_version
from mobilesam.distillation.store_check import Verification
from mobilesam.distillation.store_check import verify as verify_store
from mobilesam.errors import UsageError, WeightsError
from mobilesam.fast.allocator import keep_buffers


def embed(
    models: ModelArguments,
    data: EmbedDataArguments,
    scale: ScaleArguments,
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
    options = StoreOptions(output.out, shard_size_mb * 10**6, output.note, repair, verify)
    reporter = Reporter(quiet=output.quiet)
    request = scale_request(scale, models, DEFAULT_CHUNK_IMAGES)
    report = (
        _embed_whole(models, data, options, reporter)
        if request is None
        else _embed_chunks(models, data, request, options, reporter)
    )
    found = report.verification
    if output.json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(report)
        if found is not None:
            _print_verification(output.out, found)
    return 1 if report.failures or (found is not None and found.problems) else 0


def _embed_whole(
    models: ModelArguments, data: EmbedDataArguments, options: StoreOptions, reporter: Reporter
) -> EmbedReport:
    """Image by image, in this process."""
    apply_threads(models)
    images = _images(data, models.seed, reporter, in_parts=False)
    source = images if isinstance(images, FolderImages) else DatasetImages(images)
    planned = one_trained(models, "distill embed")
    keep_buffers()  # a process that only encodes would ask the kernel for the same pages each time
    model = _build(planned)
    return make_embeddings(model, teacher_of(model, models.precision), source, options, reporter)


def _embed_chunks(
    models: ModelArguments,
    data: EmbedDataArguments,
    scale: ScaleRequest,
    options: StoreOptions,
    reporter: Reporter,
) -> EmbedReport:
    """Chunk by chunk, in this process or on a cluster."""
    threads = apply_threads(models)
    source = _images(data, models.seed, reporter, in_parts=True)
    planned = one_trained(models, "distill embed", scale)
    plan = _plan(planned, models.precision, threads, scale)
    return embed_in_chunks(plan, source, scale, options, reporter)


def _plan(planned: PlannedModel, precision: str, threads: int, scale: ScaleRequest) -> EmbedPlan:
    """What workers are asked for. On a cluster the driver keeps no model."""
    on_cluster = scale.cluster is not None
    # There it is built for what it says of itself alone: its device may not be here.
    options = replace(planned.options, device="cpu", precision="fp32")
    model = _build(replace(planned, options=options) if on_cluster else planned)
    return EmbedPlan(
        planned,
        teacher_of(model, precision),
        threads,
        scale.lanes,
        code_version(),
        built=None if on_cluster else model,
    )


def _build(planned: PlannedModel) -> Segmenter:
    model = build(planned.entry, planned.options)
    if model.info.weights.kind == "random":
        raise WeightsError(f"{planned.entry.name} has random weights: nothing is learnt from it")
    return model


def verify(store: Path, *, as_json: bool) -> int:
    """Reads all of a store, and prints what is wrong with it; returns 1 if anything is."""
    found = verify_store(store)
    if as_json:
        print_json({"store": str(store), **asdict(found)})
    else:
        _print_verification(store, found)
    return 1 if found.problems else 0


def _images(
    data: EmbedDataArguments, seed: int, reporter: Reporter, *, in_parts: bool
) -> Dataset | FolderImages:
    """The images that the user named: a folder where nothing but `--images` is said."""
    if (
        data.images is None
        or data.annotations is not None
        or data.dataset != EmbedDataArguments.dataset
    ):
        return open_dataset(data, STANDARD_SCENES, seed, in_parts=in_parts)
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
