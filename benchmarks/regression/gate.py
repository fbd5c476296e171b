"""The gate: everything that can be known of the models without a clock and without a network.

Sizes and arithmetic of every architecture, the bytes of shipped weights, outputs for a fixed image
of models of up to 20 million parameters (with shipped weights, else with weights from a fixed
seed), and accuracy on synthetic scenes. None of these is noisy, so any difference from the
committed baseline comes from a change.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from baselines.options import ModelOptions
from baselines.registry import ModelEntry, build
from benchmarks.config.model_resolution import ResolvedModel, WeightsPolicy, resolve_models
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.debugging import format_error
from benchmarks.evaluation.evaluate import AccuracyPlan, evaluate
from benchmarks.latency import parameters
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import GROUND_TRUTH, find_protocols
from benchmarks.prompts.samplers import prompt_sampler
from benchmarks.records.progress import Reporter
from benchmarks.records.record import Failure, ParamsRow
from benchmarks.records.result_cache import ResultCache
from benchmarks.regression.fingerprints import array_facts, model_facts
from benchmarks.regression.snapshot import Fact
from mobilesam.errors import BenchError
from mobilesam.weights.checkpoint_specs import specs
from mobilesam.weights.checkpoints import SHIPPED

N_SCENES = 5
SEED = 0
PROTOCOLS = ("box", "center")
MIOU_TOLERANCE = 2e-3
"""How far a mean IoU may move between processors, as a fraction."""
ROUNDING = 1e-9
"""The same for models that compute with integers: only the mean itself is rounded."""
MAX_FINGERPRINTED = 20_000_000
"""Models with more parameters than this are counted, and not run."""
_INTEGERS_ALONE = frozenset(("box", "dummy"))


@dataclass(slots=True)
class GateFacts:
    """All that was found, and what could not be."""

    facts: list[Fact] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def runs_in_gate(entry: ModelEntry) -> bool:
    """Whether a wildcard of the gate stands for a model: ours, and not made by exporting another.

    An exported model's networks are counted as those of the model that it is made from.
    """
    return entry.derive is None and not entry.third_party


def find_facts(entries: Sequence[ModelEntry], reporter: Reporter) -> GateFacts:
    """Finds the facts of models, and of the scenes that their accuracy is measured on.

    Args:
        entries: The models. Their shipped weights are used, and no others, so that the same
            baseline holds on every machine.
        reporter: Told about progress.
    """
    found = GateFacts()
    scenes = SyntheticDataset(N_SCENES, SEED)
    found.facts.extend(_data_facts(scenes))
    planned = {model.entry.name: model for model in _planned(entries)}
    with reporter.bar("facts", len(entries)) as bar:
        for entry in entries:
            bar.note(entry.name)
            try:
                found.facts.extend(_facts_of(entry, planned.get(entry.name), scenes))
            except BenchError as error:
                failure = Failure(stage="gate", culprit=entry.name, why=format_error(error))
                found.failures.append(failure)
            bar.step(entry.name)
    _add_accuracy([model for model in planned.values() if model.trained], scenes, found, reporter)
    return found


def _planned(entries: Sequence[ModelEntry]) -> list[ResolvedModel]:
    """Models that need no weights, and models whose weights are in this package."""
    published = {name for name, spec in specs().items() if spec.shipped is not None}
    shipped = {entry.name: SHIPPED for entry in entries if entry.checkpoint in published}
    own = [
        entry
        for entry in entries
        if entry.checkpoint is None or entry.shipped is not None or entry.name in shipped
    ]
    policy = WeightsPolicy(shipped, offline=True)
    return resolve_models(own, policy, device="cpu", precision="fp32", seed=SEED)


def _data_facts(scenes: SyntheticDataset) -> Iterator[Fact]:
    masks = hashlib.sha256()
    prompts = {protocol.prompt: hashlib.sha256() for protocol in find_protocols(PROTOCOLS)}
    for sample in scenes.samples():
        for instance in sample.instances:
            masks.update(repr((instance.category, sorted(instance.rle.items()))).encode())
            for name, digest in prompts.items():
                made = prompt_sampler(name).sample(instance, instance.mask(), SEED)
                digest.update(b"none" if made is None else made.tobytes())
    hashes = {"recipe": scenes.fingerprint, "reference masks": masks.hexdigest()}
    hashes |= {f"prompts {name}": digest.hexdigest() for name, digest in prompts.items()}
    for what, value in hashes.items():
        yield Fact(subject=scenes.name, what=f"{what} sha256", value=value)
    yield from array_facts(scenes.name, "first image", scenes.scene(0).image)


def _facts_of(
    entry: ModelEntry, planned: ResolvedModel | None, scenes: SyntheticDataset
) -> Iterator[Fact]:
    weights = None if planned is None else planned.options.checkpoint
    if weights is not None:
        yield Fact(subject=entry.name, what="weights file: bytes", value=weights.n_bytes)
        yield Fact(subject=entry.name, what="weights file: sha256", value=weights.sha256)
    rows = parameters.count(build(entry, ModelOptions(entry.name, device="meta")))
    for row in rows:
        yield from _count_facts(row)
    if (rows[-1].total or 0) <= MAX_FINGERPRINTED:
        options = ModelOptions(entry.name, seed=SEED) if planned is None else planned.options
        exact = entry.name in _INTEGERS_ALONE
        yield from model_facts(build(entry, options), scenes.scene(0).image, exact=exact)


def _count_facts(row: ParamsRow) -> Iterator[Fact]:
    counted = {
        "parameters": row.total,
        "parameters used": row.used,
        "FLOP": row.flops,
        "bytes of weights": row.weight_bytes,
    }
    for what, value in counted.items():
        if value is not None:
            yield Fact(subject=row.model, what=f"{row.component}: {what}", value=value)


def _add_accuracy(
    models: Sequence[ResolvedModel], scenes: SyntheticDataset, found: GateFacts, reporter: Reporter
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = AccuracyPlan(scenes, find_protocols(PROTOCOLS), (GROUND_TRUTH,), folder)
        manifests = ManifestStore(scenes.fingerprint, SEED, folder)
        result = evaluate(models, (), work, manifests, ResultCache(folder / "cells"), reporter)
    found.failures.extend(result.failures)
    for row in result.rows:
        if row.miou is None:
            continue  # it takes no such prompts, or its failure has been noted
        tolerance = ROUNDING if row.model in _INTEGERS_ALONE else MIOU_TOLERANCE
        found.facts.append(
            Fact(
                subject=row.model,
                what=f"{row.protocol}: mIoU",
                value=(row.miou,),
                tolerance=tolerance,
            )
        )
