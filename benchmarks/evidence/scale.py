"""Trials of scale, each with a JSON document as its result.

`python -m benchmarks.evidence.scale stream --images 1000,20000 --data DIR`: throughput, memory and
cost of an image for `miou --chunk` with an instant dummy on generated shards (640 x 480 px, 10
objects); each length has a fresh process on one core.
`python -m benchmarks.evidence.scale simulate --images 1000 --data DIR`: a dummy that takes the time
of a model, against the arithmetic of docs/scale.md.
`python -m benchmarks.evidence.scale aggregate --rows 10000000 --data DIR`: mean IoU with its
interval from Parquet files, in a fresh process.
`python -m benchmarks.evidence.scale kills --images 400 --kills 20 --data DIR`: kill -9 at random
moments, restart, and comparison with an uninterrupted run.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from baselines.registry import ModelEntry
from benchmarks.child_processes import run_program, start_python
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import encode_image, sa1b_document
from benchmarks.debugging import one_line_errors
from benchmarks.latency.controller import run_task
from benchmarks.latency.idle import wait_if_published
from benchmarks.records.documents import write_document
from benchmarks.records.environment import collect
from benchmarks.records.instances import COLUMNS
from benchmarks.records.record import INSTANCES_NAME, RECORD_NAME, RunRecord, load_record
from benchmarks.records.run_folder import held
from mobilesam.errors import UsageError

Document = dict[str, Any]
Task = Callable[[str], Callable[[], Document]]

INSTANT = ModelEntry("dummy", "baselines.dummy:build_instant", "known masks, at once")
WAITING = ModelEntry("dummy", "baselines.dummy:build", "known masks after known delays")
CHUNK_IMAGES = 250
SIZE_HW = (480, 640)
N_OBJECTS = 10
N_SCENES = 40
"""Number of different scenes; to render 20,000 would take more than an hour."""
IMAGES_PER_TAR = 1000
VARIABLE_FIELDS = {
    "id", "created_utc", "command", "environment", "duration_s", "accuracy_times", "warnings",
}  # fmt: skip
"""Fields of a record that differ between two runs with the same results."""


def write_shards(folder: Path, n_images: int, seed: int = 0) -> list[Path]:
    """Writes tars of SA-1B's format with images of 640 x 480 px and 10 objects.

    `N_SCENES` scenes are repeated under new ids; a reader finds every file only once.
    """
    if n_images < 1:
        raise UsageError(f"{n_images} images leave nothing; give 1 or more")
    scenes = SyntheticDataset(min(n_images, N_SCENES), seed, SIZE_HW, (N_OBJECTS, N_OBJECTS))
    known = [
        (encode_image(sample.image, "jpg"), sa1b_document(sample)) for sample in scenes.samples()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, n_images, IMAGES_PER_TAR):
        paths.append(folder / f"sa_{start // IMAGES_PER_TAR:06d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for image_id in range(start, min(start + IMAGES_PER_TAR, n_images)):
                jpeg, document = known[image_id % len(known)]
                name = f"sa_{image_id}"
                header = {"image_id": image_id, "file_name": f"{name}.jpg"}
                rows = [
                    each | {"id": image_id * N_OBJECTS + i + 1}
                    for i, each in enumerate(document["annotations"])
                ]
                numbered = {"image": document["image"] | header, "annotations": rows}
                text = json.dumps(numbered).encode()
                for member_name, data in ((f"{name}.jpg", jpeg), (f"{name}.json", text)):
                    member = tarfile.TarInfo(member_name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return paths


def write_tables(folder: Path, n_rows: int, rows_per_file: int = 50_000) -> None:
    """Writes instance tables with random figures, ten instances an image."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, n_rows, rows_per_file)):
        rows = np.arange(start, min(start + rows_per_file, n_rows))
        columns = {
            "model": "dummy",
            "protocol": "box",
            "reference": "ground-truth",
            "category": "",
            "image_id": rows // N_OBJECTS,
            "annotation_id": rows,
            "iou": rng.random(len(rows)),
            "boundary_iou": rng.random(len(rows)),
            "score": rng.random(len(rows)),
            "area": rng.integers(1, 30_000, len(rows)).astype(np.float64),
            "boundary_complexity": 1 + rng.random(len(rows)),
        }
        frame = pd.DataFrame({name: columns[name] for name in COLUMNS})
        frame.to_parquet(folder / f"{number:06d}.parquet", compression="zstd")


