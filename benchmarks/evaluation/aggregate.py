"""Means with intervals, comparisons and clicks from the files of many chunks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.evaluation.comparison import (
    Answered,
    comparison,
    corrected,
    paired_differences,
    prompts_answered,
)
from benchmarks.evaluation.summaries import clicks_of
from benchmarks.evaluation.sums import GroupSums, PerImage
from benchmarks.prompts.protocols import TEACHER_PREFIX, AccuracyProtocol
from benchmarks.records.instances import read_instances
from benchmarks.records.record import (
    BySize,
    CategoryMean,
    Clicks,
    ComparisonRow,
    MiouRow,
    WeightsRow,
)
from benchmarks.records.statistics import clustered_mean_of_sums, cut


@dataclass(frozen=True, slots=True)
class RowContext:
    """What a summary says besides its figures; see `MiouRow`."""

    dataset: str
    weights: WeightsRow
    reference_weights: WeightsRow | None
    manifest_sha256: str | None
    n_left_out: int
    seconds: float | None
    clicks: Clicks | None


def summary_of(group: tuple[str, str, str], sums: GroupSums, context: RowContext) -> MiouRow:
    """The row that `summarise` makes of the same instances.

    Args:
        group: Model, protocol and reference.
        sums: Of at least one instance.
        context: What else the row says.
    """
    model, protocol, reference = group
    counts, (ious, boundaries) = sums.images.finish()
    bounds = (0.0, 1.0)
    mean = clustered_mean_of_sums(counts, ious, sums.images.limits(0))
    boundary = None
    if np.isfinite(boundaries).all():
        boundary = clustered_mean_of_sums(counts, boundaries, sums.images.limits(1))
    return MiouRow(
        model=model,
        dataset=context.dataset,
        protocol=protocol,
        reference=reference,
        n_images=len(counts),
        n_instances=int(counts.sum()),
        n_left_out=context.n_left_out,
        miou=mean.mean,
        ci95=cut(mean.ci95, bounds),
        miou_per_image=float((ious / counts).mean()),
        boundary_miou=None if boundary is None else boundary.mean,
        boundary_ci95=None if boundary is None else cut(boundary.ci95, bounds),
        by_size=BySize(**{name: total / n for name, (n, total) in sums.by_size.items() if n}),
        n_by_size=BySize(**{name: n for name, (n, _) in sums.by_size.items()}),
        by_category=tuple(
            CategoryMean(category=name, n_instances=int(n), miou=total / n)
            for name, (n, total) in sorted(sums.by_category.items())
        ),
        clicks=context.clicks,
        weights=context.weights,
        reference_weights=context.reference_weights,
        manifest_sha256=context.manifest_sha256,
        seconds=context.seconds,
    )


def compare_files(
    files: Sequence[Path], dataset: str, seed: int = 0, *, without: Collection[str] = ()
) -> tuple[tuple[ComparisonRow, ...], Answered]:
    """What `compare_models` and `prompts_answered` give, one file in memory at once.

    Args:
        files: Instance tables; all rows of an image are in one of them.
        dataset: Its name.
        seed: Of the bootstrap.
        without: Models that are left out, also as references.
    """
    dropped = [*without, *(f"{TEACHER_PREFIX}{name}" for name in without)]
    pairs: dict[tuple[tuple[str, str], str, str], PerImage] = {}
    answered: Answered = {}
    for file in files:
        frame = read_instances(file)
        if dropped:
            frame = frame[~(frame["model"].isin(dropped) | frame["reference"].isin(dropped))]
        for task, (n, models) in prompts_answered(frame).items():
            known_n, known = answered.get(task, (0, {}))
            both = {name: known.get(name, 0) + models.get(name, 0) for name in known | models}
            answered[task] = (known_n + n, both)
        for _, part in frame.groupby("reference", sort=False):
            for task, a, b, images, differences in paired_differences(part):
                pairs.setdefault((task, a, b), PerImage(1)).add(images, differences)
    families: dict[str, list[ComparisonRow]] = {}
    for (task, a, b), sums in pairs.items():
        counts, (totals,) = sums.finish()
        result = clustered_mean_of_sums(counts, totals, sums.limits(0), seed)
        row = comparison(dataset, task, (a, b), result, int(counts.sum()))
        families.setdefault(task[0], []).append(row)
    return tuple(row for family in families.values() for row in corrected(family)), answered


def clicks_of_files(
    files: Sequence[Path], protocols: Sequence[AccuracyProtocol]
) -> Mapping[tuple[str, str], Clicks]:
    """What `clicks_needed` gives, by model and protocol, one file in memory at once.

    Args:
        files: Instance tables; all rows of an image are in one of them.
        protocols: Those that click among them are counted.
    """
    found: dict[tuple[str, str], list[tuple[int, Clicks]]] = {}
    clicking = [protocol for protocol in protocols if protocol.n_clicks is not None]
    for file in files if clicking else ():
        for model, protocol, n_instances, clicks in _clicks_of_file(file, clicking):
            found.setdefault((model, protocol), []).append((n_instances, clicks))
    return {key: _mean_clicks(parts) for key, parts in found.items()}


def _clicks_of_file(
    file: Path, protocols: Sequence[AccuracyProtocol]
) -> Iterator[tuple[str, str, int, Clicks]]:
    frame = read_instances(file)
    for model, rows in frame.groupby("model", sort=False):
        ious = {name: part["iou"].to_numpy() for name, part in rows.groupby("protocol")}
        for protocol in protocols:
            wanted = [f"clicks-{each}" for each in range(1, (protocol.n_clicks or 0) + 1)]
            if all(name in ious for name in wanted):
                curve = np.stack([ious[name] for name in wanted])
                yield str(model), protocol.name, curve.shape[1], clicks_of(curve)


def _mean_clicks(parts: Sequence[tuple[int, Clicks]]) -> Clicks:
    weights = [n for n, _ in parts]
    names = ("noc85", "failed85", "noc90", "failed90")
    means = {
        name: float(np.average([getattr(clicks, name) for _, clicks in parts], weights=weights))
        for name in names
    }
    return Clicks(budget=parts[0][1].budget, **means)
