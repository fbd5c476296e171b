"""The commands that distil: `distill embed` and `distill verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.cli.commands.printing import print_json
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
    sharding_config,
)
from benchmarks.config.run_config import ShardingConfig
from benchmarks.distillation.embed import (
    DEFAULT_CHUNK_IMAGES,
    EmbedReport,
    ShardedImages,
    StoreFiller,
    StoreOptions,
    embed_task,
)
from benchmarks.distillation.folder_images import FolderImages
from benchmarks.records.progress import Reporter
from mobilesam.distillation.embedding_store import Verification
from mobilesam.distillation.embedding_store import verify as verify_store
from mobilesam.errors import UsageError


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
        1 if an image was skipped or the verification found a problem, else 0.
    """
    if output.out is None:
        raise UsageError("distill embed needs --out STORE, the folder of the embeddings")
    if shard_size_mb < 1:
        raise UsageError(f"--shard-size must be at least 1 (MB); got {shard_size_mb}")
    options = StoreOptions(output.out, shard_size_mb * 10**6, output.note, repair, verify)
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
        _print(report)
        if verification is not None:
            _print_verification(output.out, verification)
    return 1 if report.failures or (verification is not None and verification.problems) else 0


def verify(store: Path, *, as_json: bool) -> int:
    """Reads a whole store and prints its problems; returns 1 if there are any."""
    found = verify_store(store)
    if as_json:
        print_json({"store": str(store), **asdict(found)})
    else:
        _print_verification(store, found)
    return 1 if found.problems else 0


def _images(
    data: EmbedDataArguments, seed: int, reporter: Reporter, *, streaming: bool
) -> ShardedImages:
    """The dataset or folder to embed; a folder if only `--images` is given."""
    if (
        data.images is None
        or data.annotations is not None
        or data.dataset != EmbedDataArguments.dataset
    ):
        return open_dataset(data, STANDARD_SCENES, seed, in_parts=streaming)
    if data.root:
        raise UsageError("--images and --root are two sources; give one")
    folder = FolderImages(data.images, data.limit, check_max_pixels(data.max_pixels))
    if folder.n_others:
        reporter.say(f"{data.images}: {folder.n_others} files that are no images are skipped")
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
        f"{store}: {found.n_embeddings} embeddings in {found.n_shards} intact shards, "
        f"{found.n_bytes:,} bytes"
    ]
    lines += [f"wrong: {problem}" for problem in found.problems]
    sys.stdout.write("\n".join(lines) + "\n")
