"""The packaged photos: files, licences, attribution, and their role as the default dataset."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from benchmarks.config.options import AccuracyArguments, DataArguments, EmbedDataArguments
from benchmarks.datasets import photos
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Sample
from benchmarks.datasets.photos import FOLDER, N_PHOTOS, SHOWN, attribution, open_photos, source_of
from benchmarks.records.record import load_record
from mobilesam.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[3]
BOX = ("miou", "--models=box", "--protocol=box", "--no-boundary", "--json")


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "instances_photos.json").read_text())
    return found


def test_the_package_contains_exactly_the_annotated_images() -> None:
    names = {each["file_name"] for each in document()["images"]}
    assert names == {path.name for path in (FOLDER / "images").iterdir()}
    assert len(names) == N_PHOTOS == 18


def test_all_photos_are_under_the_same_licence() -> None:
    found = document()
    assert {each["license"] for each in found["images"]} == {4}
    assert [(each["id"], each["url"]) for each in found["licenses"]] == [
        (4, "http://creativecommons.org/licenses/by/2.0/")
    ]


def test_every_photo_and_its_objects_are_in_the_attribution() -> None:
    text = (FOLDER / "ATTRIBUTION.md").read_text()
    n_objects = {s.name: len(s.instances) for s in open_photos().samples() if isinstance(s, Sample)}
    for image in document()["images"]:
        number = re.search(r"/(\d+)_\w+\.jpg$", image["flickr_url"])
        assert number is not None
        assert source_of(image["id"]) == f"https://www.flickr.com/photo.gne?id={number[1]}"
        name = image["file_name"]
        assert f"| {name} | {source_of(image['id'])} | {n_objects[name]} |" in text


def test_all_photos_can_be_read() -> None:
    dataset = open_photos()
    samples = list(dataset.samples())
    assert all(isinstance(sample, Sample) for sample in samples)
    assert (dataset.name, len(samples), dataset.n_instances) == ("photos", 18, 143)
    assert dataset.left_out == {"crowd": 2, "empty": 0, "malformed": 0}
    assert set(SHOWN) <= set(dataset.image_ids)


def test_a_limit_takes_the_first_photos() -> None:
    assert open_photos(2).image_ids == open_photos().image_ids[:2]
    assert open_photos(18).fingerprint == open_photos(99).fingerprint == open_photos().fingerprint
    assert open_photos(17).fingerprint != open_photos().fingerprint
    with pytest.raises(UsageError, match="limit of 0"):
        open_photos(0)


def test_shards_of_photos_can_be_pickled() -> None:
    shards = list(open_photos().shards(5))
    assert [len(shard.readers) for shard in shards] == [5, 5, 5, 3]
    assert {shard.dataset for shard in shards} == {"photos"}
    last = pickle.loads(pickle.dumps(shards[-1]))
    assert [reader().sample.name for reader in last.readers] == [name for _, name in last.images]


@pytest.mark.parametrize(
    "name", ["images", "images/000000261888.jpg", "instances_photos.json", "ATTRIBUTION.md"]
)
def test_a_missing_packaged_file_is_an_error(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "installed"
    shutil.copytree(FOLDER, folder)
    monkeypatch.setattr(photos, "FOLDER", folder)
    assert open_photos().n_images == 18
    gone = folder / name
    gone.rename(tmp_path / "gone")
    with pytest.raises(DataError, match=rf"photos/{re.escape(name)} is missing.*install it again"):
        open_photos()
    done = run(*BOX)
    assert (done.code, done.out) == (1, "")
    assert "install it again" in done.err


def test_a_photo_without_attribution_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(FOLDER, tmp_path / "installed")
    monkeypatch.setattr(photos, "FOLDER", tmp_path / "installed")
    (tmp_path / "installed" / "ATTRIBUTION.md").write_text("# Photos\n")
    with pytest.raises(DataError, match="does not list photo 208901"):
        attribution(SHOWN)


def test_the_attribution_names_every_photo() -> None:
    assert attribution(SHOWN) == (
        "Photos: COCO val2017 (Flickr 5773232566, 4320314557, 3337847570), CC BY 2.0; authors: "
        "benchmarks/datasets/photos/ATTRIBUTION.md"
    )
    everyone = attribution(open_photos().image_ids)
    assert all(source_of(each).partition("=")[2] in everyone for each in open_photos().image_ids)


def test_the_wheel_contains_every_file() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["benchmarks.datasets"]
    for path in FOLDER.rglob("*"):
        if path.is_file():
            name = path.relative_to(FOLDER.parent).as_posix()
            fits = [each for each in patterns if fnmatch(name, each)]
            assert any(each.count("/") == name.count("/") for each in fits), name


def test_photos_are_the_default_dataset_of_accuracy() -> None:
    assert DataArguments().dataset == AccuracyArguments().dataset == "photos"
    assert EmbedDataArguments().dataset == "synthetic"


@pytest.mark.parametrize("chunk", [(), ("--chunk=4",)])
def test_photos_are_measured_by_default(run: Any, chunk: tuple[str, ...]) -> None:
    done = run(*BOX, "--limit=2", *chunk)
    (row,) = done.json["rows"]
    assert (done.code, row["dataset"], row["n_images"], row["n_instances"]) == (0, "photos", 2, 20)


def test_chunks_give_the_same_figures(run: Any) -> None:
    whole, parts = run(*BOX, "--out=whole"), run(*BOX, "--out=parts", "--chunk=5")
    assert whole.code == parts.code == 0
    (a,), (b,) = whole.json["rows"], parts.json["rows"]
    assert (a["dataset"], a["n_images"], a["n_instances"]) == ("photos", 18, 143)
    for name in ("dataset", "n_images", "n_instances", "n_by_size", "n_left_out"):
        assert a[name] == b[name]
    for name in ("miou", "miou_per_image", "by_size"):
        assert a[name] == pytest.approx(b[name])
    assert load_record(Path("whole")).config["dataset"] == "photos"


def test_photos_score_as_the_same_files_by_coco(run: Any) -> None:
    mine = run(*BOX, "--limit=3", "--dataset=photos")
    theirs = run(
        *BOX,
        "--limit=3",
        "--dataset=coco",
        f"--images={FOLDER / 'images'}",
        f"--annotations={FOLDER / 'instances_photos.json'}",
    )
    (a,), (b,) = mine.json["rows"], theirs.json["rows"]
    assert (a.pop("dataset"), b.pop("dataset")) == ("photos", "coco:photos")
    assert {k: a[k] for k in ("miou", "ci95", "by_category")} == {
        k: b[k] for k in ("miou", "ci95", "by_category")
    }


def test_everything_is_measured_on_photos(run: Any) -> None:
    done = run("everything", "--models=dummy", "--limit=1", "--json")
    (row,) = done.json["everything"]
    assert (done.code, row["dataset"], row["n_objects"]) == (0, "photos", 14)


@pytest.mark.parametrize("option", ["--images=x", "--annotations=x.json", "--root=x"])
@pytest.mark.parametrize("dataset", [(), ("--dataset=photos",)])
def test_options_of_other_datasets_are_rejected(
    run: Any, option: str, dataset: tuple[str, ...]
) -> None:
    done = run(*BOX, option, *dataset)
    assert done.code == 2
    assert f"{option.split('=')[0]} does not belong to --dataset photos" in done.err


def test_a_dataset_can_be_named(tmp_path: Path) -> None:
    annotations = FOLDER / "instances_photos.json"
    assert CocoDataset(FOLDER / "images", annotations).name == "coco:photos"
    assert CocoDataset(FOLDER / "images", annotations, name="mine").name == "mine"
