"""The page on distillation, from the committed results.

`python -m benchmarks.evidence.distillation_page` writes `docs/distillation.md` and the plots it
shows; a test fails when the page is stale.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.distillation.experiment import DistillationRecord, load_experiment
from benchmarks.distillation.family_targets import family_targets_table
from benchmarks.distillation.scheme_comparison import (
    compute_table,
    losses_caption,
    schemes_caption,
    schemes_table,
    write_outputs,
)
from benchmarks.evidence.pages import ROOT, render, write_page
from benchmarks.evidence.publish import plot_markdown, readme_block
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.documents import read_document
from benchmarks.records.record import RECORD_NAME, RunRecord, load_record
from benchmarks.report.captions import Caption
from benchmarks.tables.formatting import percent
from mobilesam.model.mini import N_COLOR_CHANNELS, mobile_sam_mini_shape

PAGE = Path("docs/distillation.md")
FAMILY = Path("results/runs/mini-family")
OTHERS = Path("results/runs/mini-family-others")
"""Other models on the same kind of scenes, for comparison."""
COMPARE = Path("results/distillation/compare")
FULL_SIZE = Path("results/distillation/full-size.json")

_SHOWN = ("box", "center-multi")


def page(root: Path) -> str:
    """The Markdown of the page, which states the results that are missing below `root`."""
    shape = mobile_sam_mini_shape()[0]
    family, others = (
        load_record(root / run) if (root / run / RECORD_NAME).is_file() else None
        for run in (FAMILY, OTHERS)
    )
    is_compared = (root / COMPARE / RECORD_NAME).is_file()
    compared = load_experiment(root / COMPARE) if is_compared else None
    path = (Path("..") / FAMILY / RECORD_NAME).as_posix()
    return render(
        "distillation.md",
        f"{FULL_SIZE} is no full-size distillation",
        image_size_px=shape.image_size_px,
        n_learned=shape.neck_channels - N_COLOR_CHANNELS,
        n_colors=N_COLOR_CHANNELS,
        family_targets=None if family is None else family_targets_table(family).to_markdown(""),
        family_record=None if family is None else readme_block(family, [path]),
        others=None if others is None else _others(others),
        teacher_note=another_teacher(family, compared) if family and compared else "",
        compared=None if compared is None else compared.model_dump(mode="json"),
        schemes=None if compared is None else schemes_table(compared).to_markdown("###"),
        schemes_plot=compared and _plot("schemes", schemes_caption(compared)),
        losses_plot=compared and _plot("losses", losses_caption(compared)),
        compute=None if compared is None else compute_table(compared).to_markdown("###"),
        full_size=read_document(root / FULL_SIZE, "full-size distillation"),
        percent=percent,
    )


def _plot(name: str, caption: Caption) -> str:
    return plot_markdown(f"../{COMPARE.as_posix()}/distillation-{name}.png", caption)


def another_teacher(family: RunRecord, compared: DistillationRecord) -> str:
    """A warning if the comparison was made with other weights than the shipped ones, or nothing."""
    name, used = compared.teacher, compared.teacher_sha256
    shipped = {row.model: row.weights.sha256 for row in family.models}.get(name)
    if None in (shipped, used) or shipped == used:
        return ""
    return (
        f"Made with an earlier {name} ({str(used)[:8]}) and its student, not with those above "
        f"({str(shipped)[:8]}): the order of the schemes may be the same, the figures differ.\n"
    )


def _others(record: RunRecord) -> str:
    """Accuracy of other models on the same kind of scenes, in a sentence."""
    found: dict[str, list[str]] = {}
    for row in record.miou:
        if row.protocol in _SHOWN and row.reference == GROUND_TRUTH and row.miou is not None:
            value = f"{row.protocol} {percent(row.miou, row.ci95)} %"
            found.setdefault(row.model, []).append(value)
    sides = {row.model: row.input_size_px for row in record.models if row.input_size_px}
    models = "; ".join(
        f"{model}{f' ({sides[model]} px)' if model in sides else ''}: {', '.join(values)}"
        for model, values in found.items()
    )
    names = ", ".join(sorted({row.dataset for row in record.miou}))
    return (
        f"Other models on such scenes ({names}; [record](../{OTHERS.as_posix()}/{RECORD_NAME})): "
        f"{models}. These are trained on photographs, or not at all.\n"
    )


def main() -> int:
    """Writes the page, and the tables and plots of the comparison."""
    write_outputs(load_experiment(ROOT / COMPARE), ROOT / COMPARE)
    return write_page(PAGE, page(ROOT))


if __name__ == "__main__":
    raise SystemExit(main())
