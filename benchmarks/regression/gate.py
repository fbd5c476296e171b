"""The gate: facts about the models that depend neither on time nor on the network.

Sizes and arithmetic of every architecture, bytes of shipped weights, outputs of models of up to 20
million parameters for a fixed image (with shipped weights, otherwise with seeded random ones), and
accuracy on synthetic scenes. None of these is noisy, so any difference from the committed baseline
comes from a change.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from baselines import boundary
from baselines.boundary import adapter_call
from baselines.interface import (
    Prompts,
    Segmenter,
    SplitEncoder,
    StorableEmbedding,
    UInt8Array,
)
from baselines.registry import ModelEntry, build
from benchmarks.config.model_resolution import ResolvedModel, WeightsPolicy, resolve_models
from benchmarks.config.run_config import RunConfig
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.debugging import format_error
from benchmarks.evaluation.evaluate import evaluate
from benchmarks.latency import parameters
from benchmarks.prompts.protocols import GROUND_TRUTH, find_protocols
from benchmarks.prompts.samplers import prompt_sampler
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import Failure
from benchmarks.regression.snapshot import Fact
from mobilesam.errors import BenchError
from mobilesam.weights.checkpoint_specs import specs
from mobilesam.weights.checkpoints import SHIPPED

N_SCENES = 5
SEED = 0
PROTOCOLS = ("box", "center")
MIOU_TOLERANCE = 2e-3
"""Tolerance of a mean IoU between processors, as a fraction."""
ROUNDING = 1e-9
"""Tolerance of the mean IoU of models that compute with integers."""
MAX_FINGERPRINTED = 20_000_000
"""Models with more parameters are counted, but not run."""
N_PROJECTIONS = 6
FLOAT_TOLERANCE = 1e-3
"""Tolerance of a number of a fingerprint, as a share of the array's root mean square."""
AREA_TOLERANCE = 1e-3
"""Tolerance of the area of a mask, as a share of the image."""
N_PROMPTS = 3
_INTEGER_MODELS = frozenset(("box", "dummy"))


@dataclass(slots=True)
class GateFacts:
    """Facts, and failures of models whose facts could not be determined."""

    facts: list[Fact] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def runs_in_gate(entry: ModelEntry) -> bool:
    """Whether a wildcard selects a model: only models of this package that are not exported.

    An exported model has the networks of the model that it is made from.
    """
    return entry.derive is None and not entry.third_party


def find_facts(entries: Sequence[ModelEntry], reporter: Reporter) -> GateFacts:
    """Determines the facts of models, and of the scenes for their accuracy.

    Only shipped weights are used, so that the baseline is the same on every machine.
    """
    found = GateFacts()
    scenes = SyntheticDataset(N_SCENES, SEED)
    found.facts.extend(_data_facts(scenes))
    # Models that need no weights, and models whose weights are shipped.
    published = {name for name, spec in specs().items() if spec.shipped is not None}
    shipped = {entry.name: SHIPPED for entry in entries if entry.checkpoint in published}
    own = [
        entry
        for entry in entries
        if entry.checkpoint is None or entry.shipped is not None or entry.name in shipped
    ]
    policy = WeightsPolicy(shipped, offline=True)
    models = resolve_models(own, policy, device="cpu", precision="fp32", seed=SEED)
    resolved = {model.entry.name: model for model in models}
    with reporter.bar("facts", len(entries)) as bar:
        for entry in entries:
            bar.note(entry.name)
            try:
                found.facts.extend(_facts_of(entry, resolved.get(entry.name), scenes))
            except BenchError as error:
                failure = Failure(stage="gate", culprit=entry.name, why=format_error(error))
                found.failures.append(failure)
            bar.step(entry.name)
    _add_accuracy([model for model in models if model.trained], scenes, found, reporter)
    return found


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
    entry: ModelEntry, resolved: ResolvedModel | None, scenes: SyntheticDataset
) -> Iterator[Fact]:
    weights = None if resolved is None else resolved.options.checkpoint
    if weights is not None:
        yield Fact(subject=entry.name, what="weights file: bytes", value=weights.n_bytes)
        yield Fact(subject=entry.name, what="weights file: sha256", value=weights.sha256)
    rows = parameters.count(build(entry, entry.options(device="meta")))
    for row in rows:
        for what, value in (
            ("parameters", row.total),
            ("parameters used", row.used),
            ("FLOP", row.flops),
            ("bytes of weights", row.weight_bytes),
        ):
            if value is not None:
                yield Fact(subject=row.model, what=f"{row.component}: {what}", value=value)
    if (rows[-1].total or 0) <= MAX_FINGERPRINTED:
        options = entry.options(seed=SEED) if resolved is None else resolved.options
        exact = entry.name in _INTEGER_MODELS
        yield from model_facts(build(entry, options), scenes.scene(0).image, exact=exact)


