"""Trials of scale: throughput, memory and cost an image, summing up, and kills, each as a JSON.

`python -m benchmarks.evidence.scale_trial stream --images 1000,20000 --data DIR`: `miou --chunk`
with an instant dummy over generated shards (640 x 480 px, 10 objects), each length in a fresh
process that is held to one core.
`python -m benchmarks.evidence.scale_trial simulate --images 1000 --data DIR`: a dummy that waits
as a model would, against what the arithmetic of docs/scale.md says.
`python -m benchmarks.evidence.scale_trial aggregate --rows 10000000 --data DIR`: mean IoU with its
interval from Parquet files, in a fresh process.
`python -m benchmarks.evidence.scale_trial kills --images 400 --kills 20 --data DIR`: kill -9 at
random moments, start again, compare with a run that was left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baselines.registry import ModelEntry
from benchmarks.child_processes import run_program, run_python
from benchmarks.evidence.document import give, wait_if_published
from benchmarks.evidence.scale_trial_data import N_OBJECTS, write_shards, write_tables
from benchmarks.records.run_folder import held

INSTANT = ModelEntry("dummy", "baselines.dummy:build_instant", "known masks, at once")
WAITING = ModelEntry("dummy", "baselines.dummy:build", "known masks after known delays")
CHUNK_IMAGES = 250


def stream_once(arguments: argparse.Namespace) -> dict[str, Any]:
    """One run over shards in this process, held to one core or to several.

    Returns:
        Seconds from the first look at the shards to the record, CPU seconds, and peak memory,
        after a run over ten images that has imported all there is.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    from benchmarks.config.model_resolution import WeightsPolicy
    from benchmarks.config.run_config import RunConfig, ShardingConfig
    from benchmarks.datasets.sa1b import Sa1bDataset
    from benchmarks.prompts.protocols import find_protocols
    from benchmarks.records.environment import peak_rss_bytes, use_threads
    from benchmarks.records.progress import Reporter
    from benchmarks.records.record import RunRecord
    from benchmarks.run import execute

    def run(out: Path, limit: int | None = None) -> RunRecord:
        request = RunConfig(
            command="trial",
            note=None,
            models=(WAITING if arguments.delays else INSTANT,),
            weights_policy=WeightsPolicy({}, offline=True),
            out=out,
            threads=1,
            dataset=Sa1bDataset(arguments.one, limit, streaming=True),
            protocols=find_protocols(["box"]),
            boundary=arguments.boundary,
            sharding=ShardingConfig(
                images_per_shard=arguments.chunk, prefetch_threads=arguments.lanes
            ),
        )
        return execute(request, Reporter(quiet=True))

    use_threads(1)
    out: Path = arguments.run_out
    with tempfile.TemporaryDirectory() as warm:
        run(Path(warm), limit=10)  # imports are no cost of an image
    start, cpu = time.perf_counter(), time.process_time()
    record = run(out)
    (row,), (times,) = record.miou, record.accuracy_times
    return {
        "n_images": row.n_images,
        "n_instances": row.n_instances,
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "peak_rss_bytes": peak_rss_bytes(),
        "times": times.model_dump(mode="json"),
        "out_bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
    }


