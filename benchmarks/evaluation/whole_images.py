"""Segment everything in chunks: a row for each image and model, of which averages are made later.

Recall adds up: what an image finds of its objects does not depend on other images, so that the mean
over images, each weighed by its objects, is the recall of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from baselines.interface import Segmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.dataset import Sample, Shard, ShardDataset, UnreadableImage
from benchmarks.datasets.detections import GroundTruthMask
from benchmarks.debugging import format_error
from benchmarks.evaluation.coco_eval import FoundMask, average_recall
from benchmarks.evaluation.everything import LIMITS, STAGE, ask_image, size_of, truth_of, warm_up
from benchmarks.evaluation.prefetch import Lanes
from benchmarks.evaluation.run_model import Trials, build_trained, lost, why_unable
from benchmarks.evaluation.shard_store import Chunk, ChunkInfo, Unable, chunk_key
from benchmarks.records.environment import code_version, machine
from benchmarks.records.instances import parquet_file
from benchmarks.records.record import BySize, Failure
from benchmarks.records.result_cache import content_key
from mobilesam.errors import BenchError
from mobilesam.frozen_model import FrozenModel

# COCO's: an object on the border between two sizes counts in both.
_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


class WholeImageRow(FrozenModel):
    """What one model found in one image.

    Attributes:
        n_objects: To be found.
        n_found: Masks that it gave.
        duration_ms: From the image in memory to its masks in memory.
        ar10: Average recall with the best 10 masks; None where there is nothing to find.
        ar100: With the best 100.
        ar1000: With the best 1000.
        n_small: Objects of this size.
        small: Average recall of them with the best 1000 masks.
    """

    image_id: int
    name: str
    model: str
    n_objects: int
    n_found: int
    duration_ms: float
    ar10: float | None
    ar100: float | None
    ar1000: float | None
    n_small: int
    n_medium: int
    n_large: int
    small: float | None
    medium: float | None
    large: float | None


@dataclass(frozen=True, slots=True)
class WholeImagePlan:
    """Segment everything of each part. It can be sent to another process.

    Attributes:
        run: `content_key` of code, configuration, weights and libraries.
        models: In the order of the tables.
        threads: That the models are given.
        lanes: Threads that load and score beside the model.
        code: `code_version` of who asks, which who works must share.
    """

    run: str
    models: tuple[ResolvedModel, ...]
    threads: int
    lanes: int
    code: str

    def worker(self) -> WholeImageWorker:
        """A new worker, in the process that calls this."""
        return WholeImageWorker(self)


def whole_image_plan(
    models: Sequence[ResolvedModel], threads: int, scale: ShardingConfig
) -> WholeImagePlan:
    """Plans to segment everything with some models.

    Args:
        models: In the order of the tables.
        threads: Threads that the models are given.
        scale: How the work is distributed. Chunks made on this machine are not used for another
            machine, since they hold times; on a cluster it is not known which machine makes which
            chunk.
    """
    is_here = scale.cluster in (None, "local")
    devices = dict.fromkeys(model.options.device for model in models) if is_here else ()
    key = content_key(
        {
            "kind": STAGE,
            "models": [model.key for model in models],
            "threads": threads,
            "machine": [machine(device) for device in devices],
        }
    )
    return WholeImagePlan(key, tuple(models), threads, scale.prefetch_threads, code_version())


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Masks of the models that did not fail on an image, to be scored."""

    image_id: int
    name: str
    size_hw: tuple[int, int]
    truth: list[GroundTruthMask]
    answers: tuple[tuple[str, float, list[FoundMask]], ...]

    @property
    def n_bytes(self) -> int:
        return sum(len(mask.rle["counts"]) for _, _, found in self.answers for mask in found)


