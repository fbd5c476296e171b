"""Interactive charts of the HTML report: functions from a data frame to an Altair chart.

The colours of models and of the page come from `style.vega_config`, so that one specification
serves the light and the dark theme. Every function takes a frame of `frames.py` with a further
column `tip`, the text of tooltips and ARIA labels, and all models of the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Any

from benchmarks.report.frames import (
    area_scale,
    day,
    object_frame,
    pareto_front,
    percent_limits,
    values_of,
)
from benchmarks.report.style import Dash, log_limits, model_styles, short_names
from benchmarks.tables.formatting import milliseconds
from benchmarks.tables.record_queries import unique

_SHAPES = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
}
"""Vega's names of the matplotlib markers in `style.ModelStyle`."""
_CROSS = "M-1,-1L1,1M1,-1L-1,1"
_LEAST_AREA_PX2, _WANTED_LEAST_AREA_PX2, _MOST_AREA_PX2 = 60.0, 200.0, 2800.0
_LANE_PX, _HEADING_PX, _LABELS_PX = 16, 46, 150


@cache
def vega_script() -> str:
    """JavaScript of Vega, Vega-Lite and Vega-Embed, which defines `vegaEmbed`; takes seconds."""
    import altair as alt
    import vl_convert

    version = alt.SCHEMA_VERSION.rpartition(".")[0]
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return f"/* Vega, Vega-Lite, Vega-Embed: BSD 3-Clause. */(() => {{{script}}})();"


def accuracy_latency_chart(points: Any, models: Sequence[str], time_label: str) -> Any:
    """Accuracy against latency with error bars and the Pareto front."""
    import altair as alt
    import pandas as pd

    times = [ms for name in ("ms", "ms_low", "ms_high") for ms in points[name] if ms]
    limits = (min(times) / 1.4, max(times) * 1.4)
    values = values_of(points)
    pad = max(3.0, 0.15 * (max(values) - min(values)))
    x = partial(_axis, alt.X, f"Latency, {time_label} (ms, log scale)", limits, log=True)
    y = partial(_axis, alt.Y, "mIoU (%)", (max(0, min(values) - pad), min(104, max(values) + pad)))
    corners = pareto_front(points)[["ms", "value"]]
    end = pd.DataFrame({"ms": [limits[1]], "value": [corners["value"].iloc[-1]]})
    front = _chart(pd.concat([corners, end])).encode(x=x("ms:Q"), y=y("value:Q"))
    # Small markers are drawn last, on top of large ones.
    data = points.sort_values("parameters", ascending=False, na_position="last")
    scale = area_scale(points, _WANTED_LEAST_AREA_PX2, _MOST_AREA_PX2)
    data = data.assign(area=[max(_LEAST_AREA_PX2, scale * (n or 0)) for n in data["parameters"]])
    base = _base(data, models).encode(x=x("ms:Q"), y=y("value:Q"))
    mark = {"fillOpacity": 0.6, "ariaRoleDescription": "value"}
    return _layers(
        360,
        _error_bars(base, y=y("low:Q"), y2="high:Q"),
        _error_bars(base, x=x("ms_low:Q"), x2="ms_high:Q"),
        front.mark_line(interpolate="step-after", style="front", aria=False),
        base.transform_filter("datum.parameters > 0")
        .mark_point(filled=True, **mark)
        .encode(shape=_shape(models), size=alt.Size("area:Q", scale=None, legend=None)),
        base.transform_filter("!(datum.parameters > 0)").mark_point(
            shape=_CROSS, size=60, strokeWidth=2, **mark
        ),
    )


def size_chart(frame: Any, models: Sequence[str]) -> Any:
    """Accuracy over all objects and by size class, models side by side."""
    import altair as alt

    labels = {}
    for size in unique(frame["size"]):
        counts = unique(frame["n"][frame["size"] == size])
        known = len(counts) == 1 and counts[0] is not None
        labels[size] = f"{size}|n = {counts[0]:,.0f}" if known else size
    data = frame[[value is not None for value in frame["value"]]]
    data = data.assign(label=data["size"].map(labels))
    order = [short_names(models)[model] for model in unique(data["model"])]
    axis = alt.Axis(labelAngle=0, title=None, labelExpr="split(datum.label, '|')", grid=False)
    y = partial(_axis, alt.Y, "mIoU (%)", percent_limits(values_of(data)))
    base = _base(data, models).encode(
        x=alt.X("label:N", sort=list(labels.values()), axis=axis),
        xOffset=alt.XOffset("name:N", sort=order),
        y=y("value:Q"),
    )
    return _layers(280, _error_bars(base, y=y("low:Q"), y2="high:Q"), *_dots(base, data, models))


