"""What the mini family set out to reach, and what a run has reached of it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.record import RunRecord
from benchmarks.tables.table import Cell, Column, Table

TEACHER, STUDENT = "sam-mini", "mobilesam-mini"
_ENCODER, _ENCODE = "image_encoder", "encode"


@dataclass(frozen=True, slots=True)
class FamilyAim:
    """One aim.

    Attributes:
        what: What is measured.
        bound: What it should come to.
        at_least: Whether the bound is the least; else the most.
        measured: What a run has found, in the bound's unit; None where it holds no such figure.
        unit: Of both.
    """

    what: str
    bound: float
    at_least: bool
    measured: float | None
    unit: str

    @property
    def outcome(self) -> str:
        """In a word."""
        if self.measured is None:
            return "not measured"
        reached = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        return "reached" if reached else "missed"


def aims_of(record: RunRecord) -> tuple[FamilyAim, ...]:
    """Each aim beside what the record holds of it. mIoU is in percent, differences in points."""
    box, multi = (_miou(record, TEACHER, name) for name in ("box", "center-multi"))
    agreement = _miou(record, STUDENT, "center", f"teacher:{TEACHER}")
    own_box, own_multi = (_miou(record, STUDENT, name) for name in ("box", "center-multi"))
    return (
        FamilyAim(f"{TEACHER}, box", 82, True, box, "%"),
        FamilyAim(f"{TEACHER}, center-multi", 68, True, multi, "%"),
        FamilyAim(f"{STUDENT}, box, behind its teacher", 4, False, _less(box, own_box), "points"),
        FamilyAim(
            f"{STUDENT}, center-multi, behind its teacher", 4, False, _less(multi, own_multi),
            "points",
        ),
        FamilyAim(f"{STUDENT}, center, agreement with its teacher", 75, True, agreement, "%"),
        FamilyAim("encoder's parameters, teacher by student", 4, True, _parameters(record), "x"),
        FamilyAim("encoder's time, teacher by student", 2, True, _time(record), "x"),
    )  # fmt: skip


def family_aims(record: RunRecord) -> Table:
    """The aims as a table."""
    columns = (
        Column("What", ("what",)),
        Column("Aim", ("aim",), "", "right"),
        Column("Measured", ("measured",), "", "right"),
        Column("Outcome", ("outcome",)),
    )
    rows = tuple(
        (
            Cell(aim.what, (aim.what,)),
            Cell(
                f"{'at least' if aim.at_least else 'at most'} {aim.bound:g} {aim.unit}",
                (aim.bound,),
            ),
            Cell(
                "" if aim.measured is None else f"{aim.measured:.{_digits(aim)}f} {aim.unit}",
                (aim.measured,),
            ),
            Cell(aim.outcome, (aim.outcome,)),
        )
        for aim in aims_of(record)
    )
    return Table("mini-family-aims", "Aims of the mini family", columns, rows)


def _digits(aim: FamilyAim) -> int:
    """Places after the point: a factor just short of its bound must not look like it."""
    return 2 if aim.unit == "x" else 1


def _miou(
    record: RunRecord, model: str, protocol: str, reference: str = GROUND_TRUTH
) -> float | None:
    for row in record.miou:
        if (row.model, row.protocol, row.reference) == (model, protocol, reference):
            return None if row.miou is None else 100 * row.miou
    return None


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None or part is None else whole - part


def _by(teacher: float | None, student: float | None) -> float | None:
    return None if teacher is None or not student else teacher / student


def _parameters(record: RunRecord) -> float | None:
    found = {row.model: row.total for row in record.params if row.component == _ENCODER}
    return _by(found.get(TEACHER), found.get(STUDENT))


def _time(record: RunRecord) -> float | None:
    found = {row.model: row.median_ms for row in record.latency if row.phase == _ENCODE}
    return _by(found.get(TEACHER), found.get(STUDENT))
