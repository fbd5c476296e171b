"""Figures of the HTML report: an interactive chart, its values as a table, and notes.

The colours come from `style.vega_config`: one specification serves the light and the dark theme.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from benchmarks.evaluation.subgroups import SubgroupRow
from benchmarks.records.record import RunRecord
from benchmarks.report import captions, frames
from benchmarks.report.labels import dataset_label, prompt_label
from benchmarks.report.style import log_limits, model_styles, short_names
from benchmarks.tables import columns as cells
from benchmarks.tables.columns import ENDS, MODEL, RowColumn, spread_ends, text_column, value_column
from benchmarks.tables.formatting import interval, milliseconds, number, slug, spread_text
from benchmarks.tables.record_queries import Protocol, Setup, model_names, setups, unique
from benchmarks.tables.subgroup_tables import COLUMNS, NOTES, by_dimension
from benchmarks.tables.table import Cell, Column, Table

_SHAPES = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond"}
_SHAPES |= {"v": "triangle-down", "P": "cross"}
"""Vega's names of the matplotlib markers in `style.ModelStyle`."""
_CROSS = "M-1,-1L1,1M1,-1L-1,1"
_LEAST_AREA_PX2, _WANTED_LEAST_AREA_PX2, _MOST_AREA_PX2 = 60.0, 200.0, 2800.0
_LANE_PX, _HEADING_PX, _LABELS_PX = 16, 46, 150
_MOST_SUBGROUPS, _MOST_FLAT_LABELS = 20, 6
_SELECTION = alt.selection_point(name="shown", fields=["name"], bind="legend", toggle="true")
"""Models selected by clicks on the legend; an empty selection shows all."""


@cache
def vega_script() -> str:
    """JavaScript of Vega, Vega-Lite and Vega-Embed, which defines `vegaEmbed`; takes seconds."""
    import vl_convert

    version = alt.SCHEMA_VERSION.rpartition(".")[0]
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return f"/* Vega, Vega-Lite, Vega-Embed: BSD 3-Clause. */(() => {{{script}}})();"


class Figure(NamedTuple):
    """A Vega-Lite specification with its values and texts.

    Attributes:
        key: Stem of saved files; unique on a page.
        alt: Description for readers who cannot see the chart.
        choice: Name among the figures of its kind, such as a protocol.
        message: What the chart shows, in one sentence.
    """

    key: str
    title: str
    alt: str
    chart: dict[str, Any]
    table: Table
    notes: tuple[str, ...]
    choice: str
    message: str = ""


def _figure(
    kind: str,
    title: str,
    choice: str,
    description: str,
    chart: Any,
    columns: Sequence[RowColumn],
    rows: Iterable[Any],
    notes: Iterable[str],
    message: str = "",
) -> Figure:
    key = slug(f"{kind}-{choice}")
    table = cells.build_table(key, "The values of the figure", columns, rows)
    spec = chart.properties(description=f"{title}. {description}").to_dict()
    return Figure(key, title, description, spec, table, tuple(notes), choice, message)


