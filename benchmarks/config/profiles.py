"""Profiles: how thoroughly a run measures. The command line picks one by name."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.latency.timer import StopRule
from mobilesam.errors import UsageError


@dataclass(frozen=True, slots=True)
class Profile:
    """A named amount of work.

    Attributes:
        name: Value of `--profile`.
        processes: Number of fresh processes in which each model is timed.
        rule: When the measurement of a phase ends, within one process.
        n_prompts: Numbers of prompts for which decoding is timed.
        n_images: Number of scenes of `--dataset synthetic` without `--limit`.
        fetch_limit_bytes: Maximum size of weights that are downloaded automatically; None: no
            limit.
        complete: Whether the default selection includes models with random weights and models that
            must be exported first; otherwise only their parameters are counted.
    """

    name: str
    processes: int
    rule: StopRule
    n_prompts: tuple[int, ...] = (1, 10, 100)
    n_images: int = 20
    fetch_limit_bytes: int | None = None
    complete: bool = True


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "quick",
            1,
            StopRule(5, 0.5, 6.0, 1.5),
            n_images=10,
            fetch_limit_bytes=100_000_000,
            complete=False,
        ),
        Profile("standard", 3, StopRule(10, 1.0, 20.0, 5.0), n_images=50),
        Profile("full", 5, StopRule(30, 3.0, 120.0, 20.0), n_images=200),
    )
}


def find(name: str) -> Profile:
    """Returns the profile of a name.

    Raises:
        UsageError: Unknown name.
    """
    if name not in PROFILES:
        raise UsageError(f"unknown profile {name!r}; choose from {', '.join(PROFILES)}")
    return PROFILES[name]