def waterfall_chart(frame: Any, models: Sequence[str]) -> Any:
    """Steps of one prompt, one after the other, each model on a scale of its own."""
    import altair as alt

    headings, rows, top = [], [], 0
    for model, part in frame.groupby("model", sort=False):
        total = part["sum"].iloc[0]
        whole = part[part["step"] == "end to end"]
        steps = part[part["step"] != "end to end"]
        text = f"sum {milliseconds(total)}"
        if len(whole):
            text += f", end to end {milliseconds(whole['value'].iloc[0])}"
        headings.append({"top": top, "title": short_names(models)[model], "text": text})
        top += _HEADING_PX
        for row in steps[
            ["model", "step", "tip", "random", "start", "value", "low", "high"]
        ].to_dict("records"):
            start = row["start"]
            for end in ("value", "low", "high"):
                at = row[end]
                row[end] = None if at is None else min(1.0, (start + at) / total)
            duration = milliseconds(total * row["value"] - start)
            rows.append(row | {"start": start / total, "top": top, "text": duration})
            top += _LANE_PX
    # The labels stand left of a scale that begins at a fixed distance from the edge.
    x = partial(
        alt.X,
        type="quantitative",
        scale=alt.Scale(domain=[0, 1], range=[_LABELS_PX, alt.ExprRef("width - 4")]),
        axis=None,
    )
    y = alt.Y("top:Q", scale=alt.Scale(domain=[0, top], range=[0, top], nice=False), axis=None)
    data = object_frame(rows)
    bars = _base(data, models).encode(y=y, x=x("start"), x2="value:Q")
    texts, heads = (_chart(each).encode(y=y) for each in (data, object_frame(headings)))
    bar = {"height": _LANE_PX - 5, "ariaRoleDescription": "value", "minBandSize": 1.5}
    left = {"align": "left", "baseline": "middle", "aria": False, "x": 0}
    return _layers(
        top,
        bars.transform_filter("!datum.random").mark_bar(**bar),
        bars.transform_filter("datum.random").mark_bar(style="hollow", filled=False, **bar),
        texts.mark_rule(style="interval", aria=False).encode(x=x("low"), x2="high:Q"),
        texts.mark_text(**left).encode(text="step:N"),
        texts.mark_text(**left | {"align": "right", "x": _LABELS_PX - 8}).encode(text="text:N"),
        heads.mark_text(**left, style="heading", dy=10).encode(text="title:N"),
        heads.mark_text(**left, style="muted", dy=27).encode(text="text:N"),
    )


def decode_chart(frame: Any, models: Sequence[str]) -> Any:
    """Decode time against the number of prompts in one call."""
    import altair as alt

    counts, times = _around(frame["n_prompts"]), _around(values_of(frame))
    x = partial(_axis, alt.X, "Prompts in one call (log scale)", counts, log=True)
    y = partial(_axis, alt.Y, "Decode (ms, log scale)", times, log=True)
    base = _base(frame, models).encode(x=x("n_prompts:Q"), y=y("value:Q"))
    return _layers(
        320,
        _lines(base, models),
        _error_bars(base, y=y("low:Q"), y2="high:Q"),
        *_dots(base, frame, models),
    )


def history_chart(frame: Any, models: Sequence[str], unit: str) -> Any:
    """A quantity over runs, with lines between comparable ones; `ms` on a log scale."""
    import altair as alt

    dates = {run.id: day(run) for run in frame["run"]}
    places = list(dates)
    data = frame.assign(place=[places.index(run.id) for run in frame["run"]])
    axis = alt.Axis(
        values=list(range(len(places))),
        labelExpr=f"{json.dumps(list(dates.values()))}[datum.value]",
        labelOverlap="greedy",
        labelSeparation=8,
    )
    limits = _around if unit == "ms" else percent_limits
    title = "ms (log scale)" if unit == "ms" else "%"
    y = partial(_axis, alt.Y, title, limits(values_of(frame)), log=unit == "ms")
    domain = alt.Scale(domain=[-0.5, len(places) - 0.5], nice=False)
    base = _base(data, models).encode(
        x=alt.X("place:Q", scale=domain, axis=axis, title=None), y=y("value:Q")
    )
    return _layers(
        240,
        _lines(base, models).encode(detail="where:N"),
        _error_bars(base, y=y("low:Q"), y2="high:Q"),
        *_dots(base, frame, models),
    )