def accuracy_latency(record: RunRecord, setup: Setup, protocol: Protocol) -> Figure | None:
    """Accuracy against latency with error bars and the Pareto front; None if no model has both."""
    points, label, notes = frames.accuracy_latency_frame(record, setup, protocol)
    caption = captions.accuracy_latency(record, setup, protocol)
    if caption is None:
        return None
    models = model_names(record)
    points = points.sort_values("ms")
    points["tip"] = [
        f"{p.model}: mIoU {interval(p.value, p.bounds, 1)} %, {label} "
        f"{spread_text(p.ms, p.spread)} ms"
        for p in points.itertuples()
    ]
    best = frames.pareto_front(points)
    front = list(best["model"])

    times = [ms for name in ("ms", "ms_low", "ms_high") for ms in points[name] if ms]
    limits = (min(times) / 1.4, max(times) * 1.4)
    values = frames.values_of(points)
    pad = max(3.0, 0.15 * (max(values) - min(values)))
    x = partial(_axis, alt.X, f"Latency, {label} (ms, log scale)", limits, log=True)
    y = partial(_axis, alt.Y, "mIoU (%)", (max(0, min(values) - pad), min(104, max(values) + pad)))
    end = pd.DataFrame({"ms": [limits[1]], "value": [best["value"].iloc[-1]]})
    steps = _chart(pd.concat([best[["ms", "value"]], end])).encode(x=x("ms:Q"), y=y("value:Q"))
    # Small markers are drawn last, on top of large ones.
    data = points.sort_values("parameters", ascending=False, na_position="last")
    scale = frames.area_scale(points, _WANTED_LEAST_AREA_PX2, _MOST_AREA_PX2)
    data = data.assign(area=[max(_LEAST_AREA_PX2, scale * (n or 0)) for n in data["parameters"]])
    base = _base(data, models).encode(x=x("ms:Q"), y=y("value:Q"))
    mark = {"fillOpacity": 0.6, "ariaRoleDescription": "value"}
    curves = data[[curve is not None for curve in data["curve"]]]
    curves = curves.assign(text=[f"{size or 'own'} px" for size in curves["size_px"]])
    lines = _base(curves.assign(model=curves["curve"]), models, legend=False)
    labels = _chart(curves[["ms", "value", "text"]]).mark_text(
        align="left", dx=10, dy=12, aria=False
    )
    joined = (
        lines.mark_line(strokeWidth=1.8, aria=False).encode(x=x("ms:Q"), y=y("value:Q")),
        labels.encode(x=x("ms:Q"), y=y("value:Q"), text="text:N"),
    )
    chart = _layers(
        360,
        _error_bars(base, y=y("low:Q"), y2="high:Q"),
        _error_bars(base, x=x("ms_low:Q"), x2="ms_high:Q"),
        steps.mark_line(interpolate="step-after", style="front", aria=False),
        *(joined if len(curves) else ()),
        base.transform_filter("datum.parameters > 0")
        .mark_point(filled=True, **mark)
        .encode(shape=_shape(models), size=alt.Size("area:Q", scale=None, legend=None)),
        base.transform_filter("!(datum.parameters > 0)").mark_point(
            shape=_CROSS, size=60, strokeWidth=2, **mark
        ),
    )

    ends = ("time_ms", *(f"time_{end}_ms" for end in ENDS))
    columns = (
        MODEL,
        RowColumn(
            Column(f"Latency, {label}", ends, "ms", "right"),
            lambda p: Cell(spread_text(p.ms, p.spread), (p.ms, *spread_ends(p.spread))),
        ),
        RowColumn(
            Column("mIoU", ("miou_percent", "miou_low", "miou_high"), "%", "right"),
            lambda p: Cell(interval(p.value, p.bounds, 1), (p.value, p.low, p.high)),
        ),
        value_column("Parameters used", "parameters", show="{:,}".format),
        text_column("Pareto front", "pareto", get=[lambda p: "yes" if p.model in front else "no"]),
    )
    figure = _figure(
        "accuracy-latency",
        caption.title,
        f"{protocol.label}, {setup.label}",
        f"{len(points)} models by latency ({label}) and mIoU. On the Pareto front, from fast to "
        f"slow: {', '.join(front)}.",
        chart,
        columns,
        points.itertuples(),
        (f"{setup.label}. {frames.error_bars_note(points)}", *notes),
        caption.message,
    )
    return figure._replace(choice=protocol.label) if len(setups(record)) == 1 else figure


