"""Messages of plots, checked against generated tables: whatever they say is true."""

from __future__ import annotations

import re
from dataclasses import replace

import example_records as examples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tables import KINDS, Made, Pairs, relation_of, table, tables

from benchmarks.evaluation.subgroups import SubgroupRow
from benchmarks.latency.timer import NOTHING_MS
from benchmarks.records.record import LatencyRow, MiouRow, ParamsRow, RunRecord, WeightsRow
from benchmarks.records.statistics import Spread
from benchmarks.report import advice, captions, frames
from benchmarks.tables import record_queries as queries
from benchmarks.tables.record_queries import Protocol

UNITS = {"µs": 1e-3, "ms": 1.0, "s": 1e3}
TIMES = r"(?:([\d.,]+) times as \w+ as|slightly \w+ than)"
"""A ratio in words; the group is empty for a slight one."""


def printed(text: str) -> float:
    """The number that a text says, without thousands separators."""
    return float(text.replace(",", ""))


def close(said: str | None, ratio: float) -> bool:
    """Whether a ratio is what its words say, to the digits printed."""
    return 1 < ratio < 1.051 if said is None else printed(said) == pytest.approx(ratio, rel=6e-3)


def has_message(record: RunRecord) -> None:
    """Every plot has a title and a message: one sentence without a negative number."""
    from benchmarks.report.plots import plots_of

    for plot in plots_of(record):
        assert plot.caption.title
        assert plot.caption.message.endswith(".")
        assert not re.search(r"(?<![\w.\]])-\d", plot.caption.message)


@settings(max_examples=40, deadline=None)
@given(tables())
def test_messages_of_accuracy_and_latency_are_true(case: tuple[dict[str, Made], Pairs]) -> None:
    models, pairs = case
    record = table(models, pairs)
    for setup in queries.setups(record):
        for protocol in queries.protocols(record):
            found = captions.accuracy_latency(record, setup, protocol)
            points, _, _ = frames.accuracy_latency_frame(record, setup, protocol)
            assert (found is None) == points.empty
            if found is not None:
                check_trade_off(found.message, models, pairs, list(points["model"]))


def check_trade_off(said: str, models: dict[str, Made], pairs: Pairs, shown: list[str]) -> None:
    miou = {name: models[name].miou or 0.0 for name in shown}
    ms = {name: (models[name].ms or (0.0, 0.0, 0.0)) for name in shown}
    spreads = {name: Spread(ms[name][1:], is_range=True) for name in shown}
    if match := re.fullmatch(rf"End to end, (\w) is {TIMES} (\w) at (the same|an) mIoU.*\.", said):
        one, ratio, other, same = match.groups()
        assert close(ratio, ms[other][0] / ms[one][0])
        assert spreads[one].below(spreads[other])
        assert relation_of(models, pairs, one, other) == "equal"
        gap = abs(miou[one] - miou[other])
        assert gap < (0.001 if same == "the same" else 0.01)
    elif match := re.fullmatch(
        r"(\w) has (.+) points more mIoU than (\w)(.*); (\w) is (.*)\.", said
    ):
        one, points, other, chance, same, speed = match.groups()
        assert same == other
        assert miou[one] > miou[other]
        if not points.startswith("less"):
            assert printed(points) == pytest.approx(100 * (miou[one] - miou[other]), abs=0.101)
        assert spreads[other].below(spreads[one])
        known = relation_of(models, pairs, one, other) in ("equal", "tied")
        assert known == ("may be chance" in chance)
        ratio = re.fullmatch(r"(?:([\d.,]+) times as fast|slightly faster)", speed)
        assert ratio is not None
        assert close(ratio[1], ms[one][0] / ms[other][0])
    elif match := re.fullmatch(r"(\w) has the highest mIoU, (.*) points above (\w)(.*)\.", said):
        one, _, other, more = match.groups()
        assert all(miou[one] > miou[name] for name in shown if name != one)
        assert miou[other] == max(miou[name] for name in shown if name != one)
        if more:
            assert not any(spreads[name].below(spreads[one]) for name in shown)
    elif match := re.fullmatch(r"(\w) and (\w) have the same mIoU(.*)\.", said):
        one, other, more = match.groups()
        assert round(100 * miou[one], 1) == round(100 * miou[other], 1)
        if more:
            assert not any(spreads[name].below(spreads[one]) for name in shown)
    elif match := re.fullmatch(r"No model is measurably more accurate than (\w)\.", said):
        for name in shown:
            worse = miou[name] > miou[match[1]]
            assert not (worse and relation_of(models, pairs, name, match[1]) == "different")
    else:
        match = re.fullmatch(r"(\w) reaches ([\d.]+) % mIoU in (.+)\.", said)
        assert match is not None, said
        assert shown == [match[1]]
        assert printed(match[2]) == pytest.approx(100 * miou[match[1]], abs=0.051)