def _chart(data: Any) -> Any:
    """A chart of a frame; Altair's own conversion would turn None into NaN, which is not JSON."""
    import altair as alt

    return alt.Chart(alt.InlineData(values=data.to_dict("records")))


def _base(data: Any, models: Sequence[str]) -> Any:
    """A chart of a frame with colours, tooltips and a legend that selects models."""
    import altair as alt

    names = short_names(models)
    data = data.drop(columns={"bounds", "row", "run", "spread"} & set(data))
    data = data.assign(name=data["model"].map(names))
    shown = [names[model] for model in names if model in set(data["model"])]
    entry_px = 34 + 7 * max(map(len, shown))
    # The width of the plot changes during the layout, that of its container does not; `width` makes
    # Vega evaluate the expression again after a change of the window.
    columns = alt.ExprRef(f"max(1, floor((containerSize()[0] - 90) / {entry_px}) + 0 * width)")
    legend = alt.Legend(title=None, orient="top", columns=columns, labelLimit=300, values=shown)
    return _chart(data).encode(
        color=alt.Color("name:N", scale=alt.Scale(domain=list(names.values())), legend=legend),
        opacity=alt.when(_selection()).then(alt.value(1)).otherwise(alt.value(0.1)),
        tooltip="tip:N",
        description="tip:N",
    )


def _selection() -> Any:
    """Models selected by clicks on the legend; an empty selection shows all."""
    import altair as alt

    return alt.selection_point(name="shown", fields=["name"], bind="legend", toggle="true")


def _layers(height: int, first: Any, *others: Any) -> Any:
    """Layers of a chart as wide as its place on the page; only the first may have a selection."""
    import altair as alt

    selectable = first.add_params(_selection()).properties(name="first")
    return alt.layer(selectable, *others).properties(width="container", height=height)


def _axis(
    channel: Any, title: str, limits: tuple[float, float], field: str, *, log: bool = False
) -> Any:
    import altair as alt

    scale = alt.Scale(type="log" if log else "linear", domain=list(limits), nice=False)
    ticks = {"values": _log_ticks(*limits), "tickCount": 8} if log else {"tickCount": 6}
    axis = alt.Axis(title=title, format=",~r", labelOverlap="greedy", **ticks)
    return channel(field, scale=scale, axis=axis)


def _around(values: Iterable[float]) -> tuple[float, float]:
    known = [value for value in values if value > 0]
    return log_limits(min(known), max(known))


def _log_ticks(low: float, high: float) -> list[float]:
    """Labelled values of a log axis: 1, 2 and 5 per decade on a short axis, powers of ten else."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for multiples in ((1, 2, 5), (1,)):
        found = [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        if len(found) <= 8:
            break
    return found


def _error_bars(base: Any, **channels: Any) -> Any:
    return base.mark_rule(strokeWidth=1.5, aria=False).encode(**channels)


def _lines(base: Any, models: Sequence[str]) -> Any:
    dashes = [_dash(style.dash) for style in _styles(models)]
    return base.mark_line(strokeWidth=1.8, aria=False).encode(
        strokeDash=_by_model("StrokeDash", models, dashes)
    )


def _dots(base: Any, frame: Any, models: Sequence[str]) -> list[Any]:
    """Points with a shape for every model, hollow for random weights."""
    base = base.encode(shape=_shape(models))
    mark = {"size": 70, "opacity": 1, "ariaRoleDescription": "value"}
    if "random" not in frame or not any(frame["random"]):
        return [base.mark_point(filled=True, **mark)]
    return [
        base.transform_filter("!datum.random").mark_point(filled=True, **mark),
        base.transform_filter("datum.random").mark_point(style="hollow", **mark),
    ]


def _shape(models: Sequence[str]) -> Any:
    return _by_model("Shape", models, [_SHAPES[style.marker] for style in _styles(models)])


def _by_model(channel: str, models: Sequence[str], values: Sequence[Any]) -> Any:
    """An encoding with a fixed value for every model of the page, in the legend of colours."""
    import altair as alt

    scale = alt.Scale(domain=list(short_names(models).values()), range=list(values))
    return getattr(alt, channel)("name:N", scale=scale, title=None)


def _styles(models: Sequence[str]) -> list[Any]:
    styles = model_styles(models)
    return [styles[model] for model in models]


def _dash(dash: Dash) -> list[float]:
    return [1, 0] if isinstance(dash, str) else [2 * part for part in dash[1]]