def accuracy_by_size(record: RunRecord, protocol: Protocol) -> Figure | None:
    """Accuracy over all objects and by size class, models side by side; None without any."""
    frame, caption = frames.size_frame(record, protocol), captions.by_size(record, protocol)
    if caption is None:
        return None
    frame["tip"] = [
        f"{r.model}, {r.size} objects: mIoU {interval(r.value or 0, r.bounds, 1)} %"
        for r in frame.itertuples()
    ]
    models, shown = model_names(record), unique(frame["model"])
    labels = {}
    for size in unique(frame["size"]):
        counts = unique(frame["n"][frame["size"] == size])
        known = len(counts) == 1 and counts[0] is not None
        labels[size] = f"{size}|n = {counts[0]:,.0f}" if known else size

    data = frame[[value is not None for value in frame["value"]]]
    data = data.assign(label=data["size"].map(labels))
    order = [short_names(models)[model] for model in unique(data["model"])]
    axis = alt.Axis(labelAngle=0, title=None, labelExpr="split(datum.label, '|')", grid=False)
    y = partial(_axis, alt.Y, "mIoU (%)", frames.percent_limits(frames.values_of(data)))
    base = _base(data, models).encode(
        x=alt.X("label:N", sort=list(labels.values()), axis=axis),
        xOffset=alt.XOffset("name:N", sort=order),
        y=y("value:Q"),
    )

    def size_column(index: int, size: str) -> RowColumn:
        def cell(rows: Any) -> Cell:
            row = rows[index]
            n = None if row.n is None else int(row.n)
            return Cell(cells.percent_cell(row.miou).text, (row.miou, n))

        heads = (f"miou_{size}", f"n_{size}")
        return RowColumn(Column(size.capitalize(), heads, "%", "right"), cell)

    return _figure(
        "size",
        caption.title,
        protocol.label,
        f"mIoU of {', '.join(shown)} over all objects, small, medium and large ones.",
        _layers(280, *_dots(base, data, models, y)),
        (
            text_column("Model", "model", get=["0.model"]),
            *(size_column(index, size) for index, size in enumerate(labels)),
        ),
        [list(part.itertuples()) for _, part in frame.groupby("model", sort=False)],
        frames.size_notes(record, protocol, frame),
        caption.message,
    )