def _add_accuracy(
    models: Sequence[ResolvedModel], scenes: SyntheticDataset, found: GateFacts, reporter: Reporter
) -> None:
    with tempfile.TemporaryDirectory() as name:
        config = RunConfig(
            command="mobilesam-bench gate",
            note=None,
            models=tuple(model.entry for model in models),
            weights_policy=WeightsPolicy({}),
            out=Path(name),
            threads=environment.default_threads(),
            seed=SEED,
            dataset=scenes,
            protocols=find_protocols(PROTOCOLS),
            references=(GROUND_TRUTH,),
        )
        result = evaluate(config, models, (), reporter)
    found.failures.extend(result.failures)
    for row in result.miou:
        if row.miou is not None:  # else such prompts are not supported, or its failure is recorded
            tolerance = ROUNDING if row.model in _INTEGER_MODELS else MIOU_TOLERANCE
            what = f"{row.protocol}: mIoU"
            found.facts.append(
                Fact(subject=row.model, what=what, value=(row.miou,), tolerance=tolerance)
            )


def fingerprint(array: npt.NDArray[Any]) -> tuple[float, ...]:
    """Mean, root mean square, and random projections of a non-empty array, in the array's unit.

    A projection is the sum of all values with fixed random signs, divided by the root of their
    number: it is about as large as one value, and changes with each of them.
    """
    values = np.asarray(array, np.float64).ravel()
    signs = np.random.default_rng(len(values))
    root = np.sqrt(len(values))
    projections = [
        float(np.where(signs.integers(0, 2, len(values), np.int8), values, -values).sum() / root)
        for _ in range(N_PROJECTIONS)
    ]
    return (float(values.mean()), float(np.sqrt(np.square(values).mean())), *projections)


def array_facts(subject: str, name: str, array: npt.NDArray[Any]) -> Iterator[Fact]:
    """Shape and fingerprint of an array."""
    yield Fact(subject=subject, what=f"{name}: shape", value="x".join(map(str, array.shape)))
    found = fingerprint(array)
    # An array of zeros has no scale.
    tolerance = FLOAT_TOLERANCE * (found[1] or 1.0)
    yield Fact(subject=subject, what=f"{name}: fingerprint", value=found, tolerance=tolerance)


def model_facts(model: Segmenter, image: UInt8Array, *, exact: bool) -> Iterator[Fact]:
    """Facts about the outputs for an (H, W, 3) uint8 RGB image and prompts of each kind.

    `exact` if the model computes with integers only, so that areas must not change.
    """
    name = model.info.name
    with adapter_call("prepare"):
        prepared = model.prepare(image)
        payload = prepared.payload
        preprocessed = payload.numpy() if hasattr(payload, "numpy") else None
    if preprocessed is not None:
        yield from array_facts(name, "preprocessed", preprocessed)
    with adapter_call("encode"):
        embedding = model.encode(prepared)
        model.synchronize()
    if isinstance(model, StorableEmbedding):
        for key, array in boundary.embedding_arrays(model, name, embedding).items():
            yield from array_facts(name, f"embedding {key}", array)
    if isinstance(model, SplitEncoder):
        return  # masks of a detector with random weights have no meaning
    height, width = size_hw = (int(image.shape[0]), int(image.shape[1]))
    draw = np.random.default_rng(N_PROMPTS)
    at = (draw.uniform(0.2, 0.8, (N_PROMPTS, 2)) * (width, height)).astype(np.float32)
    half = np.array([0.15 * width, 0.15 * height], np.float32)
    points = Prompts(points=at[:, None], labels=np.ones((N_PROMPTS, 1), np.int64))
    boxes = Prompts(boxes=np.concatenate([at - half, at + half], axis=1))
    for kind, prompts in {"points": points, "boxes": boxes}.items():
        if kind in model.info.supports:
            masks = boundary.decode(model, embedding, prompts, size_hw, multimask=True)
            if masks.low_res_logits is not None:
                yield from array_facts(name, f"{kind}: logits", masks.low_res_logits)
            yield from array_facts(name, f"{kind}: scores", masks.scores)
            areas = masks.masks.sum(axis=(2, 3), dtype=np.int64).ravel().tolist()
            value = " ".join(map(str, areas)) if exact else tuple(map(float, areas))
            tolerance = 0.0 if exact else AREA_TOLERANCE * masks.masks[0, 0].size
            what = f"{kind}: mask areas (px)"
            yield Fact(subject=name, what=what, value=value, tolerance=tolerance)
