"""Figures of the HTML report: an interactive chart, its values as a table, and notes.

The colours come from `style.vega_config`: one specification serves the light and the dark theme.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import altair as alt

from benchmarks.evaluation.subgroups import SubgroupRow
from benchmarks.latency.timer import NOTHING_MS
from benchmarks.prompts.protocols import reference_model
from benchmarks.records.record import RunRecord
from benchmarks.report import captions, frames
from benchmarks.report.labels import (
    Scope,
    dataset_label,
    prompt_label,
    scope_of,
    with_reference,
)
from benchmarks.report.style import log_limits, model_styles, short_names
from benchmarks.tables import columns as cells
from benchmarks.tables.accuracy_tables import few_images
from benchmarks.tables.columns import ENDS, MODEL, RowColumn, spread_ends, text_column, value_column
from benchmarks.tables.formatting import interval, milliseconds, slug, spread_text
from benchmarks.tables.record_queries import (
    MIN_IMAGES,
    Protocol,
    Setup,
    accuracy_name,
    model_names,
    scaled,
    timed,
    unique,
)
from benchmarks.tables.subgroup_tables import COLUMNS, NOTES, by_dimension
from benchmarks.tables.table import Cell, Column, Table

_SHAPES = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond"}
_SHAPES |= {"v": "triangle-down", "P": "cross"}
_SHAPES["X"] = "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z"
"""Vega's names of the matplotlib markers in `style.ModelStyle`."""
_LEAST_AREA_PX2, _WANTED_LEAST_AREA_PX2, _MOST_AREA_PX2 = 60.0, 200.0, 2800.0
_LANE_PX = 21
_PHASES = {"encode": None, "decode": 1, "end_to_end": 1}
"""Phases of the chart of latency, and their number of prompts."""
_MOST_SUBGROUPS, _MOST_FLAT_LABELS = 12, 6
_MOST_AXIS_TITLE = 40
"""Characters of an axis title on one line; the unit of a longer one is on a second line."""
_SELECTION = alt.selection_point(name="shown", fields=["name"], bind="legend", toggle="true")
"""Models selected by clicks on the legend; an empty selection shows all."""


def _zoom(*channels: Literal["x", "y"]) -> Any:
    """Dragging pans, the wheel with Ctrl or Shift zooms, a double click resets."""
    wheel = "wheel![event.ctrlKey || event.shiftKey]"
    return alt.selection_interval(
        name="zoom", bind="scales", encodings=list(channels), zoom=wheel, clear="dblclick"
    )


@cache
def vega_script() -> str:
    """JavaScript of Vega, Vega-Lite and Vega-Embed, which defines `vegaEmbed`; takes seconds."""
    import vl_convert

    version = alt.SCHEMA_VERSION.rpartition(".")[0]
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return f"/* Vega, Vega-Lite, Vega-Embed: BSD 3-Clause. */(() => {{{script}}})();"


def unvalidated() -> AbstractContextManager[None]:
    """Switches off Altair's validation of the parts of charts, which takes most of its time."""
    from altair.utils.schemapi import debug_mode

    return debug_mode(False)


class Figure(NamedTuple):
    """A Vega-Lite specification with its values and texts.

    Attributes:
        key: Stem of saved files; unique on a page.
        alt: Description for readers who cannot see the chart.
        choice: Name among the figures of a section with the same scope, such as a dimension.
        scope: Selection that it is about.
        message: What the chart shows, in one sentence.
    """

    key: str
    title: str
    alt: str
    chart: dict[str, Any]
    table: Table
    notes: tuple[str, ...]
    choice: str
    scope: Scope
    message: str


def _figure(
    kind: str,
    title: str,
    choice: str,
    scope: Scope,
    description: str,
    chart: Any,
    columns: Sequence[RowColumn],
    rows: Iterable[Any],
    notes: Iterable[str],
    message: str,
) -> Figure:
    key = slug("-".join((kind, choice, *scope.values())))
    table = cells.build_table(key, "The values of the figure", columns, rows)
    spec = chart.properties(description=f"{title}. {description}").to_dict(validate=False)
    return Figure(key, title, description, spec, table, tuple(notes), choice, scope, message)


