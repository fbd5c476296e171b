"""The commands about published weights: `weights list`, `fetch` and `verify`."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.cli.commands.printing import print_json, print_table
from benchmarks.config.options import OutputArguments
from benchmarks.debugging import format_error
from mobilesam.errors import UsageError, WeightsError
from mobilesam.weights import checkpoints, verification
from mobilesam.weights.checkpoint_specs import specs
from mobilesam.weights.download import stderr_progress

_PRESENT = {
    "ok": "here, verified",
    "absent": "not here",
    "corrupt": "corrupt",
    "custom": "other weights under this name",
}


def list_all(output: OutputArguments) -> int:
    """Prints every published checkpoint and whether it is here."""
    rows = verification.status_rows()
    if output.json:
        print_json({"rows": [_plain(asdict(row)) for row in rows]})
        return 0
    from benchmarks.tables.table import Cell, Column, Table

    table = Table(
        "weights",
        "Published weights",
        (
            Column("Model", ("model",)),
            Column("File", ("file",)),
            Column("Size", ("bytes",), unit="MB", align="right"),
            Column("Licence", ("licence",)),
            Column("Status", ("status",)),
            Column("Where", ("path",)),
        ),
        tuple(
            (
                Cell(row.name, (row.name,)),
                Cell(row.file, (row.file,)),
                Cell(f"{row.megabytes:.0f}", (row.n_bytes,)),
                Cell(row.licence, (row.licence,)),
                Cell(_presence(row), (row.status,)),
                Cell(str(row.path or ""), (str(row.path or ""),)),
            )
            for row in rows
        ),
        (
            "Fetch one with: mobilesam-bench weights fetch NAME. Files of your own: "
            "--weights NAME=PATH, or a folder of them in MOBILESAM_WEIGHTS. Weights inside this "
            "package: --weights mobilesam=shipped.",
        ),
    )
    print_table(table)
    return 0


def _presence(row: verification.StatusRow) -> str:
    """Whether the published file is present, and which file is used otherwise."""
    shipped = row.status == "absent" and row.shipped is not None
    return f"not here; shipped: {row.shipped}" if shipped else _PRESENT[row.status]


def fetch(names: Sequence[str], *, force: bool) -> int:
    """Fetches checkpoints by name or wildcard; goes on after one that fails."""
    known = specs()
    chosen = [name for pattern in names for name in fnmatch.filter(known, pattern)]
    unmatched = [pattern for pattern in names if not fnmatch.filter(known, pattern)]
    if unmatched or not names:
        raise UsageError(
            f"name the weights to fetch: {', '.join(known)}, or '*' for all"
            + (f"; unknown: {', '.join(unmatched)}" if unmatched else "")
        )
    failed = 0
    with stderr_progress() as progress:
        for name in dict.fromkeys(chosen):
            try:
                found = checkpoints.fetch(name, force=force, progress=progress)
            except WeightsError as error:
                failed += 1
                sys.stderr.write(f"error: {name}: {format_error(error)}\n")
            else:
                sys.stdout.write(f"{name}  {found.path}  sha256 {found.sha256}\n")
    return 1 if failed else 0


def verify(targets: Sequence[str], output: OutputArguments) -> int:
    """Verifies checkpoints; without a target, all that are here."""
    chosen = targets or [row.name for row in verification.status_rows() if row.path is not None]
    reports = [verification.verify(target) for target in chosen]
    if output.json:
        print_json({"rows": [_plain(asdict(report)) for report in reports]})
    else:
        for report in reports:
            sys.stdout.write(f"{report.status:<8} {report.message}\n")
        if not reports:
            sys.stdout.write("no published weights are on this machine\n")
    return 1 if any(report.status in ("corrupt", "absent") for report in reports) else 0


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    return {key: str(each) if key == "path" and each else each for key, each in value.items()}
