"""The commands about published weights: `weights list`, `fetch` and `verify`."""

from __future__ import annotations

import fnmatch
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from benchmarks.config.options import OutputArguments
from mobilesam.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from mobilesam.weights.checkpoint_specs import CheckpointSpec
    from mobilesam.weights.checkpoints import VerifyReport

_STATUS = {
    "ok": "here, verified",
    "absent": "not here",
    "corrupt": "corrupt",
    "custom": "other weights under this name",
}
_NOTE = (
    "Fetch one with: mobilesam-bench weights fetch NAME. Files of your own: --weights NAME=PATH, "
    "or a folder of them in MOBILESAM_WEIGHTS. Weights inside this package: "
    "--weights mobilesam=shipped."
)
_OUTPUT = OutputArguments()


def list_all(*, output: OutputArguments = _OUTPUT) -> int:
    """List the published weights, and which of them are here."""
    from benchmarks.cli.commands.printing import print_json, print_table
    from mobilesam.weights.checkpoint_specs import specs
    from mobilesam.weights.checkpoints import checkpoint_statuses

    rows = [(specs()[name], report) for name, report in checkpoint_statuses().items()]
    if output.json:
        print_json({"rows": [_json_row(*row) for row in rows]})
        return 0
    from benchmarks.tables.table import Cell, Column, Table

    def cells(spec: CheckpointSpec, report: VerifyReport) -> tuple[Cell, ...]:
        status = _STATUS[report.status]
        if report.status == "absent" and spec.shipped is not None:
            status = f"not here; shipped: {spec.shipped.label}"
        path = str(report.path) if report.place else ""
        return (
            Cell(spec.name, (spec.name,)),
            Cell(spec.file, (spec.file,)),
            Cell(f"{spec.megabytes:.0f}", (spec.n_bytes,)),
            Cell(spec.licence, (spec.licence,)),
            Cell(status, (report.status,)),
            Cell(path, (path,)),
        )

    columns = (
        Column("Model", ("model",)),
        Column("File", ("file",)),
        Column("Size", ("bytes",), "MB", "right"),
        Column("Licence", ("licence",)),
        Column("Status", ("status",)),
        Column("Where", ("path",)),
    )
    cell_rows = tuple(cells(*row) for row in rows)
    print_table(Table("weights", "Published weights", columns, cell_rows, (_NOTE,)))
    return 0


def _json_row(spec: CheckpointSpec, report: VerifyReport) -> dict[str, Any]:
    return {
        **spec.model_dump(include={"name", "file", "n_bytes", "licence"}),
        "place": report.place,
        "path": str(report.path) if report.place else None,
        "status": report.status,
        "note": spec.remarks,
        "shipped": None if spec.shipped is None else spec.shipped.label,
    }


def fetch(*names: str, force: Annotated[bool, Parameter(help="Download again.")] = False) -> int:
    """Fetch published weights by name or wildcard into the cache, verified."""
    from benchmarks.debugging import format_error
    from mobilesam.weights import checkpoints
    from mobilesam.weights.checkpoint_specs import specs

    known = specs()
    chosen = [name for pattern in names for name in fnmatch.filter(known, pattern)]
    unmatched = [pattern for pattern in names if not fnmatch.filter(known, pattern)]
    if unmatched or not names:
        raise UsageError(
            f"name the weights to fetch: {', '.join(known)}, or '*' for all"
            + (f"; unknown: {', '.join(unmatched)}" if unmatched else "")
        )
    failed = 0
    for name in dict.fromkeys(chosen):
        try:
            found = checkpoints.fetch(name, force=force, progress=True)
        except WeightsError as error:
            failed += 1
            sys.stderr.write(f"error: {name}: {format_error(error)}\n")
        else:
            sys.stdout.write(f"{name}  {found.path}  sha256 {found.sha256}\n")
    return 1 if failed else 0


def verify(*targets: str, output: OutputArguments = _OUTPUT) -> int:
    """Read weights in full, by name or path, and compare them with what is published."""
    from benchmarks.cli.commands.printing import print_json
    from mobilesam.weights import checkpoints

    statuses = checkpoints.checkpoint_statuses()
    chosen = targets or [name for name, report in statuses.items() if report.place]
    reports = [checkpoints.verify(target) for target in chosen]
    if output.json:
        print_json({"rows": [{**asdict(each), "path": str(each.path)} for each in reports]})
    else:
        for report in reports:
            sys.stdout.write(f"{report.status:<8} {report.message}\n")
        if not reports:
            sys.stdout.write("no published weights are on this machine\n")
    return 1 if any(report.status in ("corrupt", "absent") for report in reports) else 0