def accuracy_latency(record: RunRecord, setup: Setup, protocol: Protocol) -> Figure | None:
    """Accuracy against latency with error bars and the Pareto front; None if no model has both."""
    points, label, notes = frames.accuracy_latency_frame(record, setup, protocol)
    caption = captions.accuracy_latency(record, setup, protocol)
    if caption is None:
        return None
    models, noun = model_names(record), accuracy_name(protocol.reference, title=True)
    points = points.sort_values("ms")
    points["tip"] = [
        f"{p.model}: {noun} {interval(p.value, p.bounds, 1)} %, {label} "
        f"{spread_text(p.ms, p.spread)} ms"
        for p in points.itertuples()
    ]
    front = list(frames.pareto_front(points)["model"])

    times = [ms for name in ("ms", "ms_low", "ms_high") for ms in points[name] if ms]
    limits = _around(times)
    values = frames.values_of(points)
    pad = max(3.0, 0.15 * (max(values) - min(values)))
    x = partial(_axis, alt.X, f"Latency, {label} (ms, log scale)", limits, log=True)
    heights = (max(0, min(values) - pad), min(104, max(values) + pad))
    y = partial(_axis, alt.Y, f"{noun} (%)", heights)
    # Computed by the chart, so that it joins the models that are shown.
    order = [alt.SortField("ms"), alt.SortField("value", "descending")]
    steps = (
        _chart(points[["model", "ms", "value", "front"]])
        .transform_filter("datum.front")
        .transform_window(sort=order, top="max(value)")
        .transform_window(sort=order, best="lag(top)")
        .transform_filter("!isValid(datum.best) || datum.value > datum.best")
        .encode(x=x("ms:Q"), y=y("value:Q"))
    )
    # Small markers are drawn last, on top of large ones.
    data = points.sort_values("parameters", ascending=False, na_position="last")
    scale = frames.area_scale(points, _WANTED_LEAST_AREA_PX2, _MOST_AREA_PX2)
    data = data.assign(area=[max(_LEAST_AREA_PX2, scale * (n or 0)) for n in data["parameters"]])
    base = _base(data, models).encode(x=x("ms:Q"), y=y("value:Q"))
    mark = {"fillOpacity": 0.6, "ariaRoleDescription": "value"}
    curves = data[[curve is not None for curve in data["curve"]]]
    curves = curves.assign(text=[f"{size or 'own'} px" for size in curves["size_px"]])
    lines = _base(curves.assign(model=curves["curve"]), models, points["model"])
    labels = _chart(curves[["model", "ms", "value", "text"]]).mark_text(
        align="right", dx=-9, dy=-7, aria=False
    )
    joined = (
        lines.mark_line(strokeWidth=1.8, aria=False).encode(x=x("ms:Q"), y=y("value:Q")),
        labels.encode(x=x("ms:Q"), y=y("value:Q"), text="text:N"),
    )
    chart = _layers(
        330,
        _error_bars(base, y=y("low:Q"), y2="high:Q"),
        _error_bars(base, x=x("ms_low:Q"), x2="ms_high:Q"),
        steps.mark_line(interpolate="step-after", style="front", aria=False),
        *(joined if len(curves) else ()),
        base.transform_filter("datum.parameters > 0")
        .mark_point(filled=True, **mark)
        .encode(shape=_shape(models), size=alt.Size("area:Q", scale=None, legend=None)),
        base.transform_filter("!(datum.parameters > 0)")
        .mark_point(style="hollow", size=_LEAST_AREA_PX2, strokeWidth=2, **mark)
        .encode(shape=_shape(models)),
    )

    ends = ("time_ms", *(f"time_{end}_ms" for end in ENDS))
    columns = (
        MODEL,
        RowColumn(
            Column(f"Latency, {label}", ends, "ms", "right"),
            lambda p: Cell(spread_text(p.ms, p.spread), (p.ms, *spread_ends(p.spread))),
        ),
        RowColumn(
            Column(noun, ("miou_percent", "miou_low", "miou_high"), "%", "right"),
            lambda p: Cell(interval(p.value, p.bounds, 1), (p.value, p.low, p.high)),
        ),
        value_column("Parameters used", "parameters", show="{:,}".format),
        text_column("Pareto front", "pareto", get=[lambda p: "yes" if p.model in front else "no"]),
    )
    return _figure(
        "accuracy-latency",
        caption.title,
        "",
        scope_of(protocol, setup),
        f"Models by latency ({label}) and {noun}. On the Pareto front, from fast to "
        f"slow: {', '.join(front)}.",
        chart,
        columns,
        points.itertuples(),
        (f"{setup.label}. {frames.error_bars_note(points, protocol.reference)}", *notes),
        caption.message,
    )


