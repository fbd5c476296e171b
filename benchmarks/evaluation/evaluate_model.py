"""One model's pass over a dataset: ask, score, keep what is wanted, and account for the time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import Field

from baselines.boundary import adapter_call
from baselines.interface import BoolArray, Segmenter
from benchmarks.datasets.dataset import Dataset, Instance, Sample, UnreadableImage
from benchmarks.evaluation.embedding_cache import EmbeddingCache
from benchmarks.evaluation.predictions import (
    PREDICTIONS_FOLDER,
    REFERENCES_NAME,
    Prediction,
    PredictionsInfo,
    predictions_path,
    save_predictions,
    save_references,
    to_prediction,
)
from benchmarks.evaluation.prefetch import Lanes
from benchmarks.evaluation.prompt_runner import Answer, Asker, Made
from benchmarks.evaluation.reference_models import Teacher
from benchmarks.evaluation.run_model import (
    PROMPT_BATCH,
    Attempts,
    Trials,
    lost,
    nothing_read,
)
from benchmarks.evaluation.scoring import Pair, Scorer, Targets
from benchmarks.evaluation.stopwatch import Stage, Stopwatch
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import AccuracyProtocol
from benchmarks.prompts.samplers import prompt_sampler, to_prompts
from benchmarks.records.instances import InstanceRow
from benchmarks.records.progress import Reporter
from benchmarks.records.record import AccuracyTimeRow, Failure, WeightsRow
from mobilesam.errors import BenchError, UnsupportedError
from mobilesam.frozen_model import FrozenModel

STAGE = "miou"


class PassResult(FrozenModel):
    """Result of one model's pass over a dataset.

    Attributes:
        rows: Rows of the images that the model answered.
        failures: Images that cannot be read, and images that the model failed on.
        unsupported: Reason why the model does not support a protocol, by protocol name.
        error: Reason why there are no rows.
        time: Time spent in each stage.
        timed_with: Conditions of that time, as by `environment.timed_with`.
        attempts: Images that the model answered and failed on.
        lost_ids: Ids of the images without predictions.
    """

    rows: tuple[InstanceRow, ...] = ()
    failures: tuple[Failure, ...] = ()
    unsupported: dict[str, str] = Field(default_factory=dict)
    error: str | None = None
    time: AccuracyTimeRow | None = None
    timed_with: tuple[str, ...] = ()
    attempts: Attempts = Attempts()
    lost_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PassPlan:
    """What a pass is for.

    Attributes:
        dataset: Images and reference masks.
        protocols: Whose questions are asked.
        pairs: Which of them are scored, against what.
        teachers: The models among the references, by name.
        keep: Whether the answers are written to `out`.
        out: Folder of the run.
        cache: Of embeddings.
        lanes: What overlaps with the model.
        boundary: Boundary IoU is scored as well.
        whole: The dataset is complete, not part of a larger one, so that the pass stops if the
            model fails on each of the first images.
        key: SHA-256 of everything that determines the predictions, stored with those in `out`.
    """

    dataset: Dataset
    protocols: tuple[AccuracyProtocol, ...]
    pairs: tuple[Pair, ...]
    teachers: Mapping[str, Teacher]
    keep: bool
    out: Path
    cache: EmbeddingCache
    lanes: Lanes = field(default_factory=Lanes)
    boundary: bool = True
    whole: bool = True
    key: str | None = None


@dataclass(slots=True)
class _Kept:
    """What a pass leaves."""

    rows: list[InstanceRow] = field(default_factory=list)
    unread: list[Failure] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    instances: list[tuple[int, Instance]] = field(default_factory=list)
    lost_ids: list[int] = field(default_factory=list)
    n_images: int = 0
    _image_rows: list[InstanceRow] = field(default_factory=list)
    _image_predictions: list[Prediction] = field(default_factory=list)

    def add(self, scored: _Scored, *, keep: bool) -> None:
        """Adds part of the results for an image; they count once all of them have been added."""
        self._image_rows.extend(scored.rows)
        self._image_predictions.extend(scored.predictions)
        if not scored.is_last:
            return
        image = scored.image
        self.n_images += 1
        if isinstance(image, Sample):
            self.rows.extend(self._image_rows)
            self.predictions.extend(self._image_predictions)
        else:
            self.lost_ids.append(image.image_id)
        if isinstance(image, UnreadableImage):
            self.unread.append(lost(image))
        elif keep:  # other models need the reference masks even if this one failed
            sample = image if isinstance(image, Sample) else image.sample
            self.instances.extend((sample.image_id, each) for each in sample.instances)
        self._image_rows, self._image_predictions = [], []


def unsupported(model: Segmenter, protocols: Sequence[AccuracyProtocol]) -> dict[str, str]:
    """Why a model cannot take part in a protocol, by name of the protocol."""
    found = {}
    for protocol in protocols:
        rule = prompt_sampler(protocol.prompt)
        example = np.zeros((1, len(rule.columns)), np.float32)
        if rule.labels is None:
            example[0, 2:] = 1
        try:
            with adapter_call("require"):
                model.require(to_prompts(rule, example))
        except UnsupportedError as error:
            found[protocol.name] = str(error)
    return found


def run_pass(
    model: Segmenter,
    weights: WeightsRow,
    plan: PassPlan,
    manifests: ManifestStore,
    reporter: Reporter,
) -> PassResult:
    """Runs a model on all prompts of all images, and scores its masks.

    An image that cannot be read, or that the model fails on, becomes a failure in the result, and
    the pass continues. For a model that fails on each of the first images, the result has an error
    and no rows. Where stages overlap, a stage is charged with the time that the model waited for
    it.

    Raises:
        BenchError: The predictions cannot be written.
    """
    name = model.info.name
    clock = Stopwatch()
    why_not = unsupported(model, plan.protocols)
    usable = [protocol for protocol in plan.protocols if protocol.name not in why_not]
    kept, trials = _Kept(), Trials(name, STAGE, stop=plan.whole)
    if not usable:
        return PassResult(unsupported=why_not, time=clock.row(name, plan.dataset.name))
    prompts = manifests.begin_pass()
    asker = Asker(model, usable, prompts, clock, plan.cache)
    work = _Work(asker, Scorer(name, plan.pairs), plan, clock, trials)
    with (
        reporter.bar(f"accuracy of {name}", plan.dataset.n_images) as bar,
        closing(work.all()) as all_scored,
    ):
        for scored in all_scored:
            kept.add(scored, keep=plan.keep)
            if scored.is_last:
                bar.step()
    error = trials.attempts.broken if plan.whole else None
    if error is not None:
        return PassResult(
            failures=tuple(kept.unread),
            unsupported=why_not,
            error=error,
            attempts=trials.attempts,
            lost_ids=tuple(kept.lost_ids),
        )
    if kept.n_images == 0 and plan.whole:
        why = nothing_read(0)
        kept.unread.append(Failure(stage="data", culprit=plan.dataset.name, why=why))
    with clock("writing"):
        prompts.finish(whole=not kept.unread)
        if plan.keep:
            _write(name, weights, plan, usable, manifests, kept)
    return PassResult(
        rows=tuple(kept.rows),
        failures=(*kept.unread, *(trials.attempts.failures if plan.whole else ())),
        unsupported=why_not,
        time=clock.row(name, plan.dataset.name),
        attempts=trials.attempts,
        lost_ids=tuple(kept.lost_ids),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """An image with its reference masks and prompts."""

    sample: Sample
    targets: Targets
    masks: list[BoolArray]
    prompts: Made

    @property
    def n_bytes(self) -> int:
        return self.sample.image.nbytes + sum(mask.nbytes for mask in self.masks)


@dataclass(frozen=True, slots=True, eq=False)
class _Failed:
    """An image that the model fails on; results that it gave for this image before are dropped."""

    sample: Sample

    @property
    def image_id(self) -> int:
        return self.sample.image_id


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Some answers about an image, to be scored."""

    image: _Ready | _Failed | UnreadableImage
    answers: Sequence[Answer]
    is_last: bool

    @property
    def n_bytes(self) -> int:
        return sum(answer.masks.nbytes for answer in self.answers)


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """What is left of some answers about an image."""

    image: Sample | _Failed | UnreadableImage
    rows: list[InstanceRow]
    predictions: list[Prediction]
    is_last: bool


