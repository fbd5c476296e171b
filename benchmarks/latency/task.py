"""What passes between the latency runner and the processes that it times models in."""

from __future__ import annotations

from baselines.options import ModelOptions
from benchmarks.latency.timer import StopRule
from benchmarks.records.record import Status
from mobilesam.frozen_model import FrozenModel


class Task(FrozenModel):
    """Everything one timing process needs to know."""

    options: ModelOptions
    rule: StopRule
    n_prompts: tuple[int, ...]
    threads: int
    image_hw: tuple[int, int]


class PhaseLine(FrozenModel):
    """One finished, skipped or failed phase."""

    phase: str
    n_prompts: int | None = None
    status: Status = "ok"
    why: str | None = None
    samples_ms: tuple[float, ...] = ()
    warmup_calls: int = 0
    warnings: tuple[str, ...] = ()


class MemoryLine(FrozenModel):
    """Memory of the process when all phases are done, in bytes."""

    rss_before_load_bytes: int
    peak_rss_bytes: int
    weight_bytes: int
    cuda_peak_allocated_bytes: int | None = None
    cuda_peak_reserved_bytes: int | None = None


class Round(FrozenModel):
    """All that one process measured of one model."""

    phases: tuple[PhaseLine, ...]
    memory: MemoryLine | None = None
    error: str | None = None