class WholeImageWorker:
    """Does one part after the other.

    Args:
        plan: What is done with each.
    """

    def __init__(self, plan: WholeImagePlan) -> None:
        self._plan = plan
        self._models: dict[str, Segmenter | Unable] = {}
        self._warm: set[str] = set()
        self._lanes = Lanes(plan.lanes)

    def run(self, part: Shard, poison: Mapping[int, str] | None = None) -> Chunk:
        """Makes the chunk of a part; an image that a model fails on is left out for that model.

        Args:
            part: Which.
            poison: Images, by position, that are known to bring a worker down, with the reason.
        """
        part = part.without(poison or {})
        unable: dict[str, Unable] = {}
        able: dict[str, Segmenter] = {}
        for model in self._plan.models:
            name, built = model.entry.name, self._built(model)
            if isinstance(built, Unable):
                unable[name] = built
            else:
                able[name] = built
        done = _Pass(part, able, self._warm, self._lanes)
        rows = done.rows()
        blamed = [
            Failure(stage=STAGE, culprit=name, why=why.why)
            for name, why in unable.items()
            if why.status == "error"
        ]
        info = ChunkInfo(
            key=chunk_key(self._plan.run, part),
            n_images=len(part.readers),
            unable=unable,
            failures=tuple(blamed + done.unread),
            attempts={name: each.attempts for name, each in done.trials.items()},
            left_out=dict(done.dataset.left_out),
            problems=done.dataset.problems,
        )
        return Chunk(part.name, info, parquet_file(WholeImageRow, rows, info.metadata), len(rows))

    def _built(self, model: ResolvedModel) -> Segmenter | Unable:
        name = model.entry.name
        if name not in self._models:
            self._models[name] = _build(model)
        return self._models[name]

    def alone(self) -> WholeImageWorker:
        """The same models in a worker where nothing overlaps."""
        found = WholeImageWorker(replace(self._plan, lanes=0))
        found._models, found._warm = self._models, self._warm
        return found

    def close(self) -> None:
        """Ends its threads."""
        self._lanes.close()


def _build(model: ResolvedModel) -> Segmenter | Unable:
    why_not = why_unable(model)
    if why_not is not None:
        return Unable(status=why_not[0], why=why_not[1])
    try:
        built = build_trained(model)
    except BenchError as error:
        return Unable(status="error", why=format_error(error))
    if STAGE not in built.info.supports:
        why = f"{model.entry.name} has no mode that needs no prompt"
        return Unable(status="skipped", why=why)
    return built


class _Pass:
    """One look at all images of a part."""

    def __init__(
        self, part: Shard, models: Mapping[str, Segmenter], warm: set[str], lanes: Lanes
    ) -> None:
        self.dataset = ShardDataset(part)
        self.unread: list[Failure] = []
        self.trials = {name: Trials(name, STAGE, stop=False) for name in models}
        self._models = models
        self._warm = warm
        self._lanes = lanes

    def rows(self) -> list[WholeImageRow]:
        """By image, then by model."""
        with (
            closing(self._lanes.map(_load, self.dataset.loaders(), _weigh)) as loaded,
            closing(self._lanes.map(_score, self._asked(loaded), _weigh)) as scored,
        ):
            return [row for rows in scored for row in rows]

    def _asked(self, loaded: Iterator[Sample | UnreadableImage]) -> Iterator[_Asked]:
        for sample in loaded:
            if isinstance(sample, UnreadableImage):
                self.unread.append(lost(sample))
            else:
                yield self._ask(sample)

    def _ask(self, sample: Sample) -> _Asked:
        answers = []
        for name, model in self._models.items():
            try:
                if name not in self._warm:
                    warm_up(model, sample)
                    self._warm.add(name)
                answers.append((name, *ask_image(model, sample)))
            except BenchError as error:
                self.trials[name].failed(sample, error)
            else:
                self.trials[name].answered()
        return _Asked(
            sample.image_id, sample.name, size_of(sample), truth_of(sample), tuple(answers)
        )


def _load(loader: Callable[[], Sample | UnreadableImage]) -> Sample | UnreadableImage:
    return loader()


def _weigh(item: object) -> int:
    if isinstance(item, Sample):
        return int(item.image.nbytes)
    return item.n_bytes if isinstance(item, _Asked) else 0


def _score(asked: _Asked) -> list[WholeImageRow]:
    n_by_size = {
        name: sum(low <= mask.area_px <= high for mask in asked.truth)
        for name, (low, high) in _SIZES.items()
    }
    rows = []
    for model, duration_ms, found in asked.answers:
        at: tuple[float | None, ...] = (None,) * len(LIMITS)
        by_size = BySize()
        if asked.truth:
            recall = average_recall({0: asked.size_hw}, asked.truth, found, LIMITS)
            at, by_size = recall.at, recall.by_size
        figures: dict[str, Any] = {
            **dict(zip(("ar10", "ar100", "ar1000"), at, strict=True)),
            **{f"n_{name}": n for name, n in n_by_size.items()},
            **{name: getattr(by_size, name) for name in _SIZES},
        }
        rows.append(
            WholeImageRow(
                image_id=asked.image_id,
                name=asked.name,
                model=model,
                n_objects=len(asked.truth),
                n_found=len(found),
                duration_ms=duration_ms,
                **figures,
            )
        )
    return rows
