"""Measures two versions of the code in turns (A/B), and repeats what looks worse.

For each model, sets of three fresh processes are started: one of the head and two of the base,
whose difference is noise (one of the base in a repetition). They take turns of some milliseconds,
in random order, so that changes of the machine affect all of them alike. Accuracy is measured on
the same prompts. Samples are saved before they are judged (`benchmarks.regression.judge`).
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from baselines.interface import ModelOptions
from baselines.registry import entries, select
from benchmarks.config.from_options import listed
from benchmarks.config.options import RegressArguments
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.latency.controller import (
    Setup,
    Worker,
    WorkerError,
    fresh_processes,
    model_setup,
    turns,
)
from benchmarks.prompts.samplers import prompt_sampler
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.regression.judge import Judgement, judge
from benchmarks.regression.sessions import (
    LOAD,
    MEMORY,
    SIDES,
    AccuracySamples,
    Key,
    Phase,
    Samples,
    Session,
    Settings,
    Side,
    Stage,
    Turns,
    save_session,
    session_files,
)
from benchmarks.regression.worktrees import Tree
from mobilesam.errors import UsageError

PROTOCOLS = ("box", "center")
MAX_EXTENSIONS = 2
"""Maximum number of sessions that are added in each stage for unclear benchmarks."""
_TIMED_SCENE_SEED = 0
# At least two calls a turn, since one may be interrupted, unless they take too long.
_MIN_CALLS, _MAX_CALLS = 2, 50
_LONG_TURN = 8  # turns
_DECIMALS = 5  # of milliseconds, the resolution of the clock
# A process that waits for its turn must not keep a core busy.
_VARIABLES = {"PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "PASSIVE"}


def settings_of(arguments: RegressArguments) -> Settings:
    """Settings of a measurement from the options of `regress`; a `UsageError` if one is invalid."""

    def names(text: str) -> tuple[str, ...]:
        chosen = select(listed(text))
        if of_files := [entry.name for entry in chosen if entry.file_sha256 is not None]:
            raise UsageError(f"{', '.join(of_files)}: versions are compared by registered models")
        return tuple(entry.name for entry in chosen)

    given = arguments.accuracy_models
    accuracy = names(given) if given else ()
    if given is None:
        shipped = [name for name, entry in entries().items() if entry.shipped and entry.can_run]
        accuracy = tuple(shipped) or ("grabcut", "dummy")
    try:
        prompts = tuple(int(text) for text in listed(arguments.n_prompts))
    except ValueError as error:
        raise UsageError(f"--n-prompts takes numbers; got {arguments.n_prompts!r}") from error
    counts = {name: getattr(arguments, name) for name in ("pairs", "turns", "scenes", "threads")}
    for name, value in {**counts, "n-prompts": min(prompts, default=0)}.items():
        if value < 1:
            raise UsageError(f"--{name} must be at least 1; got {value}")
    models = names(arguments.models)
    return Settings(models=models, accuracy_models=accuracy, n_prompts=prompts, **counts)


def measure_into(
    folder: Path, base: Tree, head: Tree, settings: Settings, reporter: Reporter
) -> Session:
    """Measures all benchmarks once and saves the session in a folder without any."""
    if session_files(folder):
        raise UsageError(f"{folder} holds a measurement already; choose another --out")
    session = measure(base, head, settings, reporter)
    save_session(session, folder)
    return session


def run(
    folder: Path, base: Tree, head: Tree, settings: Settings, threshold: float, reporter: Reporter
) -> tuple[Judgement, tuple[Session, ...]]:
    """Measures and judges; adds processes for unclear benchmarks, and repeats suspect ones."""
    sessions: tuple[Session, ...] = (measure_into(folder, base, head, settings, reporter),)
    while True:
        judgement = judge(sessions, threshold)
        more = _next_session(judgement, sessions)
        if more is None:
            return judgement, sessions
        stage, keys, reason = more
        reporter.say(f"{len(keys)} {reason}")
        again = measure(base, head, settings, reporter, keys, stage=stage, number=len(sessions))
        save_session(again, folder)
        sessions = (*sessions, again)


def _next_session(
    judgement: Judgement, sessions: Sequence[Session]
) -> tuple[Stage, tuple[Key, ...], str] | None:
    """Stage, benchmarks and reason of the next session; None if the judgement is final."""
    made = Counter(session.stage for session in sessions)
    for stage in get_args(Stage):
        unclear = judgement.unclear(stage)
        if unclear and made[stage] <= MAX_EXTENSIONS:
            return stage, unclear, "unclear: measuring more"
        if judgement.suspects and not made["repetition"]:
            return "repetition", judgement.suspects, "suspect: measuring again"
    return None


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
    """Measures one session: times and memory in turns, and accuracy on the same prompts.

    `only` are the benchmarks to measure, by default all; each `number` has its own random order.
    """
    start = time.monotonic()
    here = environment.collect(settings.threads)
    trees: dict[Side, Tree] = {"base": base, "head": head}
    if only is None:  # a repetition needs no noise floor
        trees["again"] = base
    wanted = {(model, phase in PROTOCOLS) for model, phase, _ in only or ()}
    timed = [name for name in settings.models if only is None or (name, False) in wanted]
    scored = [name for name in settings.accuracy_models if only is None or (name, True) in wanted]
    samples: list[Samples] = []
    accuracy: list[AccuracySamples] = []
    with (
        tempfile.TemporaryDirectory() as name,
        reporter.bar("pairs", len(timed) * settings.pairs + len(scored)) as bar,
    ):
        folder = Path(name)
        image = _write_scenes(folder, settings, with_references=bool(scored))

        def setups(model: str) -> dict[Side, Setup]:
            options = ModelOptions(model, seed=settings.seed)
            return {
                side: model_setup(
                    options, image, settings.threads, tree=tree.path, shipped=True,
                    variables=_VARIABLES,
                )
                for side, tree in trees.items()
            }  # fmt: skip

        for model in timed:
            timing = _ModelTiming(model, settings, only)
            for pair in range(settings.pairs):
                bar.note(f"{model} (pair {pair + 1})")
                rng = np.random.default_rng([settings.order_seed, number, pair])
                timing.pair(setups(model), rng)
                bar.step(model)
            samples += timing.samples()
        for model in scored:
            bar.note(f"accuracy of {model}")
            both = setups(model)
            both.pop("again", None)
            accuracy += _accuracy(model, both, folder)
            bar.step(model)
    return Session(
        stage=stage,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        base=base.info,
        head=head.info,
        settings=settings,
        environment=here,
        warnings=environment.warnings(here),
        samples=tuple(samples),
        answers=tuple(accuracy),
        duration_s=time.monotonic() - start,
    )


def _write_scenes(folder: Path, settings: Settings, *, with_references: bool) -> Path:
    """Writes the image for timing, and the scenes for accuracy; returns the file of the image."""
    image = folder / "image.npy"
    np.save(image, SyntheticDataset(1, _TIMED_SCENE_SEED).scene(0).image)
    if not with_references:
        return image
    center = prompt_sampler("center")
    for sample in SyntheticDataset(settings.scenes, settings.seed).samples():
        masks = [instance.mask() for instance in sample.instances]
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


@dataclass(slots=True)
class _Collected:
    """Samples of one benchmark, with one entry a pair for each side."""

    sides: dict[Side, list[Turns]] = field(default_factory=lambda: {side: [] for side in SIDES})
    errors: dict[Side, str] = field(default_factory=dict)


@dataclass(slots=True)
class _ModelTiming:
    """Times one model of both versions, pair by pair.

    A process that fails leaves its error, and no samples of that phase and of later ones.
    """

    model: str
    settings: Settings
    only: Collection[Key] | None
    collected: defaultdict[Phase, _Collected] = field(
        default_factory=lambda: defaultdict(_Collected)
    )

    def pair(self, setups: Mapping[Side, Setup], rng: np.random.Generator) -> None:
        """Starts a process of each side, times all phases in turns, and reads their memory."""
        with fresh_processes(setups, rng) as workers:
            phases = self._phases(workers)
            for phase in dict.fromkeys(phase for own in phases.values() for phase in own):
                if self._is_wanted(phase):
                    sides = [side for side in workers if phase in phases[side]]
                    self._turns(phase, sides, workers, rng)
            if self._is_wanted((MEMORY, None)):
                for side in tuple(workers):
                    with self._surviving((MEMORY, None), side, workers):
                        peak = float(workers[side].ask("memory")["peak_rss_bytes"])
                        self.collected[MEMORY, None].sides[side].append(((peak,),))

    def samples(self) -> list[Samples]:
        """Samples of all pairs."""
        return [
            Samples(
                model=self.model,
                phase=phase,
                n_prompts=n_prompts,
                sides={side: tuple(pairs) for side, pairs in found.sides.items()},
                errors=found.errors,
            )
            for (phase, n_prompts), found in self.collected.items()
        ]

    def _phases(self, workers: dict[Side, Worker]) -> dict[Side, list[Phase]]:
        """Waits for the processes, and returns the phases of each side."""
        found: dict[Side, list[Phase]] = {}
        for side in tuple(workers):
            with self._surviving((LOAD, None), side, workers):
                workers[side].answer()
        for side in tuple(workers):
            with self._surviving((LOAD, None), side, workers):
                splits = workers[side].ask("first_call")["splits_decoding"]
                found[side] = [("preprocess", None), ("encode", None)]
                for n in self.settings.n_prompts:
                    found[side] += [("decode", n), *([("postprocess", n)] if splits else [])]
        return found

    def _turns(
        self,
        phase: Phase,
        sides: Sequence[Side],
        workers: dict[Side, Worker],
        rng: np.random.Generator,
    ) -> None:
        request = {"phase": phase[0], "n_prompts": phase[1]}
        first: dict[Side, float] = {}
        for side in sides:
            with self._surviving(phase, side, workers):
                # The first of two calls includes lazy set-up.
                first[side] = workers[side].ask("time", calls=2, **request)["ms"][-1]
        if not first:
            return
        # The same number for all sides, so that a slower one is measured in the same way.
        calls = calls_in_turn(min(first.values()), self.settings.turn_ms)
        taken: dict[Side, list[tuple[float, ...]]] = {side: [] for side in first}

        def running() -> list[Side]:
            return [side for side in taken if side in workers]

        for side in turns(running, self.settings.turns, rng):
            with self._surviving(phase, side, workers):
                times = workers[side].ask("time", calls=calls, **request)["ms"]
                taken[side].append(tuple(round(ms, _DECIMALS) for ms in times))
        for side in running():
            self.collected[phase].sides[side].append(tuple(taken[side]))

    @contextmanager
    def _surviving(self, phase: Phase, side: Side, workers: dict[Side, Worker]) -> Iterator[None]:
        """Records the error of a process that fails in the block, and continues without it."""
        try:
            yield
        except WorkerError as error:
            self.collected[phase].errors[side] = str(error)
            del workers[side]

    def _is_wanted(self, phase: Phase) -> bool:
        return self.only is None or (self.model, *phase) in self.only


def calls_in_turn(call_ms: float, turn_ms: float) -> int:
    """Number of calls of a given length that fill a turn."""
    least = _MIN_CALLS if _MIN_CALLS * call_ms <= _LONG_TURN * turn_ms else 1
    return int(np.clip(round(turn_ms / call_ms), least, _MAX_CALLS))


def _accuracy(model: str, setups: Mapping[Side, Setup], scenes: Path) -> list[AccuracySamples]:
    """Predicts masks with both versions for the same prompts, at the same time."""
    errors: dict[Side, str] = {}
    found: dict[Side, dict[str, Any]] = {}
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(setup)) for side, setup in setups.items()}
        for worker in workers.values():
            worker.post("accuracy", scenes=str(scenes))
        for side, worker in workers.items():
            try:
                worker.answer()
                found[side] = worker.answer()
            except WorkerError as error:
                errors[side] = str(error)

    def values(side: Side, protocol: str) -> tuple[float, ...]:
        return tuple(found[side]["iou"].get(protocol, ())) if side in found else ()

    protocols = dict.fromkeys(name for each in found.values() for name in each["iou"])
    images = {name: ids for each in found.values() for name, ids in each["images"].items()}
    return [
        AccuracySamples(
            model=model,
            protocol=protocol,
            images=tuple(images.get(protocol, ())),
            base=values("base", protocol),
            head=values("head", protocol),
            errors=errors,
        )
        for protocol in protocols or PROTOCOLS[:1]
    ]
