"""Statements about a record in plain words: which model to run, facts and cautions.

Each is about some data, prompts and setup, or about the whole record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

from baselines.registry import split_size
from benchmarks.latency.timer import NOTHING_MS
from benchmarks.paper.verdicts import ClaimVerdict, tally_text
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.environment import DISTURBED, NOISY
from benchmarks.records.record import LatencyRow, MiouRow, RunRecord
from benchmarks.records.statistics import Spread
from benchmarks.report.frames import accuracy_latency_frame, decode_frame
from benchmarks.report.labels import (
    Scope,
    data_label,
    dataset_label,
    joined,
    points_text,
    scope_of,
    times_as,
)
from benchmarks.tables import record_queries as queries
from benchmarks.tables.formatting import MIB, milliseconds, percent
from benchmarks.tables.record_queries import (
    Protocol,
    Setup,
    Steps,
    Time,
    bounds_of,
    model_names,
    relation,
    unique,
)

Statement = tuple[str, str]
"""A sentence, and the numbers behind it."""
Times = dict[str, tuple[float, Spread | None]]
"""Median in ms and its interval or range, by model."""
MAIN_PHASES = ("encode", "end_to_end")
FEW_CALLS = 5
"""Times of fewer calls are approximate."""
FEW_IMAGES = 30
"""Accuracy on fewer images has a caution."""
ORACLE = "The scored mask was chosen with the ground truth, which is unknown in use."
DRAWN = "Accuracy on drawn scenes does not predict that on photographs."
ENCODE = Steps("encode", (("encode", None, 1),))

_UNDECIDED: Statement = (
    "This record cannot say which model to run.",
    "Advice needs accuracies of two models against ground truth, or a time of one with weights.",
)


Kind = Literal["advice", "fact", "caution"]


class Finding(NamedTuple):
    """One statement, the numbers behind it, and the selection that it is about.

    Of the kinds, `advice` recommends a model, `fact` is a result, `caution` a limitation.
    """

    kind: Kind
    text: str
    why: str
    scope: Scope


class Timing(NamedTuple):
    """Where a time comes from: its run, if the record is merged, and its number of calls."""

    run: str
    calls: int

    @classmethod
    def of(cls, row: LatencyRow | None) -> Timing:
        """That of a row."""
        return cls("", 0) if row is None else cls(row.run or "", row.n)


def doubt(one: Timing | Candidate | Time, other: Timing | Candidate | Time) -> str:
    """Why the ratio of two times is approximate; empty if it is not."""
    calls = (one.calls, other.calls)
    few = "few calls" if any(0 < n < FEW_CALLS for n in calls) else ""
    few = "one call each" if calls == (1, 1) else few
    return ", ".join(filter(None, (few, "times of two runs" if one.run != other.run else "")))


class Candidate(NamedTuple):
    """A model that advice may recommend under one protocol and setup."""

    row: MiouRow
    ms: float
    spread: Spread | None
    run: str
    calls: int
    front: bool
    """Whether no other model beats it."""
    setup: Setup
    steps: Steps
    """What the time consists of."""

    @property
    def model(self) -> str:
        """Its name."""
        return self.row.model

    @property
    def miou(self) -> float:
        """Its accuracy, a fraction."""
        return self.row.miou or 0.0

    def faster_than(self, other: Candidate) -> bool:
        """Whether its interval of time lies below the other one's."""
        return bounds_of(self.ms, self.spread).below(bounds_of(other.ms, other.spread))