def waterfall(record: RunRecord, setup: Setup) -> Figure | None:
    """Steps of one prompt, one after the other, each model on a scale of its own.

    None if no encoder was timed.
    """
    frame = frames.waterfall_frame(record, setup)
    if frame.empty:
        return None
    models = model_names(record)
    frame["tip"] = [
        f"{r.model}, {r.step}: {spread_text(r.value, r.spread)} ms" for r in frame.itertuples()
    ]
    sums = dict(zip(frame["model"], frame["sum"], strict=True))

    headings, rows, top = [], [], 0
    fields = ["model", "step", "tip", "random", "start", "value", "low", "high"]
    for model, part in frame.groupby("model", sort=False):
        total = sums[model]
        whole = part["value"][part["step"] == "end to end"]
        text = f"sum {milliseconds(total)}"
        if len(whole):
            text += f", end to end {milliseconds(whole.iloc[0])}"
        headings.append({"top": top, "title": short_names(models)[str(model)], "text": text})
        top += _HEADING_PX
        for row in part[fields][part["step"] != "end to end"].to_dict("records"):
            start, duration = row["start"], milliseconds(row["value"])
            for end in ("value", "low", "high"):
                if row[end] is not None:
                    row[end] = min(1.0, (start + row[end]) / total)
            rows.append(row | {"start": start / total, "top": top, "text": duration})
            top += _LANE_PX
    # The labels stand left of a scale that begins at a fixed distance from the edge.
    scale = alt.Scale(domain=[0, 1], range=[_LABELS_PX, alt.ExprRef("width - 4")])
    x = partial(alt.X, type="quantitative", scale=scale, axis=None)
    y = alt.Y("top:Q", scale=alt.Scale(domain=[0, top], range=[0, top], nice=False), axis=None)
    data = frames.object_frame(rows)
    bars = _base(data, models).encode(y=y, x=x("start"), x2="value:Q")
    texts, heads = (_chart(each).encode(y=y) for each in (data, frames.object_frame(headings)))
    bar = {"height": _LANE_PX - 5, "ariaRoleDescription": "value", "minBandSize": 1.5}
    left = {"align": "left", "baseline": "middle", "aria": False, "x": 0}
    caption = captions.latency(record, setup)
    chart = _layers(
        top,
        bars.transform_filter("!datum.random").mark_bar(**bar),
        bars.transform_filter("datum.random").mark_bar(style="hollow", filled=False, **bar),
        texts.mark_rule(style="interval", aria=False).encode(x=x("low"), x2="high:Q"),
        texts.mark_text(**left).encode(text="step:N"),
        texts.mark_text(**left | {"align": "right", "x": _LABELS_PX - 8}).encode(text="text:N"),
        heads.mark_text(**left, style="heading", dy=10).encode(text="title:N"),
        heads.mark_text(**left, style="muted", dy=27).encode(text="text:N"),
    )

    notes = [
        "Every model has a scale of its own: the bars show the share of each phase, the numbers "
        f"its time. Medians; thin lines: {cells.bars_text(frame['spread'])}. End to end is one "
        "call of all phases, timed separately: it need not equal their sum.",
        *cells.sample_notes(frame["row"]),
    ]
    random = unique(frame["model"][frame["random"].astype(bool)])
    if random:
        notes.append(
            "Outlined: random weights on the exact architecture, whose time is the same: "
            f"{', '.join(random)}."
        )
    columns = (
        MODEL,
        text_column("Phase", "phase", get=["step"]),
        RowColumn(cells.median_column(frame["row"]), lambda r: cells.median_cell(r.row)),
        value_column(
            "Share of the sum",
            "share",
            show=lambda share: number(100 * share, 1),
            unit="%",
            get=[lambda r: None if r.start is None else r.value / r.sum],
        ),
    )
    return _figure(
        "waterfall",
        f"Latency by phase, one image and one prompt: {setup.label}",
        setup.label,
        "Phases of each model one after the other. Sums: "
        f"{', '.join(f'{model} {milliseconds(total)}' for model, total in sums.items())}.",
        chart,
        columns,
        frame.itertuples(),
        notes,
        "" if caption is None else caption.message,
    )


def decode_prompts(record: RunRecord, setup: Setup) -> Figure | None:
    """Decode time against the number of prompts in one call; None without times."""
    frame, caption = frames.decode_frame(record, setup), captions.decode(record, setup)
    if caption is None:
        return None
    models = model_names(record)
    frame["tip"] = [
        f"{r.model}, {r.n_prompts} prompt{'s' * (r.n_prompts != 1)}: "
        f"{spread_text(r.value, r.spread)} ms"
        for r in frame.itertuples()
    ]
    counts, times = _around(frame["n_prompts"]), _around(frames.values_of(frame))
    x = partial(_axis, alt.X, "Prompts in one call (log scale)", counts, log=True)
    y = partial(_axis, alt.Y, "Decode (ms, log scale)", times, log=True)
    base = _base(frame, models).encode(x=x("n_prompts:Q"), y=y("value:Q"))

    slopes = {r.model: r.slope_ms for r in frame.itertuples() if r.slope_ms is not None}
    costs = ", ".join(f"{model} {frames.slope_text(slope)}" for model, slope in slopes.items())
    notes = [*frames.decode_notes(record, setup, frame), *cells.sample_notes(frame["row"])]
    if costs:
        notes.append(f"Cost of one more prompt: {costs}.")
    columns = (
        MODEL,
        text_column("Decode kind", "decode_kind"),
        cells.count_column("Prompts", "n_prompts"),
        RowColumn(cells.median_column(frame["row"]), cells.median_cell),
    )
    return _figure(
        "decode",
        caption.title,
        setup.label,
        f"Decode time of {', '.join(unique(frame['model']))} against the prompts in one call.",
        _layers(320, _lines(base, models), *_dots(base, frame, models, y)),
        columns,
        frame["row"],
        notes,
        caption.message,
    )


