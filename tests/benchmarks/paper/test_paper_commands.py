"""The commands that the ledger prints for LVIS work on files in LVIS's format."""

from __future__ import annotations

import json
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.paper.claims import ArMeasure, Claim
from benchmarks.paper.verdicts import judge
from benchmarks.records.record import load_record


def lvis_claims(ledger: dict[str, Claim]) -> list[Claim]:
    measured = (each for each in ledger.values() if isinstance(each.measure, ArMeasure))
    return [each for each in measured if "lvis" in each.measure.data.arguments]


def write_lvis(scenes: Any, *, flat: bool) -> None:
    """Writes scenes as LVIS v1 is published, into the current folder.

    The images are in `coco`, in which COCO's folders lie, or all in one folder. Entries have
    `coco_url` and no `file_name`, and annotations are polygons (here: the boxes) without `iscrowd`.
    """
    document = scenes.read()
    images, annotations = [], []
    for number, image in enumerate(document["images"]):
        split = "train2017" if number else "val2017"
        folder = Path("coco") if flat else Path("coco") / split
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{image['id']:012d}.jpg"
        Image.open(scenes.images / image["file_name"]).save(folder / name)
        images.append(
            {
                "id": image["id"],
                "coco_url": f"http://images.cocodataset.org/{split}/{name}",
                "height": image["height"],
                "width": image["width"],
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
        )
    for row in document["annotations"]:
        x, y, width, height = row["bbox"]
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        kept = {key: row[key] for key in ("id", "image_id", "category_id", "bbox")}
        annotations.append({**kept, "area": width * height, "segmentation": [corners]})
    categories = [
        {**each, "synset": f"{each['name']}.n.01", "synonyms": [each["name"]], "frequency": "r"}
        for each in document["categories"]
    ]
    lvis = {"images": images, "annotations": annotations, "categories": categories}
    Path("lvis_v1_val.json").write_text(json.dumps(lvis))


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "as published"])
def test_commands_of_lvis_rows_run_as_they_are_printed(
    run: Any, scenes: Any, kit: Any, ledger: dict[str, Claim], tmp_path: Path, flat: bool
) -> None:
    write_lvis(scenes, flat=flat)
    claims = lvis_claims(ledger)
    printed = {verdict.settle.rpartition("&& ")[2] for verdict in judge(kit.build(), claims)}
    data = set()
    for command in printed:
        program, name, option, model, *arguments = shlex.split(command)
        assert (program, name, option) == ("mobilesam-bench", "everything", "--models")
        assert model in {claim.measure.model for claim in claims}
        data.add(tuple(arguments))
    assert len(data) == 2, "all images of LVIS, and 100 of them"
    n_objects = len(scenes.read()["annotations"])
    for number, arguments in enumerate(sorted(data)):
        # With the models that need no weights: one segments everything, the other gives the boxes.
        done = run("everything", "--models", "dummy", *arguments, f"--out=e{number}", "--json")
        assert (done.code, done.err.count("left out")) == (0, 0), done.err
        (recall,) = done.json["everything"]
        assert (recall["n_images"], recall["n_objects"]) == (3, n_objects)
        assert all(fnmatch(recall["dataset"], claim.measure.data.pattern) for claim in claims)
        done = run("miou", "--models", "box", "--protocol=box", *arguments, f"--out=m{number}")
        assert done.code == 0, done.err
        (row,) = load_record(tmp_path / f"m{number}").miou
        assert (row.n_images, row.n_instances) == (3, n_objects)
        assert row.miou == pytest.approx(1)  # the annotations are rectangles