PLACES = {"device": "cpu", "precision": "fp32", "threads": 2}


@st.composite
def timed(draw: st.DrawFn) -> RunRecord:
    """Times of three phases, parameters and size classes of up to four models, many missing."""
    record = examples.build_record([], miou=(), latency=(), params=(), memory=(), failures=())
    models, latency, params, miou = [], [], [], []
    ms = st.none() | st.sampled_from([1e-4, 0.02, 9.0, 9.1, 10.0, 300.0, 40000.0])
    share = st.none() | st.sampled_from([0.0, 0.5, 0.5004, 0.8, 1.0])
    for name in "abcd"[: draw(st.integers(1, 4))]:
        family, decode_kind, kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
        common = {"model": name, "decode_kind": decode_kind}
        weights = WeightsRow(kind=kind)
        example = examples.build_record(["box"]).models[0]
        models.append(example.model_copy(update=common | {"family": family, "weights": weights}))
        for phase, n in (("encode", None), *(("decode", n) for n in (1, 10)), ("end_to_end", 1)):
            median = draw(ms)
            if median is not None:
                spread = (median / draw(st.sampled_from([1.0, 1.2])), median * 1.01)
                times = {"median_ms": median, "range_ms": spread, "weights": kind}
                latency.append(LatencyRow(**common, **PLACES, phase=phase, n_prompts=n, **times))
        for component in draw(st.sampled_from([(), ("all",), ("encoder", "decoder")])):
            used = draw(st.sampled_from([0, 10**6, 1_020_000, 6 * 10**8]))
            params.append(ParamsRow(model=name, component=component, total=used, used=used))
        for protocol in ("box", "clicks-1", "clicks-2", "clicks-5"):
            value = draw(share)
            sizes = examples.BySize(small=draw(share), medium=draw(share), large=draw(share))
            miou.append(
                MiouRow(
                    model=name, dataset="photos", protocol=protocol, reference="ground-truth",
                    n_images=9, miou=value, by_size=sizes, weights=weights,
                    status="ok" if value is not None else "skipped",
                )
            )  # fmt: skip
    values = {"models": models, "latency": latency, "params": params, "miou": miou}
    return record.model_copy(update={key: tuple(rows) for key, rows in values.items()})


@settings(max_examples=25, deadline=None)
@given(timed())
def test_messages_of_times_and_sizes_are_true(record: RunRecord) -> None:
    has_message(record)
    for setup in queries.setups(record):
        if found := captions.latency(record, setup):
            check_latency(found.message, record, setup)
        if found := captions.decode(record, setup):
            check_decode(found.message, record, setup)
    if found := captions.parameters(record):
        counts = {r.model: queries.used_parameters(record, r.model) or 0 for r in record.params}
        if match := re.fullmatch(
            rf"(\w) uses (.*) × 10⁶ parameters, {TIMES} (\w) \(.*\)\.", found.message
        ):
            most, high, ratio, least = match.groups()
            assert printed(high) == pytest.approx(counts[most] / 1e6, rel=6e-3)
            assert counts[most] == max(counts.values())
            assert counts[least] == min(n for n in counts.values() if n)
            assert close(ratio, counts[most] / counts[least])
        elif found.message.startswith("All"):
            assert len({n for n in counts.values() if n}) == 1
    box = Protocol("photos", "ground-truth", "box")
    if found := captions.by_size(record, box):
        check_sizes(found.message, record, box)
    group = queries.protocols(record)
    if found := captions.by_clicks(record, group):
        check_clicks(found.message, record)
    if found := captions.by_protocol(record, group):
        match = re.match(r"mIoU of (\w) (?:lies between|is) ([\d.]+) %", found.message)
        assert match is not None
        own = [100 * r.miou for r in record.miou if r.model == match[1] and r.miou is not None]
        assert printed(match[2]) == pytest.approx(min(own), abs=0.051)


