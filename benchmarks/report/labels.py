"""Names of prompts and datasets as people say them, for titles and captions of plots and charts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from benchmarks.prompts.protocols import click_sequence, disturbance, reference_model
from benchmarks.records.record import RunRecord
from benchmarks.tables.formatting import clean, number
from benchmarks.tables.record_queries import Protocol, Setup

Scope = dict[str, str]
"""What a part of the page is about: values of `dataset`, `reference`, `protocol`, `device` and
`precision` of the selector. The part is hidden when another value of one of them is selected."""

_PROMPTS = {
    "box": "Box",
    "box-multi": "Box, best scored of three masks",
    "center": "One click in the middle",
    "center-multi": "One click in the middle, best scored of three masks",
    "center-oracle": "One click in the middle, best of three masks, chosen with the ground truth",
    "annotation-point": "The point stored with the annotation",
    "random-1": "One random click, best scored of three masks",
    "mask": "Coarse mask and box",
    "mask-eroded": "Eroded coarse mask and box",
    "mask-dilated": "Dilated coarse mask and box",
}
_DISTURBED = {
    "box-jitter": "Box, sides moved by up to {:g} %",
    "point-offset": "One click, up to {:g} % off",
}
_NUMBERED = {"random": "{} random clicks", "two-point": "Two clicks, the background one {} px away"}
_DATASETS = {
    "photos": "shipped photos",
    "synthetic": "drawn scenes",
    "grabcut": "GrabCut dataset",
    "berkeley": "Berkeley",
    "davis345": "DAVIS-345",
    "sbd": "SBD",
    "coco-mval": "COCO_MVal",
}
_COCO_SPLIT = re.compile(r"(?:train|val|test)20\d\d(?:_\w+)?")


def prompt_label(protocol: str) -> str:
    """The prompt and the scored mask of a protocol: `One click in the middle`."""
    if protocol in _PROMPTS:
        return _PROMPTS[protocol]
    if (clicks := click_sequence(protocol)) is not None:
        kind, n = clicks
        best = ", best scored of three masks" if kind == "clicks-multi" else ""
        return f"{n} click{'s' * (n != 1)}{best}"
    if (disturbed := disturbance(protocol)) is not None:
        return _DISTURBED[disturbed[0]].format(disturbed[1])
    family, _, count = protocol.rpartition("-")
    return _NUMBERED[family].format(count) if family in _NUMBERED else clean(protocol)


def dataset_label(dataset: str, n_images: int | None = None) -> str:
    """A dataset and its number of images: `COCO val2017, 100 photos`.

    Only the file names of COCO's splits are called COCO: the format `coco` holds any images.
    """
    kind, _, name = dataset.partition(":")
    is_coco = kind == "coco" and _COCO_SPLIT.fullmatch(name) is not None
    label = (
        f"COCO {name.replace('_', ' ')}" if is_coco else _DATASETS.get(kind, clean(name or kind))
    )
    if not n_images:
        return label
    what = "photo" if is_coco else "image"
    return f"{label}, {n_images:,} {what}{'s' * (n_images != 1)}"


def data_label(record: RunRecord, protocol: Protocol) -> str:
    """Dataset and number of images of a protocol, and the model whose masks are the reference.

    Without rows of that protocol, the largest number of any with the same dataset and reference.
    """
    same = [
        r for r in record.miou if (r.dataset, r.reference) == (protocol.dataset, protocol.reference)
    ]
    own = [row for row in same if row.protocol == protocol.protocol] or same
    label = dataset_label(protocol.dataset, max((row.n_images for row in own), default=None))
    return with_reference(label, protocol.reference)


def with_reference(label: str, reference: str) -> str:
    """A label of data, and the model whose masks are the reference, if there is one."""
    teacher = reference_model(reference)
    return label if teacher is None else f"{label}, agreement with {clean(teacher)}"


def protocol_title(record: RunRecord, protocol: Protocol, what: str = "") -> str:
    """A title: `One click in the middle, by object size: COCO val2017, 100 photos`."""
    parts = [prompt_label(protocol.protocol), *([what] if what else [])]
    return f"{', '.join(parts)}: {data_label(record, protocol)}"


def joined(models: Sequence[str], word: str = "and") -> str:
    """Names as in a sentence: `a`, `a and b`, `a, b and c`."""
    *first, last = models
    return f"{', '.join(first)} {word} {last}" if first else last


def scope_of(*conditions: Protocol | Setup | None) -> Scope:
    """Selection of a protocol, a setup, or both; without a condition, any."""
    scope: Scope = {}
    for each in conditions:
        if isinstance(each, Protocol):
            scope |= {"dataset": each.dataset, "protocol": each.short}
        elif each is not None:
            threads = f"{each.threads} thread{'s' * (each.threads != 1)}"
            scope |= {"device": f"{each.device}, {threads}", "precision": each.precision}
    return scope


def points_text(one: float, other: float) -> str:
    """The difference of two mIoU, fractions, in points, computed before rounding; never zero."""
    points = abs(100 * (one - other))
    return f"{number(points, 1)} points" if points >= 0.05 else "less than 0.1 points"


def times_as(ratio: float, word: str, other: str = "", doubt: str = "") -> str:
    """A ratio above 1 in words, such as `2.51 times as fast as OTHER` or `slightly faster`.

    With a `doubt`, such as `one call each`, it has fewer digits and names the doubt.
    """
    why = f" ({doubt})" if doubt else ""
    if ratio >= 1.05:
        times = number(ratio)
        if doubt:
            digits = 1 if ratio < 20 else min(0, 1 - math.floor(math.log10(ratio)))
            times = f"about {round(ratio, digits):,.{max(0, digits)}f}"
        return f"{times} times as {word}{other and f' as {other}'}{why}"
    comparative = {"fast": "faster", "many": "more", "long": "longer"}[word]
    return f"slightly {comparative}{other and f' than {other}'}{why}"
