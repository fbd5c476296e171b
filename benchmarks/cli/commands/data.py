"""The commands `data make`, `data boxes` and `data check`."""

from __future__ import annotations

import json as json_format
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines
from benchmarks.config.options import PrintJson
from benchmarks.datasets import MAX_PIXELS
from mobilesam.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.datasets.formats.inspection import Inspection

_N_SHOWN = 10


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
    write_atomic(out, (json_format.dumps(found) + "\n").encode())
    print_lines(
        f"{len(found)} boxes in {out}; use them with: mobilesam-bench miou --protocol detector-box "
        f"--detections {out} --dataset coco --images DIR --annotations {annotations}"
    )
    return 0


def check(
    path: Path,
    /,
    *,
    dataset: Annotated[str, Parameter(help="Format, as of miou; auto: find it out.")] = "auto",
    images: Annotated[Path | None, Parameter(help="COCO, LVIS: folder of the images.")] = None,
    ignore: Annotated[int | None, Parameter(help="masks, voc: as of miou.")] = None,
    ids_16_bit: Annotated[bool, Parameter(help="masks: as of miou.")] = False,
    limit: Annotated[int | None, Parameter(help="Only the first N images.")] = None,
    max_pixels: Annotated[int, Parameter(help="Larger images are refused.")] = MAX_PIXELS,
    json: PrintJson = False,
) -> int:
    """Say which format a folder or file has, what is in it, and everything that is wrong with it.

    Reads all images and masks, without a model. The exit code is 1 if anything is wrong.
    """
    from benchmarks.config.from_options import find_source, open_dataset
    from benchmarks.config.options import DataArguments
    from benchmarks.datasets.formats.detection import FORMATS
    from benchmarks.datasets.formats.inspection import inspect

    if dataset not in ("auto", *FORMATS):
        raise UsageError(f"unknown dataset {dataset!r}; choose auto, {', '.join(FORMATS)}")
    options = DataArguments(
        dataset=dataset,
        images=images,
        root=(path,),
        limit=limit,
        max_pixels=max_pixels,
        ignore=ignore,
        ids_16_bit=ids_16_bit,
    )
    source = find_source(options)
    opened = open_dataset(options, 0, 0)
    found = inspect(opened)
    use = ["mobilesam-bench", "miou", "--dataset", source.format]
    if source.images is None:
        use += ["--root", str(source.path)]
    else:
        use += ["--images", str(source.images), "--annotations", str(source.path)]
    use += [] if ignore is None else ["--ignore", str(ignore)]
    use += ["--ids-16-bit"] if ids_16_bit else []
    document = {
        "format": source.format,
        "tool": source.tool or None,
        "path": str(source.path),
        "images": None if source.images is None else str(source.images),
        "name": opened.name,
        **_contents(found),
        "notes": [note for note in opened.notes if note not in opened.doubts],
        "use": shlex.join(use),
    }
    if json:
        print_json(document)
    else:
        print_lines(*_report(document, found))
    return 1 if found.problems else 0


def _contents(found: Inspection) -> dict[str, Any]:
    return {
        "n_images": found.n_images,
        "n_unusable_images": found.n_unusable,
        "n_objects": found.n_objects,
        "sizes": [{"width": w, "height": h, "n": n} for (w, h), n in found.sizes.most_common()],
        "objects_per_image": {str(n): found.per_image[n] for n in sorted(found.per_image)},
        "categories": dict(found.categories.most_common()),
        "areas": dict(found.areas),
        "left_out": found.left_out,
        "problems": found.problems,
    }


def _report(document: dict[str, Any], found: Inspection) -> list[str]:
    """Lines of a name and a value each, then the problems."""
    tool = f", exported by {document['tool']}" if document["tool"] else ""
    rows = {"format": f"{document['format']} ({document['path']}){tool}"}
    unusable = f", {found.n_unusable} of them unusable" if found.n_unusable else ""
    rows["images"] = f"{found.n_images}{unusable}"
    shown = [f"{w}x{h} px ({n})" for (w, h), n in found.sizes.most_common(_N_SHOWN)]
    rows["sizes"] = _with_rest(shown, len(found.sizes))
    counts = sorted(found.per_image)
    if counts:
        rows["objects"] = f"{found.n_objects}, {counts[0]} to {counts[-1]} an image"
    rows["by area"] = ", ".join(f"{name} {n}" for name, n in found.areas.items())
    named = {name or "(no name)": n for name, n in found.categories.most_common()}
    shown = [f"{name} {n}" for name, n in list(named.items())[:_N_SHOWN]]
    rows["categories"] = _with_rest(shown, len(named))
    rows["left out"] = ", ".join(f"{n} {reason}" for reason, n in found.left_out.items())
    rows["problems"] = str(len(found.problems)) if found.problems else "none"
    lines = [f"{name:<11} {value}" for name, value in rows.items() if value]
    lines += [f"  {problem}" for problem in found.problems]
    lines += [f"{'note':<11} {note}" for note in document["notes"]]
    return [*lines, f"{'use':<11} {document['use']}"]


def _with_rest(shown: list[str], n_all: int) -> str:
    rest = [f"and {n_all - len(shown)} more"] if n_all > len(shown) else []
    return ", ".join([*shown, *rest])
