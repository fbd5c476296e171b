"""Tables of accuracy: mean IoU, leaderboard, clicks, detector boxes, segment everything, times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from benchmarks.evaluation.comparison import LEVEL, tie_groups
from benchmarks.evaluation.subgroups import SubgroupRow
from benchmarks.prompts.protocols import listed_protocols, reference_model
from benchmarks.records.record import (
    ComparisonRow,
    DetectorRow,
    EverythingRow,
    MiouRow,
    Noc,
    RunRecord,
)
from benchmarks.tables import record_queries as queries
from benchmarks.tables.columns import (
    MODEL,
    STATUS,
    WEIGHTS,
    RowColumn,
    build_table,
    count_column,
    interval_column,
    median_cell,
    median_column,
    named_for,
    number_column,
    percent_column,
    text_column,
    value_column,
)
from benchmarks.tables.formatting import interval, number, percent, slug
from benchmarks.tables.record_queries import (
    Protocol,
    grouped,
    has_accuracy,
    is_ranked,
    protocol_of,
    unique,
)
from benchmarks.tables.table import Table
from mobilesam.errors import DataError

_AccuracyRow = TypeVar("_AccuracyRow", MiouRow, DetectorRow, EverythingRow)
_FIGURES = (
    "miou", "ci95", "miou_per_image", "boundary_miou", "boundary_ci95", "clicks", "by_size", "ap",
    "ap50", "ap75", "ap_by_size", "ar10", "ar100", "ar1000", "ar1000_by_size", "masks_per_image",
    "median_ms", "range_ms",
)  # fmt: skip
"""Fields that have no meaning for random weights."""
_SIZES = ("small", "medium", "large")
_COCO_SIZES = "Small ≤ 32² ≤ medium ≤ 96² ≤ large, annotation area in pixels, as pycocotools."
_LEAST_P = 0.001
INTERVALS = "intervals: 95 %, over images, symmetric bootstrap-t (docs/protocols.md)"
_DATASET = text_column("Dataset", "dataset", rank=2)
_PROTOCOL = text_column("Protocol", "protocol")
_CSV_DATASET = text_column("Dataset", "dataset", csv_only=True)
_CSV_REFERENCE = text_column("Reference", "reference", csv_only=True)
_MIOU_INTERVAL = partial(interval_column, name="miou", ci="ci95")
_decimal_column = partial(value_column, show=partial(number, digits=2))


def accuracy_tables(record: RunRecord) -> tuple[Table, ...]:
    """All tables of accuracy that have rows, without those by category."""
    times = build_table(
        "accuracy-times", "Time of the accuracy measurement", _TIMES_COLUMNS, record.accuracy_times,
        ["Whole passes over the data, whatever else the machine did meanwhile."],
    )  # fmt: skip
    tables = (
        *miou_tables(record),
        *leaderboard_tables(record),
        _clicks_table(record),
        _click_curves_table(record),
        *robustness_tables(record),
        detector_table(record),
        everything_table(record),
        times,
    )
    return tuple(table for table in tables if table.rows)


def sa1b_notes(datasets: Iterable[str]) -> list[str]:
    """The caution for accuracy on SA-1B, if it is among the datasets."""
    note = "SA-1B's masks were made by a SAM: they favour SAM."
    return [note] if any(name.startswith("sa1b") for name in datasets) else []


def _without_random_figures(row: _AccuracyRow) -> _AccuracyRow:
    """Removes the figures of a row with random weights."""
    if row.weights.kind != "random":
        return row
    fields = type(row).model_fields
    blank = {name: fields[name].get_default() for name in _FIGURES if name in fields}
    status = "skipped" if row.status == "ok" else row.status
    why = row.why or "random weights have no accuracy"
    return row.model_copy(update={**blank, "status": status, "why": why})


def _by_reference(
    base: str, found: Iterable[Protocol]
) -> list[tuple[str, str, str, list[Protocol]]]:
    """Table name, dataset, reference and protocols of each table with one of both."""
    tables: dict[str, tuple[str, str, list[Protocol]]] = {}
    groups = queries.by_reference(found)
    for (dataset, reference), group in groups.items():
        name = base if len(groups) == 1 else f"{base}-{slug(dataset)}-{slug(reference)}"
        name = f"{name}-{len(tables)}" if name in tables else name
        tables[name] = (dataset, reference, group)
    return [(name, *table) for name, table in tables.items()]


def _against(dataset: str, reference: str) -> str:
    """A dataset and its reference, for the title of a table."""
    teacher = reference_model(reference)
    return f"{dataset}, {f'agreement with {teacher}' if teacher else f'reference {reference}'}"


def _reference_notes(dataset: str, reference: str) -> list[str]:
    notes = []
    if reference.startswith("teacher:"):
        notes.append("Agreement with the masks of another model, which is not accuracy.")
    return [*notes, *sa1b_notes([dataset])]


def few_images(rows: Iterable[MiouRow | SubgroupRow]) -> list[str]:
    """A note on intervals that are over too few images to be drawn."""
    few = sorted({row.n_images for row in rows if row.ci95 and row.n_images < queries.MIN_IMAGES})
    if not few:
        return []
    text = f"Intervals over {' or '.join(map(str, few))} images are wide and uncertain themselves"
    return [f"{text}; no figure draws those over fewer than {queries.MIN_IMAGES}."]


def _size_column(size: str) -> RowColumn:
    def n_instances(row: MiouRow) -> int | None:
        value = getattr(row.n_by_size, size)
        return None if value is None else int(value)

    get = (f"by_size.{size}", n_instances)
    return percent_column(size.capitalize(), f"miou_{size}", f"n_{size}", get=get, rank=2)


_MIOU_COLUMNS = (
    MODEL,
    WEIGHTS,
    _CSV_DATASET,
    _PROTOCOL,
    _CSV_REFERENCE,
    _MIOU_INTERVAL("mIoU [95 % CI]"),
    percent_column(
        "Boundary IoU", "boundary_miou", "boundary_ci95_low", "boundary_ci95_high",
        get=("boundary_miou", "boundary_ci95.0", "boundary_ci95.1"), rank=1,
    ),
    percent_column("Mean over images", "miou_per_image", rank=3),
    *(_size_column(size) for size in _SIZES),
    count_column("Images", "n_images", rank=3),
    count_column("Instances", "n_instances", "n_left_out", rank=3),
    STATUS,
)  # fmt: skip


def miou_tables(record: RunRecord) -> tuple[Table, ...]:
    """Mean IoU, one table for each dataset and reference."""
    tables = []
    models = queries.model_names(record)
    for name, dataset, reference, group in _by_reference(
        "miou", queries.listed(queries.protocols(record))
    ):
        rows = [row for row in record.miou if protocol_of(row) in group]
        noun = queries.accuracy_name(reference, title=True)
        notes = [
            f"{noun}: mean IoU over instances; {INTERVALS}. CSV: fractions.",
            *few_images(rows),
            "Boundary IoU: IoU of the pixels within 2 % of the image diagonal from the outline.",
            "Small < 32² ≤ medium < 96² ≤ large, annotation area in pixels.",
            *_reference_notes(dataset, reference),
            *queries.notes_on_models(record, (row.model for row in rows)),
        ]
        left_out = sorted({f"{row.protocol} {row.n_left_out}" for row in rows if row.n_left_out})
        if left_out:
            notes.append(
                "Instances for which the protocol has no prompt, left out for all models: "
                f"{', '.join(left_out)}."
            )
        own = unique(row.model for row in rows if queries.is_own_reference(row))
        notes += [f"{name} is compared with its own masks, which is no result." for name in own]
        incomplete = grouped((row.why, row.model) for row in rows if row.status == "ok" and row.why)
        notes += [f"{', '.join(unique(names))}: {why}." for why, names in incomplete.items()]
        hashes = unique(row.manifest_sha256[:16] for row in rows if row.manifest_sha256)
        if hashes:
            notes.append(f"Prompt manifests (sha256): {', '.join(hashes)}.")
        order = {protocol: index for index, protocol in enumerate(group)}
        rows.sort(key=lambda row: (order[protocol_of(row)], models.index(row.model)))
        title = f"Accuracy on {_against(dataset, reference)}"
        shown = map(_without_random_figures, rows)
        tables.append(build_table(name, title, named_for(reference, _MIOU_COLUMNS), shown, notes))
    return tuple(tables)


class _Ranked(NamedTuple):
    """A model on the leaderboard of one protocol.

    `group` are the letters of the models that it ties with, `behind` is the
    comparison of the best model (A) with this one (B).
    """

    row: MiouRow
    rank: int
    group: str | None
    best: MiouRow
    behind: ComparisonRow | None


def _behind_text(ranked: _Ranked) -> str:
    found = ranked.behind
    if found is None:
        return "best" if ranked.rank == 1 else "not tested"
    return percent(found.difference, found.ci95)


def _row_of(column: RowColumn) -> RowColumn:
    """The column for ranked rows."""
    return RowColumn(column.column, lambda ranked: column.cell(ranked.row))


def _leaderboard_columns(*, boundary: bool) -> tuple[RowColumn, ...]:
    return (
        _row_of(_PROTOCOL),
        count_column("Rank", "rank"),
        _row_of(MODEL),
        text_column("Group", "group", rank=1),
        _row_of(_MIOU_INTERVAL("mIoU [CI]")),
        _row_of(percent_column("Boundary", "boundary_miou", csv_only=not boundary, rank=3)),
        value_column(
            "Behind best [CI]", "behind_best", "behind_best_low", "behind_best_high",
            text=_behind_text, unit="points",
            get=("behind.difference", "behind.ci95.0", "behind.ci95.1"), rank=1,
        ),
        value_column(
            "p", "p_adjusted", "p_value", get=("behind.p_adjusted", "behind.p_value"),
            show=lambda p: f"{p:.3f}" if p >= _LEAST_P else f"<{_LEAST_P}", rank=2,
        ),
        _row_of(WEIGHTS),
        _row_of(_CSV_DATASET),
        _row_of(_CSV_REFERENCE),
    )  # fmt: skip


def leaderboard_tables(record: RunRecord) -> tuple[Table, ...]:
    """Models with an accuracy ranked under each protocol, by dataset and reference."""
    scored = {protocol_of(row) for row in record.miou if is_ranked(row)}
    found = [each for each in queries.listed(queries.protocols(record)) if each in scored]
    return tuple(_leaderboard(record, *part) for part in _by_reference("leaderboard", found))


def _leaderboard(
    record: RunRecord, name: str, dataset: str, reference: str, group: Sequence[Protocol]
) -> Table:
    noun = queries.accuracy_name(reference, title=True)
    ranked: list[_Ranked] = []
    ungrouped = []
    for protocol in group:
        models, why = _rank(record, protocol)
        ranked += models
        ungrouped += [why] if why else []
    notes = []
    if any(each.group for each in ranked):
        notes.append(
            "Group: models of one protocol that share a letter cannot be distinguished on this "
            f"dataset (corrected p above {LEVEL}); their order is then no evidence."
        )
    if len({(each.row.protocol, each.rank) for each in ranked}) < len(ranked):
        notes.append("Models of one protocol whose printed values are equal share a rank.")
    if any(each.behind for each in ranked):
        notes.append(
            "Behind best: paired on the same prompts; the interval is for that pair alone. p: "
            "two-sided, corrected (Holm) over all prompts and pairs of models of a run, or of "
            "different runs, with this data and reference; models that do not differ "
            "(an interval within 0.05 points) count as one, with p 1: docs/protocols.md."
        )
    notes += [
        f"{noun}: mean IoU over instances; {INTERVALS}. CSV: fractions.",
        *few_images(each.row for each in ranked),
        *_reference_notes(dataset, reference),
        *queries.notes_on_models(record, (each.row.model for each in ranked)),
        *ungrouped,
    ]
    for row, _, _, best, behind in ranked:
        if behind is not None and behind.n_instances < max(row.n_instances, best.n_instances):
            notes.append(
                f"{row.protocol}: {row.model} is compared on the {behind.n_instances:,} prompts "
                f"that it and {best.model} both answered."
            )
    # Models without an accuracy, those with the same reason in one line.
    missing: dict[str, list[MiouRow]] = {}
    for row in record.miou:
        if (row.dataset, row.reference) == (dataset, reference) and not has_accuracy(row):
            why = f"{row.status}: {row.why or 'no reason given'}"
            if row.weights.kind == "random" and row.status != "error":
                why = "no trained weights"
            missing.setdefault(why, []).append(row)
        elif (row.dataset, row.reference) == (dataset, reference) and not is_ranked(row):
            missing.setdefault("its own masks are the reference", []).append(row)
    notes += [
        f"Not ranked in {', '.join(unique(row.protocol for row in rows))} ({why}): "
        f"{', '.join(unique(row.model for row in rows))}."
        for why, rows in missing.items()
    ]
    boundary = any(each.row.boundary_miou is not None for each in ranked)
    title = f"Leaderboard on {_against(dataset, reference)}"
    columns = named_for(reference, _leaderboard_columns(boundary=boundary))
    return build_table(name, title, columns, ranked, notes)


def _rank(record: RunRecord, protocol: Protocol) -> tuple[list[_Ranked], str | None]:
    """Models of a protocol, best first, and the reason if they have no groups."""
    rows = [row for row in record.miou if protocol_of(row) == protocol and is_ranked(row)]
    rows.sort(key=lambda row: -(row.miou or 0))
    comparisons = [row for row in record.comparisons if protocol_of(row) == protocol]
    groups, why = {}, None
    try:
        groups = tie_groups({row.model: row.miou or 0 for row in rows}, comparisons)
    except DataError as error:
        why = f"{protocol.protocol} has no groups: {error}."
    best, behind = rows[0], {}
    for pair in reversed(comparisons):
        if pair.model_a == best.model:
            behind[pair.model_b] = pair
        elif pair.model_b == best.model:  # the same comparison with its two models exchanged
            swapped = {
                "model_a": pair.model_b,
                "model_b": pair.model_a,
                "difference": 0.0 - pair.difference,  # zero stays without a sign
                "ci95": pair.ci95 and (-pair.ci95[1], -pair.ci95[0]),
            }
            behind[pair.model_a] = pair.model_copy(update=swapped)
    # As printed, so that equal numbers have equal ranks.
    values = [percent(row.miou or 0) for row in rows]
    ranked = [
        _Ranked(row, 1 + values.index(value), groups.get(row.model), best, behind.get(row.model))
        for row, value in zip(rows, values, strict=True)
    ]
    return ranked, why


_TIMES_COLUMNS = (
    MODEL,
    _DATASET,
    number_column("Wall time", "wall_s", unit="s"),
    percent_column("Outside the model", "overhead", rank=1),
    *(
        _decimal_column(part.capitalize(), f"{part}_s", unit="s", rank=2)
        for part in ("model", "data", "prompts", "scoring", "writing")
    ),
    count_column("Embeddings from the cache", "cached_embeddings", rank=3),
)
_DETECTOR_COLUMNS = (
    MODEL,
    WEIGHTS,
    _DATASET,
    text_column("Boxes from", "detections", "detections_sha256", rank=3),
    text_column("Mask", "mask"),
    percent_column("AP", "ap"),
    percent_column("AP50", "ap50", rank=1),
    percent_column("AP75", "ap75", rank=1),
    *(
        percent_column(f"AP {size}", f"ap_{size}", get=(f"ap_by_size.{size}",), rank=2)
        for size in _SIZES
    ),
    count_column("Images", "n_images", rank=3),
    count_column("Boxes", "n_detections", rank=3),
    number_column("Time", "seconds", unit="s", rank=2),
    STATUS,
)


def _noc_columns(iou: float, *, is_main: bool) -> tuple[RowColumn, RowColumn]:
    """Number of clicks until an IoU is reached, and number of instances that never reach it.

    Columns that are not `is_main` are left out of a narrow terminal.
    """

    def of(get: Callable[[Noc, int], Any], default: str | None = None) -> Callable[[MiouRow], Any]:
        """Function of a row with a number of clicks, and of its number of instances."""

        def value(row: MiouRow) -> Any:
            noc = queries.numbers_of_clicks(row).get(iou)
            return default if noc is None else get(noc, row.n_instances)

        return value

    name = f"{100 * iou:g}"
    return (
        value_column(
            f"NoC@{name} [CI]", *(f"noc{name}{end}" for end in ("", "_low", "_high")),
            text=of(lambda noc, _: interval(noc.noc, noc.ci95, digits=2), ""),
            get=(
                of(lambda noc, _: noc.noc),
                of(lambda noc, _: noc.ci95 and noc.ci95[0]),
                of(lambda noc, _: noc.ci95 and noc.ci95[1]),
            ),
            rank=0 if is_main else 1,
        ),
        value_column(
            f"NoF@{name}", f"failed{name}", f"n_failed{name}",
            text=of(lambda noc, n: f"{noc.n_failed:,} ({noc.n_failed / n:.1%})", ""),
            get=(of(lambda noc, n: noc.n_failed / n), of(lambda noc, _: noc.n_failed)),
            rank=0 if is_main else 2,
        ),
    )  # fmt: skip


def _clicks_table(record: RunRecord) -> Table:
    """Number of clicks until an IoU is reached, one row a model and sequence of clicks."""
    curves = queries.click_curves(record)
    rows = [steps[max(steps)] for steps in curves.values() if steps[max(steps)].clicks is not None]
    ious = sorted({iou for row in rows for iou in queries.numbers_of_clicks(row)})
    main = min(ious, key=lambda iou: abs(iou - 0.9), default=None)  # the usual one
    columns = (
        MODEL,
        WEIGHTS,
        _DATASET,
        _PROTOCOL,
        *(column for iou in ious for column in _noc_columns(iou, is_main=iou == main)),
        percent_column("mIoU after the last", "miou", rank=3),
        count_column("Instances", "n_instances", rank=3),
    )
    notes = [
        "NoC@T: number of clicks until IoU T % with the ground truth, mean over instances; an "
        "instance that never reaches it counts with the whole budget, the K of clicks-K. NoF@T: "
        f"number of those instances. {INTERVALS.capitalize()}.",
        "clicks-K: the single mask; clicks-multi-K: at every click the best scored of three masks.",
    ]
    older = unique(
        f"{row.model} on {row.dataset} ({row.protocol})"
        for row in rows
        if any(noc.ci95 is None for noc in queries.numbers_of_clicks(row).values())
    )
    if older:
        notes.append(f"Without intervals, which older records do not have: {', '.join(older)}.")
    return build_table("clicks", "Clicks until an IoU is reached", columns, rows, notes)


def _click_curves_table(record: RunRecord) -> Table:
    """Mean IoU after each number of clicks, one row a model and sequence of clicks."""
    curves = list(queries.click_curves(record).values())
    numbers = sorted({clicks for steps in curves for clicks in steps})
    shown = listed_protocols(f"clicks-{clicks}" for clicks in numbers)

    def of_last(column: RowColumn) -> RowColumn:
        return RowColumn(column.column, lambda steps: column.cell(steps[max(steps)]))

    def after(clicks: int) -> RowColumn:
        return percent_column(
            str(clicks),
            f"miou_{clicks}",
            get=(lambda steps: steps[clicks].miou if clicks in steps else None,),
            csv_only=f"clicks-{clicks}" not in shown,
        )

    columns = (*map(of_last, (MODEL, _DATASET, _PROTOCOL)), *map(after, numbers))
    return build_table("clicks-curve", "mIoU by number of clicks", columns, curves)


_ROBUSTNESS_COLUMNS = (
    MODEL,
    _CSV_DATASET,
    _PROTOCOL,
    _CSV_REFERENCE,
    text_column("Clean prompt", "clean"),
    percent_column("mIoU, clean", "miou_clean"),
    percent_column("mIoU", "miou"),
    _MIOU_INTERVAL("Loss [95 % CI]", name="loss", unit="points"),
    count_column("Images", "n_images"),
    count_column("Instances", "n_instances"),
    STATUS,
)


def robustness_tables(record: RunRecord) -> tuple[Table, ...]:
    """Loss of mean IoU under disturbed prompts, one table for each dataset and reference."""
    tables = []
    found = unique(protocol_of(row) for row in record.robustness)
    for name, dataset, reference, group in _by_reference("robustness", found):
        rows = [row for row in record.robustness if protocol_of(row) in group]
        noun = queries.accuracy_name(reference)
        notes = [
            f"Loss: {noun} for the clean prompt minus {noun} for the disturbed one, paired by "
            f"instance; {INTERVALS}. CSV: fractions.",
            *_reference_notes(dataset, reference),
        ]
        title = f"Robustness to disturbed prompts on {_against(dataset, reference)}"
        rows.sort(key=lambda row: group.index(protocol_of(row)))
        tables.append(
            build_table(name, title, named_for(reference, _ROBUSTNESS_COLUMNS), rows, notes)
        )
    return tuple(tables)


def category_tables(record: RunRecord) -> tuple[Table, ...]:
    """Mean IoU by category, one table for each headline protocol, one column a model."""
    tables: dict[str, Table] = {}
    for protocol in queries.headline(record):
        rows = [row for row in record.miou if protocol_of(row) == protocol and is_ranked(row)]
        means = {row.model: {c.category: c.miou for c in row.by_category} for row in rows}
        models = [model for model, categories in means.items() if categories]
        if models:
            counts = {c.category: c.n_instances for row in rows for c in row.by_category}
            order = sorted(counts, key=lambda category: (-counts[category], category))
            values = [(c, counts[c], *(means[m].get(c) for m in models)) for c in order]
            columns = (
                text_column("Category", "category", get=("0",)),
                count_column("Instances", "n_instances", get=("1",)),
                *(
                    percent_column(model, f"miou_{model}", get=(str(index),))
                    for index, model in enumerate(models, start=2)
                ),
            )
            name = "-".join(("categories", slug(protocol.protocol), slug(protocol.reference)))
            name = f"{name}-{slug(protocol.dataset)}" if name in tables else name
            noun = queries.accuracy_name(protocol.reference, title=True)
            title = f"{noun} by category, {protocol.label}"
            tables[name] = build_table(name, title, columns, values)
    return tuple(tables.values())


def detector_table(record: RunRecord) -> Table:
    """COCO AP of the masks for a detector's boxes, one row a model and results file."""
    files = unique((row.detections, row.detections_sha256) for row in record.detector)
    notes = [
        "Protocol detector-box: COCO AP of masks by pycocotools (IoU 0.50 to 0.95, at most 100 "
        "boxes of a category of an image). A mask's score is the detector's score of its box.",
        "Mask: single, the single-mask output of the model; multi, the best scored of three masks.",
        _COCO_SIZES,
        "Boxes (sha256): " + ", ".join(f"{name} {sha256[:16]}" for name, sha256 in files) + ".",
    ]
    notes += [
        f"{row.model}, {row.detections}: {row.why}."
        for row in record.detector
        if row.status == "ok" and row.why
    ]
    rows = [_without_random_figures(row) for row in record.detector]
    title = "Average precision of masks for a detector's boxes"
    return build_table("detector-box", title, _DETECTOR_COLUMNS, rows, notes if rows else ())