def accuracy_by_size(record: RunRecord, protocol: Protocol) -> Figure | None:
    """Accuracy over all objects and by size class, models side by side; None without any."""
    frame, caption = frames.size_frame(record, protocol), captions.by_size(record, protocol)
    if caption is None:
        return None
    noun = accuracy_name(protocol.reference, title=True)
    frame["tip"] = [
        f"{r.model}, {r.size} objects: {noun} {interval(r.value or 0, r.bounds, 1)} %"
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
    y = partial(_axis, alt.Y, f"{noun} (%)", frames.percent_limits(frames.values_of(data)))
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
        "size",
        scope_of(protocol),
        f"{noun} of {', '.join(shown)} over all objects, small, medium and large ones.",
        _layers(280, *_dots(base, data, models, y), zoom=["y"]),
        (
            text_column("Model", "model", get=["0.model"]),
            *(size_column(index, size) for index, size in enumerate(labels)),
        ),
        [list(part.itertuples()) for _, part in frame.groupby("model", sort=False)],
        frames.size_notes(record, protocol, frame),
        caption.message,
    )


def latency(record: RunRecord, setup: Setup) -> Figure | None:
    """Encode, decode of one prompt and end to end of every model, fastest first; None without."""
    frame = frames.latency_frame(record, setup)
    if not frame.empty:
        shown = [
            _PHASES.get(r.phase, 0) in (None, r.n_prompts)
            and timed(r.row) is not None
            and r.value >= NOTHING_MS
            for r in frame.itertuples()
        ]
        frame = frame[shown]
    if frame.empty:
        return None
    caption = captions.latency(record, setup)
    frame = frame.assign(step=frame["phase"].str.replace("_", " "))
    frame["tip"] = [
        f"{r.model}, {r.step}: {spread_text(r.value, r.spread)} ms" for r in frame.itertuples()
    ]
    total = frame.assign(value=frame["value"].astype(float)).groupby("model")["value"].sum()
    models = model_names(record)
    order = [short_names(models)[model] for model in total.sort_values(kind="stable").index]
    x = partial(_axis, alt.X, "ms (log scale)", _around(frames.values_of(frame)), log=True)
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=180, grid=True))
    steps = [name.replace("_", " ") for name in _PHASES]
    shapes = alt.Scale(domain=steps, range=["circle", "triangle-up", "square"])
    picked = alt.selection_point(name="shown", fields=["step"], bind="legend", toggle="true")
    base = _base(frame, models, ()).encode(
        y=y,
        x=x("value:Q"),
        shape=alt.Shape("step:N", scale=shapes, legend=_legend(steps, 150)),
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.1)),
    )
    mark = {"size": 65, "strokeWidth": 2, "opacity": 1, "ariaRoleDescription": "value"}
    first = base.transform_filter("!datum.random").mark_point(filled=True, **mark)
    chart = alt.layer(
        first.add_params(picked, _zoom("x")).properties(name="first"),
        base.transform_filter("datum.random").mark_point(style="hollow", **mark),
        _error_bars(base, x=x("low:Q"), x2="high:Q"),
    ).properties(width="container", height=max(120, _LANE_PX * len(order)))

    notes = [
        f"{setup.label}. Medians; bars: {cells.bars_text(frame['spread'])}. Decode: one prompt. "
        "End to end is one call of all phases, timed separately: it need not equal their sum. "
        f"Phases below {NOTHING_MS:g} ms, which do nothing, are left out.",
        *cells.sample_notes(frame["row"]),
    ]
    random = unique(frame["model"][frame["random"].astype(bool)])
    if random:
        notes.append(
            "Hollow: random weights on the exact architecture, whose time is the same: "
            f"{', '.join(random)}."
        )
    columns = (
        MODEL,
        text_column("Phase", "phase", get=["step"]),
        RowColumn(cells.median_column(frame["row"]), lambda r: cells.median_cell(r.row)),
    )
    whole = frame[frame["phase"] == "end_to_end"]
    times = (f"{r.model} {milliseconds(r.value)}" for r in whole.sort_values("value").itertuples())
    return _figure(
        "latency",
        caption.title if caption else f"Time: {setup.label}",
        "",
        scope_of(setup),
        f"Encode, decode and end to end. End to end: {', '.join(times)}.",
        chart,
        columns,
        frame.itertuples(),
        notes,
        caption.message if caption else "",
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
        "",
        scope_of(setup),
        f"Decode time of {', '.join(unique(frame['model']))} against the prompts in one call.",
        _layers(320, _lines(base, models), *_dots(base, frame, models, y)),
        columns,
        frame["row"],
        notes,
        caption.message,
    )


