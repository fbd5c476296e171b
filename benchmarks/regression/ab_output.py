"""A judgement for people: a table, a plot, and the page that a pull request shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.records.record import write_atomic
from benchmarks.records.statistics import MIN_PROCESSES
from benchmarks.regression.ab_judge import FAILING, Judged, Judgement
from benchmarks.regression.ab_records import Session, TreeInfo
from benchmarks.tables.formatting import MIB, escape_markdown, interval, milliseconds, number
from benchmarks.tables.table import Cell, Column, Table

SUMMARY, VERDICT = "summary.md", "verdict.json"
_SHORT_COMMIT = 12


def judgement_table(judgement: Judgement) -> Table:
    """One line a benchmark, what fails first."""
    order = sorted(judgement.benchmarks, key=lambda each: each.verdict not in FAILING)
    columns = (
        Column("Model", ("model",)),
        Column("Benchmark", ("benchmark", "unit")),
        Column("Base", ("base",), align="right"),
        Column("Head", ("head",), align="right"),
        Column("Change", ("change", "low", "high"), align="right"),
        Column("Noise (A/A)", ("floor", "floor_low", "floor_high"), align="right"),
        Column("Repetition", ("again", "again_low", "again_high"), align="right"),
        Column("Verdict", ("verdict", "why")),
    )
    return Table("regress", _title(judgement), columns, tuple(_cells(each) for each in order))


def _title(judgement: Judgement) -> str:
    return f"Head against base: {verdict_text(judgement)}"


def verdict_text(judgement: Judgement) -> str:
    """What came out, in a few words, with the names of what fails."""
    failing = [each for each in judgement.benchmarks if each.verdict in FAILING]
    if failing:
        names = [f"{each.model} {each.what} ({each.verdict})" for each in failing]
        return "FAILED: " + "; ".join(names)
    if judgement.suspects:
        names = [f"{model} {phase}" for model, phase, _ in judgement.suspects]
        return "suspect, to be repeated: " + "; ".join(names)
    unclear = [each for each in judgement.benchmarks if each.verdict == "unclear"]
    names = [f"{each.model} {each.what}" for each in unclear]
    return f"passed; unclear: {'; '.join(names)}" if names else "passed"


def _cells(each: Judged) -> tuple[Cell, ...]:
    verdict = each.verdict if each.why is None else f"{each.verdict}: {each.why}"
    return (
        Cell(each.model, (each.model,)),
        Cell(each.what, (each.what, each.unit)),
        Cell(_value(each, each.base), (each.base,)),
        Cell(_value(each, each.head), (each.head,)),
        *(
            Cell(_change(each, value, ci95), (value, *(ci95 or (None, None))))
            for value, ci95 in (
                (each.change, each.ci95),
                (each.floor, each.floor_ci95),
                (each.again, each.again_ci95),
            )
        ),
        Cell(verdict, (each.verdict, each.why)),
    )


def _value(each: Judged, value: float | None) -> str:
    if value is None:
        return ""
    if each.unit == "ms":
        return milliseconds(value)
    return f"{number(value / MIB)} MiB" if each.unit == "bytes" else f"{100 * value:.2f} %"


def _change(each: Judged, value: float | None, ci95: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    if each.unit != "fraction":
        return "x " + interval(value, ci95, digits=3)
    return interval(100 * value, ci95 and (100 * ci95[0], 100 * ci95[1]), digits=2) + " points"


def notes(sessions: tuple[Session, ...], judgement: Judgement) -> tuple[str, ...]:
    """What was compared, where, how long it took, and how much of a change is noise."""
    first = sessions[0]
    seconds = sum(session.duration_s for session in sessions)
    few = first.settings.pairs < MIN_PROCESSES
    caution = f" (few: with fewer than {MIN_PROCESSES} sets it may cover less)" if few else ""
    found = [
        f"Base: {_tree(first.base)}. Head: {_tree(first.head)}.",
        f"{first.environment.cpu}, {first.settings.threads} thread(s), "
        f"{first.settings.pairs} sets of fresh processes, {len(sessions)} session(s), "
        f"{seconds:.0f} s.",
        "Change and noise: ratio of medians over turns [bootstrap interval, nominally 95 %, over "
        f"sets of processes{caution}], each turn with its fastest call; or mIoU in points [95 % "
        "interval over scenes]. It fails where the whole interval is beyond "
        f"{judgement.threshold:g} and the repetition confirms it.",
    ]
    if judgement.noise_floor is not None:
        share = 100 * (judgement.noise_floor - 1)
        found.append(f"Noise floor: the base differed from itself by at most {share:.1f} %.")
    found += [f"Warning: {text}" for session in sessions for text in session.warnings]
    return tuple(found)


def _tree(info: TreeInfo) -> str:
    changed = ", with changes" if info.dirty else ""
    return f"{info.ref} ({info.commit[:_SHORT_COMMIT]}{changed})"


def judgement_figure(judgement: Judgement) -> Any | None:
    """Ratios of head to base beside the noise, a panel a model; None without any."""
    from benchmarks.report.style import BLUE, GREY, INK, VERMILLION, new_figure

    rows = [each for each in judgement.benchmarks if each.change and each.unit != "fraction"]
    if not rows:
        return None
    figure = new_figure(
        0.9 + 0.36 * len(rows),
        "Head against base",
        ("Dots: ratio of medians with its bootstrap interval. Grey: the base against itself.",),
    )
    ax = figure.subplots()
    for line, each in enumerate(rows):
        color = VERMILLION if each.verdict in (*FAILING, "suspect") else BLUE
        for value, ci95, shift, shade in (
            (each.change, each.ci95, -0.12, color),
            (each.floor, each.floor_ci95, 0.18, GREY),
        ):
            if value is not None:
                ax.plot(ci95 or (value, value), [line + shift] * 2, color=shade, linewidth=1.8)
                ax.plot(value, line + shift, "o", color=shade, markersize=5)
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.axvline(judgement.threshold, color=VERMILLION, linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(rows)), [f"{each.model}: {each.what}" for each in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(visible=True, axis="x")
    ax.set_xlabel("head / base (dashed: threshold)")
    return figure


def write_judgement(
    judgement: Judgement, sessions: tuple[Session, ...], folder: Path
) -> list[Path]:
    """Writes `verdict.json`, `summary.md`, `regress.csv` and the plot beside the sessions.

    Raises:
        DataError: The folder cannot be written.
    """
    from benchmarks.report.style import plot_style, save_figure

    table = judgement_table(judgement)
    lines = "".join(f"- {escape_markdown(note)}\n" for note in notes(sessions, judgement))
    texts = {
        VERDICT: judgement.model_dump_json(indent=1) + "\n",
        SUMMARY: f"{table.to_markdown()}\n{lines}",
        f"{table.name}.csv": table.to_csv(),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    written = [folder / name for name in texts]
    with plot_style():
        figure = judgement_figure(judgement)
        if figure is not None:
            written += save_figure(figure, folder, table.name)
    return written
