"""The page on models, from the registry, the table of checkpoints and the run of input sizes.

`python -m benchmarks.evidence.models_page` writes `docs/models.md`; a test fails when it is stale.
"""

from __future__ import annotations

from pathlib import Path

from baselines.registry import PERMISSIVE, entries
from benchmarks.evidence.pages import ROOT, render, write_page
from benchmarks.records.record import load_record
from benchmarks.tables.formatting import escape_markdown
from benchmarks.tables.merging import merge_records
from benchmarks.tables.record_tables import headline_table
from mobilesam.weights.checkpoint_specs import specs

PAGE = Path("docs/models.md")
SIZES = (
    Path("results/runs/cpu-2core-input-sizes"),
    Path("results/runs/cpu-2core-input-sizes-val2017"),
)


def page() -> str:
    """The Markdown of the page."""
    record = merge_records([load_record(ROOT / run) for run in SIZES])
    models = [entry for entry in entries().values() if not entry.third_party]
    return render(
        "models.md",
        "baselines/models.toml",
        models=models,
        checkpoints=specs(),
        runs=SIZES,
        sizes=headline_table(record).to_markdown(heading=""),
        measured=escape_markdown(
            f"Measured {record.created_utc[:10]} on {record.environment.cpu}, "
            f"{record.environment.threads} threads"
        ),
        permissive=sorted(PERMISSIVE),
        resizable=[entry.name for entry in models if entry.own_size_px is not None],
    )


def main() -> int:
    """Writes the page."""
    return write_page(PAGE, page())


if __name__ == "__main__":
    raise SystemExit(main())
