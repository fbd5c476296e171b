"""Measures two versions in one session; judges nothing.

For each model, sets of three fresh processes are started: one of the head, and two of the base,
whose difference is noise (one where something is measured once more). They take turns of some
milliseconds, in an order drawn anew each time, so that whatever the machine does meanwhile hits all
of them alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.regression.ab_process import Worker, WorkerError
from benchmarks.regression.ab_records import Answers, Samples, Session, Settings, Side, Stage
from benchmarks.regression.ab_turns import Key, TimedModel
from benchmarks.regression.worktrees import Tree

PROTOCOLS = ("box", "center")
TIMED_SCENE_SEED = 0


def default_accuracy_models() -> tuple[str, ...]:
    """The shipped models; until there are any, those that need no weights."""
    from baselines.registry import entries

    shipped = [name for name, entry in entries().items() if entry.shipped and entry.can_run]
    return tuple(shipped) or ("grabcut", "dummy")


def measure(
    base: Tree,
    head: Tree,
    settings: Settings,
    reporter: Reporter,
    only: Collection[Key] | None = None,
    *,
    stage: Stage = "first",
    number: int = 0,
) -> Session:
    """One session: times and memory in turns, and accuracy on the same prompts.

    Args:
        base: What the head is compared with.
        head: The version in question.
        settings: How much of what.
        reporter: Told about progress.
        only: Benchmarks (model, phase or protocol, prompts) to measure; None for all.
        stage: What the session is for.
        number: Of the session: each has an order of its own.
    """
    start = time.monotonic()
    here = environment.collect(settings.threads)
    trees: dict[Side, Tree] = {"base": base, "head": head}
    if only is None:  # what is measured once more needs no noise floor of its own
        trees["again"] = base
    samples, answers = _measured(trees, settings, reporter, only, number)
    return Session(
        stage=stage,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        base=base.info,
        head=head.info,
        settings=settings,
        environment=here,
        warnings=environment.warnings(here),
        samples=samples,
        answers=answers,
        duration_s=time.monotonic() - start,
    )


def _measured(
    trees: Mapping[Side, Tree],
    settings: Settings,
    reporter: Reporter,
    only: Collection[Key] | None,
    number: int,
) -> tuple[tuple[Samples, ...], tuple[Answers, ...]]:
    timed = [name for name in settings.models if _wanted(name, only, timed=True)]
    asked = [name for name in settings.accuracy_models if _wanted(name, only, timed=False)]
    samples: list[Samples] = []
    answers: list[Answers] = []
    with (
        tempfile.TemporaryDirectory() as name,
        reporter.bar("pairs", len(timed) * settings.pairs + len(asked)) as bar,
    ):
        folder = Path(name)
        image = _write_scenes(folder, settings, with_references=bool(asked))
        for model in timed:
            turns = TimedModel(model, trees, settings, image, only, number)
            for pair in range(settings.pairs):
                bar.note(f"{model} (pair {pair + 1})")
                turns.pair(pair)
                bar.step(model)
            samples += turns.samples()
        for model in asked:
            bar.note(f"accuracy of {model}")
            answers += _answers(model, trees, settings, folder, image)
            bar.step(model)
    return tuple(samples), tuple(answers)


def _wanted(model: str, only: Collection[Key] | None, *, timed: bool) -> bool:
    """Whether any benchmark of a model is asked for, of those with a clock or of the others."""
    if only is None:
        return True
    return any(name == model and (phase not in PROTOCOLS) == timed for name, phase, _ in only)


def _write_scenes(folder: Path, settings: Settings, *, with_references: bool) -> Path:
    """Writes the image that models are timed on, and the scenes; returns the image's file."""
    from benchmarks.prompts.samplers import prompt_sampler

    image = folder / "image.npy"
    np.save(image, SyntheticDataset(1, TIMED_SCENE_SEED).scene(0).image)
    if not with_references:
        return image
    for sample in SyntheticDataset(settings.scenes, settings.seed).samples():
        masks = [instance.mask() for instance in sample.instances]
        center = prompt_sampler("center")
        points = [
            center.sample(instance, mask, settings.seed)
            for instance, mask in zip(sample.instances, masks, strict=True)
        ]
        np.savez(
            folder / f"scene-{sample.image_id:04d}.npz",
            image=sample.image,
            boxes=np.array([instance.box for instance in sample.instances], np.float32),
            points=np.array(points, np.float32).reshape(-1, 2),
            masks=np.array(masks),
        )
    return image


def _answers(
    model: str,
    trees: Mapping[Side, Tree],
    settings: Settings,
    folder: Path,
    image: Path,
) -> list[Answers]:
    """Both versions answer the same prompts, at the same time: nothing here is timed."""
    sides: tuple[Side, ...] = ("base", "head")
    started = {
        side: Worker(trees[side], model, image, settings.threads, settings.seed) for side in sides
    }
    errors: dict[Side, str] = {}
    given: dict[Side, dict[str, Any]] = {}
    for worker in started.values():
        worker.post("accuracy", scenes=str(folder))
    for side, worker in started.items():
        try:
            worker.ready()
            given[side] = worker.answer()
        except WorkerError as error:
            errors[side] = str(error)
        worker.close()
    found = dict.fromkeys(name for each in given.values() for name in each["iou"])
    return [
        Answers(
            model=model,
            protocol=protocol,
            images=_images(given, protocol),
            base=_ious(given, "base", protocol),
            head=_ious(given, "head", protocol),
            errors=errors,
        )
        for protocol in found or PROTOCOLS[:1]
    ]


def _ious(given: Mapping[Side, dict[str, Any]], side: Side, protocol: str) -> tuple[float, ...]:
    return tuple(given[side]["iou"].get(protocol, ())) if side in given else ()


def _images(given: Mapping[Side, dict[str, Any]], protocol: str) -> tuple[int, ...]:
    """The image of every answer, the same for both sides, as either tells it."""
    told = (each["images"].get(protocol) for each in given.values())
    return next((tuple(images) for images in told if images is not None), ())
