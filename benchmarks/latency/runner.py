"""Times models in fresh processes, interleaved in random order, and summarises the samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from baselines.interface import ModelInfo, ModelOptions
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import Profile, RunConfig
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.latency.controller import ANSWER_LIMIT_S, Worker, WorkerError, model_setup, shuffled
from benchmarks.latency.idle import LoadMeter
from benchmarks.latency.timer import StopRule, milliseconds
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import LatencyRow, MemoryRow, RecordBuilder, Status
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
_ONE_IMAGE = "encodes one image at a time"
_TOO_SLOW = "too slow to repeat under this profile: from the first call, set-up included"


class PhaseLine(FrozenModel):
    """One finished, skipped or failed phase of one process."""

    phase: str
    n_prompts: int | None = None
    n_images: int = 1
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
    """Measurements of one process; `batches` are those of `encode` of several images."""

    phases: tuple[PhaseLine, ...]
    batches: tuple[PhaseLine, ...] = ()
    memory: MemoryLine | None = None
    error: str | None = None


def measure(
    config: RunConfig,
    models: Sequence[ResolvedModel],
    infos: Mapping[str, ModelInfo],
    record: RecordBuilder,
    reporter: Reporter,
) -> float:
    """Times every model, and adds rows to a record; one that cannot be timed gets an error row.

    In each round, every model runs once in a process of its own, in a new random order. Finished
    rounds are cached in the folder of the run. Returns the mean number of cores that other
    processes used meanwhile.
    """
    profile = config.profile
    assert profile is not None  # noqa: S101 - without a profile nothing is timed
    cache = ResultCache(config.out / CACHE_FOLDER)
    rounds: dict[str, list[Round]] = {model.entry.name: [] for model in models}
    rows: dict[str, dict[str, list[LatencyRow]]] = {}
    usable = [model for model in models if model.error is None and model.entry.name in infos]
    rng, load = np.random.default_rng(config.seed), LoadMeter()
    with (
        tempfile.TemporaryDirectory() as folder,
        reporter.bar("latency", profile.processes * len(usable), "latency") as bar,
    ):
        image = Path(folder) / "image.npy"
        np.save(image, SyntheticDataset(1, config.seed, IMAGE_HW).scene(0).image)
        for index in range(profile.processes):
            for model in shuffled(usable, rng):
                name, options = model.entry.name, model.options
                bar.note(f"{name} (process {index + 1})")
                key = {
                    "kind": "latency",
                    "round": index,
                    "options": TypeAdapter(ModelOptions).dump_python(options, mode="json"),
                    "rule": asdict(profile.rule),
                    "n_prompts": profile.n_prompts,
                    "threads": config.threads,
                    "image_hw": IMAGE_HW,
                    "machine": environment.machine(options.device),
                }
                sha256 = model.entry.file_sha256
                file = None if sha256 is None else (model.entry.target, sha256)
                if file is not None:
                    key["file"] = sha256
                if config.batch_sizes:
                    key["batch_sizes"] = config.batch_sizes
                found = cache.get(key, Round)
                if found is None:
                    batches = config.batch_sizes
                    found = run_model(options, profile, config.threads, image, batches, file)
                    if found.error is None:
                        cache.put(key, found)
                rounds[name].append(found)
                if len(rounds[name]) == profile.processes:
                    rows[name] = _rows(config, model, infos[name], rounds[name])
                bar.step(name)
                if name in rows:
                    reporter.result(f"{name}: {headline(rows[name]['latency'])}")
    other_load = load.cores()
    for model in models:
        name = model.entry.name
        if name not in rows:
            why = model.error or f"{name} cannot be built; see the failures of the run"
            failed = PhaseLine(phase="load", status="error", why=why)
            record.add(latency=[_row(model, infos.get(name), [failed], config.threads)])
            continue
        record.add(**rows[name])
        for why in dict.fromkeys(each.error for each in rounds[name] if each.error is not None):
            record.add_failure("latency", name, why)
        memory = [each.memory for each in rounds[name] if each.memory is not None]
        if memory:  # of the process with the median peak, and all peaks
            middle = sorted(memory, key=lambda line: line.peak_rss_bytes)[len(memory) // 2]
            row = MemoryRow(
                model=name,
                device=model.options.device,
                processes=len(memory),
                peaks_rss_bytes=tuple(line.peak_rss_bytes for line in memory),
                **middle.model_dump(),
            )
            record.add(memory=[row])
    alone = [
        name for name, own in rows.items() if any(row.why == _ONE_IMAGE for row in own["batches"])
    ]
    if alone:
        reporter.say(f"--batch: left out {', '.join(alone)}, which can encode one image at a time")
    return other_load


def headline(rows: Sequence[LatencyRow]) -> str:
    """Main times of a model in one line: encode, decode with one prompt, and end to end."""
    times = {(row.phase, row.n_prompts): row for row in rows}
    parts = []
    for phase, n_prompts in (("encode", None), ("decode", 1), ("end_to_end", 1)):
        row = times.get((phase, n_prompts))
        if row is not None:
            time = row.status if row.median_ms is None else milliseconds(row.median_ms)
            parts.append(f"{phase.replace('_', ' ')} {time}")
    return ", ".join(parts) or "not timed"


def run_model(
    options: ModelOptions,
    profile: Profile,
    threads: int,
    image: Path,
    batch_sizes: Sequence[int] = (),
    file: tuple[str, str] | None = None,
) -> Round:
    """Times one model in a fresh process; after an error, the finished phases are kept.

    `file` is the target of a model of a file, and the SHA-256 of the file.
    """
    phases: list[PhaseLine] = []
    batches: list[PhaseLine] = []
    memory = None
    try:
        setup = model_setup(options, image, threads, imports=("torch", "cv2"), file=file)
        with Worker(setup, time_limit_s(profile.rule)) as worker:
            for line in time_phases(worker, profile):
                phases.append(line)  # noqa: PERF402 - kept if a later phase fails
            found = worker.ask("memory", weights=True, device=options.device)
            memory = MemoryLine(**{k: v for k, v in found.items() if k in MemoryLine.model_fields})
            # Last: the memory of a model is that of one image.
            (encode,) = (line for line in phases if line.phase == "encode")
            for line in time_batches(worker, profile, batch_sizes, encode):
                batches.append(line)  # noqa: PERF402
    except WorkerError as error:
        why = str(error)
        if not phases:
            phases.append(PhaseLine(phase="load", status="error", why=why))
        return Round(phases=tuple(phases), batches=tuple(batches), memory=memory, error=why)
    return Round(phases=tuple(phases), batches=tuple(batches), memory=memory)


def time_limit_s(rule: StopRule) -> float:
    """Time limit of an answer in seconds: several times the longest phase, and time to load."""
    return ANSWER_LIMIT_S + _LIMIT_FACTOR * (rule.warmup_seconds + rule.cap_seconds)


def time_batches(
    worker: Worker, profile: Profile, batch_sizes: Sequence[int], encode: PhaseLine
) -> Iterator[PhaseLine]:
    """Times the encoder on batches of images; `encode` is its line for one image.

    Raises:
        WorkerError: The process failed.
    """
    can_encode = batch_sizes and worker.ask("describe_batches")["encodes_batches"]
    one_ms = float(np.median(encode.samples_ms))
    for n in batch_sizes:
        if can_encode:
            yield _timed(worker, profile, "encode", None, n * one_ms, n)
        else:
            yield PhaseLine(phase="encode", n_images=n, status="skipped", why=_ONE_IMAGE)


def _is_too_slow(profile: Profile, expected_ms: float) -> bool:
    """Whether a single call would take far longer than the cap of the profile."""
    return expected_ms / 1e3 > profile.rule.cap_seconds * _SLOW_FACTOR


def _timed(
    worker: Worker,
    profile: Profile,
    phase: str,
    n_prompts: int | None,
    expected_ms: float,
    n_images: int | None = None,
) -> PhaseLine:
    """Times a phase, or skips it if a single call would take too long."""
    counts = {"n_prompts": n_prompts, **({} if n_images is None else {"n_images": n_images})}
    if _is_too_slow(profile, expected_ms):
        why = (
            f"about {expected_ms / 1e3:.0f} s a call, beyond what this profile waits for "
            f"({profile.rule.cap_seconds * _SLOW_FACTOR:.0f} s); use a longer profile"
        )
        return PhaseLine.model_validate({"phase": phase, "status": "skipped", "why": why, **counts})
    rule = asdict(profile.rule)
    found = worker.ask("time", phase=phase, rule=rule, expected_ms=expected_ms, **counts)
    samples = {"samples_ms": found["ms"], **{k: found[k] for k in ("warmup_calls", "warnings")}}
    return PhaseLine.model_validate({"phase": phase, **counts, **samples})


def time_phases(worker: Worker, profile: Profile) -> Iterator[PhaseLine]:
    """Times every phase of the model of a worker.

    Raises:
        WorkerError: The process failed.
    """

    def timed(phase: str, n_prompts: int | None = None, expected_ms: float = 0.0) -> PhaseLine:
        return _timed(worker, profile, phase, n_prompts, expected_ms)

    yield PhaseLine(phase="load", samples_ms=(worker.answer()["load_ms"],))
    first = worker.ask("first_call")
    first_encode_ms: float = first["ms"]["encode"]
    if first["is_detector"] and first["weights"] == "random":
        yield PhaseLine(phase="first_call", n_prompts=1, status="skipped", why=_DETECTOR)
        yield timed("preprocess")
        yield timed("encode")
        decoding = [("decode", n) for n in profile.n_prompts]
        for phase, n_prompts in (
            ("postprocess", None), *decoding, ("end_to_end", 1), ("everything", None),
        ):  # fmt: skip
            yield PhaseLine(phase=phase, n_prompts=n_prompts, status="skipped", why=_DETECTOR)
        return
    yield PhaseLine(phase="first_call", n_prompts=1, samples_ms=(sum(first["ms"].values()),))
    yield timed("preprocess")
    if first["is_detector"]:
        yield timed("encode")
        yield timed("postprocess")
    elif _is_too_slow(profile, first_encode_ms):  # the encoder is never left out
        yield PhaseLine(phase="encode", samples_ms=(first_encode_ms,), warnings=(_TOO_SLOW,))
    else:
        yield timed("encode", expected_ms=first_encode_ms)
    per_prompt_ms = 0.0
    for n in profile.n_prompts:
        line = timed("decode", n, per_prompt_ms * n)
        yield line
        if line.samples_ms:
            per_prompt_ms = float(np.median(line.samples_ms)) / n
        if first["splits_decoding"]:
            skipped = line.model_copy(update={"phase": "postprocess"})
            yield timed("postprocess", n) if line.samples_ms else skipped
    yield timed("end_to_end", 1, first_encode_ms)
    if "everything" not in first["supports"]:
        return
    if first["weights"] == "random":
        yield PhaseLine(phase="everything", status="skipped", why=_EVERYTHING)
    else:
        grid_ms = _GRID_PROMPTS * per_prompt_ms if first["splits_decoding"] else 0.0
        yield timed("everything", None, first_encode_ms + grid_ms)


def _rows(
    config: RunConfig, model: ResolvedModel, info: ModelInfo, rounds: Sequence[Round]
) -> dict[str, list[LatencyRow]]:
    """Rows of a model for `latency` and `batches`; of phases without any, with the error."""
    assert config.profile is not None  # noqa: S101 - without a profile nothing is timed
    lines: dict[str, list[PhaseLine]] = {
        field: [line for each in rounds for line in getattr(each, name)]
        for field, name in (("latency", "phases"), ("batches", "batches"))
    }
    for why in [each.error for each in rounds if each.error is not None][:1]:
        failed = partial(PhaseLine, status="error", why=why)
        lines["latency"] += [
            failed(phase="preprocess"),
            failed(phase="encode"),
            *(failed(phase="decode", n_prompts=n) for n in config.profile.n_prompts),
            failed(phase="end_to_end", n_prompts=1),
        ]
        lines["batches"] += [failed(phase="encode", n_images=n) for n in config.batch_sizes]
    found: dict[str, list[LatencyRow]] = {}
    for field, given in lines.items():
        own: dict[tuple[str, int | None, int], list[PhaseLine]] = {}
        for line in given:
            own.setdefault((line.phase, line.n_prompts, line.n_images), []).append(line)
        found[field] = [_row(model, info, each, config.threads) for each in own.values()]
    return found


def _row(
    model: ResolvedModel, info: ModelInfo | None, lines: Sequence[PhaseLine], threads: int
) -> LatencyRow:
    """Row of one phase from its lines, one a process."""
    measured = [line for line in lines if line.samples_ms]
    first = lines[0]
    # A model without networks runs on the CPU in any case.
    plain = info is not None and info.weights.kind == "none"
    known: dict[str, Any] = {
        "model": model.entry.name,
        "phase": first.phase,
        "n_prompts": first.n_prompts,
        "n_images": first.n_images,
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