class _Work:
    """One pass: images are loaded and answers scored beside the model, as far as `lanes` lets them.

    A method that a lane runs charges its time only where the lane is the caller's own thread.
    """

    def __init__(
        self, asker: Asker, scorer: Scorer, plan: PassPlan, clock: Stopwatch, trials: Trials
    ) -> None:
        self._asker = asker
        self._scorer = scorer
        self._plan = plan
        self._clock = clock
        self._trials = trials

    def all(self) -> Generator[_Scored, None, None]:
        lanes = self._plan.lanes
        loaded = lanes.map(self._load, self._plan.dataset.loaders(), _weigh)
        scored = lanes.map(self._score, self._ask_all(loaded), _weigh)
        try:
            while True:
                with self._clock("scoring"):
                    found = next(scored, None)
                if found is None:
                    return
                yield found
        finally:
            scored.close()
            loaded.close()

    def _in_lane(self, stage: Stage) -> AbstractContextManager[None]:
        return self._clock(stage) if self._plan.lanes.inline else nullcontext()

    def _load(self, load: Callable[[], Sample | UnreadableImage]) -> _Ready | UnreadableImage:
        with self._in_lane("data"):
            sample = load()
            if isinstance(sample, UnreadableImage):
                return sample
            masks = [instance.mask() for instance in sample.instances]
            targets = Targets(
                sample.image_id,
                sample.instances,
                masks,
                self._plan.teachers,
                boundary=self._plan.boundary,
            )
        with self._in_lane("prompts"):
            prompts = self._asker.prompts(sample, masks)
        return _Ready(sample, targets, masks, prompts)

    def _ask_all(self, loaded: Iterator[_Ready | UnreadableImage]) -> Iterator[_Asked]:
        while not self._trials.given_up:
            with self._clock("data"):
                image = next(loaded, None)
            if image is None:
                return
            if isinstance(image, UnreadableImage):
                yield _Asked(image, (), is_last=True)
                continue
            yield from self._ask(image)

    def _ask(self, image: _Ready) -> Iterator[_Asked]:
        # Alone, each answer is scored before the next is there; in company a batch at once.
        size = 1 if self._plan.lanes.inline else PROMPT_BATCH
        answers = self._asker.answers(image.sample, image.masks, image.prompts)
        n_answers = 0
        while True:
            try:
                found = list(islice(answers, size))
            except BenchError as error:
                self._trials.failed(image.sample, error)
                yield _Asked(_Failed(image.sample), (), is_last=True)
                return
            if not found:
                break
            n_answers += len(found)
            yield _Asked(image, found, is_last=False)
        if n_answers:  # without prompts the model was not run
            self._trials.answered()
        yield _Asked(image, (), is_last=True)

    def _score(self, asked: _Asked) -> _Scored:
        image = asked.image
        if not isinstance(image, _Ready):
            return _Scored(image, [], [], asked.is_last)
        sample = image.sample
        rows: list[InstanceRow] = []
        predictions: list[Prediction] = []
        for answer in asked.answers:
            with self._in_lane("scoring"):
                rows.extend(self._scorer.score(answer, image.targets, sample.image_id))
            if self._plan.keep:
                with self._in_lane("writing"):
                    predictions.append(to_prediction(answer, sample))
        return _Scored(sample, rows, predictions, asked.is_last)


def _weigh(item: object) -> int:
    return item.n_bytes if isinstance(item, (_Ready, _Asked)) else 0


def _write(
    model: str,
    weights: WeightsRow,
    plan: PassPlan,
    protocols: Sequence[AccuracyProtocol],
    manifests: ManifestStore,
    kept: _Kept,
) -> None:
    rules = {protocol.prompt for protocol in protocols}
    hashes = {rule: manifests.sha256(rule) for rule in sorted(rules)}
    info = PredictionsInfo(
        model=model,
        dataset=plan.dataset.name,
        fingerprint=plan.dataset.fingerprint,
        weights=weights,
        protocols=tuple(protocol.name for protocol in protocols),
        manifests={rule: sha256 for rule, sha256 in hashes.items() if sha256 is not None},
        left_out={rule: manifests.left_out(rule) for rule in sorted(rules)},
        lost_ids=tuple(kept.lost_ids),
        key=plan.key,
    )
    save_predictions(predictions_path(plan.out, model), info, kept.predictions)
    save_references(
        plan.out / PREDICTIONS_FOLDER / REFERENCES_NAME, plan.dataset.fingerprint, kept.instances
    )