def everything_table(record: RunRecord) -> Table:
    """Average recall and time of segment everything, one row a model and dataset."""
    rows = record.everything
    columns = (
        MODEL,
        WEIGHTS,
        _DATASET,
        *(percent_column(f"AR@{n}", f"ar{n}") for n in (10, 100, 1000)),
        *(
            percent_column(
                f"AR@1000 {size}", f"ar1000_{size}", get=(f"ar1000_by_size.{size}",), rank=2
            )
            for size in _SIZES
        ),
        number_column("Masks an image", "masks_per_image", rank=1),
        RowColumn(median_column(rows), median_cell),
        count_column("Images", "n_images", rank=3),
        count_column("Objects", "n_objects", rank=3),
        STATUS,
    )
    where = [str(record.config[key]) for key in ("device", "precision") if key in record.config]
    threads = record.environment.threads
    where.append(f"{threads} thread{'s' * (threads != 1)}")
    notes = [
        "Protocol everything: class-agnostic COCO average recall of masks by pycocotools (IoU 0.50 "
        "to 0.95), at 10, 100 and 1000 masks an image, ranked by the score of the model. "
        "Crowd regions are left out.",
        _COCO_SIZES,
        f"Time: one call an image, median over images in one process; {', '.join(where)}.",
    ]
    notes += [
        f"{row.model} on {row.dataset}: {row.why}."
        for row in rows
        if row.status == "ok" and row.why is not None
    ]
    if any(row.range_ms is not None for row in rows):
        notes.append("Range of times: the fastest and the slowest image.")
    notes += sa1b_notes(row.dataset for row in rows)
    shown = [_without_random_figures(row) for row in rows]
    title = "Segment everything: recall and time"
    return build_table("everything", title, columns, shown, notes if rows else ())
