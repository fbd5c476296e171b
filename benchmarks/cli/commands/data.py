"""The commands `data make` and `data boxes`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_lines
from mobilesam.errors import UsageError


def make(
    out: Path,
    /,
    *,
    format: Annotated[str, Parameter(help="coco or sa1b.")] = "coco",  # noqa: A002
    n: Annotated[int, Parameter(help="Number of scenes.")] = 20,
    seed: int = 0,
    tar: Annotated[bool, Parameter(help="SA-1B: write tar shards.")] = False,
) -> int:
    """Render synthetic scenes with exact masks into a folder, in COCO's or SA-1B's format."""
    from benchmarks.datasets import writers
    from benchmarks.datasets.synthetic import SyntheticDataset
    from benchmarks.records.run_folder import held

    if format not in ("coco", "sa1b"):
        raise UsageError(f"unknown format {format!r}; choose coco or sa1b")
    if tar and format != "sa1b":
        raise UsageError("--tar is for --format sa1b only")
    dataset = SyntheticDataset(n_images=n, seed=seed)
    with held(out):
        if format == "coco":
            writers.write_coco(dataset, out)
            use = f"coco --images {out / 'images'} --annotations {out / 'instances.json'}"
        else:
            writers.write_sa1b(dataset, out, tar=tar)
            use = f"sa1b --root {out}"
    print_lines(f"{n} scenes in {out}; use them with: mobilesam-bench miou --dataset {use}")
    return 0


def boxes(annotations: Path, out: Path, /) -> int:
    """Write the boxes of a COCO annotation file as results of a detector, for detector-box."""
    from benchmarks.datasets.detections import boxes_from_annotations
    from mobilesam.files import write_atomic

    found = boxes_from_annotations(annotations)
    write_atomic(out, (json.dumps(found) + "\n").encode())
    print_lines(
        f"{len(found)} boxes in {out}; use them with: mobilesam-bench miou --protocol detector-box "
        f"--detections {out} --dataset coco --images DIR --annotations {annotations}"
    )
    return 0