def stream(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs of several lengths, and how the longest compares with the shortest."""
    runs = [
        stream_run(arguments, n_images, arguments.lanes)
        for n_images in map(int, arguments.images.split(","))
    ]
    first, last = runs[0], runs[-1]
    return {
        "what": f"miou --chunk {arguments.chunk}, instant dummy, protocol box, one core",
        "image_px": "640x480",
        "n_objects": N_OBJECTS,
        "boundary": arguments.boundary,
        "lanes": arguments.lanes,
        "runs": runs,
        "memory_ratio": last["peak_rss_bytes"] / first["peak_rss_bytes"],
        "cost_ratio": last["cpu_ms_per_image"] / first["cpu_ms_per_image"],
        "wall_cost_ratio": (last["seconds"] / last["n_images"])
        / (first["seconds"] / first["n_images"]),
    }


def stream_run(
    arguments: argparse.Namespace, n_images: int, lanes: int, *more: str
) -> dict[str, Any]:
    """One run over generated shards, in a fresh process."""
    root = arguments.data / f"shards-{n_images}"
    if not root.exists():
        sys.stderr.write(f"writing {n_images} images to {root}\n")
        write_shards(root, n_images)
    with tempfile.TemporaryDirectory() as out:
        sys.stderr.write(f"{n_images} images, {lanes} lanes {' '.join(more)}\n")
        options = ("--lanes", str(lanes), "--chunk", str(arguments.chunk), *more)
        options += ("--boundary",) * arguments.boundary
        found = _child("stream", "--one", str(root), "--run-out", out, *options)
    found["shard_bytes"] = sum(path.stat().st_size for path in root.iterdir())
    found["instances_per_s_and_core"] = found["n_instances"] / found["seconds"]
    found["instances_per_cpu_s"] = found["n_instances"] / found["cpu_s"]
    found["cpu_ms_per_image"] = 1e3 * found["cpu_s"] / found["n_images"]
    return found


def simulate(arguments: argparse.Namespace) -> dict[str, Any]:
    """A dummy that waits, alone and in company of lanes, against what arithmetic says."""
    from baselines.dummy import DEFAULT_DELAYS_MS

    n_images = int(arguments.images.split(",")[0])
    delays = dict(DEFAULT_DELAYS_MS)
    model_ms = sum(delays.values()) + (N_OBJECTS - 1) * delays["decode_per_prompt"]
    cores_ms = 1e3 * stream_run(arguments, n_images, 0)["times"]["wall_s"] / n_images
    runs = []
    for lanes, cores, predicted_ms in (
        (0, 1, model_ms + cores_ms),
        (2, 2, max(model_ms, cores_ms / 2)),
    ):
        more = ("--delays", "--cores", str(cores))
        found = stream_run(arguments, n_images, lanes, *more)
        runs.append(
            {
                "what": f"a model of {model_ms:g} ms an image, {lanes} lanes, {cores} cores",
                "predicted_ms": predicted_ms,
                "measured_ms": 1e3 * found["times"]["wall_s"] / n_images,
            }
        )
    return {"n_images": n_images, "cores_ms": cores_ms, "model_ms": model_ms, "runs": runs}


def aggregate_once(folder: Path) -> dict[str, Any]:
    """Sums up and summarises the tables of a folder in this process."""
    from benchmarks.evaluation.summaries import sum_tables
    from benchmarks.records.environment import peak_rss_bytes
    from benchmarks.records.record import MiouRow, WeightsRow

    files = sorted(folder.glob("*.parquet"))
    start = time.perf_counter()
    ((group, sums),) = sum_tables(files).items()
    summed = time.perf_counter()
    model, protocol, reference = group
    blank = MiouRow(
        model=model,
        dataset="trial",
        protocol=protocol,
        reference=reference,
        weights=WeightsRow(kind="none"),
    )
    row = sums.summarize(blank)
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


def aggregate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sums up so many rows in a fresh process."""
    folder = arguments.data / f"tables-{arguments.rows}"
    if not folder.exists():
        sys.stderr.write(f"writing {arguments.rows} rows to {folder}\n")
        write_tables(folder, arguments.rows)
    return _child("aggregate", "--one", str(folder))


def _child(*options: str) -> dict[str, Any]:
    command = ["-m", "benchmarks.evidence.scale_trial", *options]
    done = run_python(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("trial", choices=("stream", "simulate", "aggregate", "kills"))
    parser.add_argument("--data", type=Path, default=None, help="folder for generated data")
    parser.add_argument("--images", default="1000,20000", help="lengths, by commas")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--lanes", type=int, default=0)
    parser.add_argument("--boundary", action="store_true", help="score boundary IoU as well")
    parser.add_argument("--chunk", type=int, default=CHUNK_IMAGES)
    parser.add_argument("--out", type=Path, default=None, help="also write the result to a file")
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--delays", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--run-out", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one is not None:
        is_stream = arguments.trial == "stream"
        give(stream_once(arguments) if is_stream else aggregate_once(arguments.one), None)
        return 0
    if arguments.data is None:
        parser.error("--data DIR is needed")
    from benchmarks.evidence.scale_trial_kills import kills
    from benchmarks.records.environment import collect

    trials = {"stream": stream, "simulate": simulate, "aggregate": aggregate, "kills": kills}
    other_load = wait_if_published(arguments.out)
    with held(arguments.data, "python -m benchmarks.evidence.scale_trial"):
        found = trials[arguments.trial](arguments)
    found["environment"] = collect(1, other_load).model_dump(mode="json")
    give(found, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_program(main))