def check_latency(said: str, record: RunRecord, setup: queries.Setup) -> None:
    phases = {label.capitalize(): phase for label, phase in captions.STEPS}
    if match := re.fullmatch(
        r"(.*), of the (\d+) (\w+)s with that time, (.*?) (?:is|tie as) the fastest, "
        r"(?:from )?(.*?)(?:; (.*))?\.",
        said,
    ):
        label, count, noun, names, least, rest = match.groups()
        found = [r for r in record.latency if r.phase == phases[label]]
        fewest = min(r.n_prompts or 0 for r in found)
        rows = {r.model: r for r in found if (r.n_prompts or 0) == fewest}
        fit = {
            name: row
            for name, row in rows.items()
            if (row.median_ms or 0) >= NOTHING_MS
            and (noun == "model" or row.decode_kind != "classical")
            and not (noun == "network" and queries.is_for_tests(record, name))
        }
        fastest = re.findall(r"\b[a-d]\b", names)
        assert len(fit) == int(count)
        assert fit[fastest[0]].median_ms == min(row.median_ms or 0 for row in fit.values())
        value, unit = least.split()
        assert printed(value) * UNITS[unit] == pytest.approx(fit[fastest[0]].median_ms, rel=6e-3)
        first = queries.spread_of(fit[fastest[0]])
        for name, row in fit.items():
            spread = queries.spread_of(row)
            assert first is not None
            assert spread is not None
            assert first.below(spread) == (name not in fastest)
        if rest:
            slow = re.fullmatch(rf"(\w) takes {TIMES} (\w)", rest)
            assert slow is not None, rest
            assert slow[3] == fastest[0]
            times = {name: row.median_ms or 0 for name, row in fit.items()}
            assert times[slow[1]] == max(times.values())
            assert close(slow[2], times[slow[1]] / times[fastest[0]])
    else:
        assert re.fullmatch(r"[a-d] takes .* \((encode|decode|end to end)\)\.", said), said


def check_decode(said: str, record: RunRecord, setup: queries.Setup) -> None:
    slopes = {r.model: r.slope_ms for r in frames.decode_frame(record, setup).itertuples()}
    match = re.fullmatch(
        r"Each further prompt costs a (\w+) from (.*) \((\w).*\) to (.*) \((\w).*\)\.", said
    )
    if match is not None:
        _, low, least, high, most = match.groups()
        assert slopes[least] < slopes[most]
        for text, name in ((low, least), (high, most)):
            if text == "no measurable time":
                assert slopes[name] <= 0
            else:
                value, unit = text.split()
                assert printed(value) * UNITS[unit] == pytest.approx(slopes[name], rel=6e-3)
    else:
        assert re.fullmatch(
            r"(Each further prompt costs [a-d] .*|[a-d] takes .* a prompt.*|The \d \w+s do not "
            r"differ measurably in the cost of a prompt)\.",
            said,
        )


def check_sizes(said: str, record: RunRecord, protocol: Protocol) -> None:
    rows = {
        r.model: r for r in record.miou if r.protocol == protocol.protocol and r.miou is not None
    }
    fit = {name: r for name, r in rows.items() if r.weights.kind != "random"}
    name = said[0]
    # The recommended model is one with a time, if at least two have one.
    found = (advice.candidates(record, each, protocol)[0] for each in queries.setups(record))
    timed = next(({c.model for c in part} for part in found if len(part) > 1), set(fit))
    best = max(round(100 * (row.miou or 0), 1) for n, row in fit.items() if n in timed)
    assert round(100 * (fit[name].miou or 0), 1) == best
    match = re.fullmatch(
        r"\w has its highest mIoU on (\w+) objects, ([\d.]+) %, and its lowest on (\w+) objects, "
        r"([\d.]+) %\.",
        said,
    )
    if match is not None:
        sizes = {s: v for s, v in fit[name].by_size.model_dump().items() if v is not None}
        assert 100 * max(sizes.values()) == pytest.approx(printed(match[2]), abs=0.051)
        assert 100 * min(sizes.values()) == pytest.approx(printed(match[4]), abs=0.051)
        assert sizes[match[1]] == max(sizes.values())
        assert sizes[match[3]] == min(sizes.values())


def check_clicks(said: str, record: RunRecord) -> None:
    clicks = {
        (r.model, int(r.protocol.rpartition("-")[2])): 100 * (r.miou or 0)
        for r in record.miou
        if r.protocol.startswith("clicks-") and queries.has_accuracy(r)
    }
    match = re.fullmatch(
        r"mIoU of (\w) (rises|falls) from ([\d.]+) % after (\d) clicks? to ([\d.]+) % after (\d) "
        r"clicks?\.",
        said,
    )
    if match is None:
        assert re.fullmatch(r"(mIoU of )?[a-d] (is|reaches) [\d.]+ % after \d clicks?\.", said), (
            said
        )
        return
    name, verb, first, n_first, last, n_last = match.groups()
    start, end = (clicks[name, int(n)] for n in (n_first, n_last))
    assert (end > start) == (verb == "rises")
    assert printed(first) == pytest.approx(start, abs=0.051)
    assert printed(last) == pytest.approx(end, abs=0.051)
    assert int(n_last) == max(n for _, n in clicks)
    assert end == max(value for (_, n), value in clicks.items() if n == int(n_last))


