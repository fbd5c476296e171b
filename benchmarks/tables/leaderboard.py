"""Leaderboards: models ranked under each protocol, with the groups that nobody can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.evaluation.comparison import LEVEL, tie_groups
from benchmarks.records.record import ComparisonRow, MiouRow, RunRecord
from benchmarks.tables.cells import WEIGHTS_COLUMN, percent, percent_cell, text_cell, weights_cell
from benchmarks.tables.formatting import slug
from benchmarks.tables.record_queries import Protocol, has_accuracy, protocol_of, protocols, unique
from benchmarks.tables.table import Cell, Column, Table
from mobilesam.errors import DataError

_LEAST_P = 0.001


@dataclass(frozen=True, slots=True)
class _Board:
    """The models of one protocol, best first, and what is known of their differences."""

    protocol: Protocol
    rows: tuple[MiouRow, ...]
    comparisons: tuple[ComparisonRow, ...]
    groups: dict[str, str]
    why_no_groups: str | None

    def behind_best(self, row: MiouRow) -> ComparisonRow | None:
        """The comparison of the best model (A) with this one (B); None without one."""
        best = self.rows[0].model
        for found in self.comparisons:
            if (found.model_a, found.model_b) == (best, row.model):
                return found
            if (found.model_a, found.model_b) == (row.model, best):
                return _reversed(found)
        return None


def leaderboard_tables(record: RunRecord) -> tuple[Table, ...]:
    """One table for each dataset and reference: its protocols, and in each the models, best first.

    Models without an accuracy are named below the table with the reason; a protocol without any
    has no rows.
    """
    boards = [board for p in protocols(record) if (board := _board(record, p)).rows]
    parts = unique((board.protocol.dataset, board.protocol.reference) for board in boards)
    names: list[str] = []
    for dataset, reference in parts:
        several = f"leaderboard-{slug(dataset)}-{slug(reference)}"
        name = "leaderboard" if len(parts) == 1 else several
        names.append(f"{name}-{len(names)}" if name in names else name)
    return tuple(
        _table(
            record, [b for b in boards if (b.protocol.dataset, b.protocol.reference) == part], name
        )
        for part, name in zip(parts, names, strict=True)
    )


def _board(record: RunRecord, protocol: Protocol) -> _Board:
    rows = [row for row in record.miou if protocol_of(row) == protocol and has_accuracy(row)]
    rows.sort(key=lambda row: -(row.miou or 0))
    comparisons = tuple(
        row
        for row in record.comparisons
        if (row.dataset, row.reference, row.protocol)
        == (protocol.dataset, protocol.reference, protocol.protocol)
    )
    groups, why = {}, None
    try:
        groups = tie_groups({row.model: row.miou or 0 for row in rows}, comparisons)
    except DataError as error:
        why = f"{protocol.protocol} has no groups: {error}."
    return _Board(protocol, tuple(rows), comparisons, groups, why)


def _reversed(row: ComparisonRow) -> ComparisonRow:
    return row.model_copy(
        update={
            "model_a": row.model_b,
            "model_b": row.model_a,
            "difference": 0.0 - row.difference,  # zero stays without a sign
            "ci95": None if row.ci95 is None else (-row.ci95[1], -row.ci95[0]),
        }
    )


def _table(record: RunRecord, boards: Sequence[_Board], name: str) -> Table:
    dataset, reference = boards[0].protocol.dataset, boards[0].protocol.reference
    rows = tuple(_cells(board, row) for board in boards for row in board.rows)
    title = f"Leaderboard on {dataset}, reference {reference}"
    boundary = any(row.boundary_miou is not None for board in boards for row in board.rows)
    return Table(name, title, _columns(boundary=boundary), rows, _notes(record, boards))


def _columns(*, boundary: bool) -> tuple[Column, ...]:
    """The columns, in the order of `_cells`; without boundary IoU only the CSV has its column."""
    behind = ("behind_best", "behind_best_low", "behind_best_high")
    return (
        Column("Protocol", ("protocol",)),
        Column("Rank", ("rank",), align="right"),
        Column("Model", ("model",)),
        Column("Group", ("group",)),
        Column("mIoU [CI]", ("miou", "ci95_low", "ci95_high"), "%", "right"),
        Column("Boundary", ("boundary_miou",), "%", "right", csv_only=not boundary),
        Column("Behind best [CI]", behind, "points", "right"),
        Column("p", ("p_adjusted", "p_value"), align="right"),
        WEIGHTS_COLUMN,
        Column("Dataset", ("dataset",), csv_only=True),
        Column("Reference", ("reference",), csv_only=True),
    )


def _cells(board: _Board, row: MiouRow) -> tuple[Cell, ...]:
    low, high = row.ci95 or (None, None)
    rank = 1 + sum((other.miou or 0) > (row.miou or 0) for other in board.rows)
    group = board.groups.get(row.model)
    return (
        text_cell(row.protocol),
        Cell(str(rank), (rank,)),
        text_cell(row.model),
        Cell(group or "", (group,)),
        Cell("" if row.miou is None else percent(row.miou, row.ci95), (row.miou, low, high)),
        percent_cell(row.boundary_miou),
        *_behind_cells(board, row),
        weights_cell(row.weights),
        text_cell(row.dataset),
        text_cell(row.reference),
    )


def _behind_cells(board: _Board, row: MiouRow) -> tuple[Cell, Cell]:
    """Distance to the best model and its corrected p-value; empty for the best itself."""
    found = board.behind_best(row)
    if found is None:
        text = "best" if row is board.rows[0] else "not compared"
        return Cell(text, (None, None, None)), Cell("", (None, None))
    low, high = found.ci95 or (None, None)
    p = f"{found.p_adjusted:.3f}" if found.p_adjusted >= _LEAST_P else f"<{_LEAST_P}"
    return (
        Cell(percent(found.difference, found.ci95), (found.difference, low, high)),
        Cell(p, (found.p_adjusted, found.p_value)),
    )


def _notes(record: RunRecord, boards: Sequence[_Board]) -> tuple[str, ...]:
    notes = []
    if any(board.groups for board in boards):
        notes.append(
            "Group: models of one protocol that share a letter cannot be told apart on this "
            f"dataset (corrected p above {LEVEL}); their order is then no evidence."
        )
    if any(board.comparisons for board in boards):
        notes.append(
            "Behind best: paired on the same prompts; the interval is for that pair alone. p: "
            "two-sided, corrected (Holm) over all pairs of models and all protocols here."
        )
    notes.append("mIoU: mean over instances; CI: 95 % bootstrap over images. CSV: fractions.")
    if boards[0].protocol.reference.startswith("teacher:"):
        notes.append("Agreement with the masks of another model, which is not accuracy.")
    if boards[0].protocol.dataset.startswith("sa1b"):
        notes.append("SA-1B's masks were made by a SAM: they favour SAM.")
    notes += [board.why_no_groups for board in boards if board.why_no_groups]
    notes += [line for board in boards for line in _partial(board)]
    return (*notes, *_unranked(record, boards))


def _partial(board: _Board) -> list[str]:
    """Says where a comparison with the best is on fewer prompts than the mean of the model."""
    found = ((row, board.behind_best(row)) for row in board.rows)
    return [
        f"{board.protocol.protocol}: {row.model} is compared on the {pair.n_instances:,} prompts "
        f"that it and {board.rows[0].model} both answered."
        for row, pair in found
        if pair and pair.n_instances < max(row.n_instances, board.rows[0].n_instances)
    ]


def _unranked(record: RunRecord, boards: Sequence[_Board]) -> list[str]:
    """Models without an accuracy, those with the same reason in one line."""
    part = (boards[0].protocol.dataset, boards[0].protocol.reference)
    missing: dict[str, list[MiouRow]] = {}
    for row in record.miou:
        if (row.dataset, row.reference) == part and not has_accuracy(row):
            random = row.weights.kind == "random" and row.status != "error"
            why = (
                "no trained weights" if random else f"{row.status}: {row.why or 'no reason given'}"
            )
            missing.setdefault(why, []).append(row)
    return [
        f"Not ranked in {', '.join(unique(row.protocol for row in rows))} ({why}): "
        f"{', '.join(unique(row.model for row in rows))}."
        for why, rows in missing.items()
    ]
