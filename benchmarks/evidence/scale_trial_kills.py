"""Kill -9 at random moments of a run, start it again each time, and compare what it leaves."""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.child_processes import start_python
from benchmarks.evidence.scale_trial_data import write_shards
from benchmarks.records.record import INSTANCES_NAME, RECORD_NAME, load_record

OF_THE_MOMENT = {
    "id", "created_utc", "command", "environment", "duration_s", "accuracy_times", "warnings",
}  # fmt: skip
"""What two runs that find the same need not have in common."""


def kills(arguments: argparse.Namespace) -> dict[str, Any]:
    """A run that is killed so many times against one that is left alone."""
    n_images = int(arguments.images.split(",")[0])
    root = arguments.data / f"shards-{n_images}"
    if not root.exists():
        write_shards(root, n_images)
    whole, killed = arguments.data / "kills-whole", arguments.data / "kills-killed"
    for folder in (whole, killed):
        if folder.exists():
            raise SystemExit(f"{folder} exists; remove it or choose another --data")
    start = time.perf_counter()
    process = _start(root, whole, arguments.chunk)
    while process.poll() is None and not (whole / INSTANCES_NAME).exists():
        time.sleep(0.01)
    begun_s = time.perf_counter() - start
    process.wait()
    whole_s = time.perf_counter() - start
    # So far on average that all kills strike before the end.
    reach_s = begun_s + 2 * (whole_s - begun_s) / arguments.kills
    rng = random.Random(arguments.seed)  # noqa: S311 - no secret
    moments: list[float] = []
    while len(moments) < arguments.kills:
        process = _start(root, killed, arguments.chunk)
        moment = reach_s * rng.random()
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(moment)
        if (killed / RECORD_NAME).exists():
            break  # it has come to its end; every kill has struck before
    _start(root, killed, arguments.chunk).wait()
    return {
        "n_images": n_images,
        "uninterrupted_s": whole_s,
        "kills_after_s": moments,
        "n_kills": len(moments),
        "same_tables": _tables(whole) == _tables(killed),
        "same_record": _lasting(whole) == _lasting(killed),
        "n_chunks": len(_tables(whole)),
    }


def _start(root: Path, out: Path, chunk_images: int) -> subprocess.Popen[bytes]:
    command = [
        *("-m", "benchmarks", "miou", "--models", "dummy", "--dataset", "sa1b"),
        *("--root", str(root), "--out", str(out), "--chunk", str(chunk_images)),
        *("--protocol", "box", "--threads", "1", "--quiet"),
    ]
    return start_python(command, stdout=subprocess.DEVNULL)


def _tables(out: Path) -> dict[str, str]:
    files = sorted((out / INSTANCES_NAME).iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _lasting(out: Path) -> dict[str, Any]:
    found = load_record(out).model_dump(mode="json", exclude=OF_THE_MOMENT)
    for row in found["miou"]:
        row.pop("seconds")
    return found
