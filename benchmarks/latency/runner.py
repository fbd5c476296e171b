"""Times models in fresh processes, interleaved in random order, and summarises the samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import TypeAdapter

from baselines.interface import ModelInfo, ModelOptions
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import Profile, RunConfig
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.latency.controller import (
    ANSWER_LIMIT_S,
    Answer,
    Worker,
    WorkerError,
    model_setup,
    shuffled,
)
from benchmarks.latency.timer import StopRule, milliseconds
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import Failure, LatencyRow, MemoryRow, Status
from benchmarks.records.result_cache import CACHE_FOLDER, ResultCache
from benchmarks.records.statistics import summarise_times
from mobilesam.frozen_model import FrozenModel

IMAGE_HW = (480, 640)
_LIMIT_FACTOR = 4.0
_SLOW_FACTOR = 2.0
"""A call expected to take this many times the cap is skipped."""
_GRID_PROMPTS = 32**2  # prompts of segment everything, by default
_DETECTOR = "a detector's search for masks depends on its weights: timed only with trained ones"
_EVERYTHING = "how many masks are kept depends on the weights: timed only with trained ones"


@dataclass(slots=True)
class LatencyResult:
    """Rows for the record, by its fields."""

    latency: list[LatencyRow] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def rows(self) -> dict[str, list[Any]]:
        """Arguments of `RecordBuilder.add`."""
        return {"latency": self.latency, "memory": self.memory, "failures": self.failures}


class PhaseLine(FrozenModel):
    """One finished, skipped or failed phase of one process."""

    phase: str
    n_prompts: int | None = None
    status: Status = "ok"
    why: str | None = None
    samples_ms: tuple[float, ...] = ()
    warmup_calls: int = 0
    warnings: tuple[str, ...] = ()


class MemoryLine(FrozenModel):
    """Memory of a process after all phases, in bytes."""

    rss_before_load_bytes: int
    peak_rss_bytes: int
    weight_bytes: int
    cuda_peak_allocated_bytes: int | None = None
    cuda_peak_reserved_bytes: int | None = None


class Round(FrozenModel):
    """Measurements of one process."""

    phases: tuple[PhaseLine, ...]
    memory: MemoryLine | None = None
    error: str | None = None


def measure(
    config: RunConfig,
    models: Sequence[ResolvedModel],
    infos: Mapping[str, ModelInfo],
    reporter: Reporter,
) -> LatencyResult:
    """Times every model; a model that cannot be timed gets an error row.

    In each round, every model runs once in a process of its own, in a new random order. Finished
    rounds are cached in the folder of the run.

    Args:
        config: Configuration with a profile.
        models: Models in the order of the tables.
        infos: Descriptions of the models that can be built, by name.
        reporter: Reports progress.
    """
    assert config.profile is not None  # noqa: S101 - without a profile nothing is timed
    cells = ResultCache(config.out / CACHE_FOLDER)
    rounds: dict[str, list[Round]] = {model.entry.name: [] for model in models}
    results: dict[str, LatencyResult] = {}
    usable = [model for model in models if model.error is None and model.entry.name in infos]
    rng = np.random.default_rng(config.seed)
    n_rounds = config.profile.processes
    with (
        tempfile.TemporaryDirectory() as folder,
        reporter.bar("latency", n_rounds * len(usable)) as bar,
    ):
        image = Path(folder) / "image.npy"
        np.save(image, SyntheticDataset(1, config.seed, IMAGE_HW).scene(0).image)
        for index in range(n_rounds):
            for model in shuffled(usable, rng):
                name = model.entry.name
                bar.note(f"{name} (process {index + 1})")
                rounds[name].append(
                    _round(model.options, config.profile, config.threads, index, image, cells)
                )
                if len(rounds[name]) == n_rounds:
                    results[name] = _summarise(model, infos[name], rounds[name], config)
                    reporter.say(f"{name}: {headline(results[name].latency)}")
                bar.step(name)
    result = LatencyResult()
    for model in models:
        name = model.entry.name
        if name in results:
            for field_name, rows in results[name].rows().items():
                getattr(result, field_name).extend(rows)
        else:
            why = model.error or f"{name} cannot be built; see the failures of the run"
            failed = PhaseLine(phase="load", status="error", why=why)
            result.latency.append(_row(model, infos.get(name), [failed], config.threads))
    return result


def headline(rows: Sequence[LatencyRow]) -> str:
    """Main times of a model in one line: encode, decode with one prompt, and end to end."""
    wanted = {
        "encode": ("encode", None),
        "decode": ("decode", 1),
        "end to end": ("end_to_end", 1),
    }
    times = {(row.phase, row.n_prompts): row for row in rows}
    parts = []
    for label, key in wanted.items():
        row = times.get(key)
        if row is not None and row.median_ms is not None:
            parts.append(f"{label} {milliseconds(row.median_ms)}")
        elif row is not None:
            parts.append(f"{label} {row.status}")
    return ", ".join(parts) or "not timed"


def _round(
    options: ModelOptions,
    profile: Profile,
    threads: int,
    index: int,
    image: Path,
    cells: ResultCache,
) -> Round:
    """One round of a model, from the cache if it is there."""
    key = {
        "kind": "latency",
        "round": index,
        "options": TypeAdapter(ModelOptions).dump_python(options, mode="json"),
        "rule": asdict(profile.rule),
        "n_prompts": profile.n_prompts,
        "threads": threads,
        "image_hw": IMAGE_HW,
        "machine": environment.machine(options.device),
    }
    known = cells.get(key, Round)
    if known is not None:
        return known
    found = run_model(options, profile, threads, image)
    if found.error is None:
        cells.put(key, found)
    return found


def run_model(options: ModelOptions, profile: Profile, threads: int, image: Path) -> Round:
    """Times one model in a fresh process; after an error, the finished phases are kept."""
    phases: list[PhaseLine] = []
    memory = None
    try:
        setup = model_setup(options, image, threads, imports=("torch", "cv2"))
        with Worker(setup, time_limit_s(profile.rule)) as worker:
            for line in time_phases(worker, profile):
                phases.append(line)  # noqa: PERF402 - kept if a later phase fails
            found = worker.ask("memory", weights=True, device=options.device)
            memory = MemoryLine(**{k: v for k, v in found.items() if k in MemoryLine.model_fields})
    except WorkerError as error:
        why = str(error)
        if not phases:
            phases.append(PhaseLine(phase="load", status="error", why=why))
        return Round(phases=tuple(phases), error=why)
    return Round(phases=tuple(phases), memory=memory)


def time_limit_s(rule: StopRule) -> float:
    """Time limit of an answer in seconds: several times the longest phase, and time to load."""
    return ANSWER_LIMIT_S + _LIMIT_FACTOR * (rule.warmup_seconds + rule.cap_seconds)


class Timing(Protocol):
    """The part of `Worker` that `time_phases` needs."""

    def answer(self) -> Answer:
        """Waits for the next answer."""

    def ask(self, do: str, **request: Any) -> Answer:
        """Sends a request and waits for the answer."""


def time_phases(worker: Timing, profile: Profile) -> Iterator[PhaseLine]:
    """Times every phase of the model of a worker.

    Raises:
        WorkerError: The process failed.
    """
    yield PhaseLine(phase="load", samples_ms=(worker.answer()["load_ms"],))
    first = worker.ask("first_call")
    first_encode_ms: float = first["ms"]["encode"]
    timer = _PhaseTimer(worker, profile.rule)
    numbers = profile.n_prompts
    if first["is_detector"] and first["weights"] == "random":
        yield PhaseLine(phase="first_call", n_prompts=1, status="skipped", why=_DETECTOR)
        yield timer.time("preprocess")
        yield timer.time("encode")
        untimed: Iterable[tuple[str, int | None]] = (
            ("postprocess", None), *(("decode", n) for n in numbers), ("end_to_end", 1),
            ("everything", None),
        )  # fmt: skip
        for phase, n in untimed:
            yield PhaseLine(phase=phase, n_prompts=n, status="skipped", why=_DETECTOR)
        return
    yield PhaseLine(phase="first_call", n_prompts=1, samples_ms=(sum(first["ms"].values()),))
    yield timer.time("preprocess")
    if first["is_detector"]:
        yield timer.time("encode")
        yield timer.time("postprocess")
    elif timer.is_too_slow(first_encode_ms):
        once = "too slow to repeat under this profile: from the first call, set-up included"
        yield PhaseLine(phase="encode", samples_ms=(first_encode_ms,), warnings=(once,))
    else:
        yield timer.time("encode", expected_ms=first_encode_ms)
    per_prompt_ms = 0.0
    for n in numbers:
        line = timer.time_unless_slow("decode", n, per_prompt_ms * n)
        yield line
        if line.samples_ms:
            per_prompt_ms = float(np.median(line.samples_ms)) / n
        if first["splits_decoding"]:
            skipped = line.model_copy(update={"phase": "postprocess"})
            yield timer.time("postprocess", n) if line.samples_ms else skipped
    yield timer.time_unless_slow("end_to_end", 1, first_encode_ms)
    if "everything" not in first["supports"]:
        return
    if first["weights"] == "random":
        yield PhaseLine(phase="everything", status="skipped", why=_EVERYTHING)
    else:
        grid_ms = _GRID_PROMPTS * per_prompt_ms if first["splits_decoding"] else 0.0
        yield timer.time_unless_slow("everything", None, first_encode_ms + grid_ms)


@dataclass(frozen=True, slots=True)
class _PhaseTimer:
    """Times phases of a worker by one stop rule."""

    worker: Timing
    rule: StopRule

    def time(self, phase: str, n_prompts: int | None = None, expected_ms: float = 0.0) -> PhaseLine:
        found = self.worker.ask(
            "time",
            phase=phase,
            n_prompts=n_prompts,
            rule=asdict(self.rule),
            expected_ms=expected_ms,
        )
        return PhaseLine(
            phase=phase,
            n_prompts=n_prompts,
            samples_ms=tuple(found["ms"]),
            warmup_calls=found["warmup_calls"],
            warnings=tuple(found["warnings"]),
        )

    def is_too_slow(self, expected_ms: float) -> bool:
        """Whether a single call would take far longer than the cap of the profile."""
        return expected_ms / 1e3 > self.rule.cap_seconds * _SLOW_FACTOR

    def time_unless_slow(self, phase: str, n_prompts: int | None, expected_ms: float) -> PhaseLine:
        """Times a phase, or skips it if a single call would take too long."""
        if not self.is_too_slow(expected_ms):
            return self.time(phase, n_prompts, expected_ms)
        why = (
            f"about {expected_ms / 1e3:.0f} s a call, beyond what this profile waits for "
            f"({self.rule.cap_seconds * _SLOW_FACTOR:.0f} s); use a longer profile"
        )
        return PhaseLine(phase=phase, n_prompts=n_prompts, status="skipped", why=why)


def _summarise(
    model: ResolvedModel, info: ModelInfo, rounds: Sequence[Round], config: RunConfig
) -> LatencyResult:
    errors = [each.error for each in rounds if each.error is not None]
    lines: dict[tuple[str, int | None], list[PhaseLine]] = {}
    for line in (line for each in rounds for line in each.phases):
        lines.setdefault((line.phase, line.n_prompts), []).append(line)
    if errors and config.profile is not None:
        # Phases of every model that no process has reached.
        expected: list[tuple[str, int | None]] = [("preprocess", None), ("encode", None)]
        expected += [*(("decode", n) for n in config.profile.n_prompts), ("end_to_end", 1)]
        for phase, n in expected:
            lost = PhaseLine(phase=phase, n_prompts=n, status="error", why=errors[0])
            lines.setdefault((phase, n), [lost])
    memory = [each.memory for each in rounds if each.memory is not None]
    return LatencyResult(
        latency=[_row(model, info, own, config.threads) for own in lines.values()],
        memory=[_memory_row(model, memory)] if memory else [],
        failures=[
            Failure(stage="latency", culprit=model.entry.name, why=why)
            for why in dict.fromkeys(errors)
        ],
    )


def _row(
    model: ResolvedModel, info: ModelInfo | None, lines: Sequence[PhaseLine], threads: int
) -> LatencyRow:
    measured = [line for line in lines if line.samples_ms]
    first = lines[0]
    # A model without networks runs on the CPU in any case.
    plain = info is not None and info.weights.kind == "none"
    known: dict[str, Any] = {
        "model": model.entry.name,
        "phase": first.phase,
        "n_prompts": first.n_prompts,
        "device": "cpu" if plain else model.options.device,
        "precision": "fp32" if plain else model.options.precision,
        "threads": threads,
        "weights": model.weights.kind,
        "decode_kind": None if info is None else info.decode_kind,
    }
    if not measured:
        return LatencyRow(**known, status=first.status, why=first.why)
    samples = tuple(line.samples_ms for line in measured)
    return LatencyRow(
        **known,
        **asdict(summarise_times(samples)),
        warmup_calls=sum(line.warmup_calls for line in measured),
        warnings=tuple(dict.fromkeys(text for line in measured for text in line.warnings)),
        samples_ms=samples,
    )


def _memory_row(model: ResolvedModel, lines: Sequence[MemoryLine]) -> MemoryRow:
    """Memory of the process with the median peak, and all peaks."""
    middle = sorted(lines, key=lambda line: line.peak_rss_bytes)[len(lines) // 2]
    return MemoryRow(
        model=model.entry.name,
        device=model.options.device,
        processes=len(lines),
        peaks_rss_bytes=tuple(line.peak_rss_bytes for line in lines),
        **middle.model_dump(),
    )
