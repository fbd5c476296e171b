"""Loss of accuracy under disturbed prompts, paired with the undisturbed prompts of the same run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from benchmarks.evaluation.comparison import NEEDED
from benchmarks.evaluation.summaries import Group, ImageSums
from benchmarks.prompts.protocols import AccuracyProtocol
from benchmarks.records.instances import read_instances
from benchmarks.records.record import MiouRow, RobustnessRow
from benchmarks.records.statistics import clustered_mean_of_sums


def robustness_rows(
    rows: Sequence[MiouRow],
    tables: Iterable[Path | IO[bytes]],
    protocols: Sequence[AccuracyProtocol],
) -> tuple[RobustnessRow, ...]:
    """One row for each of `rows` whose protocol disturbs the prompts of another one.

    Instances are paired where the model answered both prompts. All rows of an image are in one of
    the tables.
    """
    clean = {each.name: each.clean for each in protocols if each.clean is not None}
    sums: defaultdict[Group, ImageSums] = defaultdict(lambda: ImageSums(2))
    for table in tables if clean else ():
        frame = read_instances(table, NEEDED)
        for (model, reference), part in frame.groupby(["model", "reference"], sort=False):
            ious = part.pivot(index=["image_id", "annotation_id"], columns="protocol", values="iou")
            images = ious.index.get_level_values("image_id").to_numpy()
            for protocol, undisturbed in clean.items():
                if protocol not in ious or undisturbed not in ious:
                    continue
                before = ious[undisturbed].to_numpy(np.float64)
                losses = before - ious[protocol].to_numpy(np.float64)
                both = np.isfinite(losses)
                if both.any():
                    group = str(model), protocol, str(reference)
                    sums[group].add(images[both], before[both], losses[both])
    found = []
    for row in rows:
        if row.protocol not in clean:
            continue
        result = RobustnessRow(
            model=row.model,
            dataset=row.dataset,
            protocol=row.protocol,
            clean=clean[row.protocol],
            reference=row.reference,
            status=row.status,
            why=row.why,
        )
        group = row.model, row.protocol, row.reference
        if row.status == "ok" and group not in sums:
            why = f"no instance has both prompts, {row.protocol} and {clean[row.protocol]}"
            result = result.model_copy(update={"status": "skipped", "why": why})
        elif row.status == "ok":
            counts, (before, losses) = sums[group].finish()
            loss = clustered_mean_of_sums(counts, losses, sums[group].limits(1))
            miou = float(before.sum() / counts.sum())
            update = {
                "n_images": len(counts),
                "n_instances": int(counts.sum()),
                "miou_clean": miou,
                "miou": miou - loss.mean,
                "loss": loss.mean,
                "ci95": loss.ci95,
            }
            result = result.model_copy(update=update)
        found.append(result)
    return tuple(found)
