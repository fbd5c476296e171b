"""One model's pass over a dataset: ask, score, keep what is wanted, and account for the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import Field

from baselines.interface import Segmenter
from benchmarks.accuracy.asking import Answer, Asker
from benchmarks.accuracy.embeddings import EmbeddingCache
from benchmarks.accuracy.predictions import (
    PREDICTIONS_FOLDER,
    REFERENCES_NAME,
    Prediction,
    PredictionsInfo,
    predictions_path,
    save_predictions,
    save_references,
    to_prediction,
)
from benchmarks.accuracy.scoring import Pair, Scorer, Targets
from benchmarks.accuracy.stopwatch import Stopwatch
from benchmarks.accuracy.teachers import Teacher
from benchmarks.data.dataset import BadSample, Dataset, Instance, Sample
from benchmarks.data.prompt_rules import prompt_rule, to_prompts
from benchmarks.instances import InstanceRow
from benchmarks.manifests import Manifests
from benchmarks.model_pass import lost
from benchmarks.progress import Reporter
from benchmarks.protocols import AccuracyProtocol
from benchmarks.records import AccuracyTimeRow, Failure, Value, WeightsRow
from mobilesam.errors import UnsupportedError


class PassResult(Value):
    """All that one model's pass over a dataset gives."""

    rows: tuple[InstanceRow, ...] = ()
    failures: tuple[Failure, ...] = ()
    unsupported: dict[str, str] = Field(default_factory=dict)
    error: str | None = None
    time: AccuracyTimeRow | None = None


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
    """

    dataset: Dataset
    protocols: tuple[AccuracyProtocol, ...]
    pairs: tuple[Pair, ...]
    teachers: Mapping[str, Teacher]
    keep: bool
    out: Path
    cache: EmbeddingCache


@dataclass(slots=True)
class _Kept:
    """Answers and reference masks that will be written."""

    predictions: list[Prediction] = field(default_factory=list)
    instances: list[tuple[int, Instance]] = field(default_factory=list)

    def add(self, answer: Answer, sample: Sample) -> None:
        self.predictions.append(to_prediction(answer, sample))


def unsupported(model: Segmenter, protocols: Sequence[AccuracyProtocol]) -> dict[str, str]:
    """Why a model cannot take part in a protocol, by name of the protocol."""
    found = {}
    for protocol in protocols:
        rule = prompt_rule(protocol.prompt)
        example = np.zeros((1, len(rule.columns)), np.float32)
        if rule.labels is None:
            example[0, 2:] = 1
        try:
            model.require(to_prompts(rule, example))
        except UnsupportedError as error:
            found[protocol.name] = str(error)
    return found


def run_pass(
    model: Segmenter,
    weights: WeightsRow,
    plan: PassPlan,
    manifests: Manifests,
    reporter: Reporter,
) -> PassResult:
    """Asks a model all questions about all images, and scores the answers.

    An image that cannot be read is a failure of the result; the others go on.

    Raises:
        BenchError: The model fails, or the answers cannot be written.
    """
    name = model.info.name
    clock = Stopwatch()
    why_not = unsupported(model, plan.protocols)
    usable = [protocol for protocol in plan.protocols if protocol.name not in why_not]
    rows: list[InstanceRow] = []
    failures: list[Failure] = []
    kept = _Kept()
    if usable:
        asker = Asker(model, usable, manifests, clock, plan.cache)
        scorer = Scorer(name, plan.pairs)
        with reporter.bar(f"accuracy of {name}", plan.dataset.n_images) as bar:
            samples = plan.dataset.samples()
            while True:
                with clock("data"):
                    sample = next(samples, None)
                if sample is None:
                    break
                if isinstance(sample, BadSample):
                    failures.append(lost(sample))
                else:
                    rows.extend(_image(asker, scorer, sample, plan, clock, kept))
                bar.step()
        with clock("writing"):
            manifests.finish(whole=not failures)
            if plan.keep:
                _write(name, weights, plan, usable, manifests, kept)
    time = clock.row(name, plan.dataset.name)
    return PassResult(rows=tuple(rows), failures=tuple(failures), unsupported=why_not, time=time)


def _image(
    asker: Asker, scorer: Scorer, sample: Sample, plan: PassPlan, clock: Stopwatch, kept: _Kept
) -> list[InstanceRow]:
    with clock("data"):
        masks = [instance.mask() for instance in sample.instances]
        targets = Targets(sample.image_id, sample.instances, masks, plan.teachers)
    rows: list[InstanceRow] = []
    for answer in asker.answers(sample, masks):
        with clock("scoring"):
            rows.extend(scorer.score(answer, targets, sample.image_id))
        if plan.keep:
            with clock("writing"):
                kept.add(answer, sample)
    if plan.keep:
        kept.instances.extend((sample.image_id, instance) for instance in sample.instances)
    return rows


def _write(
    model: str,
    weights: WeightsRow,
    plan: PassPlan,
    protocols: Sequence[AccuracyProtocol],
    manifests: Manifests,
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
    )
    save_predictions(predictions_path(plan.out, model), info, kept.predictions)
    save_references(
        plan.out / PREDICTIONS_FOLDER / REFERENCES_NAME, plan.dataset.fingerprint, kept.instances
    )
