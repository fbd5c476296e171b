"""A figure of the HTML report: its drawings, the numbers behind it, and what is said below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmarks.records.record import RunRecord
from benchmarks.report.html_axes import NARROW_PX, WIDE_PX, LegendItem
from benchmarks.report.html_svg import Canvas
from benchmarks.report.style import model_styles, short_names
from benchmarks.tables.record_queries import has_random_weights, model_names
from benchmarks.tables.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        key: Stem of the files it is saved as; unique within a page.
        title: One line.
        alt: What it shows, for who does not see it.
        wide: Drawing for a desk.
        narrow: Drawing for a telephone.
        table: The values that are drawn.
        notes: Plain sentences printed below.
        choice: What tells it from the figures of the same kind, such as a protocol.
    """

    key: str
    title: str
    alt: str
    wide: Markup
    narrow: Markup
    table: Table
    notes: tuple[str, ...] = ()
    choice: str = ""


def drawings(draw: Callable[[float], Canvas], title: str, alt: str) -> tuple[Markup, Markup]:
    """Draws once for each width; the narrow drawing is hidden from who has room for the wide."""
    label = f"{title}. {alt}"
    return draw(WIDE_PX).render(label, "wide"), draw(NARROW_PX).render(label, "narrow")


def series(record: RunRecord) -> dict[str, int]:
    """Number of every model, the same in all figures, tables and pictures of a page."""
    return {model: index for index, model in enumerate(model_names(record))}


def legend(record: RunRecord, models: Sequence[str], *, line: bool = False) -> list[LegendItem]:
    """Legend items of some models."""
    numbers, styles = series(record), model_styles(model_names(record))
    names = short_names(models)
    return [
        LegendItem(
            numbers[model], names[model], styles[model], has_random_weights(record, model), line
        )
        for model in models
    ]
