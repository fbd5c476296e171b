"""Accuracy protocols: which prompt is given, and which of the predicted masks is scored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np

from baselines.interface import Float32Array
from benchmarks.prompts.samplers import PERCENT, prompt_sampler
from mobilesam.errors import UsageError

GROUND_TRUTH = "ground-truth"
TEACHER_PREFIX = "teacher:"
MAX_CLICKS = 100
DEFAULT_CEILING = 20
"""Clicks of `noc` and `noc-multi`, as in the literature on interactive segmentation."""
NOC_IOUS = (0.80, 0.85, 0.90, 0.95)
"""IoUs until which clicks are counted by default."""
LISTED_CLICKS = (1, 3, 5, 10, 20)
"""Numbers of clicks that are listed and compared in a sequence of more than five."""
DETECTOR_BOX, DETECTOR_BOX_MULTI, EVERYTHING = "detector-box", "detector-box-multi", "everything"
WHOLE_IMAGE_PROTOCOLS = (DETECTOR_BOX, DETECTOR_BOX_MULTI, EVERYTHING)
"""Protocols with results of their own, since they do not score one mask for one prompt."""
DEFAULT_PROTOCOLS = ("box", "center", "center-multi")

Selection = Literal["only", "score", "oracle"]


@dataclass(frozen=True, slots=True, order=True)
class Query:
    """Input of a model: a prompt sampler, clicks (all but the first on errors), candidate masks.

    Protocols that differ only in the scored mask share a query.
    """

    prompt: str
    clicks: int = 1
    multimask: bool = False


@dataclass(frozen=True, slots=True)
class AccuracyProtocol:
    """An accuracy protocol; its name is printed with every number.

    `selection` says which candidate is scored: the only one, the one with the highest score of the
    model, or the one with the best IoU (an upper bound that no user reaches). `clean` names the
    protocol with the same prompt undisturbed, if this one measures robustness.
    """

    name: str
    query: Query
    selection: Selection = "only"
    clean: str | None = None

    @property
    def prompt(self) -> str:
        """Name of the prompt sampler."""
        return self.query.prompt

    @property
    def n_clicks(self) -> int | None:
        """K of `clicks-K` and `clicks-multi-K`; None for other protocols."""
        return self.query.clicks if self.name.startswith("clicks-") else None

    @property
    def for_reference(self) -> AccuracyProtocol:
        """The protocol by which a reference model selects its mask: never by IoU with itself."""
        return replace(self, selection="score") if self.selection == "oracle" else self


_FIXED = {
    protocol.name: protocol
    for protocol in (
        AccuracyProtocol("box", Query("box")),
        AccuracyProtocol("box-multi", Query("box", multimask=True), "score"),
        AccuracyProtocol("center", Query("center")),
        AccuracyProtocol("center-multi", Query("center", multimask=True), "score"),
        AccuracyProtocol("center-oracle", Query("center", multimask=True), "oracle"),
        AccuracyProtocol("annotation-point", Query("annotation-point")),
        AccuracyProtocol("mask", Query("mask")),
        AccuracyProtocol("mask-eroded", Query("mask-eroded"), clean="mask"),
        AccuracyProtocol("mask-dilated", Query("mask-dilated"), clean="mask"),
    )
}
EXPLAINED = {
    "box": "the tight box around the object; one mask",
    "box-multi": "the same box; the best scored of three masks",
    "center": "one click in the middle, farthest from the outline; one mask",
    "center-multi": "the same click; the best scored of three masks",
    "center-oracle": "the same click; the best of three masks by IoU, an upper bound",
    "annotation-point": "the point stored with the annotation (SA-1B); one mask",
    "random-K": "K random points inside of the object; random-1 takes the best scored of three",
    "clicks-K": "K clicks, each on the largest error of the mask before (K up to 100); one mask",
    "clicks-multi-K": "the same; at every click the best scored of three masks",
    "noc": "clicks-K to count clicks until the IoUs of --noc; K is 20, or --noc-ceiling",
    "noc-multi": "the same with clicks-multi-K",
    "two-point-D": "a click in the middle, and a background click D pixels away; one mask",
    "box-jitter-P": "the box, each side moved at random by up to P % of it; and box, for the loss",
    "point-offset-P": "that click, moved at random by up to P % of the box; and center",
    "mask": "a coarse mask, 64 cells along the longer side of the image, and its box; one mask",
    "mask-eroded": "the same, eroded by 10 % of its size; and mask, for the loss",
    "mask-dilated": "the same, dilated by 10 % of its size; and mask, for the loss",
    "detector-box": "boxes of a detector (--detections); COCO AP of single masks",
    "detector-box-multi": "the same boxes; COCO AP of the best scored of three masks",
    "everything": "no prompt: all objects of the image; average recall",
}
"""What each protocol, or family of protocols, gives to a model and which mask it scores."""
_NUMBERED = re.compile(r"(random|clicks|clicks-multi|two-point)-([1-9]\d{0,4})")
_COUNTED = {"noc": "clicks", "noc-multi": "clicks-multi"}
COUNTED_PROTOCOLS = _COUNTED.keys()
"""Names of protocols that click until a ceiling."""
_DISTURBED = re.compile(rf"(box-jitter|point-offset)-({PERCENT})")
_CLEAN = {"box-jitter": "box", "point-offset": "center"}
"""Protocol with the undisturbed prompt, by the family of robustness protocols."""


def find_protocols(
    names: Iterable[str], ceiling: int = DEFAULT_CEILING
) -> tuple[AccuracyProtocol, ...]:
    """Returns the protocols of names, each once, in the given order; `UsageError` if unknown.

    `clicks-K` gives all of `clicks-1` to `clicks-K`: the earlier ones cost nothing, and the number
    of clicks to an IoU is computed from them. `noc` is `clicks-K` with the ceiling as K, and
    `noc-multi` is `clicks-multi-K`. A protocol of robustness comes after the one with the
    undisturbed prompt, which it is compared with.
    """
    found = chain.from_iterable(_protocols_of(name, ceiling) for name in names)
    return tuple({protocol.name: protocol for protocol in found}.values())


def click_sequence(name: str) -> tuple[str, int] | None:
    """Name without its number, and K, of `clicks-K` and `clicks-multi-K`; None for others."""
    match = _NUMBERED.fullmatch(name)
    is_sequence = match is not None and match[1] in _COUNTED.values()
    return (match[1], int(match[2])) if match is not None and is_sequence else None


def listed_protocols(names: Iterable[str]) -> tuple[str, ...]:
    """The names without most steps of click sequences longer than five, see `LISTED_CLICKS`."""
    steps = {name: click_sequence(name) for name in names}
    longest: dict[str, int] = {}
    for kind, clicks in filter(None, steps.values()):
        longest[kind] = max(clicks, longest.get(kind, 0))
    return tuple(
        name
        for name, step in steps.items()
        if step is None or longest[step[0]] <= 5 or step[1] in (*LISTED_CLICKS, longest[step[0]])
    )


def _protocols_of(name: str, ceiling: int) -> list[AccuracyProtocol]:
    name = f"{_COUNTED[name]}-{ceiling}" if name in _COUNTED else name
    if name in _FIXED:
        found = _FIXED[name]
        return [found] if found.clean is None else [_FIXED[found.clean], found]
    if name in WHOLE_IMAGE_PROTOCOLS:
        raise UsageError(f"{name} scores all masks of an image together: not from stored masks")
    if (disturbed := _DISTURBED.fullmatch(name)) is not None:
        clean = _CLEAN[disturbed[1]]
        return [_FIXED[clean], AccuracyProtocol(name, Query(name), clean=clean)]
    if any(name.startswith(f"{family}-") for family in _CLEAN):
        raise UsageError(
            f"unknown protocol {name!r}; its percentage is a number from 1 to 100, such as 10 or "
            "2.5, without trailing zeros"
        )
    match = _NUMBERED.fullmatch(name)
    if match is None:
        whole = (*_COUNTED, *WHOLE_IMAGE_PROTOCOLS)
        near = difflib.get_close_matches(name, (*_FIXED, *whole), n=1)
        families = ("random-K", "clicks-K", "clicks-multi-K", "two-point-D")
        known = (*_FIXED, *families, *(f"{each}-P" for each in _CLEAN), *whole)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise UsageError(f"unknown protocol {name!r}; {hint}")
    family, number = match[1], int(match[2])
    if family in _COUNTED.values():
        if number > MAX_CLICKS:
            raise UsageError(f"{name} has more than {MAX_CLICKS} clicks")
        multimask = family == "clicks-multi"
        return [
            AccuracyProtocol(
                f"{family}-{clicks}",
                Query("center", clicks, multimask),
                "score" if multimask else "only",
            )
            for clicks in range(1, number + 1)
        ]
    prompt_sampler(name)
    if family == "random" and number == 1:  # one point is ambiguous: the best-scored of three
        return [AccuracyProtocol(name, Query(name, multimask=True), "score")]
    return [AccuracyProtocol(name, Query(name))]


def disturbance(name: str) -> tuple[str, float] | None:
    """Family and percentage of a protocol such as `box-jitter-10`; None for any other."""
    match = _DISTURBED.fullmatch(name)
    return None if match is None else (match[1], float(match[2]))


def check_references(references: Iterable[str]) -> tuple[str, ...]:
    """Returns the references, each once; raises `UsageError` for an unknown one."""
    found = tuple(dict.fromkeys(references))
    for reference in found:
        if reference != GROUND_TRUTH and not reference.startswith(TEACHER_PREFIX):
            raise UsageError(
                f"unknown reference {reference!r}; wanted {GROUND_TRUTH} or {TEACHER_PREFIX}NAME"
            )
        if reference == TEACHER_PREFIX:
            raise UsageError(f"{reference} needs the name of a model, such as {reference}sam-vit-h")
    return found


def reference_model(reference: str) -> str | None:
    """Returns the name of the model of a reference; None for the ground truth."""
    is_model = reference.startswith(TEACHER_PREFIX)
    return reference.removeprefix(TEACHER_PREFIX) if is_model else None


def select_candidate(selection: Selection, scores: Float32Array, ious: list[float]) -> int:
    """Index of the scored mask, of C candidates with (C,) scores and IoUs with the reference."""
    if selection == "oracle":
        return int(np.argmax(ious))
    return int(np.argmax(scores)) if selection == "score" else 0
