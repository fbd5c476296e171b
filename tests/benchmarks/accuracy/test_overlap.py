"""A pass whose stages overlap gives the rows of one that does one thing after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from baselines.dummy import DummySegmenter
from baselines.interface import Prepared, UInt8Array
from benchmarks.accuracy.embeddings import EmbeddingCache
from benchmarks.accuracy.passes import ImageError, PassPlan, PassResult, run_pass
from benchmarks.data.make import write_sa1b
from benchmarks.data.parts import PartDataset
from benchmarks.data.sa1b_parts import Sa1bParts
from benchmarks.data.synthetic import SyntheticDataset
from benchmarks.lanes import Lanes
from benchmarks.manifests import Manifests
from benchmarks.progress import Reporter
from benchmarks.protocols import GROUND_TRUTH, find
from benchmarks.records import WeightsRow

PROTOCOLS = find(("box", "box-multi", "center-oracle", "random-2", "clicks-3", "annotation-point"))


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> PartDataset:
    folder = tmp_path_factory.mktemp("pairs")
    write_sa1b(SyntheticDataset(n_images=6, seed=4, size_hw=(48, 64)), folder)
    (folder / "sa_3.jpg").write_bytes(b"not a picture")
    (whole,) = Sa1bParts(folder).parts(10)
    return PartDataset(whole)


def passed(part: PartDataset, n_threads: int, out: Path, model: DummySegmenter) -> PassResult:
    lanes = Lanes(n_threads, budget_bytes=10_000)
    pairs = tuple((protocol, GROUND_TRUTH) for protocol in PROTOCOLS)
    plan = PassPlan(part, PROTOCOLS, pairs, {}, False, out, EmbeddingCache(None), lanes)
    manifests = Manifests(part.fingerprint, 0, out)
    try:
        return run_pass(model, WeightsRow(kind="none"), plan, manifests, Reporter(quiet=True))
    finally:
        lanes.close()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_overlap_changes_no_row(part: PartDataset, n_threads: int, tmp_path: Path) -> None:
    alone = passed(part, 0, tmp_path / "alone", DummySegmenter(delays_ms={}))
    together = passed(part, n_threads, tmp_path / "together", DummySegmenter(delays_ms={}))
    assert together.rows == alone.rows
    assert together.failures == alone.failures
    assert len(alone.failures) == 1
    assert len({row.protocol for row in alone.rows}) == 8


class Picky(DummySegmenter):
    """Fails at its third image."""

    def __init__(self) -> None:
        super().__init__(delays_ms={})
        self.seen = 0

    def prepare(self, image: UInt8Array) -> Prepared:
        self.seen += 1
        if self.seen == 3:
            raise RuntimeError("too green")
        return super().prepare(image)


@pytest.mark.parametrize("n_threads", [0, 2])
def test_a_model_that_fails_says_at_which_image(
    part: PartDataset, n_threads: int, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="RuntimeError: too green") as caught:
        passed(part, n_threads, tmp_path, Picky())
    assert caught.value.position == 2
