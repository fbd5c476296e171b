"""Runs a teacher's encoder over images once, and keeps what it gives in an embedding store."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from baselines import boundary
from baselines.boundary import adapter_call
from baselines.interface import Segmenter, StorableEmbedding, UInt8Array
from baselines.sam_arrays import inner_size
from benchmarks.cli.progress import Reporter
from benchmarks.datasets.dataset import UnreadableImage
from benchmarks.distillation.filling import EmbedReport, Filling, StoreOptions, fill
from benchmarks.distillation.sources import ImageSource, NamedImage
from benchmarks.evaluation.run_model import explain
from mobilesam.distillation.store_format import Entry, Teacher, image_key
from mobilesam.distillation.store_writer import StoreWriter, to_storable
from mobilesam.errors import BenchError, DataError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["STAGE", "EmbedReport", "StoreOptions", "embed", "encode_image", "teacher_of"]

STAGE = "embed"
# A model that fails on so many images in a row fails for a reason of its own.
_GIVE_UP_AFTER = 10


def teacher_of(model: Segmenter, precision: str) -> Teacher:
    """What a store remembers of a model.

    Raises:
        UnsupportedError: Its embeddings cannot be kept, or have no fixed shape.
    """
    info = model.info
    if not isinstance(model, StorableEmbedding):
        raise UnsupportedError(
            f"{info.name} has no embeddings that can be kept; mobilesam and sam-vit-* have"
        )
    if info.input_size_px < 1:
        raise UnsupportedError(f"{info.name} takes images as they are: its embeddings differ")
    return Teacher(
        name=info.name,
        weights_sha256=info.weights.sha256,
        precision=precision,
        input_size_px=info.input_size_px,
    )


def encode_image(model: Segmenter, name: str, image: UInt8Array, key: str) -> tuple[Entry, Tensor]:
    """Makes one embedding as a store holds it.

    Args:
        model: A teacher, of which `teacher_of` has made sure.
        name: Of the image, for people.
        image: (H, W, 3) uint8 RGB.
        key: Its `image_key`.

    Returns:
        What a store says of it, and (C, h, w) float16 on the host.

    Raises:
        BenchError: The model fails on the image, or its embedding cannot be stored.
    """
    import torch

    assert isinstance(model, StorableEmbedding)  # noqa: S101 - by teacher_of
    embedding = boundary.encode(model, image)
    with adapter_call("embedding_arrays"):
        made = model.embedding_arrays(embedding)
    if len(made) != 1:
        raise DataError(f"{name}: one array an embedding can be kept, not {sorted(made)}")
    (features,) = made.values()
    size_hw = (int(image.shape[0]), int(image.shape[1]))
    inner_hw = inner_size(size_hw, model.info.input_size_px)
    return Entry(key, name, size_hw, inner_hw), to_storable(torch.from_numpy(features), name)


def embed(
    model: Segmenter,
    teacher: Teacher,
    source: ImageSource,
    options: StoreOptions,
    reporter: Reporter,
) -> EmbedReport:
    """Makes the embeddings that a store has not yet.

    The model must resize an image's longest side to its input size and pad to the right and
    below, as SAM's do.

    Args:
        model: The teacher.
        teacher: From `teacher_of`.
        source: Images.
        options: Where to and how.
        reporter: Told about progress.

    Raises:
        UsageError: The store was made by another teacher.
        WeightsError: With other weights.
        DataError: It cannot be written or is damaged, or there is no image.
    """

    def begin(writer: StoreWriter) -> Filling:
        return _Work(model, source, writer, options, reporter)

    return fill(teacher, source.name, options, reporter, begin)


class _Work(Filling):
    """One pass over the images, one after the other."""

    def __init__(
        self,
        model: Segmenter,
        source: ImageSource,
        writer: StoreWriter,
        options: StoreOptions,
        reporter: Reporter,
    ) -> None:
        super().__init__(writer, options, reporter)
        self._model = model
        self._source = source
        self._failed_in_a_row = 0

    def run(self) -> None:
        total, seen = self._source.n_images, 0
        with self._reporter.bar(f"{self._model.info.name} sees {self._source.name}", total) as bar:
            before = time.perf_counter()
            for seen, item in enumerate(self._source.images(), start=1):
                encoded = self._take(item)
                now = time.perf_counter()
                if encoded:
                    self.busy_s += now - before
                    self.warn_of_space(None if total is None else total - seen)
                before = time.perf_counter()
                bar.step(self._note(None if total is None else total - seen))
        if seen == 0:
            raise DataError(f"{self._source.name} holds no image")

    def _take(self, item: NamedImage | UnreadableImage) -> bool:
        """Sees to one image; tells whether it was encoded."""
        if isinstance(item, UnreadableImage):
            self.fail("data", item.name, item.reason)
            return False
        key = image_key(item.image)
        if key in self._writer:
            self.n_known += 1
            return False
        try:
            entry, embedding = encode_image(self._model, item.name, item.image, key)
        except BenchError as error:
            self.fail(STAGE, item.name, explain(error))
            self._failed_in_a_row += 1
            if self._failed_in_a_row == _GIVE_UP_AFTER:
                raise DataError(
                    f"{self._model.info.name} failed on {_GIVE_UP_AFTER} images in a row, the last "
                    f"time with: {explain(error)}"
                ) from error
            return False
        self._failed_in_a_row = 0
        # Outside of the above: a store that cannot be written ends the run.
        self.keep(entry, embedding)
        return True

    def _note(self, n_left: int | None) -> str:
        if self.rate is None:
            return f"{self.n_known} known" if self.n_known else ""
        left = "" if n_left is None else f", {timedelta(seconds=round(n_left / self.rate))} left"
        return f"{self.rate:.2f} images/s{left}"
