"""Summaries of instance rows: means with intervals, by size, by category, by number of clicks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from benchmarks.prompts.protocols import AccuracyProtocol
from benchmarks.records.instances import InstanceRow
from benchmarks.records.record import BySize, CategoryMean, Clicks, MiouRow, WeightsRow
from benchmarks.records.statistics import clustered_mean_interval

# COCO's classes of annotation area, in square pixels, half-open.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
NOC_IOUS = (0.85, 0.90)


def by_protocol(rows: Iterable[InstanceRow]) -> dict[str, dict[str, list[InstanceRow]]]:
    """The rows of one model by reference, then by protocol, in their own order."""
    groups: dict[str, dict[str, list[InstanceRow]]] = {}
    for row in rows:
        groups.setdefault(row.reference, {}).setdefault(row.protocol, []).append(row)
    return groups


def headline(rows: Sequence[InstanceRow]) -> str:
    """Mean IoU of one model by protocol, as one line; uses the first reference of the rows.

    Args:
        rows: Rows of one model; at least one.
    """
    reference, groups = next(iter(by_protocol(rows).items()))
    parts = [
        f"{protocol} {np.mean([row.iou for row in group]):.1%}"
        for protocol, group in groups.items()
    ]
    n_images = len({row.image_id for row in rows})
    n_objects = len({(row.image_id, row.annotation_id) for row in rows})
    return f"mIoU vs {reference} {', '.join(parts)} ({n_images} images, {n_objects} objects)"


def summarise(
    rows: Sequence[InstanceRow],
    dataset: str,
    weights: WeightsRow,
    *,
    manifest_sha256: str | None = None,
    n_left_out: int = 0,
    seconds: float | None = None,
    clicks: Clicks | None = None,
    reference_weights: WeightsRow | None = None,
) -> MiouRow:
    """Summarises the instances of one model under one protocol.

    Args:
        rows: At least one, all of the same model, protocol and reference.
        dataset: Its name.
        weights: The weights behind the rows.
        manifest_sha256: Of the prompts.
        n_left_out: Instances without such a prompt.
        seconds: Wall time of the model's pass over the dataset.
        clicks: Where the protocol clicks.
        reference_weights: Of the teacher, where the reference is one.
    """
    ious = np.array([row.iou for row in rows])
    boundaries = np.array(
        [row.boundary_iou for row in rows if row.boundary_iou is not None], np.float64
    )
    has_boundaries = len(boundaries) == len(rows)
    images = np.array([row.image_id for row in rows], np.int64)
    areas = np.array([row.area for row in rows])
    _, index = np.unique(images, return_inverse=True)
    per_image = np.bincount(index, weights=ious) / np.bincount(index)
    classes = {name: (areas >= low) & (areas < high) for name, (low, high) in SIZES.items()}
    return MiouRow(
        model=rows[0].model,
        dataset=dataset,
        protocol=rows[0].protocol,
        reference=rows[0].reference,
        n_images=len(per_image),
        n_instances=len(rows),
        n_left_out=n_left_out,
        miou=float(ious.mean()),
        ci95=clustered_mean_interval(ious, images, bounds=(0, 1)),
        miou_per_image=float(per_image.mean()),
        boundary_miou=float(boundaries.mean()) if has_boundaries else None,
        boundary_ci95=clustered_mean_interval(boundaries, images, bounds=(0, 1))
        if has_boundaries
        else None,
        by_size=BySize(
            **{name: float(ious[inside].mean()) for name, inside in classes.items() if inside.any()}
        ),
        n_by_size=BySize(**{name: float(inside.sum()) for name, inside in classes.items()}),
        by_category=_by_category(rows, ious),
        clicks=clicks,
        weights=weights,
        reference_weights=reference_weights,
        manifest_sha256=manifest_sha256,
        seconds=seconds,
    )


def _by_category(rows: Sequence[InstanceRow], ious: np.ndarray) -> tuple[CategoryMean, ...]:
    names = np.array([row.category for row in rows])
    return tuple(
        CategoryMean(
            category=str(name),
            n_instances=int((names == name).sum()),
            miou=float(ious[names == name].mean()),
        )
        for name in np.unique(names)
        if name
    )


def clicks_needed(
    protocol: AccuracyProtocol, rows: Mapping[str, Sequence[InstanceRow]]
) -> Clicks | None:
    """Mean number of clicks until an IoU is reached.

    Args:
        protocol: `clicks-K`; None is returned for others.
        rows: Of one model against the ground truth, by protocol; those of `clicks-1` to
            `clicks-K` hold the same instances in the same order.
    """
    if protocol.n_clicks is None:
        return None
    curve = np.array(
        [[row.iou for row in rows[f"clicks-{each}"]] for each in range(1, protocol.n_clicks + 1)]
    )
    return clicks_of(curve)


def clicks_of(curve: np.ndarray) -> Clicks:
    """Mean number of clicks until an IoU is reached.

    Args:
        curve: (budget, instances) IoU after each click.
    """
    budget = len(curve)
    found = {}
    for wanted in NOC_IOUS:
        reached = curve >= wanted
        needed = np.where(reached.any(axis=0), reached.argmax(axis=0) + 1, budget)
        name = f"{wanted * 100:.0f}"
        found[f"noc{name}"] = float(needed.mean())
        found[f"failed{name}"] = float(1 - reached.any(axis=0).mean())
    return Clicks(budget=budget, **found)