def test_message_of_disturbed_prompts(disturbed_record: RunRecord) -> None:
    has_message(disturbed_record)
    ((clean, family), frame), *_ = frames.robustness_frames(disturbed_record).items()
    said = captions.robustness(disturbed_record, clean, family, frame).message
    values = {(r.model, r.percent): r.value for r in frame.itertuples()}
    match = re.fullmatch(
        r"mIoU of (\S+) falls from ([\d.]+) % at 0 % to ([\d.]+) % at 20 %\.", said
    )
    assert match is not None, said
    assert printed(match[2]) == pytest.approx(values[match[1], 0.0], abs=0.051)
    assert printed(match[3]) == pytest.approx(values[match[1], 20.0], abs=0.051)


def test_message_of_subgroups() -> None:
    where = ("photos", "box", "ground-truth", "category")
    rows = [
        SubgroupRow(*where, group, model, 8, n, miou, None)
        for model, group, n, miou in (
            ("a", "cat", 90, 0.7), ("a", "dog", 20, 0.2), ("a", "owl", 1, 0.99),
            ("b", "cat", 90, 0.5), ("b", "dog", 20, 0.9),
        )
    ]  # fmt: skip
    said = "a has its highest mIoU on cat, 70.0 %, and its lowest on dog, 20.0 %."
    assert captions.subgroups(rows[:2], ["cat", "dog"]) == said
    wide = [replace(row, ci95=(0.1, 0.8)) for row in rows]
    overlapping = captions.subgroups(wide[:2], ["cat", "dog"])
    assert overlapping == said.replace(" %.", " %; their intervals overlap.")
    start = "Of the 2 groups in the chart (at least 20 objects and 8 images each), "
    assert captions.subgroups(rows, ["cat", "dog"]) == start + said
    assert captions.subgroups(rows, ["cat", "dog"], "b").startswith(f"{start}b has its highest")
    assert captions.subgroups(rows, ["cat"]) == captions.subgroups(rows, []) == ""
    crowded = [replace(row, dimension="crowding", reference="teacher:t") for row in rows]
    said = "a has its highest agreement on images with cat objects, 70.0 %,"
    assert said in captions.subgroups(crowded, ["cat", "dog"])


def test_message_of_history_compares_runs_of_one_machine_only() -> None:
    values = [("a", "m", 2.0), ("b", "m", 9.0), ("a", "other", 7.0), ("a", "m", 1.5)]
    narrow = [Spread((0.99 * v, 1.01 * v), is_range=True) for _, _, v in values]
    frame = frames.object_frame({"model": m, "where": w, "value": v} for m, w, v in values)
    frame["spread"] = narrow
    said = "a went from 2.00 ms to 1.50 ms over 2 comparable runs."
    assert captions.history(frame, "ms") == said
    assert captions.history(frame[:3], "%") == "No two of these runs compare."
    values = [("a", "m", 2.0), ("a", "m", 9.0), ("a", "m", 3.0)]
    frame = frames.object_frame({"model": m, "where": w, "value": v} for m, w, v in values)
    frame["spread"] = None
    equal = frames.object_frame({"model": "a", "where": "m", "value": 58.9} for _ in "ab")
    assert captions.history(equal, "%") == "a has 58.9 % in both comparable runs."
    said = captions.history(frame, "ms")
    assert said.startswith("a has 2.00 ms and 3.00 ms, between 2.00 ms and 9.00 ms, in the first")
    assert said.endswith("of 3 comparable runs, which is no measurable difference.")


def test_agreement_is_not_called_accuracy() -> None:
    models = {"a": Made(miou=0.7), "b": Made(miou=0.6, ms=(10, 9, 11)), "c": Made(miou=0.7001)}
    record = table(models, {("a", "c"): (0.5, 0.001)})
    rows = tuple(row.model_copy(update={"reference": "teacher:t"}) for row in record.miou)
    for each in (rows, rows[:1], rows[1:], rows[::2]):
        agreed = record.model_copy(update={"miou": each})
        protocol = queries.protocols(agreed)[0]
        found = captions.accuracy_latency(agreed, queries.setups(agreed)[0], protocol)
        assert found is not None
        assert "agree" in found.message
        assert not re.search("mIoU|accura", found.message)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (2.514, "2.51 times as fast as b"),
        (1.04, "slightly faster than b"),
        (11148.2, "11,148 times"),
    ],
)
def test_ratios_in_words(ratio: float, text: str) -> None:
    assert captions.times_as(ratio, "fast", "b").startswith(text)
