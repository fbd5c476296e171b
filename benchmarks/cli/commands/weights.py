"""The commands about published weights: `weights list`, `fetch` and `verify`."""

from __future__ import annotations

import fnmatch
import sys
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines, print_table, text_table
from benchmarks.config.options import PrintJson
from mobilesam.errors import UsageError, WeightsError

_STATUS = {
    "ok": "here, verified",
    "absent": "not here",
    "corrupt": "corrupt",
    "custom": "other weights under this name",
    "unconfirmed": "here, sha256 not confirmed",
}
_COLUMNS = {
    "name": "Model",
    "file": "File",
    "size": "Size (MB)",
    "licence": "Licence",
    "status": "Status",
    "path": "Where",
}
_NOTE = (
    "Fetch one with: mobilesam-bench weights fetch NAME. Files of your own: --weights NAME=PATH, "
    "or a folder of them in MOBILESAM_WEIGHTS. Weights inside this package: "
    "--weights mobilesam=shipped."
)
_OPTIONAL = ("status", "size", "licence", "path")


def list_all(*, json: PrintJson = False) -> int:
    """List the published weights, and which of them are here."""
    from mobilesam.weights.checkpoint_specs import specs
    from mobilesam.weights.checkpoints import checkpoint_statuses

    documents, rows = [], []
    for name, report in checkpoint_statuses().items():
        spec = specs()[name]
        path = str(report.path) if report.place else None
        shipped = None if spec.shipped is None else spec.shipped.label
        known = spec.model_dump(include={"name", "file", "n_bytes", "licence"})
        known |= {"place": report.place, "path": path, "status": report.status}
        documents.append({**known, "note": spec.remarks, "shipped": shipped})
        status = _STATUS[report.status]
        if report.status == "absent" and shipped is not None:
            status = f"not here; shipped: {shipped}"
        size = f"{spec.megabytes:.0f}" if spec.megabytes else ""
        rows.append({**known, "size": size, "status": status, "path": path or ""})
    if json:
        print_json({"rows": documents})
    else:
        print_table(
            text_table("Published weights", _COLUMNS, rows, _NOTE, right="size", optional=_OPTIONAL)
        )
    return 0


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
            print_lines(f"{name}  {found.path}  sha256 {found.sha256}")
    return 1 if failed else 0


def verify(*targets: str, json: PrintJson = False) -> int:
    """Read weights in full, by name or path, and compare them with what is published."""
    from mobilesam.weights import checkpoints

    statuses = checkpoints.checkpoint_statuses()
    chosen = targets or [name for name, report in statuses.items() if report.place]
    reports = [checkpoints.verify(target) for target in chosen]
    if json:
        print_json({"rows": [{**asdict(each), "path": str(each.path)} for each in reports]})
    elif reports:
        print_lines(*(f"{report.status:<8} {report.message}" for report in reports))
    else:
        print_lines("no published weights are on this machine")
    return 1 if any(report.status in ("corrupt", "absent") for report in reports) else 0