def stream_task(
    root: str, out: str, *, chunk: int, lanes: int, cores: int, boundary: bool, delays: bool
) -> Task:
    """Task for a fresh process: one run over shards on some of the cores, after a short one.

    It is timed from the first access to the shards to the record.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from benchmarks.config.model_resolution import WeightsPolicy
    from benchmarks.config.run_config import RunConfig, ShardingConfig
    from benchmarks.datasets.sa1b import Sa1bDataset
    from benchmarks.prompts.protocols import find_protocols
    from benchmarks.records.environment import peak_rss_bytes, use_threads
    from benchmarks.records.progress import Reporter
    from benchmarks.run import execute

    def run(folder: Path, limit: int | None = None) -> RunRecord:
        config = RunConfig(
            command="trial",
            note=None,
            models=(WAITING if delays else INSTANT,),
            weights_policy=WeightsPolicy({}, offline=True),
            out=folder,
            threads=1,
            dataset=Sa1bDataset(Path(root), limit, streaming=True),
            protocols=find_protocols(["box"]),
            boundary=boundary,
            sharding=ShardingConfig(images_per_shard=chunk, prefetch_threads=lanes),
        )
        return execute(config, Reporter(quiet=True))

    def stream() -> Document:
        """Runs the command once: counts, time and memory."""
        start, cpu = time.perf_counter(), time.process_time()
        record = run(Path(out))
        (row,), (times,) = record.miou, record.accuracy_times
        return {
            "n_images": row.n_images,
            "n_instances": row.n_instances,
            "seconds": time.perf_counter() - start,
            "cpu_s": time.process_time() - cpu,
            "peak_rss_bytes": peak_rss_bytes(),
            "times": times.model_dump(mode="json"),
            "out_bytes": sum(f.stat().st_size for f in Path(out).rglob("*") if f.is_file()),
        }

    use_threads(1)
    with tempfile.TemporaryDirectory() as warm:
        run(Path(warm), limit=10)
    return lambda _phase: stream


def stream_run(
    arguments: argparse.Namespace,
    n_images: int,
    lanes: int,
    cores: int = 1,
    *,
    delays: bool = False,
) -> Document:
    """One run over generated shards, in a fresh process."""
    root = _shards(arguments.data, n_images)
    with tempfile.TemporaryDirectory() as out:
        sys.stderr.write(f"{n_images} images, {lanes} lanes, {cores} cores\n")
        given = {"root": str(root), "out": out, "lanes": lanes, "cores": cores, "delays": delays}
        given |= {"chunk": arguments.chunk, "boundary": arguments.boundary}
        found: Document = run_task("benchmarks.evidence.scale:stream_task", 1, **given)["value"]
    return {
        **found,
        "shard_bytes": sum(path.stat().st_size for path in root.iterdir()),
        "instances_per_s_and_core": found["n_instances"] / found["seconds"],
        "instances_per_cpu_s": found["n_instances"] / found["cpu_s"],
        "cpu_ms_per_image": 1e3 * found["cpu_s"] / found["n_images"],
    }


def _shards(data: Path, n_images: int) -> Path:
    """Folder of generated shards, which are written if missing."""
    root = data / f"shards-{n_images}"
    if not root.exists():
        sys.stderr.write(f"writing {n_images} images to {root}\n")
        write_shards(root, n_images)
    return root


def stream(arguments: argparse.Namespace) -> Document:
    """Runs of several lengths, and the longest compared with the shortest."""
    runs = [stream_run(arguments, n, arguments.lanes) for n in arguments.images]
    first, last = runs[0], runs[-1]
    first_s, last_s = (run["seconds"] / run["n_images"] for run in (first, last))
    return {
        "what": f"miou --chunk {arguments.chunk}, instant dummy, protocol box, one core",
        "image_px": "640x480",
        "n_objects": N_OBJECTS,
        "boundary": arguments.boundary,
        "lanes": arguments.lanes,
        "runs": runs,
        "memory_ratio": last["peak_rss_bytes"] / first["peak_rss_bytes"],
        "cost_ratio": last["cpu_ms_per_image"] / first["cpu_ms_per_image"],
        "wall_cost_ratio": last_s / first_s,
    }


def simulate(arguments: argparse.Namespace) -> Document:
    """A dummy that waits, without and with threads beside it, against the predicted times."""
    from baselines.dummy import DEFAULT_DELAYS_MS as DELAYS_MS

    n_images = arguments.images[0]
    model_ms = sum(DELAYS_MS.values()) + (N_OBJECTS - 1) * DELAYS_MS["decode_per_prompt"]
    cores_ms = 1e3 * stream_run(arguments, n_images, 0)["times"]["wall_s"] / n_images
    runs = []
    for lanes, cores, predicted_ms in (
        (0, 1, model_ms + cores_ms),
        (2, 2, max(model_ms, cores_ms / 2)),
    ):
        found = stream_run(arguments, n_images, lanes, cores, delays=True)
        what = f"a model of {model_ms:g} ms an image, {lanes} lanes, {cores} cores"
        measured_ms = 1e3 * found["times"]["wall_s"] / n_images
        runs.append({"what": what, "predicted_ms": predicted_ms, "measured_ms": measured_ms})
    return {"n_images": n_images, "cores_ms": cores_ms, "model_ms": model_ms, "runs": runs}


def aggregate_task(folder: str) -> Task:
    """Task for a fresh process: sums and summary of the tables of a folder."""
    from benchmarks.evaluation.summaries import sum_tables
    from benchmarks.records.environment import peak_rss_bytes
    from benchmarks.records.record import MiouRow, WeightsRow

    def aggregate() -> Document:
        """Sums all tables once: mean, counts and times."""
        files = sorted(Path(folder).glob("*.parquet"))
        start = time.perf_counter()
        (((model, protocol, reference), sums),) = sum_tables(files).items()
        summed = time.perf_counter()
        group: Any = {"model": model, "protocol": protocol, "reference": reference}
        row = sums.summarize(MiouRow(**group, dataset="trial", weights=WeightsRow(kind="none")))
        return {
            "n_files": len(files),
            "n_rows": row.n_instances,
            "n_images": row.n_images,
            "file_bytes": sum(file.stat().st_size for file in files),
            "sum_s": summed - start,
            "interval_s": time.perf_counter() - summed,
            "peak_rss_bytes": peak_rss_bytes(),
            "miou": row.miou,
            "ci95": row.ci95,
        }

    return lambda _phase: aggregate


def aggregate(arguments: argparse.Namespace) -> Document:
    """Summarises generated tables in a fresh process."""
    folder = arguments.data / f"tables-{arguments.rows}"
    if not folder.exists():
        sys.stderr.write(f"writing {arguments.rows} rows to {folder}\n")
        write_tables(folder, arguments.rows)
    done = run_task("benchmarks.evidence.scale:aggregate_task", 1, folder=str(folder))
    found: Document = done["value"]
    return found


def kills(arguments: argparse.Namespace) -> Document:
    """Compares a run that is killed and restarted many times with an uninterrupted one."""
    n_images = arguments.images[0]
    root = _shards(arguments.data, n_images)
    whole, killed = arguments.data / "kills-whole", arguments.data / "kills-killed"
    for folder in (whole, killed):
        if folder.exists():
            raise UsageError(f"{folder} exists; remove it or choose another --data")

    def begin(out: Path) -> subprocess.Popen[bytes]:
        command = [
            *("-m", "benchmarks", "miou", "--models", "dummy", "--dataset", "sa1b"),
            *("--root", str(root), "--out", str(out), "--chunk", str(arguments.chunk)),
            *("--protocol", "box", "--threads", "1", "--quiet"),
        ]
        return start_python(command, stdout=subprocess.DEVNULL)

    start = time.perf_counter()
    process = begin(whole)
    while process.poll() is None and not (whole / INSTANCES_NAME).exists():
        time.sleep(0.01)
    begun_s = time.perf_counter() - start
    process.wait()
    whole_s = time.perf_counter() - start
    # The mean moment is such that all kills happen before the end.
    reach_s = begun_s + 2 * (whole_s - begun_s) / arguments.kills
    rng = random.Random(arguments.seed)  # noqa: S311 - no secret
    moments: list[float] = []
    while len(moments) < arguments.kills and not (killed / RECORD_NAME).exists():
        process = begin(killed)
        moment = reach_s * rng.random()
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            moments.append(moment)
    begin(killed).wait()
    hashes, fields = [], []
    for out in (whole, killed):
        files = sorted((out / INSTANCES_NAME).iterdir())
        hashes.append({file.name: hashlib.sha256(file.read_bytes()).digest() for file in files})
        fields.append(load_record(out).model_dump(mode="json", exclude=VARIABLE_FIELDS))
        for row in fields[-1]["miou"]:
            row.pop("seconds")
    return {
        "n_images": n_images,
        "uninterrupted_s": whole_s,
        "kills_after_s": moments,
        "n_kills": len(moments),
        "same_tables": hashes[0] == hashes[1],
        "same_record": fields[0] == fields[1],
        "n_chunks": len(hashes[0]),
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON document."""
    trials = {each.__name__: each for each in (stream, simulate, aggregate, kills)}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trial", choices=trials)
    parser.add_argument("--data", type=Path, required=True, help="folder for generated data")
    parser.add_argument(
        "--images",
        type=lambda text: tuple(map(int, text.split(","))),
        default=(1000, 20000),
        help="numbers of images, by commas",
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--lanes", type=int, default=0)
    parser.add_argument("--boundary", action="store_true", help="compute boundary IoU as well")
    parser.add_argument("--chunk", type=int, default=CHUNK_IMAGES)
    parser.add_argument("--out", type=Path, help="also write the result to a file")
    arguments = parser.parse_args(argv)
    other_load = wait_if_published(arguments.out)
    with held(arguments.data, "python -m benchmarks.evidence.scale"):
        found = trials[arguments.trial](arguments)
    found["environment"] = collect(1, other_load).model_dump(mode="json")
    write_document(found, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_program(main))
