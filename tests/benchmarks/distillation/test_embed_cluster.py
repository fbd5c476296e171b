"""`distill embed --cluster`: the same embeddings as one process, also when processes die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_embed import EMBED, start

from benchmarks.config.run_config import ShardingConfig
from benchmarks.evaluation import ray_backend
from mobilesam.distillation.embedding_store import EmbeddingStore

pytest.importorskip("ray", reason="Ray is not installed (extra cluster)")

pytestmark = [
    pytest.mark.usefixtures("package"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]
LOCAL = ("--cluster=local", "--workers=2", "--threads=1")


@pytest.fixture(scope="module")
def cluster(site: Path) -> Iterator[None]:
    """One cluster for the commands of this process, since its start takes most of the time."""
    import ray

    shutdown = ray.shutdown
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("TINY_KILL", "14")
        connected = ray_backend._connect(ShardingConfig(cluster="local", workers=2))
        patch.setattr(ray_backend, "_connect", lambda _: connected)
        patch.setattr(ray, "shutdown", lambda: None)
        yield
        shutdown()


def embeddings(folder: Path) -> dict[str, bytes]:
    store = EmbeddingStore(folder)
    return {entry.key: store.get(entry.key).features.numpy().tobytes() for entry in store.entries}


@pytest.mark.usefixtures("cluster")
def test_cluster_makes_the_same_embeddings_after_a_killed_driver(
    run: Any, pictures: Path, package: Path, tmp_path: Path, encoded: Callable[[], list[str]]
) -> None:
    assert run(*EMBED[:3], "--out=whole", f"--images={pictures}").code == 0
    options = ("--chunk=1", *LOCAL)
    driver = start(tmp_path / "s", pictures, package, *options, encode_s=0.3)
    while len(encoded()) < 12 + 3 and driver.poll() is None:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    again = run(*EMBED, f"--images={pictures}", "--json", *options)
    assert again.code == 0
    assert (again.json["n_encoded"], again.json["failures"]) == (12, [])
    assert embeddings(tmp_path / "s") == embeddings(tmp_path / "whole")


@pytest.mark.usefixtures("cluster")
def test_image_that_kills_workers_is_listed(run: Any, pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.jpg").write_bytes(b"no picture")
    assert run(*EMBED[:3], "--out=whole", f"--images={pictures}").code == 1
    Image.fromarray(np.full((8, 8, 3), 14, np.uint8)).save(pictures / "p04-killer.png")
    done = run(*EMBED, f"--images={pictures}", "--json", "--chunk=7", *LOCAL)
    assert done.code == 1
    skipped = {each["culprit"]: each["why"] for each in done.json["failures"]}
    assert sorted(skipped) == ["a.jpg", "p04-killer.png"]
    assert "brings down every worker" in skipped["p04-killer.png"]
    assert embeddings(tmp_path / "s") == embeddings(tmp_path / "whole")
