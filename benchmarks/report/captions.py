"""Title and message of every plot: a sentence computed from the values that the plot shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from benchmarks.evaluation.subgroups import Dimension, SubgroupRow
from benchmarks.latency.timer import NOTHING_MS
from benchmarks.prompts.protocols import click_sequence, reference_model
from benchmarks.records.record import LatencyRow, RunRecord
from benchmarks.report import advice, frames
from benchmarks.report.advice import Candidate
from benchmarks.report.labels import (
    data_label,
    joined,
    points_text,
    prompt_label,
    protocol_title,
    times_as,
)
from benchmarks.tables import record_queries as queries
from benchmarks.tables.formatting import MILLION, milliseconds, number, percent
from benchmarks.tables.record_queries import Protocol, Setup, Steps, model_names, unique

T = TypeVar("T")
FAMILIES = {"box-jitter": "Boxes with moved sides", "point-offset": "Clicks off the middle"}
"""Titles of the families of disturbed prompts."""
FEWEST_OBJECTS, FEWEST_IMAGES = 20, 8
"""No smaller group is in a message or a chart."""
GROUPS: dict[Dimension, str] = {
    "size": "{} objects",
    "category": "{}",
    "crowding": "images with {} objects",
    "boundary complexity": "objects of boundary complexity {}",
}
"""A group of each dimension in a sentence."""
STEPS = (("encode", "encode"), ("decode", "decode"), ("end to end", "end_to_end"))
"""Label and phase of the times in the plot of latency, of the fewest prompts measured."""


class Caption(NamedTuple):
    """Title and message of a plot."""

    title: str
    message: str


def accuracy_latency(record: RunRecord, setup: Setup, protocol: Protocol) -> Caption | None:
    """The recommended model against the slowest of the same accuracy, or the best faster one."""
    found, _ = advice.candidates(record, setup, protocol)
    if not found:
        return None
    chosen = advice.choose(record, found)
    others = [each for each in found if each is not chosen]
    return Caption(protocol_title(record, protocol), _trade_off(record, chosen, others))


def _trade_off(record: RunRecord, chosen: Candidate, others: Sequence[Candidate]) -> str:
    teacher = reference_model(chosen.row.reference)
    noun = queries.accuracy_name(chosen.row.reference)
    relations = {each.model: queries.relation(record, chosen.row, each.row) for each in others}
    slower = [c for c in others if chosen.faster_than(c) and relations[c.model] == "equal"]
    faster = [c for c in others if c.faster_than(chosen)]
    networks = [c for c in faster if c.miou < chosen.miou and not queries.is_floor(record, c.model)]
    if not others:
        return (
            f"{chosen.model} reaches {percent(chosen.miou)} % {noun} in {milliseconds(chosen.ms)} "
            f"({chosen.steps.label})."
        )
    if slower:
        other = max(slower, key=lambda each: each.ms)
        same = percent(chosen.miou) == percent(other.miou)
        level = f"the same {noun}" if same else f"an {noun} equal to within one point"
        times = advice.ratio_between(record, other, chosen).text("fast", other.model)
        return f"{chosen.steps.label.capitalize()}, {chosen.model} is {times} at {level}."
    if networks:
        other = max(networks, key=lambda each: each.miou)
        by_chance = relations[other.model] in ("equal", "tied")
        return (
            f"{chosen.model} has {points_text(chosen.miou, other.miou)} more {noun} than "
            f"{other.model}{', a gap that may be chance' if by_chance else ''}; {other.model} is "
            f"{advice.ratio_between(record, chosen, other).text('fast')}."
        )
    best = max(others, key=lambda each: each.miou)
    if percent(chosen.miou) == percent(best.miou):
        text = f"{chosen.model} and {best.model} have the same {noun}"
        return f"{text}{'' if faster else ', and no model is measurably faster'}."
    if chosen.miou > best.miou:
        gap = points_text(chosen.miou, best.miou)
        text = f"{chosen.model} has the highest {noun}, {gap} above "
        return f"{text}{best.model}{'' if faster else ', and no model is measurably faster'}."
    if teacher is not None:
        return f"No model agrees measurably more with {teacher} than {chosen.model}."
    return f"No model is measurably more accurate than {chosen.model}."


def latency(record: RunRecord, setup: Setup) -> Caption | None:
    """The fastest networks and the slowest one, end to end or, without usable times, to encode."""
    title = f"Time to encode an image, to decode a prompt, and end to end: {setup.label}"
    for label, phase in (STEPS[2], STEPS[0], STEPS[1]):
        rows = {row.model: row for row in step_rows(record, setup, phase)}
        if phase == queries.END_TO_END and queries.disturbed_end_to_end(record, setup, list(rows)):
            continue
        times = {model: time for model, row in rows.items() if (time := queries.timed(row))}
        times = {model: time for model, time in times.items() if time[0] >= NOTHING_MS}
        if not times:
            continue
        shown, networks = _networks(record, times)
        fastest, slowest = advice.fastest_of(shown)
        least = milliseconds(times[fastest[0]][0])
        if len(shown) == 1:
            return Caption(title, f"{fastest[0]} takes {least} ({label}).")
        text = f"{label.capitalize()}, of the {len(shown)} {networks}s with that time, "
        if len(fastest) > 1:
            text += f"{joined(fastest)} tie as the fastest, from {least}"
        else:
            text += f"{fastest[0]} is the fastest, {least}"
        if slowest not in fastest:
            steps = Steps(label, ((phase, rows[slowest].n_prompts, 1),))
            ratio = advice.ratio_of(record, setup, steps, slowest, fastest[0])
            assert ratio is not None  # noqa: S101 - both have a time
            text += f"; {slowest} takes {ratio.text('long', fastest[0])}"
        return Caption(title, f"{text}.")
    return None


def step_rows(record: RunRecord, setup: Setup, phase: str) -> list[LatencyRow]:
    """Rows of a phase of all models, with the fewest prompts that were measured."""
    rows = [r for r in record.latency if queries.setup_of(r) == setup and r.phase == phase]
    fewest = min((row.n_prompts or 0 for row in rows), default=0)
    return [row for row in rows if (row.n_prompts or 0) == fewest]


def _networks(record: RunRecord, found: Mapping[str, T]) -> tuple[dict[str, T], str]:
    """Values of networks with their name, else those of all models."""
    networks = {
        model: value
        for model, value in found.items()
        if not (queries.is_floor(record, model) or queries.is_for_tests(record, model))
    }
    return (networks, "network") if networks else (dict(found), "model")


def decode(record: RunRecord, setup: Setup) -> Caption | None:
    """The lowest and the highest time of one more prompt."""
    frame = frames.decode_frame(record, setup)
    if frame.empty:
        return None
    title = f"Decode time by number of prompts: {setup.label}"
    last = frame.groupby("model", sort=False).tail(1)
    known, networks = _networks(record, advice.slopes(frame))
    if not known:
        row = min(last.to_dict("records"), key=lambda each: each["value"] / each["n_prompts"])
        return Caption(
            title,
            f"{row['model']} takes {milliseconds(row['value'] / row['n_prompts'])} a prompt"
            f"{', the least of all.' if len(last) > 1 else '.'}",
        )
    low, high = advice.extreme_slopes(known)
    doubt = advice.doubt(*(known[names[0]].timing for names in (low, high)))
    few = f", {doubt}" if doubt else ""
    least, most = (f"{'about ' * bool(few)}{known[names[0]].text}" for names in (low, high))
    if len(known) == 1:
        return Caption(title, f"Each further prompt costs {low[0]} {least}{few}.")
    if set(low) & set(high):
        text = f"The {len(known)} {networks}s do not differ measurably in the cost of a prompt"
        return Caption(title, f"{text}{few}.")
    ends = f"from {least} ({low[0]}) to {most} ({high[0]})"
    ties = (
        f"{joined(tied)} {'does' if len(tied) == 1 else 'do'} not differ measurably from {end}"
        for end, *tied in (low, high)
        if tied
    )
    text = "; ".join((f"Each further prompt costs a {networks} {ends}{few}", *ties))
    return Caption(title, f"{text}.")


def _ends(values: Mapping[str, float]) -> tuple[str, str]:
    """Keys of the lowest and of the highest value."""
    return min(values, key=lambda key: values[key]), max(values, key=lambda key: values[key])


def parameters(record: RunRecord) -> Caption | None:
    """The smallest and the largest model."""
    counts = {model: queries.used_parameters(record, model) for model in model_names(record)}
    known = {model: n for model, n in counts.items() if n}
    title = "Parameters used in the forward pass"
    if not known:
        rows = [row for row in record.params if row.used]
        if not rows:
            return None
        row = max(rows, key=lambda each: each.used or 0)
        count = f"{number((row.used or 0) / 1e6)} × {MILLION}"
        return Caption(title, f"The largest part counted: {row.component} of {row.model}, {count}.")
    least, most = _ends(known)
    low, high = (number(known[model] / 1e6) for model in (least, most))
    if len(known) == 1:
        text = f"{least} uses {low} × {MILLION} parameters."
    elif known[least] == known[most]:
        text = f"All {len(known)} networks use {low} × {MILLION} parameters."
    else:
        ratio = times_as(known[most] / known[least], "many", least)
        text = f"{most} uses {high} × {MILLION} parameters, {ratio} ({low} × {MILLION})."
    return Caption(title, text)


def by_size(record: RunRecord, protocol: Protocol) -> Caption | None:
    """The sizes of objects that the recommended model finds best and worst."""
    frame = frames.size_frame(record, protocol)
    if frame.empty:
        return None
    rows = [row for row in frame.to_dict("records") if row["value"] is not None]
    whole = {row["model"]: row for row in rows if row["size"] == "all"}
    best = whole[advice.shown_model(record, protocol, whole)]
    sizes = {
        r["size"]: r["value"] for r in rows if r["model"] == best["model"] if r["size"] != "all"
    }
    title = protocol_title(record, protocol, "by object size")
    if not sizes:
        noun = queries.accuracy_name(protocol.reference)
        return Caption(title, f"{best['model']} reaches {number(best['value'], 1)} % {noun}.")
    groups = {f"{size} objects": value for size, value in sizes.items()}
    return Caption(title, _extremes(best["model"], groups, protocol.reference))


def _extremes(
    model: str,
    values: Mapping[str, float],
    reference: str,
    bounds: Mapping[str, queries.Bounds | None] = MappingProxyType({}),
) -> str:
    """The groups on which a model has its highest and its lowest accuracy, in percent."""
    noun = queries.accuracy_name(reference)
    worst, top = _ends(values)
    low, high = (f"{number(values[name], 1)} %" for name in (worst, top))
    if len(values) == 1:
        return f"{model} reaches {low} {noun} on {top}."
    if low == high:
        return f"{model} has the same {noun}, {low}, on {joined(list(values))}."
    text = f"{model} has its highest {noun} on {top}, {high}, and its lowest on {worst}, {low}"
    above, below = bounds.get(top), bounds.get(worst)
    overlap = above is not None and below is not None and above[0] <= below[1]
    return f"{text}{'; their intervals overlap' if overlap else ''}."


def is_large(row: SubgroupRow) -> bool:
    """Whether a group is large enough for a message and a chart."""
    return row.n_instances >= FEWEST_OBJECTS and row.n_images >= FEWEST_IMAGES


def subgroups(rows: Sequence[SubgroupRow], shown: Sequence[str], about: str | None = None) -> str:
    """The groups, of those shown, that a model, by default the most accurate, finds best and worst.

    Empty without two groups. If the table has more, the sentence says which ones are meant.
    """
    by_model = queries.grouped((row.model, row) for row in rows)

    def mean(model: str) -> float:
        """Mean over the instances of all groups."""
        own = by_model[model]
        return sum(r.miou * r.n_instances for r in own) / max(1, sum(r.n_instances for r in own))

    best = about if about in by_model else max(by_model, key=lambda model: round(mean(model), 3))
    groups = {
        GROUPS[row.dimension].format(row.group): row for row in by_model[best] if row.group in shown
    }
    large = {name: 100 * row.miou for name, row in groups.items()}
    if len(large) < 2:
        return ""
    bounds = {name: row.ci95 for name, row in groups.items()}
    text = _extremes(best, large, rows[0].reference, bounds)
    if len(large) == len({row.group for row in rows}):
        return text
    least = f"at least {FEWEST_OBJECTS} objects and {FEWEST_IMAGES} images each"
    return f"Of the {len(large)} groups in the chart ({least}), {text}"


def history(frame: Any, unit: str) -> str:
    """First and last value of the model with the most comparable runs."""
    lines = queries.grouped(((r.model, r.where), r) for r in frame.itertuples())
    (model, _), rows = max(lines.items(), key=lambda line: len(line[1]))
    values = [row.value for row in rows]
    if len(values) < 2:
        return "No two of these runs compare."
    show = milliseconds if unit == "ms" else lambda value: f"{number(value, 1)} %"
    first, last, low, high = map(show, (values[0], values[-1], min(values), max(values)))
    if low == high:
        runs = "both" if len(values) == 2 else f"all {len(values)}"
        return f"{model} has {first} in {runs} comparable runs."
    between = "" if {low, high} == {first, last} else f", between {low} and {high},"
    if unit == "ms":
        start, end = (queries.bounds_of(row.value, row.spread) for row in (rows[0], rows[-1]))
        if not (start.below(end) or end.below(start)):
            return (
                f"{model} has {first} and {last}{between} in the first and the last of "
                f"{len(values)} comparable runs, which is no measurable difference."
            )
    return f"{model} went from {first} to {last}{between} over {len(values)} comparable runs."


def by_protocol(record: RunRecord, group: Sequence[Protocol]) -> Caption | None:
    """The prompts with the highest and the lowest accuracy of the model with the most of them.

    None if every protocol has plots of its own, or without accuracies.
    """
    group = queries.listed(group)
    frame = frames.protocol_frame(record, group)
    if frame.empty or len(group) <= queries.MOST_HEADLINES:
        return None
    model = max(unique(frame["model"]), key=list(frame["model"]).count)
    own = frame[frame["model"] == model]
    values = {p.protocol: value for p, value in zip(own["protocol"], own["value"], strict=True)}
    noun = queries.accuracy_name(group[0].reference, title=True)
    title = f"{noun} by prompt: {data_label(record, _whole(group))}"
    worst, top = _ends(values)
    low, high = (f"{number(values[name], 1)} %" for name in (worst, top))
    if low == high:
        return Caption(title, f"{noun} of {model} is {low} with every prompt.")
    said = [f"{label[0].lower()}{label[1:]}" for label in map(prompt_label, (worst, top))]
    text = f"{noun} of {model} lies between {low} ({said[0]}) and {high} ({said[1]})."
    return Caption(title, text)


def _whole(group: Sequence[Protocol]) -> Protocol:
    """A group of protocols as one, for its label."""
    return Protocol(group[0].dataset, group[0].reference, "")


def by_clicks(record: RunRecord, group: Sequence[Protocol], kind: str = "clicks") -> Caption | None:
    """The change of accuracy of the best model from the first to the last click.

    `kind` is `clicks` or `clicks-multi`. None without an accuracy after at least two clicks.
    """
    frame = clicks_frame(record, group, kind)
    if frame.empty or max(frame["clicks"]) < 2:
        return None
    best = ", best scored of three masks" if kind == "clicks-multi" else ""
    noun = queries.accuracy_name(group[0].reference, title=True)
    title = f"{noun} by number of clicks{best}: {data_label(record, _whole(group))}"
    text = _change(noun, frame, "clicks", lambda n: f"after {n} click{'s' * (n != 1)}")
    return Caption(title, text)


def clicks_frame(record: RunRecord, group: Sequence[Protocol], kind: str) -> Any:
    """A protocol frame of the protocols `KIND-K`, with the number of `clicks`."""
    steps = {p: click_sequence(p.protocol) for p in group}
    clicked = {p: step[1] for p, step in steps.items() if step is not None and step[0] == kind}
    frame = frames.protocol_frame(record, list(clicked))
    return frame if frame.empty else frame.assign(clicks=frame["protocol"].map(clicked))


def robustness(record: RunRecord, clean: Protocol, family: str, frame: Any) -> Caption:
    """The change of accuracy of the best model from undisturbed to the most disturbed prompts."""
    title = f"{FAMILIES[family]}: {data_label(record, clean)}"
    noun = queries.accuracy_name(clean.reference, title=True)
    return Caption(title, _change(noun, frame, "percent", lambda share: f"at {share:g} %"))


def _change(noun: str, frame: Any, axis: str, label: Callable[[Any], str]) -> str:
    """First and last value, along a column, of the model with the best of the last values."""
    last = max(frame[axis])
    row = max(frame[frame[axis] == last].to_dict("records"), key=lambda each: each["value"])
    own = frame[frame["model"] == row["model"]].sort_values(axis).to_dict("records")[0]
    first, final = (f"{number(each['value'], 1)} % {label(each[axis])}" for each in (own, row))
    if own["value"] == row["value"]:
        return f"{noun} of {row['model']} is {final}."
    verb = "rises" if row["value"] > own["value"] else "falls"
    return f"{noun} of {row['model']} {verb} from {first} to {final}."
