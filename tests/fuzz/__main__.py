"""Fuzzes readers and models in threads: `python -m tests.fuzz --minutes 10` or `nox -s fuzz`."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from .rounds import Counts, run_round
from .targets import TARGETS, Target
from .threads import THREADS


@dataclass
class Progress:
    """Counts and time of one target."""

    counts: Counts = field(default_factory=Counts)
    rounds: int = 0
    seconds: float = 0.0
    crash: str | None = None


def fuzz(targets: Sequence[Target], minutes: float, seed: int) -> dict[str, Progress]:
    """Runs targets in rounds, with equal time for each; a target that crashes is not run again."""
    done = {target.name: Progress() for target in targets}
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        going = [target for target in targets if done[target.name].crash is None]
        if not going:
            break
        target = min(going, key=lambda each: done[each.name].seconds)
        progress, start = done[target.name], time.monotonic()
        number = seed + progress.rounds
        try:
            counts = run_round(target, target.inputs_a_round, number)
        except Exception as error:  # noqa: BLE001 - any other error is a crash
            progress.crash = f"seed {number}: {''.join(traceback.format_exception(error))}"
        else:
            progress.counts.read += counts.read
            progress.counts.refused += counts.refused
        progress.rounds += 1
        progress.seconds += time.monotonic() - start
    return done


def describe(done: dict[str, Progress]) -> str:
    """Formats one line per target, followed by all crashes in full."""
    lines = [f"{'reader':32}{'inputs':>10}{'read':>10}{'refused':>10}{'crashes':>10}{'s':>8}"]
    for name, each in done.items():
        lines.append(
            f"{name:32}{each.counts.total:>10}{each.counts.read:>10}{each.counts.refused:>10}"
            f"{int(each.crash is not None):>10}{each.seconds:>8.0f}"
        )
    total = sum(each.counts.total for each in done.values())
    crashes = [f"{name}, {each.crash}" for name, each in done.items() if each.crash]
    lines.append(f"{total} inputs, {len(crashes)} readers crashed")
    return "\n".join([*lines, *crashes])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the fuzzer; returns 1 if a target crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="seed of the first round")
    parser.add_argument("--only", default="", help="run only targets whose name contains this")
    given = parser.parse_args(arguments)
    seed = int(time.time()) if given.seed is None else given.seed
    targets = [target for target in (*TARGETS, *THREADS) if given.only in target.name]
    sys.stdout.write(f"seed {seed}, {given.minutes:g} minutes, {len(targets)} readers\n")
    sys.stdout.flush()
    done = fuzz(targets, given.minutes, seed)
    sys.stdout.write(describe(done) + "\n")
    return int(any(each.crash for each in done.values()))


if __name__ == "__main__":
    raise SystemExit(main())
