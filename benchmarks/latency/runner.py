"""Times models in fresh processes, interleaved in random order, and summarises what they report."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from baselines.interface import ModelInfo
from benchmarks.child_processes import run_python
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.profiles import Profile
from benchmarks.debugging import show_text
from benchmarks.latency.task import MemoryLine, PhaseLine, Round, Task
from benchmarks.latency.timer import milliseconds
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import Failure, LatencyRow, MemoryRow
from benchmarks.records.result_cache import ResultCache
from benchmarks.records.statistics import summarise_times

IMAGE_HW = (480, 640)
_STDERR_LINES = 3
_START_S = 1800.0
_PHASES = 8
_PATIENCE = 4.0


@dataclass(frozen=True, slots=True)
class LatencyConfig:
    """How latency is measured.

    Attributes:
        profile: How often and how long.
        threads: Threads each model is given.
        seed: Of the order of models, the scene and random weights.
        image_hw: Size of the scene, in pixels.
    """

    profile: Profile
    threads: int
    seed: int = 0
    image_hw: tuple[int, int] = IMAGE_HW


@dataclass(slots=True)
class LatencyResult:
    """Rows for the record."""

    rows: list[LatencyRow] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def measure(
    models: Sequence[ResolvedModel],
    infos: Mapping[str, ModelInfo],
    config: LatencyConfig,
    cells: ResultCache,
    reporter: Reporter,
) -> LatencyResult:
    """Times every model; one that cannot be timed gets an error row.

    Each round runs all models once, each in its own process, in a new random order: a machine that
    grows slower meanwhile slows all of them alike.

    Args:
        models: In the order of the tables.
        infos: What is known of those that can be built, by name.
        config: Profile, threads, seed.
        cells: Rounds that a former, interrupted run has finished.
        reporter: Told about progress.
    """
    rounds: dict[str, list[Round]] = {model.entry.name: [] for model in models}
    results: dict[str, LatencyResult] = {}
    usable = [model for model in models if model.error is None and model.entry.name in infos]
    order = random.Random(config.seed)  # noqa: S311 - an order, not a secret
    with reporter.bar("latency", config.profile.processes * len(usable)) as bar:
        for index in range(config.profile.processes):
            for model in order.sample(usable, len(usable)):
                name = model.entry.name
                bar.note(f"{name} (process {index + 1})")
                rounds[name].append(_round(model, index, config, cells))
                if len(rounds[name]) == config.profile.processes:
                    results[name] = _summarise(model, infos[name], rounds[name], config)
                    reporter.say(f"{name}: {headline(results[name].rows)}")
                bar.step(name)
    result = LatencyResult()
    for model in models:
        name = model.entry.name
        if name in results:
            result.rows += results[name].rows
            result.memory += results[name].memory
            result.failures += results[name].failures
        else:
            why = model.error or f"{name} cannot be built; see the failures of the run"
            failed = PhaseLine(phase="load", status="error", why=why)
            result.rows.append(_row(model, infos.get(name), [failed], config))
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


def _round(model: ResolvedModel, index: int, config: LatencyConfig, cells: ResultCache) -> Round:
    task = Task(
        options=model.options,
        rule=config.profile.rule,
        n_prompts=config.profile.n_prompts,
        threads=config.threads,
        image_hw=config.image_hw,
    )
    key = {
        "kind": "latency",
        "round": index,
        "task": task.model_dump(mode="json"),
        "machine": environment.machine(model.options.device),
    }
    known = cells.get(key, Round)
    if known is not None:
        return known
    found = run_task(task)
    if found.error is None:
        cells.put(key, found)
    return found


def run_task(task: Task) -> Round:
    """Runs one task in a fresh process and collects its results, also those before a crash.

    A process that does not end within `time_limit_s` is ended; what it has measured is kept.
    """
    limit_s = time_limit_s(task)
    threads = str(task.threads)
    variables = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    # It sleeps until the process ends: a parent that polls would take time from what it measures.
    try:
        done = run_python(
            ["-m", "benchmarks.latency.worker"],
            input=task.model_dump_json(),
            capture_output=True,
            env=variables,
            cwd=Path(__file__).resolve().parents[2],
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as expired:
        # The exception holds bytes even if text was requested.
        given = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout
        phases, memory = _parse(given or "")
        why = f"the timing process had not ended after {limit_s:.0f} s and was stopped"
        return Round(phases=tuple(phases), memory=memory, error=why)
    phases, memory = _parse(done.stdout)
    error = None
    failed = next((each for each in phases if each.status == "error"), None)
    if failed is not None:
        error = failed.why
    elif done.returncode != 0:
        error = _cause_of_death(done.returncode, done.stderr)
    if error is not None:
        show_text(done.stderr)
    return Round(phases=tuple(phases), memory=memory, error=error)


def time_limit_s(task: Task) -> float:
    """Time limit of a timing process in seconds: several times the longest time of its rule.

    The rule does not cover loading and the first calls. For these, half an hour is more than the
    largest model needs on a slow disk and one core.
    """
    rule = task.rule
    n_phases = _PHASES + 2 * len(task.n_prompts)
    return _START_S + _PATIENCE * n_phases * (rule.warmup_seconds + rule.cap_seconds)


def _parse(text: str) -> tuple[list[PhaseLine], MemoryLine | None]:
    phases: list[PhaseLine] = []
    memory = None
    for line in text.splitlines():
        try:
            value: dict[str, Any] = json.loads(line)
            if "memory" in value:
                memory = MemoryLine.model_validate(value["memory"])
            else:
                phases.append(PhaseLine.model_validate(value["phase"]))
        except (json.JSONDecodeError, KeyError, ValidationError):
            continue  # the last line of a process that was killed while it wrote
    return phases, memory


def _cause_of_death(code: int, stderr: str) -> str:
    if code == -signal.SIGKILL:
        return (
            "the timing process was killed (out of memory?); try a smaller model or fewer prompts"
        )
    if code < 0:
        return f"the timing process died of {signal.Signals(-code).name}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return f"the timing process failed: {' | '.join(lines[-_STDERR_LINES:])}"


def _summarise(
    model: ResolvedModel,
    info: ModelInfo,
    rounds: Sequence[Round],
    config: LatencyConfig,
) -> LatencyResult:
    result = LatencyResult()
    name = model.entry.name
    errors = [each.error for each in rounds if each.error is not None]
    result.failures.extend(Failure(stage="latency", culprit=name, why=why) for why in set(errors))
    keys = dict.fromkeys((line.phase, line.n_prompts) for each in rounds for line in each.phases)
    for phase, n_prompts in keys:
        lines = [
            line
            for each in rounds
            for line in each.phases
            if (line.phase, line.n_prompts) == (phase, n_prompts)
        ]
        result.rows.append(_row(model, info, lines, config))
    if errors:
        for phase, n_prompts in _expected(config):
            if (phase, n_prompts) not in keys:
                lost = PhaseLine(phase=phase, n_prompts=n_prompts, status="error", why=errors[0])
                result.rows.append(_row(model, info, [lost], config))
    memory = [each.memory for each in rounds if each.memory is not None]
    if memory:
        result.memory.append(_memory_row(model, memory))
    return result


def _expected(config: LatencyConfig) -> Iterator[tuple[str, int | None]]:
    """Phases that every model has."""
    yield from (("preprocess", None), ("encode", None))
    yield from (("decode", n) for n in config.profile.n_prompts)
    yield "end_to_end", 1


def _row(
    model: ResolvedModel, info: ModelInfo | None, lines: Sequence[PhaseLine], config: LatencyConfig
) -> LatencyRow:
    measured = [line for line in lines if line.samples_ms]
    first = lines[0]
    # What has no network runs on the host's own arithmetic, whatever was asked for.
    plain = info is not None and info.weights.kind == "none"
    known: dict[str, Any] = {
        "model": model.entry.name,
        "phase": first.phase,
        "n_prompts": first.n_prompts,
        "device": "cpu" if plain else model.options.device,
        "precision": "fp32" if plain else model.options.precision,
        "threads": config.threads,
        "weights": model.weights.kind,
        "decode_kind": None if info is None else info.decode_kind,
    }
    if not measured:
        return LatencyRow(**known, status=first.status, why=first.why)
    samples = tuple(line.samples_ms for line in measured)
    summary = summarise_times(samples)
    return LatencyRow(
        **known,
        n=summary.n,
        processes=summary.processes,
        median_ms=summary.median_ms,
        ci95_ms=summary.ci95_ms,
        range_ms=summary.range_ms,
        mean_ms=summary.mean_ms,
        min_ms=summary.min_ms,
        p95_ms=summary.p95_ms,
        p99_ms=summary.p99_ms,
        warmup_calls=sum(line.warmup_calls for line in measured),
        warnings=tuple(dict.fromkeys(text for line in measured for text in line.warnings)),
        samples_ms=samples,
    )


def _memory_row(model: ResolvedModel, lines: Sequence[MemoryLine]) -> MemoryRow:
    middle = sorted(lines, key=lambda line: line.peak_rss_bytes)[len(lines) // 2]
    return MemoryRow(
        model=model.entry.name,
        device=model.options.device,
        processes=len(lines),
        peaks_rss_bytes=tuple(line.peak_rss_bytes for line in lines),
        **middle.model_dump(),
    )
