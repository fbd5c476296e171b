"""A teacher's embeddings of the images of a part: what a worker makes of it, here or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from baselines.interface import Segmenter, UInt8Array
from baselines.registry import build
from benchmarks.config.model_resolution import PlannedModel
from benchmarks.datasets.dataset import ImageReader, Shard, UnreadableImage
from benchmarks.distillation.embed import STAGE, encode_image, teacher_of
from benchmarks.evaluation.prefetch import Lanes
from benchmarks.evaluation.run_model import explain
from benchmarks.records.record import Failure
from mobilesam.distillation.store_format import Entry, Teacher, image_key
from mobilesam.errors import BenchError, DataError, WeightsError
from mobilesam.fast.allocator import keep_buffers
from mobilesam.weights.cache import digest_file

Float16Array = npt.NDArray[np.float16]

_FAILED_SHARE = 0.05
_LEAST_FAILED = 3


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPart:
    """What came of a part. It can be sent to another process.

    Attributes:
        name: That of the part.
        n_images: Images that were tried.
        entries: One an embedding, in the order of images.
        embeddings: (C, h, w) float16 each; arrays and no tensors, as Ray maps arrays into memory
            where it would copy tensors through a pickle.
        n_known: Images whose embedding was there before, or that are equal to another.
        failures: Images that cannot be read, and those that the model failed at.
    """

    name: str
    n_images: int
    entries: tuple[Entry, ...]
    embeddings: tuple[Float16Array, ...]
    n_known: int
    failures: tuple[Failure, ...]

    @property
    def n_rows(self) -> int:
        """Embeddings that were made."""
        return len(self.entries)

    @property
    def n_failures(self) -> int:
        """Images without an embedding."""
        return len(self.failures)


@dataclass(frozen=True, slots=True, eq=False)
class EmbedPlan:
    """What is done with each part. It can be sent to another process.

    Attributes:
        model: The teacher, as planned.
        teacher: What the store remembers of it.
        threads: That the model is given.
        lanes: Threads that read images and compute their keys beside the model.
        code: `code_version` of who asks, which who works must share.
        known: Keys of images that need no embedding.
        built: The teacher itself, where it is in this process already.
    """

    model: PlannedModel
    teacher: Teacher
    threads: int
    lanes: int
    code: str
    known: frozenset[str] = field(default=frozenset(), repr=False)
    built: Segmenter | None = field(default=None, repr=False)

    def worker(self) -> EmbedWorker:
        """A new worker, in the process that calls this."""
        return EmbedWorker(self)


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """An image that was read, with its key."""

    name: str
    image: UInt8Array
    key: str


@dataclass(slots=True, eq=False)
class _Made:
    """What came of a part so far."""

    entries: list[Entry] = field(default_factory=list)
    embeddings: list[Float16Array] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    n_known: int = 0
    n_failed: int = 0


class EmbedWorker:
    """Does one part after the other.

    Args:
        plan: What is done with each.
    """

    def __init__(self, plan: EmbedPlan) -> None:
        self._plan = plan
        self._model = plan.built
        self._known = set(plan.known)
        self._lanes = Lanes(plan.lanes)
        keep_buffers()

    def run(self, part: Shard, poison: Mapping[int, str] | None = None) -> EmbeddedPart:
        """Makes the embeddings of a part.

        Args:
            part: Which.
            poison: Images, by position, that are known to bring a worker down, with the reason.

        Raises:
            DataError: The model fails at so many images that they are not to blame.
            WeightsError: The weights are not here, or are others than those of the driver.
        """
        model = self._teacher()
        part = part.without(poison or {})
        made = _Made()
        with closing(self._lanes.map(_look, part.readers, _weigh)) as looks:
            for look in looks:
                if isinstance(look, UnreadableImage):
                    made.failures.append(Failure(stage="data", culprit=look.name, why=look.reason))
                else:
                    self._take(model, part, look, made)
        # Not before all of it is made: a part that fails is made once more, in full.
        self._known.update(entry.key for entry in made.entries)
        return EmbeddedPart(
            name=part.name,
            n_images=len(part.readers),
            entries=tuple(made.entries),
            embeddings=tuple(made.embeddings),
            n_known=made.n_known,
            failures=tuple(made.failures),
        )

    def _take(self, model: Segmenter, part: Shard, look: _Look, made: _Made) -> None:
        """Sees to one image."""
        if look.key in self._known or any(entry.key == look.key for entry in made.entries):
            made.n_known += 1
            return
        try:
            entry, embedding = encode_image(model, look.name, look.image, look.key)
        except BenchError as error:
            why = explain(error)
            made.failures.append(Failure(stage=STAGE, culprit=look.name, why=why))
            made.n_failed += 1
            n_images = len(part.readers)
            if made.n_failed > _most_failed(n_images):
                raise DataError(
                    f"{model.info.name} failed on {made.n_failed} of {n_images} images, the last "
                    f"time with: {why}"
                ) from error
            return
        made.entries.append(entry)
        made.embeddings.append(embedding.numpy())

    def _teacher(self) -> Segmenter:
        """The model, built when the first part comes, so that its errors are told as those."""
        if self._model is None:
            _check_weights(self._plan.model)
            model = build(self._plan.model.entry, self._plan.model.options)
            wanted = self._plan.teacher
            found = teacher_of(model, wanted.precision)
            if found != wanted:
                raise WeightsError(
                    f"{wanted.name} is another model where a worker is ({found}) than where it was "
                    f"asked for ({wanted}); install the same there"
                )
            self._model = model
        return self._model

    def alone(self) -> EmbedWorker:
        """The same model in a worker where nothing overlaps."""
        found = EmbedWorker(replace(self._plan, lanes=0, known=frozenset(), built=self._teacher()))
        found._known = self._known
        return found

    def close(self) -> None:
        """Ends its threads."""
        self._lanes.close()


def _most_failed(n_images: int) -> int:
    """Number of images of a part that a teacher may fail on; it must succeed on at least one."""
    return min(max(_LEAST_FAILED, round(_FAILED_SHARE * n_images)), n_images - 1)


def _look(reader: ImageReader) -> UnreadableImage | _Look:
    sample = reader().sample
    if isinstance(sample, UnreadableImage):
        return sample
    return _Look(sample.name, sample.image, image_key(sample.image))


def _weigh(item: ImageReader | UnreadableImage | _Look) -> int:
    return item.image.nbytes if isinstance(item, _Look) else 0


def _check_weights(model: PlannedModel) -> None:
    """Refuses other weights under the same path: on another machine they may be another file."""
    checkpoint = model.options.checkpoint
    if checkpoint is None or checkpoint.path.is_dir():
        return
    if digest_file(checkpoint.path).sha256 != checkpoint.sha256:
        raise WeightsError(
            f"{checkpoint.path} holds other weights where a worker is than where it was asked for; "
            "copy the file there"
        )