def subgroups(models: Sequence[str], rows: Iterable[SubgroupRow]) -> list[Figure]:
    """Accuracy by subgroup, one figure for each protocol and dimension; models side by side."""
    found = []
    for (protocol, dimension), part in by_dimension(rows).items():
        sizes: dict[str, int] = {}
        for row in part:
            sizes[row.group] = max(row.n_instances, sizes.get(row.group, 0))
        shown = list(sizes)[:_MOST_SUBGROUPS]
        labels = {group: f"{group}|n = {sizes[group]:,}" for group in shown}
        bounds = {id(r): r.ci95 and (100 * r.ci95[0], 100 * r.ci95[1]) for r in part}
        frame = frames.object_frame(
            {
                "model": r.model,
                "label": labels[r.group],
                "value": 100 * r.miou,
                "low": None if (ends := bounds[id(r)]) is None else ends[0],
                "high": None if ends is None else ends[1],
                "tip": f"{r.model}, {r.group}: mIoU {interval(100 * r.miou, ends, 1)} %, "
                f"n = {r.n_instances:,} in {r.n_images:,} images",
            }
            for r in part
            if r.group in labels
        )
        order = [short_names(models)[model] for model in models if model in set(frame["model"])]
        flat = {"labelAngle": 0, "labelExpr": "split(datum.label, '|')"}
        turned = {"labelAngle": -40, "labelExpr": "replace(datum.label, '|', ', ')"}
        look: dict[str, Any] = flat if len(labels) <= _MOST_FLAT_LABELS else turned
        axis = alt.Axis(title=None, grid=False, labelLimit=180, **look)
        y = partial(_axis, alt.Y, "mIoU (%)", frames.percent_limits(frames.values_of(frame)))
        base = _base(frame, models).encode(
            x=alt.X("label:N", sort=list(labels.values()), axis=axis),
            xOffset=alt.XOffset("name:N", sort=order),
            y=y("value:Q"),
        )
        notes = [
            NOTES[dimension],
            "Bars: 95 % bootstrap interval over images, for three or more; n: instances.",
        ]
        if len(sizes) > len(shown):
            notes.append(f"The {len(shown)} largest of {len(sizes)}; the table has all of them.")
        figure = _figure(
            "subgroups",
            f"{prompt_label(protocol.protocol)}, by {dimension}: {dataset_label(protocol.dataset)}",
            f"{dimension}: {protocol.label}",
            f"mIoU of {', '.join(unique(frame['model']))} by {dimension}.",
            _layers(300, *_dots(base, frame, models, y)),
            COLUMNS,
            [row for row in part if row.group in labels],
            notes,
            captions.subgroups(part),
        )
        found.append(figure)
    return found


def robustness(record: RunRecord) -> list[Figure]:
    """Accuracy by the percentage of disturbance, one figure for each kind of disturbed prompt."""
    found = []
    models = model_names(record)
    for (clean, family), frame in frames.robustness_frames(record).items():
        caption = captions.robustness(record, clean, family, frame)
        frame["tip"] = [
            f"{r.model}, {r.percent:g} %: mIoU {interval(r.value, r.bounds, 1)} %"
            for r in frame.itertuples()
        ]
        most = max(frame["percent"])
        limits = frames.percent_limits(frames.values_of(frame))
        x = partial(_axis, alt.X, frames.DISTURBANCES[family], (-0.04 * most, 1.04 * most))
        y = partial(_axis, alt.Y, "mIoU (%)", limits)
        base = _base(frame, models).encode(x=x("percent:Q"), y=y("value:Q"))
        columns = (
            MODEL,
            value_column("Disturbance", "percent", show="{:g}".format, unit="%"),
            RowColumn(
                Column("mIoU", ("miou_percent", "miou_low", "miou_high"), "%", "right"),
                lambda r: Cell(interval(r.value, r.bounds, 1), (r.value, r.low, r.high)),
            ),
        )
        figure = _figure(
            "robustness",
            caption.title,
            f"{family} vs {clean.reference}, {clean.dataset}",
            f"mIoU of {', '.join(unique(frame['model']))} by the disturbance of the prompt.",
            _layers(300, _lines(base, models), *_dots(base, frame, models, y)),
            columns,
            frame.itertuples(),
            [frames.robustness_note(clean)],
            caption.message,
        )
        found.append(figure)
    return found


