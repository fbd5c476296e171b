"""Cells that several tables share."""

from __future__ import annotations

from benchmarks.records import Status, WeightsRow
from benchmarks.report.formatting import clean, interval
from benchmarks.report.table import Cell
from benchmarks.report.view import weights_label


def text_cell(text: str) -> Cell:
    """Text from the record, as it is."""
    return Cell(clean(text), (text,))


def status_cell(status: Status, why: str | None) -> Cell:
    """`ok`, or the status with its reason; two raw values."""
    return Cell(status if not why else f"{status}: {clean(why)}", (status, why))


def weights_cell(weights: WeightsRow) -> Cell:
    """Kind of the weights and the start of their hash; raw: kind, sha256, official (0 or 1)."""
    return Cell(weights_label(weights), (weights.kind, weights.sha256, int(weights.official)))


def percent(fraction: float, bounds: tuple[float, float] | None = None) -> str:
    """Prints a fraction in percent with one decimal, as published figures are."""
    scaled = None if bounds is None else (100 * bounds[0], 100 * bounds[1])
    return interval(100 * fraction, scaled, digits=1)


def percent_cell(fraction: float | None) -> Cell:
    """A fraction in percent; empty where there is none."""
    return Cell("" if fraction is None else percent(fraction), (fraction,))