def findings(record: RunRecord, verdicts: Sequence[ClaimVerdict]) -> list[Finding]:
    """All statements except those of `answer`, advice first."""
    found: list[Finding] = []

    def add(kind: Kind, statements: Iterable[Statement], scope: Scope | None = None) -> None:
        found.extend(Finding(kind, *each, scope or {}) for each in statements)

    shown = [p for p in queries.listed(queries.protocols(record)) if p.reference == GROUND_TRUTH]
    for setup, protocol in product(queries.setups(record), shown):
        add("advice", _faster(record, setup, protocol), scope_of(protocol, setup))
    for protocol in shown:
        add("fact", _accuracy_facts(record, protocol), scope_of(protocol))
    for setup in queries.setups(record):
        add("fact", _time_facts(record, setup), scope_of(setup))
    if verdicts:
        ledger = "Published claims; the ledger lists each."
        add("fact", [(f"{tally_text(verdicts)}.", ledger)])
    add("caution", _cautions(record))
    for protocol in queries.protocols(record):
        add("caution", _left_out(record, protocol), scope_of(protocol))
    for dataset in unique(p.dataset for p in shown):
        add("caution", _data_cautions(record, dataset), {"dataset": dataset})
    for setup in queries.setups(record):
        add("caution", _time_cautions(record, setup), scope_of(setup))
    return found


def main_protocols(record: RunRecord) -> list[Protocol]:
    """Headline protocols against the ground truth of the dataset with the most objects.

    A synthetic dataset is used only if there is no other.
    """
    found = [p for p in queries.headline(record) if p.reference == GROUND_TRUTH]
    found = [p for p in found if candidate_rows(record, p)]

    def weight(dataset: str) -> tuple[bool, int]:
        rows = [row for row in record.miou if row.dataset == dataset]
        return not dataset.startswith("synthetic:"), max(row.n_instances for row in rows)

    best = max(unique(p.dataset for p in found), key=weight, default=None)
    return [p for p in found if p.dataset == best]


def candidate_rows(record: RunRecord, protocol: Protocol) -> list[MiouRow]:
    """Rows of a protocol whose accuracy compares with that of other models, best first."""
    rows = (queries.find_miou(record, protocol, model) for model in model_names(record))
    found = [
        row
        for row in rows
        if row is not None and queries.has_accuracy(row) and not queries.incomparable(record, row)
    ]
    return sorted(found, key=lambda row: -(row.miou or 0))


def candidates(record: RunRecord, setup: Setup, protocol: Protocol) -> tuple[list[Candidate], str]:
    """Candidates with an accuracy and a time, best first, and the label of the time."""
    points, label, _ = accuracy_latency_frame(record, setup, protocol)
    times: dict[str, Any] = {point["model"]: point for point in points.to_dict("records")}
    accurate = candidate_rows(record, protocol)
    models = [row.model for row in accurate]
    steps = queries.steps_of(record, setup, protocol.protocol, models)
    found = []
    for row in accurate:
        if (time := times.get(row.model)) is not None:
            ms, spread, run = time["ms"], time["spread"], time["run"]
            own = Candidate(row, ms, spread, run, time["calls"], time["front"], setup, steps)
            found.append(own)
    return sorted(found, key=lambda each: (-each.miou, each.ms)), label


