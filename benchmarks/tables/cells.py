"""Cells that several tables share."""

from __future__ import annotations

from benchmarks.records.record import Status, WeightsRow
from benchmarks.tables.formatting import clean, interval
from benchmarks.tables.record_queries import shipped_notes, weights_label
from benchmarks.tables.table import Cell, Column

WEIGHTS_COLUMN = Column(
    "Weights", ("weights_kind", "weights_sha256", "weights_official", "weights_shipped")
)
"""Kind, hash, whether they are the published weights (0 or 1), and origin of shipped weights."""
INLINE_REASON = 24
"""Reasons of at most so many characters stand in the cell; longer ones become a footnote."""


class Reasons:
    """Reasons for empty cells; long ones are numbered, and printed once below the table."""

    def __init__(self) -> None:
        self._long: list[str] = []

    def cell(self, status: str, why: str | None, n_numbers: int) -> Cell:
        """An empty cell that says why; raw: no numbers, then the status with its reason."""
        why = clean(why or "")
        text = f"{status}: {why}" if why and n_numbers == 0 else why or status
        if len(why) > INLINE_REASON:
            if why not in self._long:
                self._long.append(why)
            text = f"{status} ({self._long.index(why) + 1})"
        return Cell(text, (*([None] * n_numbers), f"{status}: {why}" if why else status))

    def status_cell(self, status: Status, why: str | None) -> Cell:
        """`ok`, or the status with its reason; raw: status and reason."""
        return Cell(self.cell(status, why, 0).text if status != "ok" else status, (status, why))

    def notes(self) -> tuple[str, ...]:
        """The footnotes, in the order of their numbers."""
        return tuple(f"({index}) {why}" for index, why in enumerate(self._long, start=1))


def text_cell(text: str) -> Cell:
    """Text from the record, as it is."""
    return Cell(clean(text), (text,))


def weights_cell(weights: WeightsRow) -> Cell:
    """The weights as a short label, for `WEIGHTS_COLUMN`."""
    raw = (weights.kind, weights.sha256, int(weights.official), weights.shipped)
    return Cell(weights_label(weights), raw, next(iter(shipped_notes([weights])), None))


def percent(fraction: float, bounds: tuple[float, float] | None = None) -> str:
    """Prints a fraction in percent with one decimal, as published figures are."""
    scaled = None if bounds is None else (100 * bounds[0], 100 * bounds[1])
    return interval(100 * fraction, scaled, digits=1)


def percent_cell(fraction: float | None) -> Cell:
    """A fraction in percent; empty where there is none."""
    return Cell("" if fraction is None else percent(fraction), (fraction,))
