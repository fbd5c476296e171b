"""The page on models, from the registry, the table of checkpoints and the run of input sizes.

`python -m benchmarks.evidence.models_page` writes `docs/models.md` and its plot; a test fails when
the page is stale.
"""

from __future__ import annotations

from pathlib import Path

from baselines.registry import PERMISSIVE, entries
from benchmarks.evidence.pages import ROOT, render, write_page
from benchmarks.evidence.publish import plot_markdown
from benchmarks.records.record import load_record
from benchmarks.report import style
from benchmarks.report.plots import Plot, plots_of
from benchmarks.tables.formatting import escape_markdown
from benchmarks.tables.merging import merge_records
from benchmarks.tables.record_tables import headline_table
from mobilesam.weights.checkpoint_specs import specs

PAGE = Path("docs/models.md")
SIZES = (
    Path("results/runs/cpu-2core-input-sizes"),
    Path("results/runs/cpu-2core-input-sizes-val2017"),
)
PLOT = Path("plots/accuracy-latency-box.png")


def sizes_plot() -> Plot:
    """Accuracy against latency of all input sizes."""
    return next(plot for plot in plots_of(load_record(ROOT / SIZES[0])) if plot.stem == PLOT.stem)


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
        plot=plot_markdown(f"../{(SIZES[0] / PLOT).as_posix()}", sizes_plot().caption),
        sizes=headline_table(record).to_markdown(heading=""),
        measured=escape_markdown(
            f"Measured {record.created_utc[:10]} on {record.environment.cpu}, "
            f"{record.environment.threads} threads"
        ),
        permissive=sorted(PERMISSIVE),
        resizable=[entry.name for entry in models if entry.own_size_px is not None],
    )


def main() -> int:
    """Writes the page and its plot."""
    with style.plot_style():
        folder = (ROOT / SIZES[0] / PLOT).parent
        style.save_figure(sizes_plot().draw(), folder, PLOT.stem, ["png"])
    return write_page(PAGE, page())


if __name__ == "__main__":
    raise SystemExit(main())
