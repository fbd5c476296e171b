"""Measures the power of the A/B gate: known changes in worktrees, and the verdicts on them.

`python -m benchmarks.evidence.power --out results/regress/power.json`

Four cases: the same version twice, which should hardly ever fail; one phase 1.3 times as slow,
which should hardly ever pass; a loss of 0.01 mIoU; and comments. An interrupted measurement is
continued with the same `--out`. It needs an idle machine, and one or two minutes a trial.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import ValidationError

from benchmarks.child_processes import run_program
from benchmarks.config.options import RegressArguments
from benchmarks.debugging import one_line_errors
from benchmarks.latency.idle import wait_if_published
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import Environment, write_atomic
from benchmarks.regression import ab
from benchmarks.regression.judge import FAILING, THRESHOLD
from benchmarks.regression.sessions import Settings
from benchmarks.regression.worktrees import Tree, checked_out, commit_of, git, repository
from mobilesam.errors import DataError
from mobilesam.frozen_model import FrozenModel

Case = Literal["same", "slower", "loss", "comments"]
CASES: tuple[Case, ...] = get_args(Case)
NOISY_CASES: tuple[Case, ...] = ("same", "slower")
"""Cases whose verdicts depend on times."""
SLOWDOWN = 1.3
ALLOWED_MISTAKES = 1
"""Wrong verdicts allowed in all trials of a noisy case; in the other cases, none is."""
_EXACT_TRIALS = 3  # trials of the other cases, whose verdicts repeat
MINI_WEIGHTS = Path("mobilesam") / "weights" / "mobilesam-mini.safetensors"
METHODS = {
    "preprocess": "prepare",
    "encode": "encode",
    "decode": "decode_logits",
    "postprocess": "postprocess",
}
"""Method of `SamSegmenter` of each phase."""
MIN_LOSS, MAX_LOSS = 0.010, 0.013
"""Range of the loss of mIoU (a fraction) that the gate must find."""
_STEPS = 16

_SLOWER_METHOD = """

def _slower(method, factor):
    import functools
    import time

    @functools.wraps(method)
    def slow(*arguments, **named):
        start_ns = time.perf_counter_ns()
        answer = method(*arguments, **named)
        end_ns = start_ns + factor * (time.perf_counter_ns() - start_ns)
        while time.perf_counter_ns() < end_ns:
            pass
        return answer

    return slow


SamSegmenter.{method} = _slower(SamSegmenter.{method}, {factor})
"""


class Trial(FrozenModel):
    """One run of the gate on a known change."""

    case: Case
    number: int  # within its case
    detail: str  # the slower phase, or the loss
    right: bool  # whether the verdict was right, and named the right benchmark
    named: tuple[str, ...]  # benchmarks that failed, as `model benchmark`
    suspects: int  # number of benchmarks that were repeated
    noise_floor: float | None  # largest ratio between two sets of processes of the base
    duration_s: float


class Power(FrozenModel):
    """All trials, and where they were made."""

    commit: str
    threshold: float
    slowdown: float
    settings: Settings
    environment: Environment
    warnings: tuple[str, ...]
    trials: tuple[Trial, ...] = ()

    def of(self, case: Case) -> list[Trial]:
        """Trials of a case."""
        return [trial for trial in self.trials if trial.case == case]

    def wrong(self, case: Case) -> int:
        """Number of trials of a case with a wrong verdict."""
        return sum(not trial.right for trial in self.of(case))

    def median_s(self, case: Case) -> float:
        """Median duration of the trials of a case."""
        return float(np.median([trial.duration_s for trial in self.of(case)]))

    @property
    def met(self) -> bool:
        """Whether no case has more mistakes than allowed."""
        return all(self.wrong(case) <= allowed(case) for case in CASES)


def allowed(case: Case) -> int:
    """Number of wrong verdicts that a case may have."""
    return ALLOWED_MISTAKES if case in NOISY_CASES else 0


def trials_of(case: Case, repeats: int) -> int:
    """Number of trials of a case."""
    return repeats if case in NOISY_CASES else min(repeats, _EXACT_TRIALS)


def slow_down(tree: Path, phase: str, factor: float) -> None:
    """Makes one phase of SAM-like models take `factor` times as long."""
    file = tree / "baselines" / "sam.py"
    code = _SLOWER_METHOD.replace("{method}", METHODS[phase]).replace("{factor}", str(factor))
    file.write_text(file.read_text() + code)


def add_comments(tree: Path) -> None:
    """Adds a comment to every file of the models."""
    for package in ("mobilesam", "baselines"):
        for file in sorted((tree / package).rglob("*.py")):
            file.write_text(file.read_text() + "\n# A comment.\n")


def worsen_dummy(tree: Path, strength: float) -> None:
    """Makes the dummy's masks narrower by a fraction `strength` of their box."""
    file = tree / "baselines" / "dummy.py"
    pattern = re.compile(r"^SINGLE = Candidate\(part=[\d.]+", re.MULTILINE)
    narrower = f"SINGLE = Candidate(part={0.75 - strength:.6f}"
    text, count = pattern.subn(narrower, file.read_text())
    if count != 1:
        raise DataError(f"{file} has no SINGLE mask to narrow")
    file.write_text(text)