def subgroups(
    models: Sequence[str], rows: Iterable[SubgroupRow], about: Mapping[Protocol, str]
) -> list[Figure]:
    """Accuracy by subgroup, one figure for each protocol and dimension; models side by side.

    `about` is the model that messages are about, by protocol.
    """
    found = []
    compared = [row for row in rows if reference_model(row.reference) != row.model]
    for (protocol, dimension), part in by_dimension(compared).items():
        noun, sizes = accuracy_name(protocol.reference, title=True), dict[str, int]()
        for row in part:
            sizes[row.group] = max(row.n_instances, sizes.get(row.group, 0))
        large = unique(row.group for row in part if captions.is_large(row))
        shown = list(large or sizes)[:_MOST_SUBGROUPS]
        labels = {group: f"{group}|n = {sizes[group]:,}" for group in shown}
        bounds = {
            id(r): scaled(r.ci95) if r.ci95 and r.n_images >= MIN_IMAGES else None for r in part
        }
        frame = frames.object_frame(
            {
                "model": r.model,
                "label": labels[r.group],
                "value": 100 * r.miou,
                "low": None if (ends := bounds[id(r)]) is None else ends[0],
                "high": None if ends is None else ends[1],
                "tip": f"{r.model}, {r.group}: {noun} {interval(100 * r.miou, ends, 1)} %, "
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
        y = partial(_axis, alt.Y, f"{noun} (%)", frames.percent_limits(frames.values_of(frame)))
        base = _base(frame, models).encode(
            x=alt.X("label:N", sort=list(labels.values()), axis=axis),
            xOffset=alt.XOffset("name:N", sort=order),
            y=y("value:Q"),
        )
        notes = [
            NOTES[dimension],
            f"Bars: {frames.INTERVALS}; n: instances.",
            *few_images(part),
        ]
        if len(sizes) > len(large):
            few = f"fewer than {captions.FEWEST_OBJECTS} objects or {captions.FEWEST_IMAGES} images"
            where = "among the values alone" if large else "too few to say much"
            notes.append(f"{len(sizes) - len(large)} of {len(sizes)} have {few}: {where}.")
        if len(large or sizes) > len(shown):
            notes.append(f"In the chart are the {len(shown)} largest.")
        figure = _figure(
            "subgroups",
            f"{prompt_label(protocol.protocol)}, by {dimension}: "
            f"{with_reference(dataset_label(protocol.dataset), protocol.reference)}",
            dimension,
            scope_of(protocol),
            f"{noun} of {', '.join(unique(frame['model']))} by {dimension}.",
            _layers(300, *_dots(base, frame, models, y), zoom=["y"]),
            cells.named_for(protocol.reference, COLUMNS),
            part,
            notes,
            captions.subgroups(part, [g for g in shown if g in large], about.get(protocol)),
        )
        found.append(figure)
    return found


def robustness(record: RunRecord) -> list[Figure]:
    """Accuracy by the percentage of disturbance, one figure for each kind of disturbed prompt."""
    found = []
    models = model_names(record)
    for (clean, family), frame in frames.robustness_frames(record).items():
        caption = captions.robustness(record, clean, family, frame)
        noun = accuracy_name(clean.reference, title=True)
        frame["tip"] = [
            f"{r.model}, {r.percent:g} %: {noun} {interval(r.value, r.bounds, 1)} %"
            for r in frame.itertuples()
        ]
        most = max(frame["percent"])
        limits = frames.percent_limits(frames.values_of(frame))
        x = partial(_axis, alt.X, frames.DISTURBANCES[family], (-0.04 * most, 1.04 * most))
        y = partial(_axis, alt.Y, f"{noun} (%)", limits)
        base = _base(frame, models).encode(x=x("percent:Q"), y=y("value:Q"))
        columns = (
            MODEL,
            value_column("Disturbance", "percent", show="{:g}".format, unit="%"),
            RowColumn(
                Column(noun, ("miou_percent", "miou_low", "miou_high"), "%", "right"),
                lambda r: Cell(interval(r.value, r.bounds, 1), (r.value, r.low, r.high)),
            ),
        )
        figure = _figure(
            "robustness",
            caption.title,
            family,
            {"dataset": clean.dataset, "reference": clean.reference},
            f"{noun} of {', '.join(unique(frame['model']))} by the disturbance of the prompt.",
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

    Times of one machine are side by side, in the order of time. Lines join comparable runs; times
    have a log scale.
    """
    found = []
    for (name, condition), frame in frames.history_frames(runs, models).items():
        timed = isinstance(condition, Setup)
        unit = "ms" if timed else "%"
        texts = [
            spread_text(r.value, r.spread) if timed else interval(r.value, r.bounds, 1)
            for r in frame.itertuples()
        ]
        labels = {run.id: (frames.day(run), _commit(run)) for run in frame["run"]}
        places = list(labels)
        frame["place"] = [places.index(run.id) for run in frame["run"]]
        frame["tip"] = [
            f"{r.model}, {r.run.id}, {', '.join(labels[r.run.id])}: {text} {unit}"
            for r, text in zip(frame.itertuples(), texts, strict=True)
        ]
        label = f"{json.dumps([list(each) for each in labels.values()])}[datum.value]"
        axis = alt.Axis(labelExpr=label, labelOverlap="greedy", labelSeparation=8, grid=False)
        axis.values = list(range(len(places)))
        limits = (_around if timed else frames.percent_limits)(frames.values_of(frame))
        y = partial(_axis, alt.Y, "ms (log scale)" if timed else "%", limits, log=timed)
        domain = alt.Scale(domain=[-0.5, len(places) - 0.5], nice=False)
        x = partial(alt.X, type="quantitative", scale=domain, axis=axis, title=None)
        base = _base(frame, models).encode(x=x("place"), y=y("value:Q"))
        lines = _lines(base, models).encode(detail="where:N")
        first = frame.drop_duplicates("machine").assign(edge=lambda part: part["place"] - 0.5)
        # Names of machines often differ at their ends alone, which a narrow chart has no room for.
        machines = {name: f"machine {index}" for index, name in enumerate(first["machine"], 1)}
        first = first.assign(label=first["machine"].map(machines))
        starts = _chart(first[["edge", "label"]]).encode(x=x("edge"))
        text = starts.mark_text(align="left", dx=5, dy=8, aria=False, style="muted")
        several = (
            starts.mark_rule(style="front", aria=False),
            text.encode(text="label:N", y=alt.value(0)),
        )

        same, side = "data, prompts, weights and precision", "Runs"
        if timed:
            same = "machine, threads, allocator and libraries, if the machine was idle before them"
            side = "Runs of one machine side by side"
        notes = [
            f"{side}, in the order of time, evenly spaced, with day and commit. Bars: "
            f"{cells.bars_text(frame['spread'])}.",
            f"Lines join only runs of the same {same}.",
        ]
        if len(machines) > 1:
            notes += [f"{label.capitalize()}: {name}." for name, label in machines.items()]
        columns = (
            text_column("Run", "run", get=["run.id"]),
            text_column("Date", "created_utc", get=["run.created_utc"]),
            MODEL,
            RowColumn(
                Column("Value", ("value", *ENDS), unit, "right"),
                lambda r: Cell(r.text, (r.value, *spread_ends(r.spread))),
            ),
            RowColumn(
                Column("Commit", ("git_commit",)),
                lambda r: Cell(_commit(r.run), (r.run.environment.git_commit,)),
            ),
            text_column("Conditions", "machine", get=["where"]),
        )
        title = f"History: {name}, {condition.label}"
        chart = _layers(
            240,
            lines,
            *_dots(base, frame, models, y),
            *(several if len(first) > 1 else ()),
        )
        figure = _figure(
            "history",
            title,
            name,
            scope_of(condition),
            f"{name} of {', '.join(unique(frame['model']))} over {len(places)} runs.",
            chart,
            columns,
            frame.assign(text=texts).itertuples(),
            notes,
            captions.history(frame, unit),
        )
        found.append(figure)
    return found


def _commit(run: RunRecord) -> str:
    """Short hash of the commit of a run, with a plus sign for uncommitted changes."""
    env = run.environment
    return f"{(env.git_commit or 'unknown')[:8]}{'+' if env.git_dirty else ''}"


def scatter() -> dict[str, Any]:
    """Specification of IoU of one model (y) against another (x); `datasets.pairs` is to be filled.

    Its rows are objects: a, b (IoU of the models on y and on x), tip and index.
    """
    scale = alt.Scale(domain=[-0.02, 1.02], nice=False)
    x, y = (
        channel(f"{name}:Q", scale=scale, axis=alt.Axis(tickCount=5, titleFontWeight="normal"))
        for channel, name in ((alt.X, "b"), (alt.Y, "a"))
    )
    line = alt.Chart(alt.InlineData(values=[{"a": 0, "b": 0}, {"a": 1, "b": 1}]))
    dots = alt.Chart(alt.NamedData(name="pairs"), name="first").mark_point(
        style="dot", size=45, ariaRoleDescription="value", cursor="pointer"
    )
    dots = dots.encode(x=x, y=y, tooltip="tip:N", description="tip:N").add_params(_zoom("x", "y"))
    diagonal = line.mark_line(style="front", aria=False).encode(x=x, y=y)
    chart = alt.layer(dots, diagonal).properties(width="container", height=380)
    spec: dict[str, Any] = chart.to_dict(validate=False)
    spec["datasets"]["pairs"] = []
    return spec


def _chart(data: Any) -> Any:
    """A chart of a frame; Altair's own conversion would turn None into NaN, which is not JSON."""
    return alt.Chart(alt.InlineData(values=data.to_dict("records")))


def _base(data: Any, models: Sequence[str], named: Iterable[str] | None = None) -> Any:
    """A chart of a frame with colours, tooltips and a legend that selects models.

    The column `tip` holds the text of tooltips and ARIA labels; `models` are all of the page, and
    `named` those of the legend, by default all of the frame.
    """
    names = short_names(models)
    data = data.drop(columns={"bounds", "row", "run", "spread"} & set(data))
    data = data.assign(name=data["model"].map(names))
    legend = set(data["model"] if named is None else named)
    shown = [names[model] for model in names if model in legend]
    entries = _legend(shown, values=shown)
    domain = alt.Scale(domain=list(names.values()))
    return _chart(data).encode(
        color=alt.Color("name:N", scale=domain, legend=entries if shown else None),
        opacity=alt.when(_SELECTION).then(alt.value(1)).otherwise(alt.value(0.1)),
        tooltip="tip:N",
        description="tip:N",
    )


def _legend(names: Sequence[str], left_px: int = 60, **options: Any) -> Any:
    """A legend above the chart with as many columns as fit beside the labels of the y axis."""
    entry_px = 30 + 6.3 * max(map(len, names), default=0)
    # The width of the plot changes during the layout, that of its container does not; `width` makes
    # Vega evaluate the expression again after a change of the window.
    columns = alt.ExprRef(
        f"max(1, floor((containerSize()[0] - {left_px}) / {entry_px:.0f}) + 0 * width)"
    )
    # Vega would read out all models of the scale, shown or not. It ignores descriptions of legends.
    options |= {"title": None, "orient": "top", "labelLimit": 300, "aria": False}
    return alt.Legend(columns=columns, **options)


def _layers(
    height: int, first: Any, *others: Any, zoom: Sequence[Literal["x", "y"]] = ("x", "y")
) -> Any:
    """Layers of a chart as wide as its place on the page; only the first may have a selection."""
    selectable = first.add_params(_SELECTION, _zoom(*zoom)).properties(name="first")
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
    lines = title.replace(" (", "\n(").split("\n") if len(title) > _MOST_AXIS_TITLE else title
    axis = alt.Axis(title=lines, format=",~r", labelOverlap="greedy", **ticks)
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
