"""`distill embed --cluster`: the embeddings of one process, whoever dies."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_distill_embed import EMBED, start

from mobilesam.distillation.store import EmbeddingStore
from mobilesam.distillation.store_format import PENDING_NAME

pytest.importorskip("ray", reason="Ray is not installed (extra cluster)")

pytestmark = [
    pytest.mark.usefixtures("package"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]
LOCAL = ("--cluster=local", "--workers=2", "--threads=1")


@pytest.fixture(autouse=True)
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def embeddings(folder: Path) -> dict[str, bytes]:
    store = EmbeddingStore(folder)
    return {entry.key: store.get(entry.key).features.numpy().tobytes() for entry in store.entries}


def test_a_cluster_makes_the_same_embeddings_and_a_killed_driver_is_taken_up(
    run: Any, pictures: Path, package: Path, tmp_path: Path, encoded: Callable[[], list[str]]
) -> None:
    assert run(*EMBED[:3], "--out=whole", f"--images={pictures}").code == 0
    pending = tmp_path / "s" / PENDING_NAME
    options = ("--chunk=1", *LOCAL)
    driver = start(tmp_path / "s", pictures, package, *options, encode_s=0.3)
    while len(list(pending.glob("[0-9]*"))) < 3 and driver.poll() is None:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    n_kept = len(list(pending.glob("[0-9]*")))
    assert 3 <= n_kept < 12
    again = start(tmp_path / "s", pictures, package, *options)
    outcome, _ = again.communicate()
    assert again.returncode == 0
    found = json.loads(outcome)
    assert (found["n_encoded"], found["n_known"], found["failures"]) == (12 - n_kept, n_kept, [])
    assert embeddings(tmp_path / "s") == embeddings(tmp_path / "whole")
    # Each of the two workers had one in hand at most.
    assert len(encoded()) <= 12 + 12 + 2


def test_an_image_that_kills_workers_is_listed_and_all_others_are_embedded(
    run: Any, pictures: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "a.jpg").write_bytes(b"no picture")
    assert run(*EMBED[:3], "--out=whole", f"--images={pictures}").code == 1
    Image.fromarray(np.full((8, 8, 3), 14, np.uint8)).save(pictures / "p04-killer.png")
    monkeypatch.setenv("TINY_KILL", "14")
    driver = start(tmp_path / "s", pictures, package, "--chunk=7", *LOCAL)
    outcome, _ = driver.communicate()
    assert driver.returncode == 1
    found = json.loads(outcome)
    skipped = {each["culprit"]: each["why"] for each in found["failures"]}
    assert sorted(skipped) == ["a.jpg", "p04-killer.png"]
    assert "brings down every worker" in skipped["p04-killer.png"]
    assert embeddings(tmp_path / "s") == embeddings(tmp_path / "whole")