def worsen_weights(original: Path, tree: Path, strength: float, seed: int = 0) -> None:
    """Adds noise to the mask decoder, of `strength` times the deviation of each tensor."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    with safe_open(original, "pt") as file:
        header = file.metadata()
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            if name.startswith("mask_decoder") and tensor.is_floating_point() and tensor.ndim > 1:
                noise = torch.randn(tensor.shape, generator=draw) * tensor.float().std()
                tensor = (tensor.float() + strength * noise).to(tensor.dtype)
            tensors[name] = tensor.contiguous()
    save_file(tensors, tree / MINI_WEIGHTS, header)


def worsen_until(apply: Callable[[float], None], loss: Callable[[], float]) -> float:
    """Bisects for a strength of the change whose loss is in the range; returns the loss."""
    low, high, strength = 0.0, None, 0.02
    for _ in range(_STEPS):
        apply(strength)
        lost = loss()
        if MIN_LOSS <= lost <= MAX_LOSS:
            return lost
        if lost < MIN_LOSS:
            low = strength
        else:
            high = strength
        strength = 2 * strength if high is None else (low + high) / 2
    raise DataError(f"no strength of the change loses {MIN_LOSS} to {MAX_LOSS} of mIoU")


def _worsen(base: Tree, tree: Tree, seed: int, settings: Settings, reporter: Reporter) -> float:
    """Makes weights or masks worse until 0.01 mIoU is lost; returns the loss."""
    shipped = (tree.path / MINI_WEIGHTS).is_file()
    model = MINI_WEIGHTS.stem if shipped else "dummy"

    def apply(strength: float) -> None:
        if shipped:
            worsen_weights(base.path / MINI_WEIGHTS, tree.path, strength, seed)
        else:
            worsen_dummy(tree.path, strength)

    def loss() -> float:
        """How much mIoU the changed model loses."""
        session = ab.measure(base, tree, settings, reporter, [(model, "box", None)])
        (samples,) = [each for each in session.answers if each.protocol == "box"]
        if samples.errors:
            raise DataError(f"{model} fails after the change: {samples.errors}")
        return float(np.mean(samples.base) - np.mean(samples.head))

    return worsen_until(apply, loss)


def try_once(
    root: Path, base: Tree, case: Case, number: int, settings: Settings, reporter: Reporter
) -> Trial:
    """Makes the change of a case in a worktree and runs the gate on it."""
    with checked_out(root, base.info.commit) as head, tempfile.TemporaryDirectory() as folder:
        message, detail, wanted = "", "nothing", None
        if case == "comments":
            add_comments(head.path)
            message = detail = "comments"
        elif case == "slower":
            detail = wanted = tuple(METHODS)[number % len(METHODS)]
            slow_down(head.path, detail, SLOWDOWN)
            message = f"{detail} x {SLOWDOWN}"
        elif case == "loss":
            lost = _worsen(base, head, number, settings, reporter)
            message, detail, wanted = f"mIoU - {lost:.4f}", f"{lost:.4f} mIoU (box)", "box"
        if message:
            who = ("-c", "user.name=injection", "-c", "user.email=injection@example.org")
            git(head.path, *who, "commit", "--quiet", "--all", "--message", message)
            changed = {"ref": message, "commit": commit_of(head.path, "HEAD"), "dirty": False}
            head = Tree(head.path, head.info.model_copy(update=changed))
        start = time.monotonic()
        # Another order of processes and turns in each trial.
        own = settings.model_copy(update={"order_seed": 1 + number})
        judgement, sessions = ab.run(Path(folder), base, head, own, THRESHOLD, reporter)
        failed = [each for each in judgement.benchmarks if each.verdict in FAILING]
        repeated = sum(each.again is not None for each in judgement.benchmarks)
        return Trial(
            case=case,
            number=number,
            detail=detail,
            right=judgement.passed if wanted is None else wanted in {e.phase for e in failed},
            named=tuple(f"{each.model} {each.what}" for each in failed),
            suspects=repeated if len(sessions) > 1 else 0,
            noise_floor=judgement.noise_floor,
            duration_s=time.monotonic() - start,
        )


def run(
    root: Path,
    repeats: int,
    settings: Settings,
    out: Path,
    reporter: Reporter,
    cases: Sequence[Case] = CASES,
) -> Power:
    """Tries the cases in turns, and writes the record after each; an earlier one is continued."""
    with checked_out(root, "HEAD") as base:
        power = _load_or_begin(base, settings, out)
        for number in range(repeats):
            for case in cases:
                known = {(trial.case, trial.number) for trial in power.trials}
                if number < trials_of(case, repeats) and (case, number) not in known:
                    trial = try_once(root, base, case, number, settings, reporter)
                    power = power.model_copy(update={"trials": (*power.trials, trial)})
                    write_atomic(out, (power.model_dump_json(indent=1) + "\n").encode())
                    named = ", ".join(trial.named) or "nothing"
                    reporter.say(
                        f"{case} {number + 1} ({trial.detail}): "
                        f"{'right' if trial.right else 'WRONG'}; failed: {named}; "
                        f"{trial.duration_s:.0f} s"
                    )
    return power


def _load_or_begin(base: Tree, settings: Settings, out: Path) -> Power:
    here = environment.collect(settings.threads)
    fresh = Power(
        commit=base.info.commit,
        threshold=THRESHOLD,
        slowdown=SLOWDOWN,
        settings=settings,
        environment=here,
        warnings=environment.warnings(here),
    )
    if not out.is_file():
        return fresh
    try:
        old = Power.model_validate_json(out.read_bytes())
    except ValidationError as error:
        raise DataError(f"{out} is no record of power; choose another --out") from error
    if (old.commit, old.settings) != (fresh.commit, fresh.settings):
        raise DataError(f"{out} holds trials of another commit or of other settings; remove it")
    return old


def report(power: Power) -> str:
    """The results, one line a case."""
    return "\n".join(
        f"{case}: {len(power.of(case)) - power.wrong(case)} of {len(power.of(case))} right "
        f"(at most {allowed(case)} wrong), {power.median_s(case):.0f} s each"
        for case in CASES
        if power.of(case)
    )


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 if no case has more mistakes than allowed, otherwise 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    known: dict[str, Any] = {"models": str, "accuracy_models": str, "n_prompts": str}
    known |= dict.fromkeys(("pairs", "turns", "scenes"), int)
    for name, kind in known.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=None, help="as in regress")
    arguments = parser.parse_args(argv)
    given = {name: value for name in known if (value := getattr(arguments, name)) is not None}
    settings = ab.settings_of(RegressArguments(base="HEAD", **given))
    root = repository(Path.cwd())
    wait_if_published(arguments.out)
    power = run(root, arguments.repeats, settings, arguments.out, Reporter(), arguments.cases)
    sys.stdout.write(report(power) + "\n")
    return 0 if power.met else 1


if __name__ == "__main__":
    raise SystemExit(run_program(main))