def front_of(found: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that no other beats, fastest first, without those slower and less accurate."""
    ordered = sorted(found, key=lambda each: (each.ms, -each.miou, each.model))
    return [
        c for i, c in enumerate(ordered) if c.front and all(e.miou < c.miou for e in ordered[:i])
    ]


def choose(record: RunRecord, found: Sequence[Candidate]) -> Candidate:
    """The candidate to recommend, which is on the Pareto front.

    Of those on the front that are as accurate as the most accurate, and than which no other is
    measurably more accurate, the fastest; where the times do not differ measurably, the more
    accurate by the digits printed, then the one with the lower time. Without any, the most
    accurate. A model that merely cannot be distinguished from it, such as any on a handful of
    images, is no choice.
    """
    best = max(found, key=lambda each: (each.miou, -each.ms))
    equal = [
        c
        for c in front_of(found)
        if (c is best or relation(record, best.row, c.row) == "equal")
        and not any(
            e.miou > c.miou and relation(record, e.row, c.row) == "different" for e in found
        )
    ]
    same_time = [each for each in equal if not equal[0].faster_than(each)]
    return max(same_time, key=lambda each: (round(100 * each.miou, 1), -each.ms), default=best)


class Ratio(NamedTuple):
    """A time over a shorter one, both in ms, and why the ratio is approximate, if it is.

    The times are `replaced` if they are of a run that measured both, and not those on the page.
    """

    slow_ms: float
    fast_ms: float
    doubt: str
    replaced: bool = False

    @property
    def times(self) -> str:
        """Both times as printed."""
        return f"{milliseconds(self.fast_ms)} against {milliseconds(self.slow_ms)}"

    def text(self, word: str, other: str = "") -> str:
        """The ratio in words, see `times_as`, with the times if they are not those on the page."""
        where = f" ({self.times} in one run)" if self.replaced else ""
        return f"{times_as(self.slow_ms / self.fast_ms, word, other, self.doubt)}{where}"


def ratio_of(record: RunRecord, setup: Setup, steps: Steps, slow: str, fast: str) -> Ratio | None:
    """Time of a model over that of another, of one run if any measured both."""
    one, other = (steps.time(record, setup, model) for model in (slow, fast))
    if one is None or other is None:
        return None
    runs = () if one.run == other.run else unique(row.run or "" for row in record.other_latency)
    for run in reversed(runs):
        first, second = (steps.time(record, setup, model, run) for model in (slow, fast))
        if first is not None and second is not None and first.ms > second.ms:
            return Ratio(first.ms, second.ms, doubt(first, second), replaced=True)
    return Ratio(one.ms, other.ms, doubt(one, other))


def ratio_between(record: RunRecord, slow: Candidate, fast: Candidate) -> Ratio:
    """The ratio of the times of two candidates."""
    found = ratio_of(record, slow.setup, slow.steps, slow.model, fast.model)
    return found or Ratio(slow.ms, fast.ms, doubt(slow, fast))


def network_forms(record: RunRecord, models: Sequence[str], verb: str = "compared") -> str:
    """How many models these are: `8 models compared (one network in 6 forms, 2 baselines)`.

    Models with the same weights are forms of one network, as are its input sizes.
    """

    def network(model: str) -> str:
        row = queries.model_row(record, model)
        return (row and row.weights.sha256) or split_size(model)[0]

    floors = [model for model in models if queries.is_floor(record, model)]
    forms = [model for model in models if model not in floors]
    n = len({network(model) for model in forms})
    parts = [f"{n} network{'s' * (n != 1)}"] if forms else []
    if n < len(forms):
        parts = [f"{'one network' if n == 1 else parts[0]} in {len(forms)} forms"]
    if floors:
        parts.append(f"{len(floors)} baseline{'s' * (len(floors) != 1)}")
    text = f"{len(models)} models {verb}"
    return text if n == len(models) else f"{text} ({', '.join(parts)})"


def answer(record: RunRecord, setup: Setup | None, protocol: Protocol | None) -> Statement:
    """The model to run under one protocol and setup, in one sentence."""
    if protocol is not None and protocol.reference != GROUND_TRUTH:
        return (
            f"This is agreement with the masks of {protocol.reference.partition(':')[2]}, which is "
            "no accuracy, and says nothing about which model to run.",
            "",
        )
    if protocol is not None and candidate_rows(record, protocol):
        found, label = list[Candidate](), ""
        if setup is not None:
            found, label = candidates(record, setup, protocol)
        if only := _only(record, protocol, found, label):
            return only
        if not found:
            return _by_accuracy(record, protocol)
        chosen = choose(record, found)
        reason, times, accuracies = _why(record, protocol, found, chosen, label)
        where = data_label(record, protocol)
        disturbed = _disturbed(record, setup, [each.model for each in found], label)
        return (
            f"Run {chosen.model}: {reason} ({where}).{_remarks(protocol)}{disturbed}",
            f"mIoU {accuracies}. Time, {times}.",
        )
    if setup is not None and (encode := _encode_times(record, setup, random=False)):
        return _by_time(setup, encode)
    return _UNDECIDED


def _disturbed(record: RunRecord, setup: Setup | None, models: Sequence[str], label: str) -> str:
    """A sentence for an answer that rests on disturbed times; empty if they were not."""
    if setup is None:
        return ""
    again = "measure again on an idle machine"
    if queries.disturbed_end_to_end(record, setup, models):
        instead = "" if label == queries.WHOLE.label else f", so this is by {label}"
        return f" Times end to end were disturbed{instead}: {again}."
    if set(queries.disturbances(record, setup)) & {*models}:
        return f" The times were disturbed: {again}."
    return ""


def _remarks(protocol: Protocol) -> str:
    """What a reader of an accuracy has to know about its prompts and data."""
    oracle = f" {ORACLE}" if protocol.protocol.endswith("-oracle") else ""
    return f"{oracle} {DRAWN}" if protocol.dataset.startswith("synthetic:") else oracle


def _only(
    record: RunRecord, protocol: Protocol, found: Sequence[Candidate], label: str
) -> Statement | None:
    """The result of the only model with a time, or without times with an accuracy: no advice."""
    rows = candidate_rows(record, protocol)
    if len(found or rows) != 1:
        return None
    row = found[0].row if found else rows[0]
    time = f", {label} {milliseconds(found[0].ms)}" if found else ""
    others = [each for each in rows if each is not row]
    measured = "has an accuracy and a time" if others else "has an accuracy in the tables"
    return (
        f"Only {row.model} {measured} with prompts of {protocol.protocol}: mIoU "
        f"{percent(row.miou or 0)} %{time} ({data_label(record, protocol)}).{_remarks(protocol)}",
        f"Without a time: {_accuracies(others)}." if others else "Advice needs two models.",
    )


def _accuracies(rows: Sequence[MiouRow]) -> str:
    """Models with their mIoU, such as `mobilesam 71.7 % [69.8, 73.7]`."""
    parts = []
    for row in rows:
        value, _, bounds = percent(row.miou or 0, row.ci95).partition(" ")
        parts.append(f"{row.model} {value} % {bounds}".rstrip())
    return ", ".join(parts)


def _by_time(setup: Setup, encode: Times) -> Statement:
    """Advice where no accuracy was measured."""
    fastest, _ = fastest_of(encode)
    return (
        f"By time alone, {joined(fastest)} {'has' if len(fastest) == 1 else 'have'} the "
        f"fastest image encoder on {setup.label}; no accuracy was measured.",
        f"{_times_text(encode)}{_tie_text(fastest)}.",
    )


def _by_accuracy(record: RunRecord, protocol: Protocol) -> Statement:
    """Advice for a protocol under which no model has a time."""
    best, *others = rows = candidate_rows(record, protocol)
    found = {row.model: relation(record, best, row) for row in others}
    equal, tied = ([m for m in found if found[m] == kind] for kind in ("equal", "tied"))
    if equal or tied:
        models = network_forms(record, [row.model for row in rows])
        reason = f"of the {models}, no other is measurably more accurate"
    else:
        certain = "untested" not in found.values()
        reason = "it is the most accurate" if certain else "it has the highest mIoU"
        reason += f" of the {len(rows)} models compared"
    if tied:
        reason += f"; {joined(tied)} cannot be distinguished from it on {best.n_images} images"
    return (
        f"For prompts of {protocol.protocol}, run {joined([best.model, *equal], 'or')}: {reason} "
        f"({data_label(record, protocol)}).{_remarks(protocol)}",
        f"mIoU {_accuracies(rows)}. The tables of Time have none of these networks.",
    )


def _why(
    record: RunRecord,
    protocol: Protocol,
    found: Sequence[Candidate],
    chosen: Candidate,
    label: str,
) -> tuple[str, str, str]:
    """Reason, times and accuracies of a choice, with the candidates that tie in accuracy."""
    relations = {c.model: relation(record, chosen.row, c.row) for c in found if c is not chosen}
    equal = [c for c in found if relations.get(c.model) == "equal"]
    open_ones = [c for c in found if relations.get(c.model) == "tied"]
    alike = sorted((*equal, *open_ones), key=lambda c: c.ms)
    same_time = [c for c in alike if not chosen.faster_than(c) and not c.faster_than(chosen)]
    timed = {each.model for each in found}
    untimed = [row for row in candidate_rows(record, protocol) if row.model not in timed]
    if not alike:
        certain = "untested" not in relations.values()
        reason = "it is the most accurate" if certain else "it has the highest mIoU"
        reason += f" of the {len(found)} models {'timed here' if untimed else 'compared'}"
        if [c for c in found if not queries.is_floor(record, c.model)] == [chosen]:
            reason += ", and the only network"
    else:
        reason = "no other is measurably more accurate"
        if same_time:
            reason += f", and it ties with {joined([c.model for c in same_time])} in time too"
            if all(round(100 * (chosen.miou - c.miou), 1) > 0 for c in same_time):
                reason += ", with the higher mIoU"
        elif equal and all(chosen.faster_than(each) for each in equal):
            reason += ", and it is the fastest of those that are equal to within a point"
    if faster := [c.model for c in open_ones if c.faster_than(chosen)]:
        verb, pronoun = ("is", "it is") if len(faster) == 1 else ("are", "they are")
        reason += (
            f"; {joined(faster)} {verb} faster, and {chosen.row.n_images} images cannot show "
            f"whether {pronoun} as accurate"
        )
    if alike:
        verb = "timed here" if untimed else "compared"
        reason = f"of the {network_forms(record, [c.model for c in found], verb)}, {reason}"
    accuracies = _accuracies([chosen.row, *(each.row for each in alike)])
    if untimed:
        accuracies += f" (without a time: {_accuracies(untimed)})"

    def compared(other: Candidate) -> str:
        if other in same_time:
            return "no measurable difference"
        slow, fast = (chosen, other) if other.ms < chosen.ms else (other, chosen)
        return ratio_between(record, slow, fast).text("fast" if fast is other else "long")

    ratios = (f"{each.model} {milliseconds(each.ms)}, {compared(each)}" for each in alike)
    times = "; ".join((f"{label}: {chosen.model} {milliseconds(chosen.ms)}", *ratios))
    return reason, times, accuracies


def _faster(record: RunRecord, setup: Setup, protocol: Protocol) -> Iterator[Statement]:
    """Networks on the front that are measurably faster than the choice and than each other.

    One that cannot be distinguished from the best baseline without a network must be measurably
    faster than it.
    """
    found, label = candidates(record, setup, protocol)
    if len(found) < 2:
        return
    last = chosen = choose(record, found)
    floors = [each for each in found if queries.is_floor(record, each.model)]
    for each in reversed(front_of(found)):
        if not each.faster_than(last) or queries.is_floor(record, each.model):
            continue
        shown = ""
        for base in floors[:1]:
            known = relation(record, each.row, base.row) if each.miou > base.miou else "tied"
            ends, floor = each.row.ci95, base.row.ci95
            apart = known == "untested" and ends is not None and floor and ends[0] > floor[1]
            if known != "different" and not apart:
                shown = f"; it was not shown to be more accurate than {base.model}"
        if shown and known != "untested" and not each.faster_than(base):
            continue
        last = each
        chance = relation(record, each.row, chosen.row) in ("equal", "tied")
        ratio = ratio_between(record, chosen, each)
        yield (
            f"On {setup.label}, where time matters more, run {each.model}: it is "
            f"{ratio.text('fast', chosen.model)}, and its "
            f"mIoU with {protocol.protocol} is {points_text(chosen.miou, each.miou)} lower"
            f"{', which may be chance' if chance else ''}{shown} ({data_label(record, protocol)}).",
            f"{label} {ratio.times}; mIoU {percent(each.miou)} % against {percent(chosen.miou)} %.",
        )


def shown_model(record: RunRecord, protocol: Protocol, models: Iterable[str]) -> str:
    """The model that facts and messages are about: of some with an accuracy, the recommended one.

    Otherwise the most accurate one.
    """
    names = list(models)
    for setup in queries.setups(record):
        found, _ = candidates(record, setup, protocol)
        if len(found) > 1 and (chosen := choose(record, found).model) in names:
            return chosen
    rows = ((model, queries.find_miou(record, protocol, model)) for model in names)
    return max(rows, key=lambda each: (each[1] and each[1].miou) or 0)[0]


def _accuracy_facts(record: RunRecord, protocol: Protocol) -> Iterator[Statement]:
    """Networks against the best baseline, and objects by size."""
    rows = candidate_rows(record, protocol)
    floors = [row for row in rows if queries.is_floor(record, row.model)]
    networks = [row for row in rows if row not in floors]
    if networks:
        first = shown_model(record, protocol, [row.model for row in networks])
        best = networks[0]
        networks.sort(
            key=lambda row: row.model != first or relation(record, best, row) == "different"
        )
    data, where = data_label(record, protocol), f"with prompts of {protocol.protocol}"
    for base in floors[:1]:
        alone = {relation(record, base, row) == "different" for row in floors[1:]} == {True}
        best_floor = f"{'the best' if alone else 'a'} baseline without a network"
        for index, row in enumerate(networks):
            gap, known = (row.miou or 0) - (base.miou or 0), relation(record, row, base)
            alike = known in ("equal", "tied")
            if index > 0 and (gap >= 0 or alike):
                continue
            side = "above" if gap > 0 else "below"
            apart = points_text(row.miou or 0, base.miou or 0)
            text = f"{row.model} is {apart} {side} {base.model}, {best_floor}, {where}"
            if alike:
                text = f"{row.model} and {base.model}, {best_floor}, "
                text += f"cannot be distinguished {where}: they are {apart} apart"
            yield f"{text} ({data}).", f"mIoU {_accuracies([row, base])}."
    for best in (networks or rows)[:1]:
        sizes = {k: v for k, v in best.by_size.model_dump().items() if v is not None}
        if len(sizes) > 1:
            n = best.n_by_size.model_dump()
            found = ", ".join(f"{size} {percent(miou)} %" for size, miou in sizes.items())
            yield (
                f"Objects by size, {best.model}, {protocol.protocol}: {found} ({data}).",
                f"n = {joined([f'{n[size] or 0:,.0f}' for size in sizes])}.",
            )


def _encode_times(record: RunRecord, setup: Setup, *, random: bool = True) -> Times:
    """Encode times of the models whose encoder does something, without models for tests."""
    found: Times = {}
    for model in model_names(record):
        time = queries.timed(queries.find_latency(record, setup, model, "encode"))
        if (
            time is not None
            and time[0] >= NOTHING_MS
            and not (queries.is_for_tests(record, model) or queries.is_floor(record, model))
            and (random or not queries.has_random_weights(record, model))
        ):
            found[model] = time
    return found


def fastest_of(times: Times) -> tuple[list[str], str]:
    """Models that no other is measurably faster than, fastest first, and the slowest model."""
    order = sorted(times, key=lambda model: times[model][0])
    least = bounds_of(*times[order[0]])
    return [model for model in order if not least.below(bounds_of(*times[model]))], order[-1]


class Slope(NamedTuple):
    """Time in ms of one more prompt, from the first to the last of decode rows."""

    ms: float
    spread: Spread
    rows: Sequence[dict[str, Any]]

    @property
    def timing(self) -> Timing:
        """Its run, and the calls of the end with fewer."""
        first, last = (Timing.of(self.rows[end]["row"]) for end in (0, -1))
        return Timing(first.run, min(first.calls, last.calls))

    @property
    def text(self) -> str:
        """As printed."""
        return milliseconds(self.ms) if self.ms > 0 else "no measurable time"


def slopes(frame: Any) -> dict[str, Slope]:
    """Slopes of a decode frame, of the models with the most common numbers of prompts."""
    rows = [row for row in frame.to_dict("records") if row["slope_ms"] is not None]
    by_span = queries.grouped(
        ((own[0]["n_prompts"], own[-1]["n_prompts"]), own)
        for own in queries.grouped((row["model"], row) for row in rows).values()
    )
    found = {}
    for own in max(by_span.values(), key=len, default=[]):
        (low, high), (least, most) = (
            bounds_of(own[end]["value"], own[end]["spread"]).bounds for end in (0, -1)
        )
        span = own[-1]["n_prompts"] - own[0]["n_prompts"]
        bounds = ((least - high) / span, (most - low) / span)
        found[own[0]["model"]] = Slope(own[0]["slope_ms"], Spread(bounds, is_range=True), own)
    return found


def extreme_slopes(found: Mapping[str, Slope]) -> tuple[list[str], list[str]]:
    """The model with the least slope and that with the most, each before those that tie with it."""
    order = sorted(found, key=lambda model: found[model].ms)
    least, most = found[order[0]].spread, found[order[-1]].spread
    low = [model for model in order if not least.below(found[model].spread)]
    return low, [model for model in reversed(order) if not found[model].spread.below(most)]


def _times_text(times: Times) -> str:
    order = sorted(times, key=lambda model: times[model][0])
    return f"Encode: {', '.join(f'{model} {milliseconds(times[model][0])}' for model in order)}"


def _tie_text(fastest: Sequence[str]) -> str:
    return "; their times do not differ measurably" if len(fastest) > 1 else ""


def _time_facts(record: RunRecord, setup: Setup) -> Iterator[Statement]:
    encode = _encode_times(record, setup)
    if len(encode) > 1:
        fastest, slowest = fastest_of(encode)
        verb = "is the fastest" if len(fastest) == 1 else "are the fastest, a tie"
        text = f"Of {len(encode)} image encoders on {setup.label}, {joined(fastest)} {verb}"
        if slowest not in fastest:
            ratio = ratio_of(record, setup, ENCODE, slowest, fastest[0])
            assert ratio is not None  # noqa: S101 - both have a time
            text += f"; {slowest} takes {ratio.text('long', fastest[0])}"
        yield f"{text}.", f"{_times_text(encode)}{_tie_text(fastest)}."
    decoders = {
        model: slope
        for model, slope in slopes(decode_frame(record, setup)).items()
        if slope.rows[0]["row"].decode_kind == "decoder" and not queries.is_for_tests(record, model)
    }
    if decoders:
        (least, *tied), _ = extreme_slopes(decoders)
        own = decoders[least]
        why = "; ".join(f"{milliseconds(r['value'])} for {r['n_prompts']}" for r in own.rows)
        few = doubt(own.timing, own.timing)
        about = "about " * bool(few)
        text = f"{least} takes {about}{own.text} for each further prompt on one image"
        if tied:
            text += f", a tie with {joined(tied)}"
        elif len(decoders) > 1:
            text += f", the least of {len(decoders)} decoders"
        yield f"{text} ({', '.join(filter(None, (setup.label, few)))}).", f"{why}."
    memory = {
        model: found.peak_rss_bytes / MIB
        for model in model_names(record)
        if not queries.is_for_tests(record, model) and not queries.is_floor(record, model)
        if (found := queries.find_memory(record, setup.device, model)) is not None
    }
    if len(memory) > 1:
        least, most = (f(memory, key=lambda each: memory[each]) for f in (min, max))
        yield (
            f"Peak memory of {len(memory)} networks: from {memory[least]:,.0f} MiB ({least}) to "
            f"{memory[most]:,.0f} MiB ({most}).",
            "Resident set of the whole process, libraries included.",
        )


def _cautions(record: RunRecord) -> Iterator[Statement]:
    """Weights, failures and busy machines."""
    names = model_names(record)
    random = [model for model in names if queries.has_random_weights(record, model)]
    unknown = "No trained weights were available."
    if any(row.model in random and row.status == "ok" for row in record.latency):
        unknown += " The exact architecture was timed with random weights."
    measured = {row.model for row in record.latency if row.status == "ok"}
    measured |= {row.model for row in record.miou if row.status == "ok"}
    files = [r for r in record.models if r.weights.kind == "file" and r.model in measured]
    custom = [r.model for r in files if not (r.weights.official or r.weights.shipped)]
    shipped = queries.grouped((r.weights.shipped, r.model) for r in files if r.weights.shipped)
    errors = [row.model for row in record.models if row.status == "error"]
    failed = unique((*errors, *(each.culprit for each in record.failures)))
    # Disturbed times have a caution of their own.
    noisy = [
        each.removeprefix(NOISY)
        for each in record.warnings
        if each.startswith(NOISY) and DISTURBED not in each
    ]
    if random:
        yield f"The accuracy of {', '.join(random)} is unknown.", unknown
    for label, own in shipped.items():
        text = "ran weights that ship with this package and are not official"
        yield f"{', '.join(own)} {text}.", f"{label}."
    if custom:
        why = "Their accuracy is that of the weights whose hash is in the tables."
        yield f"{', '.join(custom)} ran weights that are not official.", why
    if failed:
        yield f"Something failed: {', '.join(failed)}.", "See warnings and failures."
    if noisy:
        why = "Times may be too long, and vary more."
        yield f"The machine was busy: {'; '.join(noisy)}.", why


def _left_out(record: RunRecord, protocol: Protocol) -> Iterator[Statement]:
    """Models whose accuracy under a protocol compares with no other, by the reason."""
    rows = [r for r in record.miou if queries.protocol_of(r) == protocol]
    reasons = queries.grouped(
        (why, row.model)
        for row in rows
        if queries.has_accuracy(row) and (why := queries.incomparable(record, row)) is not None
    )
    for why, models in reasons.items():
        text = f"Left out of comparisons with other models: {', '.join(unique(models))}."
        yield text, f"{why[0].upper()}{why[1:]}."


def _data_cautions(record: RunRecord, dataset: str) -> Iterator[Statement]:
    """Few images."""
    counts = [
        row.n_images
        for protocol in queries.protocols(record)
        if (protocol.dataset, protocol.reference) == (dataset, GROUND_TRUTH)
        for row in candidate_rows(record, protocol)
    ]
    if 0 < max(counts, default=0) < FEW_IMAGES:
        text = "Accuracy on few images shows large differences only"
        label = dataset_label(dataset, max(counts))
        yield f"{text}: {label}.", "Intervals show how uncertain it is."


def _time_cautions(record: RunRecord, setup: Setup) -> Iterator[Statement]:
    """Times that contradict each other, and those of few calls or of one process."""
    rows = [row for row in record.latency if queries.setup_of(row) == setup]
    if doubts := queries.disturbances(record, setup):
        whole = queries.disturbed_end_to_end(record, setup, list(doubts))
        text = f"Times were disturbed: {', '.join(doubts)}; measure again on an idle machine."
        why = f"{'; '.join(doubts.values())}."
        if whole:
            why += (
                " Advice and charts of accuracy against latency use encode and decode instead of "
                "end to end where all models have both; statements on the time end to end, on "
                "encode and on decode rest on these times."
            )
        else:
            why += " Advice, and all statements on times of these models, rest on them."
        yield text, why
    timed = queries.grouped((row.model, row) for row in rows if row.status == "ok")
    few = []
    for model, own in timed.items():
        short = [r for r in own if r.phase in MAIN_PHASES and 0 < r.n < FEW_CALLS]
        counts = (f"{row.phase.replace('_', ' ')} {row.n}" for row in short)
        few += [f"{model} ({', '.join(counts)})"] if short else []
    if few:
        text = f"Times of encode or end to end rest on fewer than {FEW_CALLS} calls"
        why = "They hardly show how much times vary; use a longer profile."
        yield f"{text}: {', '.join(few)}.", why
    once = [model for model, own in timed.items() if {row.processes for row in own} == {1}]
    if once:
        why = "Ranges over its calls leave out the variation between processes"
        names = "all models" if len(once) == len(timed) else ", ".join(once)
        yield f"Timed in one process only: {names}.", f"{why}; use a longer profile."
