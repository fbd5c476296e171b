"""The named accuracy protocols: which prompt is given, and which of the answers is scored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from baselines.interface import Float32Array
from benchmarks.prompts.rules import prompt_rule
from mobilesam.errors import UsageError

GROUND_TRUTH = "ground-truth"
TEACHER = "teacher:"
MAX_CLICKS = 20
# Protocols with runners and rows of their own, since no single mask answers a single prompt.
DETECTOR_BOX, DETECTOR_BOX_MULTI, EVERYTHING = "detector-box", "detector-box-multi", "everything"

Pick = Literal["only", "score", "oracle"]


@dataclass(frozen=True, slots=True, order=True)
class Question:
    """What a model is asked; protocols that differ only in which answer they score share it.

    Attributes:
        prompt: Name of the prompt rule.
        clicks: Clicks given, the first by the rule and the others on errors.
        multimask: Whether all candidates are asked for.
    """

    prompt: str
    clicks: int = 1
    multimask: bool = False


@dataclass(frozen=True, slots=True)
class AccuracyProtocol:
    """A protocol; its name is printed with every number made by it.

    Attributes:
        name: As given to `--protocol`.
        question: What the model is asked.
        pick: Which candidate is scored: the only one, the one with the model's highest score, or
            the one with the best IoU (an upper bound that no user reaches).
    """

    name: str
    question: Question
    pick: Pick = "only"

    @property
    def prompt(self) -> str:
        """Name of its prompt rule."""
        return self.question.prompt

    @property
    def budget(self) -> int | None:
        """K of `clicks-K`, None for other protocols."""
        return self.question.clicks if self.name.startswith("clicks-") else None

    @property
    def as_teacher(self) -> AccuracyProtocol:
        """How a teacher answers: it cannot choose by a reference that it is itself."""
        return replace(self, pick="score") if self.pick == "oracle" else self


_FIXED = (
    AccuracyProtocol("box", Question("box")),
    AccuracyProtocol("box-multi", Question("box", multimask=True), "score"),
    AccuracyProtocol("center", Question("center")),
    AccuracyProtocol("center-multi", Question("center", multimask=True), "score"),
    AccuracyProtocol("center-oracle", Question("center", multimask=True), "oracle"),
    AccuracyProtocol("annotation-point", Question("annotation-point")),
)
_BY_NAME = {protocol.name: protocol for protocol in _FIXED}
WHOLE_IMAGE = (DETECTOR_BOX, DETECTOR_BOX_MULTI, EVERYTHING)
_FAMILIES = ("random-K", "clicks-K", "two-point-D", *WHOLE_IMAGE)
_PARAMETRIC = re.compile(r"(random|clicks|two-point)-([1-9]\d{0,4})")
DEFAULT_PROTOCOLS = ("box", "center", "center-multi")


def find(names: Iterable[str]) -> tuple[AccuracyProtocol, ...]:
    """Looks protocols up, each once, in the order asked for.

    `clicks-K` brings all of `clicks-1` to `clicks-K`: the earlier ones cost nothing, and the number
    of clicks to an IoU is read from them.

    Raises:
        UsageError: There is none of that name; suggests the nearest.
    """
    chosen = {}
    for name in names:
        found = _find(name)
        for each in range(1, (found.budget or 1) + 1):
            part = found if found.budget is None else _clicks(each)
            chosen[part.name] = part
    return tuple(chosen.values())


def _find(name: str) -> AccuracyProtocol:
    if name in _BY_NAME:
        return _BY_NAME[name]
    match = _PARAMETRIC.fullmatch(name)
    if match is None:
        if name in WHOLE_IMAGE:
            raise UsageError(f"{name} judges all masks of an image together: not from stored ones")
        near = difflib.get_close_matches(name, (*_BY_NAME, *WHOLE_IMAGE), n=1)
        known = ", ".join((*_BY_NAME, *_FAMILIES))
        hint = f"did you mean {near[0]}?" if near else f"known: {known}"
        raise UsageError(f"unknown protocol {name!r}; {hint}")
    family, number = match[1], int(match[2])
    if family == "clicks":
        if number > MAX_CLICKS:
            raise UsageError(f"{name} asks for more than {MAX_CLICKS} clicks")
        return _clicks(number)
    prompt_rule(name)
    if family == "random" and number == 1:  # one point is ambiguous: the best-scored of three
        return AccuracyProtocol(name, Question(name, multimask=True), "score")
    return AccuracyProtocol(name, Question(name))


def _clicks(number: int) -> AccuracyProtocol:
    return AccuracyProtocol(f"clicks-{number}", Question("center", clicks=number))


def check_references(references: Iterable[str]) -> tuple[str, ...]:
    """Returns the references, each once.

    Raises:
        UsageError: One is neither `ground-truth` nor `teacher:NAME`.
    """
    found = tuple(dict.fromkeys(references))
    for reference in found:
        if reference != GROUND_TRUTH and not reference.startswith(TEACHER):
            raise UsageError(
                f"unknown reference {reference!r}; wanted {GROUND_TRUTH} or {TEACHER}NAME"
            )
        if reference == TEACHER:
            raise UsageError(f"{TEACHER} needs the name of a model, such as {TEACHER}sam-vit-h")
    return found


def teacher_of(reference: str) -> str | None:
    """Name of the model behind a reference; None for the ground truth."""
    return reference.removeprefix(TEACHER) if reference.startswith(TEACHER) else None


def pick(rule: Pick, scores: Float32Array, ious: list[float]) -> int:
    """The candidate that a protocol scores.

    Args:
        rule: The protocol's.
        scores: (C,) the model's own scores.
        ious: C values, IoU of each candidate with the reference.
    """
    if rule == "oracle":
        return int(np.argmax(ious))
    if rule == "score":
        return int(np.argmax(scores))
    return 0
