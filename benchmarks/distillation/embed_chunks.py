"""Fills an embedding store from parts, which are worked on here or by the workers of a cluster.

Workers read and encode; what they make comes to one process, which holds the store and writes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from benchmarks.cli.progress import Reporter
from benchmarks.config.scale_options import ScaleRequest
from benchmarks.datasets.dataset import Shard
from benchmarks.distillation.embed import EmbedReport, StoreOptions
from benchmarks.distillation.embedding_shards import EmbeddedPart, EmbedPlan
from benchmarks.distillation.filling import Filling, fill
from benchmarks.evaluation.shard_tasks import execute_parts
from benchmarks.evaluation.throughput import Pace
from benchmarks.records.record import Failure
from mobilesam.distillation.store_writer import StoreWriter
from mobilesam.errors import DataError

DEFAULT_CHUNK_IMAGES = 50
"""Embeddings of SAM's size take 2 MB each, and those of a part are in memory at once."""
# A cluster that gives so many parts up in a row does so for a reason of its own.
_GIVE_UP_AFTER = 3


class CutImages(Protocol):
    """Images that can be cut into parts."""

    @property
    def name(self) -> str:
        """Short name for messages and records."""

    @property
    def n_images(self) -> int | None:
        """How many images all parts have; None where that is not known ahead."""

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields parts of at most so many images, in order, each when it is due."""


def embed_in_chunks(
    plan: EmbedPlan,
    source: CutImages,
    scale: ScaleRequest,
    options: StoreOptions,
    reporter: Reporter,
) -> EmbedReport:
    """Does what `embed` does, part by part: embeddings are kept when their part is finished.

    Args:
        plan: What is done with each part; the store tells what is known.
        source: Images.
        scale: How they are cut, and who works on them.
        options: Where to and how.
        reporter: Told about progress.

    Raises:
        UsageError: The store was made by another teacher, or the cluster cannot be used.
        WeightsError: With other weights.
        DataError: It cannot be written or is damaged, there is no image, or part after part fails.
    """

    def begin(writer: StoreWriter) -> Filling:
        known = replace(plan, known=frozenset(writer))
        return _Parts(known, source, scale, writer, options, reporter)

    return fill(plan.teacher, source.name, options, reporter, begin)


class _Parts(Filling):
    """One pass over all parts, in the order in which they are finished."""

    def __init__(
        self,
        plan: EmbedPlan,
        source: CutImages,
        scale: ScaleRequest,
        writer: StoreWriter,
        options: StoreOptions,
        reporter: Reporter,
    ) -> None:
        super().__init__(writer, options, reporter)
        self._plan = plan
        self._source = source
        self._scale = scale
        self._n_parts = 0
        self._failed_in_a_row = 0

    def run(self) -> None:
        total = self._source.n_images
        title = f"{self._plan.teacher.name} sees {self._source.name} in chunks"
        with self._reporter.bar(title, total) as bar:
            pace = Pace(bar)
            made = execute_parts(self._scale, self._plan, self._parts(pace))
            before = time.perf_counter()
            with closing(made):
                for found in made:
                    if isinstance(found, Failure):
                        self._give_up(found)
                    else:
                        self._take(found)
                        pace.done(found)
                        now = time.perf_counter()
                        if found.n_rows:
                            self.busy_s += now - before
                        self.warn_of_space(None if total is None else total - pace.n_images)
                    before = time.perf_counter()
                    del found  # its embeddings are not to be in memory beside those of the next
        if self._n_parts == 0:
            raise DataError(f"{self._source.name} holds no image")

    def _parts(self, pace: Pace) -> Iterator[Shard]:
        for part in self._source.shards(self._scale.chunk_images):
            self._n_parts += 1
            pace.given(part)
            yield part

    def _take(self, found: EmbeddedPart) -> None:
        import torch

        self._failed_in_a_row = 0
        self.n_known += found.n_known
        for failure in found.failures:
            self.fail(failure.stage, failure.culprit, failure.why)
        for entry, embedding in zip(found.entries, found.embeddings, strict=True):
            if entry.key in self._writer:  # equal to an image of a part that came before
                self.n_known += 1
            else:
                # A copy: what Ray maps into memory is read-only, and PyTorch has no such tensor.
                self.keep(entry, torch.from_numpy(embedding.copy()))

    def _give_up(self, failure: Failure) -> None:
        """Lists a part that could not be done, or ends the run if others before it could not."""
        self.fail(failure.stage, failure.culprit, failure.why)
        self._failed_in_a_row += 1
        if self._failed_in_a_row == _GIVE_UP_AFTER:
            raise DataError(
                f"{_GIVE_UP_AFTER} chunks in a row could not be done, the last because: "
                f"{failure.why}"
            )
