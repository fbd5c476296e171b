"""On a Ray cluster: the same files as in this process, also if processes die."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from evaluation_doubles import resolved, run_config
from run_outputs import lasting, tables
from test_killed import arguments, finished, miou, start

from benchmarks.cli.app import main
from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.dataset import Sample, Shard
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.evaluation import ray_backend
from benchmarks.evaluation.evaluate import EvaluationResult, evaluate
from benchmarks.evaluation.everything import IMAGE_RECALL_NAME, ImageRecall
from benchmarks.evaluation.ray_backend import _Cluster, _Job
from benchmarks.prompts.protocols import find_protocols
from benchmarks.records.instances import read_instances
from benchmarks.records.progress import Reporter

pytest.importorskip("ray", reason="Ray is not installed (extra cluster)")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LOCAL = ("--cluster", "local", "--workers", "2")


@pytest.fixture(scope="module")
def victim(shards_source: Path) -> tuple[int, str]:
    """Index and first pixel of the image that kills the workers of a double."""
    samples = [each for each in Sa1bDataset(shards_source).samples() if isinstance(each, Sample)]
    pixels = [",".join(map(str, each.image[0, 0])) for each in samples]
    return next((i, p) for i, p in enumerate(pixels) if i > 4 and pixels.count(p) == 1)


@pytest.fixture(scope="module")
def once(victim: tuple[int, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cluster for the runs of this process, since its start takes most of the time.

    A worker of the double dies as long as this file exists.
    """
    import ray

    path = tmp_path_factory.mktemp("cluster") / "once"
    here = str(Path(__file__).parent)  # where the workers find the double
    shutdown = ray.shutdown
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("SCALE_TEST_PIXEL", victim[1])
        patch.setenv("SCALE_TEST_ONCE", str(path))
        connected = ray_backend._connect(ShardingConfig(cluster="local", workers=2))
        patch.setattr(ray_backend, "_connect", lambda _: connected)
        patch.setattr(ray, "shutdown", lambda: None)
        yield path
        shutdown()


def evaluated(shards: Path, out: Path, target: str, cluster: str | None) -> EvaluationResult:
    config = run_config(
        out,
        dataset=Sa1bDataset(shards, streaming=True),
        protocols=find_protocols(["box"]),
        sharding=ShardingConfig(
            images_per_shard=3, cluster=cluster, workers=2 if cluster else None
        ),
    )
    return evaluate(config, [resolved("double", target)], [], Reporter(quiet=True))


@pytest.mark.usefixtures("once")
def test_the_cluster_gives_the_files_of_this_process_and_resumes_a_killed_driver(
    shards: Path, tmp_path: Path
) -> None:
    whole, there = tmp_path / "whole", tmp_path / "there"
    assert main(miou(shards, whole)) == 0
    driver = start(shards, there, *LOCAL)
    while finished(there) < 3 and driver.poll() is None:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert 3 <= finished(there) <= 11
    assert main(miou(shards, there, *LOCAL)) == 0
    assert tables(there) == tables(whole)
    assert lasting(there) == lasting(whole)


def test_an_image_that_kills_is_left_out_and_a_worker_that_dies_once_costs_nothing(
    shards: Path, tmp_path: Path, victim: tuple[int, str], once: Path
) -> None:
    samples = [each for each in Sa1bDataset(shards).samples() if isinstance(each, Sample)]
    once.touch()
    found = evaluated(shards, tmp_path / "there", "cluster_doubles:build_killer", "local")
    assert not once.exists(), found.failures
    (failure,) = found.failures
    assert failure.culprit == samples[victim[0]].name
    assert "brings down every worker" in failure.why
    (row,) = found.miou
    assert row.n_images == len(samples) - 1
    alone = evaluated(shards, tmp_path / "alone", "baselines.dummy:build_instant", None)
    n_lost = len(samples[victim[0]].instances)
    assert row.n_instances == alone.miou[0].n_instances - n_lost


@pytest.mark.usefixtures("once")
def test_mobilesam_on_the_cluster_gives_the_files_of_this_process(
    run: Any, shards: Path, tmp_path: Path
) -> None:
    asked = ("--models=mobilesam-mini", "--limit=2", "--protocol=box,center", "--chunk=1")
    for out, where in (("whole", ()), ("there", LOCAL)):
        done = run(*arguments(shards, tmp_path / out), *asked, *where)
        assert done.code == 0, done.err
    whole, there = tmp_path / "whole", tmp_path / "there"
    assert len(tables(whole)) == 2
    assert tables(there) == tables(whole)
    assert lasting(there) == lasting(whole)


@pytest.mark.usefixtures("once")
def test_everything_on_the_cluster_finds_what_this_process_finds(
    run: Any, shards: Path, tmp_path: Path
) -> None:
    found = {}
    asked = ("--models=dummy", "--protocol=everything", "--chunk=3")
    for out, where in (("whole", ()), ("there", LOCAL)):
        done = run(*arguments(shards, tmp_path / out), *asked, *where)
        assert done.code == 0, done.err
        columns = [name for name in ImageRecall.model_fields if name != "duration_ms"]
        found[out] = read_instances(tmp_path / out / IMAGE_RECALL_NAME, columns)
    pd.testing.assert_frame_equal(found["there"], found["whole"])
    assert len(found["whole"]) == 11


class _Refs:
    """Stands for Ray: the first answer is an error of Ray's, all others are results."""

    def __init__(self, error: Exception) -> None:
        import ray

        self.exceptions = ray.exceptions
        self.killed: list[str] = []
        self._errors = [error]

    def wait(self, refs: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: Any) -> Any:
        if self._errors:
            raise self._errors.pop()
        return ref, ""  # what was made, and no tracebacks

    def kill(self, worker: str) -> None:
        self.killed.append(worker)


def test_a_worker_that_ray_ends_for_its_memory_is_replaced_and_its_part_given_again() -> None:
    import ray

    stand_in = _Refs(ray.exceptions.OutOfMemoryError("12 GB of 12 GB in use"))
    cluster = _Cluster.__new__(_Cluster)
    cluster._ray, cluster._sharding = stand_in, ShardingConfig(cluster="local")
    cluster._workers, cluster._running, cluster._again = {0: "first"}, {}, deque()
    cluster._new_worker = lambda: "second"  # type: ignore[method-assign]
    given: list[tuple[str, bool]] = []

    def hand_out(shards: Iterator[Shard]) -> None:
        job = cluster._again.popleft() if cluster._again else None
        part = next(shards, None) if job is None else job.shard
        if part is not None:
            given.append((cluster._workers[0], job is not None and job.careful))
            cluster._running[part.name] = 0, job or _Job(part, attempts=1)

    cluster._hand_out = hand_out  # type: ignore[method-assign]
    part = Shard("00000", "shards", "f", (), (), 1.0)
    assert list(cluster.run(iter([part]))) == ["00000"]
    assert stand_in.killed == ["first"]
    assert given == [("first", False), ("second", True)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--workers", "2"), "go with --cluster"),
        (("--cluster", "local", "--workers", "0"), "must be above 0"),
        (("--cluster", "local", "--worker-gpus", "-1"), "at least 0"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(
    run: Any, shards: Path, options: tuple[str, ...], said: str
) -> None:
    done = run("miou", "--models=dummy", "--dataset=sa1b", f"--root={shards}", *options)
    assert done.code == 2
    assert said in done.err
