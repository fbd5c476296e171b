"""The named accuracy protocols: which prompt is given, and which of the answers is scored."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from baselines.interface import Float32Array, Prompts
from benchmarks.data.prompts import PromptRule
from mobilesam.errors import UsageError

GROUND_TRUTH = "ground-truth"


@dataclass(frozen=True, slots=True)
class AccuracyProtocol:
    """A protocol; its name is printed with every number made by it.

    Attributes:
        name: As given to `--protocol`.
        prompt: What is made of the reference mask.
        multimask: Whether the model is asked for all candidates.
        pick: Which candidate is scored: the only one, the one with the model's highest score, or
            the one with the best IoU (an upper bound that no user reaches).
    """

    name: str
    prompt: PromptRule
    multimask: bool
    pick: Literal["only", "score", "oracle"]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        AccuracyProtocol("box", "box", multimask=False, pick="only"),
        AccuracyProtocol("box-multi", "box", multimask=True, pick="score"),
        AccuracyProtocol("center", "center", multimask=False, pick="only"),
        AccuracyProtocol("center-multi", "center", multimask=True, pick="score"),
        AccuracyProtocol("center-oracle", "center", multimask=True, pick="oracle"),
    )
}
DEFAULT_PROTOCOLS = ("box", "center", "center-multi")


def find(names: Iterable[str]) -> tuple[AccuracyProtocol, ...]:
    """Looks protocols up, each once, in the order asked for.

    Raises:
        UsageError: There is none of that name; suggests the nearest.
    """
    chosen = {}
    for name in names:
        if name not in PROTOCOLS:
            near = difflib.get_close_matches(name, PROTOCOLS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(PROTOCOLS)}"
            raise UsageError(f"unknown protocol {name!r}; {hint}")
        chosen[name] = PROTOCOLS[name]
    return tuple(chosen.values())


def to_prompts(kind: PromptRule, values: Float32Array) -> Prompts:
    """Turns rows of a prompt manifest into prompts for a model.

    Args:
        kind: What the rows are.
        values: (N, 4) xyxy for `box`, (N, 2) xy for `center`.
    """
    if kind == "box":
        return Prompts(boxes=values)
    return Prompts(points=values[:, None], labels=np.ones((len(values), 1), np.int64))


def pick(protocol: AccuracyProtocol, scores: Float32Array, ious: list[float]) -> int:
    """The candidate that the protocol scores.

    Args:
        protocol: Whose rule is applied.
        scores: (C,) the model's own scores.
        ious: C values, IoU of each candidate with the reference.
    """
    if protocol.pick == "oracle":
        return int(np.argmax(ious))
    if protocol.pick == "score":
        return int(np.argmax(scores))
    return 0
