"""Cost of storing a teacher's embeddings for an image, besides the encoder.

Images of SA-1B's usual size (2250 x 1500 px, JPEG) are generated from a seed, and each step of
`distill embed` and of reading an embedding back is timed by itself, in one thread, image by image.
With a teacher's weights, `distill embed` is run on given images as well.

`python -m benchmarks.evidence.store_cost --out results/distillation/store-cost.json \
[--teacher NAME --weights FILE --images DIR --limit 20]`
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from baselines.interface import UInt8Array
from benchmarks.config.from_options import apply_threads, one_trained
from benchmarks.config.options import ModelArguments
from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.images import load_image
from benchmarks.debugging import one_line_errors
from benchmarks.distillation.embed import DEFAULT_CHUNK_IMAGES, embed_task, fill_store
from benchmarks.distillation.folder_images import FolderImages
from benchmarks.latency.idle import wait_if_published
from benchmarks.latency.timer import time_once
from benchmarks.records.documents import write_document
from benchmarks.records.environment import collect, default_threads
from benchmarks.records.progress import Reporter
from benchmarks.records.statistics import median_spread, spread_fields
from mobilesam.distillation.batches import TrainingSample, resize_sample
from mobilesam.distillation.embedding_store import (
    EmbeddingStore,
    Entry,
    StoreWriter,
    Teacher,
    image_key,
    to_storable,
)
from mobilesam.fast.allocator import keep_buffers

SIZE_HW = (1500, 2250)
SIDE_PX = 1024
SHAPE = (256, 64, 64)
SHARD_BYTES = 32 * 10**6
ValueT = TypeVar("ValueT")
_QUALITY = 90
_TEACHER = Teacher(name="drawn", weights_sha256=None, precision="fp32", input_size_px=SIDE_PX)


def picture(rng: np.random.Generator) -> bytes:
    """A JPEG of `SIZE_HW` with structure at several scales, so that it is slow to decode."""
    height, width = SIZE_HW
    total = np.zeros((height, width, 3), np.float32)
    for cells in (8, 64, 512):
        noise = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        larger = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(larger, np.float32) / 3
    return jpeg(total.astype(np.uint8))


def jpeg(image: UInt8Array) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def host_costs(n_images: int, seed: int) -> dict[str, Any]:
    """Times each step for `n_images` images, in milliseconds, and measures stored embeddings."""
    rng = np.random.default_rng(seed)
    times_ms: dict[str, list[float]] = {}

    def timed(step: str, call: Callable[..., ValueT], *arguments: Any) -> ValueT:
        """Calls a function, and keeps its time under the name of the step."""
        answers: list[ValueT] = []
        milliseconds = time_once(lambda: answers.append(call(*arguments)), lambda: None)
        times_ms.setdefault(step, []).append(milliseconds)
        return answers[0]

    jpeg_bytes = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        with StoreWriter(store, _TEACHER, shard_bytes=SHARD_BYTES) as writer:
            for number in range(n_images):
                data = picture(rng)
                jpeg_bytes.append(len(data))
                image: UInt8Array = timed("decode", load_image, data, "drawn")
                key = timed("key", image_key, image)
                small = timed("resize", resize_sample, TrainingSample("", image), SIDE_PX).image
                # Training reads this if the images have been resized before.
                once = timed("decode_small", load_image, jpeg(small), "drawn")
                timed("key_small", image_key, once)
                features = torch.from_numpy(rng.standard_normal(SHAPE, np.float32))
                half = timed("to_float16", to_storable, features, "drawn")
                entry = Entry(key, f"{number}.jpg", SIZE_HW, (683, SIDE_PX))
                timed("keep", writer.add, entry, half)
        written_bytes = sum(path.stat().st_size for path in store.glob("shard-*"))
        opened = timed("open_store", EmbeddingStore, store)
        for index in rng.permutation(n_images).tolist():
            timed("read_back", opened.__getitem__, index)
    return {
        "n_images": n_images,
        "seed": seed,
        "image_size_hw": SIZE_HW,
        "jpeg_bytes_mean": sum(jpeg_bytes) / n_images,
        "bytes_per_embedding": written_bytes / n_images,
        "steps_ms": {
            step: {
                "median": float(np.median(found)),
                "mean": float(np.mean(found)),
                # One process has a range over its calls, and no interval.
                **spread_fields(median_spread([found])),
            }
            for step, found in times_ms.items()
        },
    }


def real_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs `distill embed` on given images twice; the second run finds nothing to do."""
    models = ModelArguments(
        models=arguments.teacher,
        weights=(f"{arguments.teacher}={arguments.weights}",),
        offline=True,
        threads=arguments.threads,
    )
    planned = one_trained(models, "store_cost")
    source = FolderImages(arguments.images, arguments.limit)
    with tempfile.TemporaryDirectory() as folder:
        scale = ShardingConfig(images_per_shard=DEFAULT_CHUNK_IMAGES, prefetch_threads=0)
        task = embed_task(planned, arguments.threads, scale)
        store, quiet = Path(folder), Reporter(quiet=True)
        first, again = (
            fill_store(task, source, scale, store, quiet, shard_bytes=SHARD_BYTES) for _ in range(2)
        )
    kept = ("source", "teacher", "n_embeddings", "n_bytes", "bytes_per_embedding", "n_encoded",
            "n_known", "seconds", "images_per_second")  # fmt: skip
    return {
        "first": first.model_dump(mode="json", include=set(kept)),
        "again": again.model_dump(mode="json", include=set(kept)),
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=40, help="number of generated images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher", help="registry name")
    for name in ("weights", "images", "out"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--note", help="text for the document")
    parser.add_argument("--threads", type=int, default=default_threads())
    arguments = parser.parse_args(argv)
    real = (arguments.teacher, arguments.weights, arguments.images)
    if any(real) and not all(real):
        parser.error("--teacher, --weights and --images go together")
    apply_threads(ModelArguments(threads=arguments.threads))
    keep_buffers()
    other_load = wait_if_published(arguments.out)
    found = {"note": arguments.note, "host": host_costs(arguments.n, arguments.seed)}
    if all(real):
        found["embed"] = real_run(arguments)
    found["environment"] = collect(arguments.threads, other_load).model_dump(mode="json")
    write_document(found, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