def history(runs: Sequence[RunRecord], models: Sequence[str]) -> list[Figure]:
    """One figure for every quantity of `models` that at least two runs measured.

    Lines join comparable runs; times have a log scale.
    """
    found = []
    for name, (unit, frame) in frames.history_frames(runs, models).items():
        timed = unit == "ms"
        texts = [
            spread_text(r.value, r.spread) if timed else interval(r.value, r.bounds, 1)
            for r in frame.itertuples()
        ]
        dates = {run.id: frames.day(run) for run in frame["run"]}
        places = list(dates)
        frame["place"] = [places.index(run.id) for run in frame["run"]]
        frame["tip"] = [
            f"{r.model}, {r.run.id}, {dates[r.run.id]}: {text} {unit}"
            for r, text in zip(frame.itertuples(), texts, strict=True)
        ]
        label = f"{json.dumps(list(dates.values()))}[datum.value]"
        axis = alt.Axis(labelExpr=label, labelOverlap="greedy", labelSeparation=8)
        axis.values = list(range(len(places)))
        limits = (_around if timed else frames.percent_limits)(frames.values_of(frame))
        y = partial(_axis, alt.Y, "ms (log scale)" if timed else "%", limits, log=timed)
        domain = alt.Scale(domain=[-0.5, len(places) - 0.5], nice=False)
        x = alt.X("place:Q", scale=domain, axis=axis, title=None)
        base = _base(frame, models).encode(x=x, y=y("value:Q"))
        lines = _lines(base, models).encode(detail="where:N")

        bars_note = cells.bars_text(frame["spread"])
        notes = [f"Runs in the order of time, evenly spaced. Bars: {bars_note}."]
        if timed:
            notes.append("Lines join runs of the same machine, threads and allocator only.")
        if any(frame["teacher"]):
            notes.append("Lines join runs of the same machine and weights of the teacher only.")
        columns = (
            text_column("Run", "run", get=["run.id"]),
            text_column("Date", "created_utc", get=["run.created_utc"]),
            MODEL,
            RowColumn(
                Column("Value", ("value", *ENDS), unit, "right"),
                lambda r: Cell(r.text, (r.value, *spread_ends(r.spread))),
            ),
            RowColumn(Column("Commit", ("git_commit",)), _commit_cell),
            text_column("Machine", "machine", get=["where"]),
        )
        description = f"{name} of {', '.join(unique(frame['model']))} over {len(places)} runs."
        chart = _layers(240, lines, *_dots(base, frame, models, y))
        rows, title = frame.assign(text=texts).itertuples(), f"History: {name}"
        figure = _figure("history", title, name, description, chart, columns, rows, notes)
        found.append(figure._replace(message=captions.history(frame, unit)))
    return found


def _commit_cell(row: Any) -> Cell:
    commit = row.run.environment.git_commit
    return Cell((commit or "")[:12], (commit,))


def _chart(data: Any) -> Any:
    """A chart of a frame; Altair's own conversion would turn None into NaN, which is not JSON."""
    return alt.Chart(alt.InlineData(values=data.to_dict("records")))


