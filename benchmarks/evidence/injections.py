"""Known changes for the worse, made in a worktree to measure the power of the A/B gate.

A phase that takes longer, masks or weights that are worse, or a comment, committed in the worktree.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.regression.worktrees import Tree, commit_of, git
from mobilesam.errors import DataError

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
    """Adds noise to the mask decoder of the shipped weights `original`, in the worktree `tree`.

    `strength` is the standard deviation of the noise, relative to that of each tensor.
    """
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
    """Finds the strength of a change by bisection; returns the loss, which is in the range.

    `apply` makes the change with a strength, replacing an earlier one; `loss` measures it.

    Raises:
        DataError: No strength causes such a loss.
    """
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


def commit(tree: Tree, message: str) -> Tree:
    """Commits all changes in a detached worktree."""
    who = ("-c", "user.name=injection", "-c", "user.email=injection@example.org")
    git(tree.path, *who, "commit", "--quiet", "--all", "--message", message)
    info = tree.info.model_copy(
        update={"ref": message, "commit": commit_of(tree.path, "HEAD"), "dirty": False}
    )
    return Tree(tree.path, info)
