"""Which prompts the report's gallery shows: the best, the median and the worst of every model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

FAILURE_IOU = 0.5
"""Below this IoU an answer counts as a failure: most of what it covers or misses is wrong."""
MOST_CASES = 300
"""So many cases a page shows at most: more are neither looked at nor quick to open."""

Key = tuple[int, int]
"""Image and annotation id."""


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt that the gallery shows.

    Attributes:
        protocol: Under which it was given.
        image_id: Of the image.
        annotation_id: Of the object.
        ious: IoU with the ground truth by model; a model that did not answer is absent.
    """

    protocol: str
    image_id: int
    annotation_id: int
    ious: Mapping[str, float]

    @property
    def lowest(self) -> float:
        """The lowest IoU of any model."""
        return min(self.ious.values())

    @property
    def failed(self) -> bool:
        """Whether some model failed."""
        return self.lowest < FAILURE_IOU


def choose_cases(
    frame: Any, protocols: Sequence[str], each: int, most: int = MOST_CASES
) -> list[Case]:
    """Chooses what to show; the same table gives the same cases.

    For every protocol and model: the worst, the best and the median prompts. Then, for images that
    are in none of them, their worst prompt under the first protocol that has one.

    Args:
        frame: DataFrame of instances (`benchmarks.records.instances.COLUMNS`) against the ground
            truth, each prompt once a model.
        protocols: Which to show, the most important first.
        each: Worst, best and median prompts of a protocol and model, so many of each.
        most: Cases at most. Where that is too few, protocols and models lose alike.

    Returns:
        Cases by protocol, in each from the lowest IoU of any model to the highest.
    """
    known = [name for name in protocols if (frame["protocol"] == name).any()]
    tables = {name: _ious(frame, name) for name in known}
    queues = [
        [(name, key) for key in _extremes(of_model, each)]
        for name, table in tables.items()
        for of_model in _by_model(table).values()
    ]
    # In turns, so that the first of every queue are kept where not all of them fit.
    wanted = dict.fromkeys(
        pick for turn in zip_longest(*queues) for pick in turn if pick is not None
    )
    chosen = list(dict.fromkeys([*wanted, *_remaining(tables, wanted)]))[:most]
    cases = [Case(name, key[0], key[1], tables[name][key]) for name, key in chosen]
    return sorted(
        cases,
        key=lambda c: (known.index(c.protocol), c.lowest, c.image_id, c.annotation_id),
    )


def _ious(frame: Any, protocol: str) -> dict[Key, dict[str, float]]:
    part = frame[frame["protocol"] == protocol]
    found: dict[Key, dict[str, float]] = {}
    columns = (part[name] for name in ("image_id", "annotation_id", "model", "iou"))
    for image_id, annotation_id, model, iou in zip(*columns, strict=True):
        found.setdefault((int(image_id), int(annotation_id)), {})[str(model)] = float(iou)
    return dict(sorted(found.items()))


def _by_model(table: Mapping[Key, Mapping[str, float]]) -> dict[str, dict[Key, float]]:
    found: dict[str, dict[Key, float]] = {}
    for key, ious in table.items():
        for model, iou in ious.items():
            found.setdefault(model, {})[key] = iou
    return found


def _extremes(ious: Mapping[Key, float], each: int) -> Iterator[Key]:
    """Worst, best and median prompts of one model, in turns."""
    ranked = sorted(ious, key=lambda key: (ious[key], key))
    middle = float(np.median(list(ious.values())))
    median = sorted(ious, key=lambda key: (abs(ious[key] - middle), key))
    for turn in zip(ranked[:each], ranked[::-1][:each], median[:each], strict=True):
        yield from turn


def _remaining(
    tables: Mapping[str, Mapping[Key, Mapping[str, float]]], chosen: Mapping[tuple[str, Key], None]
) -> Iterator[tuple[str, Key]]:
    """The worst prompt of every image that no chosen case shows."""
    seen = {key[0] for _, key in chosen}
    for name, table in tables.items():
        worst: dict[int, Key] = {}
        for key, ious in table.items():
            if key[0] in seen:
                continue
            known = worst.get(key[0])
            if known is None or min(ious.values()) < min(table[known].values()):
                worst[key[0]] = key
        seen |= worst.keys()
        yield from ((name, key) for key in worst.values())


def medians(
    frame: Any, protocols: Sequence[str], models: Sequence[str]
) -> list[list[float | None]]:
    """Median IoU over all prompts, by protocol and in it by model; None without an answer."""
    rows: list[list[float | None]] = []
    for protocol in protocols:
        part = frame[frame["protocol"] == protocol]
        found = part.groupby("model")["iou"].median().to_dict()
        rows.append([None if m not in found else round(float(found[m]), 4) for m in models])
    return rows
