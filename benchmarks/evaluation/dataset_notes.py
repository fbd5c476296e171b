"""What of a dataset was not used, remembered for a run that is taken up and reads nothing again."""

from __future__ import annotations

from pydantic import Field

from benchmarks.datasets.dataset import Dataset
from benchmarks.records.result_cache import ResultCache
from mobilesam.frozen_model import FrozenModel


class DataNotes(FrozenModel):
    """Annotations that were left out.

    Attributes:
        left_out: How many, by reason.
        problems: One line for each malformed one.
    """

    left_out: dict[str, int] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()


def remember(cells: ResultCache, dataset: Dataset) -> None:
    """Keeps what reading all images of a dataset has told; to be called before a model's cell."""
    notes = _told(dataset)
    if notes != DataNotes():
        cells.put(_key(dataset), notes)


def notes_of(cells: ResultCache, dataset: Dataset) -> DataNotes:
    """What reading told in this run or, where nothing was read, in the one that it takes up."""
    told = _told(dataset)
    if told != DataNotes():
        return told
    return cells.get(_key(dataset), DataNotes) or told


def _told(dataset: Dataset) -> DataNotes:
    left_out = {reason: count for reason, count in dataset.left_out.items() if count}
    return DataNotes(left_out=left_out, problems=tuple(dataset.problems))


def _key(dataset: Dataset) -> dict[str, str]:
    return {"kind": "data-notes", "dataset": dataset.fingerprint}
