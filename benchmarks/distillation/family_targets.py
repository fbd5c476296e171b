"""Targets of the mini family, and the values that a run has reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.record import RunRecord
from benchmarks.tables.columns import RowColumn, build_table, text_column
from benchmarks.tables.table import Cell, Column, Table

TEACHER, STUDENT = "sam-mini", "mobilesam-mini"


@dataclass(frozen=True, slots=True)
class FamilyTarget:
    """One target, with the measured value in the unit of the bound; None if there is none."""

    what: str
    target: float
    at_least: bool  # whether the bound is a minimum; otherwise a maximum
    measured: float | None
    unit: str

    @property
    def outcome(self) -> str:
        """`reached`, `missed` or `not measured`."""
        if self.measured is None:
            return "not measured"
        reached = self.measured >= self.target if self.at_least else self.measured <= self.target
        return "reached" if reached else "missed"


def family_targets(record: RunRecord) -> tuple[FamilyTarget, ...]:
    """All targets with the values of a record; mIoU in percent, differences in points."""
    miou = {
        (row.model, row.protocol, row.reference): None if row.miou is None else 100 * row.miou
        for row in reversed(record.miou)
    }
    params = {row.model: row.total for row in record.params if row.component == "image_encoder"}
    encode = {row.model: row.median_ms for row in record.latency if row.phase == "encode"}

    def score(model: str, protocol: str) -> float | None:
        return miou.get((model, protocol, GROUND_TRUTH))

    def gap(protocol: str) -> float | None:
        teacher, student = score(TEACHER, protocol), score(STUDENT, protocol)
        return None if teacher is None or student is None else teacher - student

    def ratio(values: Mapping[str, float | None]) -> float | None:
        teacher, student = values.get(TEACHER), values.get(STUDENT)
        return None if teacher is None or not student else teacher / student

    multi, behind = "center-multi", "behind its teacher"
    agreement = miou.get((STUDENT, "center", f"teacher:{TEACHER}"))
    return (
        FamilyTarget(f"{TEACHER}, box", 82, True, score(TEACHER, "box"), "%"),
        FamilyTarget(f"{TEACHER}, {multi}", 68, True, score(TEACHER, multi), "%"),
        FamilyTarget(f"{STUDENT}, box, {behind}", 4, False, gap("box"), "points"),
        FamilyTarget(f"{STUDENT}, {multi}, {behind}", 4, False, gap(multi), "points"),
        FamilyTarget(f"{STUDENT}, center, agreement with its teacher", 75, True, agreement, "%"),
        FamilyTarget("encoder's parameters, teacher by student", 4, True, ratio(params), "x"),
        FamilyTarget("encoder's time, teacher by student", 2, True, ratio(encode), "x"),
    )


def family_targets_table(record: RunRecord) -> Table:
    """The targets as a table."""

    def target(each: FamilyTarget) -> Cell:
        bound = "at least" if each.at_least else "at most"
        return Cell(f"{bound} {each.target:g} {each.unit}", (each.target,))

    def measured(each: FamilyTarget) -> Cell:
        # Two decimals for factors, so that one just below its bound does not look equal to it.
        digits = 2 if each.unit == "x" else 1
        text = "" if each.measured is None else f"{each.measured:.{digits}f} {each.unit}"
        return Cell(text, (each.measured,))

    columns = (
        text_column("What", "what"),
        RowColumn(Column("Aim", ("aim",), align="right"), target),
        RowColumn(Column("Measured", ("measured",), align="right"), measured),
        text_column("Outcome", "outcome"),
    )
    targets = family_targets(record)
    return build_table("mini-family-aims", "Aims of the mini family", columns, targets)
