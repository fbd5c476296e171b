"""The commands `data make`, `data boxes` and `data check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from messages import check_messages
from PIL import Image

from benchmarks.records.record import load_record


@pytest.mark.parametrize("name", ["coco", "sa1b"])
def test_data_make_writes_what_miou_reads(run: Any, name: str) -> None:
    made = run("data", "make", "scenes", f"--format={name}", "--n=2")
    assert made.code == 0
    use = made.out.split("mobilesam-bench ")[1].split()
    done = run(*use, "--models=box", "--protocol=box", "--json")
    assert done.code == 0
    assert done.json["rows"][0]["n_images"] == 2


def test_data_make_of_an_unknown_format_is_exit_code_2(run: Any) -> None:
    assert run("data", "make", "x", "--format=voc").code == 2


def polygons_in_two_formats(folder: Path) -> None:
    """The same polygons as COCO file and as YOLO labels; corners on tenths of a pixel."""
    (folder / "yolo" / "labels").mkdir(parents=True)
    images, rows = [], []
    for number in range(3):
        Image.effect_noise((64, 48), 40).convert("RGB").save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        lines = []
        for step in (0, 25):
            xs, ys = (4.5 + step, 20.1 + step, 18.3 + step), (6.7 + number, 9.5, 40.3 - number)
            polygon = [value for pair in zip(xs, ys, strict=True) for value in pair]
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                         "segmentation": [polygon]})  # fmt: skip
            shares = [f"{v / (48 if i % 2 else 64):.6g}" for i, v in enumerate(polygon)]
            lines.append(" ".join(["0", *shares]))
        (folder / "yolo" / "labels" / f"{number}.txt").write_text("\n".join(lines))
    document = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "instances.json").write_text(json.dumps(document))
    (folder / "yolo" / "data.yaml").write_text("names: [cat]")
    (folder / "yolo" / "images").mkdir()
    for number in range(3):
        path = folder / f"{number}.png"
        (folder / "yolo" / "images" / path.name).write_bytes(path.read_bytes())


def test_two_formats_give_the_same_iou_of_each_instance(run: Any, tmp_path: Path) -> None:
    polygons_in_two_formats(tmp_path)
    options = ("miou", "--models=box,grabcut", "--protocol=box,center", "--json")
    coco = run(*options, "--dataset=coco", f"--root={tmp_path / 'instances.json'}", "--out=a")
    assert coco.code == 0, coco.err
    yolo = run(*options, "--dataset=auto", f"--root={tmp_path / 'yolo'}", "--out=b", "--chunk=2")
    assert yolo.code == 0, yolo.err
    rows = [
        sorted(
            (row.model, row.protocol, row.image_id, row.area, row.iou, row.boundary_iou)
            for row in pd.read_parquet(tmp_path / out / "instances.parquet").itertuples()
        )
        for out in ("a", "b")
    ]
    assert len(rows[0]) == 18
    assert rows[0] == [pytest.approx(row, abs=1e-9) for row in rows[1]]


def test_wrong_files_are_told_before_and_by_the_run(run: Any, tmp_path: Path) -> None:
    polygons_in_two_formats(tmp_path)
    labels = tmp_path / "yolo" / "labels"
    (labels / "0.txt").write_text("")
    with (labels / "1.txt").open("a") as file:
        file.write("\n3 .1 .1 .2 .1 .2 .2\n")
    check = run("data", "check", tmp_path / "yolo", "--json")
    assert check.code == 1
    found = check.json
    assert (found["format"], found["n_images"], found["n_objects"]) == ("yolo-seg", 3, 4)
    assert found["categories"] == {"cat": 4}
    assert found["problems"] == [
        "images/0.png: 0.txt has no object; remove the image, or annotate it",
        "1.txt: line 3: class 3 has no name among the 1 classes",
    ]
    text = run("data", "check", tmp_path / "yolo")
    assert text.code == 1
    assert all(line in text.out for line in found["problems"])
    done = run(*found["use"].split()[1:], "--models=box", "--protocol=box", "--json", "--out=o")
    assert done.code == 1
    check_messages(done.err)
    assert [failure["why"].partition(" (")[0] for failure in done.json["failures"]] == [
        found["problems"][0].partition(": ")[2],
        found["problems"][1],
    ]
    assert done.json["rows"][0]["n_instances"] == 4


def test_a_sound_dataset_is_exit_code_0_and_its_line_runs(run: Any, scenes: Any) -> None:
    check = run("data", "check", scenes.annotations.parent)
    assert check.code == 0
    assert "problems    none" in check.out
    use = check.out.split("use ")[1].split()
    assert run(*use[1:], "--models=box", "--protocol=box", "--json").code == 0


def test_ignored_pixels_reach_the_scores(run: Any, tmp_path: Path) -> None:
    """The box is the object and its undecided band: perfect without the band."""
    for name in ("img", "gt"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "img" / "a.jpg")
    mask = Image.new("L", (32, 24))
    mask.paste(255, (4, 4, 20, 16))
    mask.paste(128, (8, 8, 12, 12))
    mask.save(tmp_path / "gt" / "a.png")
    options = ("miou", "--models=box", "--protocol=box", "--dataset=masks", f"--root={tmp_path}")
    done = run(*options, "--ignore=128", "--json", "--out=o")
    assert done.code == 0
    assert load_record(tmp_path / "o").miou[0].miou == 1.0
    refused = run(*options, "--json", "--out=p")
    assert refused.code == 1
    assert "undecided pixels? Threshold it" in refused.err