def _base(data: Any, models: Sequence[str], *, legend: bool = True) -> Any:
    """A chart of a frame with colours, tooltips and a legend that selects models.

    The column `tip` holds the text of tooltips and ARIA labels; `models` are all of the page.
    """
    names = short_names(models)
    data = data.drop(columns={"bounds", "row", "run", "spread"} & set(data))
    data = data.assign(name=data["model"].map(names))
    shown = [names[model] for model in names if model in set(data["model"])]
    entry_px = 34 + 7 * max(map(len, shown), default=0)
    # The width of the plot changes during the layout, that of its container does not; `width` makes
    # Vega evaluate the expression again after a change of the window.
    columns = alt.ExprRef(f"max(1, floor((containerSize()[0] - 90) / {entry_px}) + 0 * width)")
    shown_names = alt.Legend(
        title=None, orient="top", columns=columns, labelLimit=300, values=shown
    )
    domain = alt.Scale(domain=list(names.values()))
    return _chart(data).encode(
        color=alt.Color("name:N", scale=domain, legend=shown_names if legend else None),
        opacity=alt.when(_SELECTION).then(alt.value(1)).otherwise(alt.value(0.1)),
        tooltip="tip:N",
        description="tip:N",
    )


def _layers(height: int, first: Any, *others: Any) -> Any:
    """Layers of a chart as wide as its place on the page; only the first may have a selection."""
    selectable = first.add_params(_SELECTION).properties(name="first")
    return alt.layer(selectable, *others).properties(width="container", height=height)


def _axis(
    channel: Any, title: str, limits: tuple[float, float], field: str, *, log: bool = False
) -> Any:
    ticks: dict[str, Any] = {"tickCount": 6}
    if log:
        # 1, 2 and 5 per decade on a short axis, powers of ten else.
        low, high = limits
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for multiples in ((1, 2, 5), (1,)):
            every = [m * 10.0**decade for decade in decades for m in multiples]
            ticks = {"values": [v for v in every if low <= v <= high], "tickCount": 8}
            if len(ticks["values"]) <= 8:
                break
    scale = alt.Scale(type="log" if log else "linear", domain=list(limits), nice=False)
    axis = alt.Axis(title=title, format=",~r", labelOverlap="greedy", **ticks)
    return channel(field, scale=scale, axis=axis)


def _around(values: Iterable[float]) -> tuple[float, float]:
    known = [value for value in values if value > 0]
    return log_limits(min(known), max(known))


def _error_bars(base: Any, **channels: Any) -> Any:
    return base.mark_rule(strokeWidth=1.5, aria=False).encode(**channels)


def _lines(base: Any, models: Sequence[str]) -> Any:
    dashes = [model_styles(models)[model].dash for model in models]
    spans = [[1, 0] if isinstance(d, str) else [2 * part for part in d[1]] for d in dashes]
    dash = alt.StrokeDash("name:N", scale=_model_scale(models, spans), title=None)
    return base.mark_line(strokeWidth=1.8, aria=False).encode(strokeDash=dash)


def _dots(base: Any, frame: Any, models: Sequence[str], y: Any) -> list[Any]:
    """Error bars, and points with a shape for every model, hollow for random weights."""
    bars = _error_bars(base, y=y("low:Q"), y2="high:Q")
    base = base.encode(shape=_shape(models))
    mark = {"size": 70, "opacity": 1, "ariaRoleDescription": "value"}
    if "random" not in frame or not any(frame["random"]):
        return [bars, base.mark_point(filled=True, **mark)]
    trained = base.transform_filter("!datum.random").mark_point(filled=True, **mark)
    random = base.transform_filter("datum.random").mark_point(style="hollow", **mark)
    return [bars, trained, random]


def _shape(models: Sequence[str]) -> Any:
    shapes = [_SHAPES[model_styles(models)[model].marker] for model in models]
    return alt.Shape("name:N", scale=_model_scale(models, shapes), title=None)


def _model_scale(models: Sequence[str], values: list[Any]) -> Any:
    return alt.Scale(domain=list(short_names(models).values()), range=values)
