from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.datasets import photos
from benchmarks.datasets.masks import decode_mask, encode_mask, iou
from benchmarks.evaluation.predictions import load_predictions, save_predictions
from benchmarks.records.instances import read_instances
from benchmarks.report.gallery import (
    Gallery,
    ImageSource,
    build_gallery,
    choose_cases,
    medians,
    photos_of,
    scenes_of,
    shrink,
)
from mobilesam.errors import DataError


def test_gallery_shows_the_scored_masks(masks_run: Path, gallery: Gallery) -> None:
    assert gallery.why is None
    assert gallery.protocols == ("box", "center")
    table = read_instances(masks_run / "instances.parquet")
    for view in gallery.cases:
        rows = table[
            (table.protocol == view.case.protocol)
            & (table.annotation_id == view.case.annotation_id)
        ].set_index("model")
        for panel in view.panels:
            if panel.model == "box" and view.case.protocol == "center":
                assert (panel.iou, panel.counts) == (None, None)
                continue
            assert panel.iou == pytest.approx(rows.loc[panel.model].iou)
            truth, mask = (
                decode_mask({"size": list(view.size_hw), "counts": counts})
                for counts in (view.truth, panel.counts)
            )
            assert iou(mask, truth) == pytest.approx(panel.iou)
        assert bool(view.box) == (view.case.protocol == "box")
        assert len(view.points) == (view.case.protocol == "center")
    names = {picture.name for picture in gallery.pictures.values()}
    assert names == {"scene_000000.png", "scene_000001.png"}


def test_photos_of_another_version_are_rejected(
    photos_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos.FOLDER, tmp_path / "other")
    with (tmp_path / "other" / "instances_photos.json").open("a") as file:
        file.write("\n")
    monkeypatch.setattr(photos, "FOLDER", tmp_path / "other")
    why = str(build_gallery([photos_run], ["box"], each=1).why)
    assert "another version of this suite" in why


def test_failures_first(masks_run: Path, gallery: Gallery) -> None:
    first = build_gallery([masks_run], ["box", "dummy"], each=3, failures_first=True)
    for made, wanted in ((first, True), (gallery, False)):
        document = made.document()
        assert document is not None
        assert document["failures_first"] is wanted


def test_missing_masks_or_images_give_a_hint(masks_run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(masks_run, bare, ignore=shutil.ignore_patterns("predictions"))
    assert "--save-masks" in str(build_gallery([bare], ["box"], each=1).why)
    photos = tmp_path / "photos"
    shutil.copytree(masks_run, photos)
    for path in (photos / "predictions").glob("*.parquet"):
        if path.name != "references.parquet":
            info, rows = load_predictions(path)
            save_predictions(path, info.model_copy(update={"dataset": "coco:mine"}), rows)
    why = str(build_gallery([photos], ["box"], each=1).why)
    assert "images of coco:mine were not given" in why
    assert "--images DIR" in why
    why = str(build_gallery([photos], ["box"], each=1, images=masks_run).why)
    assert "none of 2 images can be shown" in why


def frame(n_images: int, models: tuple[str, ...] = ("a", "b")) -> Any:
    rng = np.random.default_rng(0)
    rows = [
        {"image_id": image, "annotation_id": 10 * image + k, "model": model, "protocol": protocol,
         "iou": float(rng.uniform())}
        for image in range(n_images) for k in range(2) for model in models
        for protocol in ("box", "center")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_choose_cases_has_worst_median_and_best_of_every_model() -> None:
    table = frame(40)
    cases = choose_cases(table, ["box", "center"], each=1, most=12)
    shown = {(case.protocol, case.annotation_id) for case in cases}
    for (protocol, _), part in table.groupby(["protocol", "model"]):
        ranked = part.sort_values("iou").annotation_id.tolist()
        assert (protocol, ranked[0]) in shown
        assert (protocol, ranked[-1]) in shown
        # Of an even number two are equally near to the median.
        half = len(ranked) // 2
        assert {(protocol, ranked[half - 1]), (protocol, ranked[half])} & shown
    assert len(cases) == 12


def test_choose_cases_has_every_image_within_the_limit() -> None:
    table = frame(40)
    assert {case.image_id for case in choose_cases(table, ["box"], each=1)} == set(range(40))
    few = choose_cases(table, ["box", "center"], each=5, most=8)
    assert len(few) == 8
    # Where not all fit, neither protocol loses everything.
    assert {case.protocol for case in few} == {"box", "center"}


def test_choose_cases_adds_all_prompts_of_the_shown_images() -> None:
    table = frame(40)
    assert len(choose_cases(table, ["box", "center"])) == len(table) // 2
    few = choose_cases(table, ["box", "center"], most=3)
    images = {case.image_id for case in few[:3]}
    assert {case.image_id for case in few} == images
    assert len(few) == len(images) * 2 * 2
    # The important ones come first, so that they remain if not all fit.
    assert few[:3] == choose_cases(table, ["box", "center"], each=6, most=3)


def test_masks_beyond_the_budget_are_left_out(
    masks_run: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_gallery([masks_run], ["box", "dummy"])
    assert len(whole.cases) == whole.n_prompts > len(gallery.cases)
    assert not [line for line in whole.notes if "as far as they fit" in line]
    monkeypatch.setattr("benchmarks.report.gallery.MASKS_BUDGET_BYTES", 1000)
    few = build_gallery([masks_run], ["box", "dummy"])
    assert 0 < len(few.cases) < len(gallery.cases)
    assert sum(view.n_chars for view in few.cases[:-1]) < 1000
    (line,) = (line for line in few.notes if "as far as they fit" in line)
    assert f"{len(few.cases)} of {whole.n_prompts} prompts have pictures here" in line


def test_masks_of_large_images_are_made_smaller() -> None:
    from benchmarks.report.gallery import _fitted

    mask = np.zeros((1000, 5000), np.bool_)
    mask[:, 2500:] = True
    small, scale = _fitted(encode_mask(mask))
    assert small["size"] == [410, 2048]
    assert scale == 2048 / 5000
    assert decode_mask(small).mean() == 0.5
    assert _fitted(encode_mask(mask[:, ::5])) == (encode_mask(mask[:, ::5]), 1)


def test_document_names_every_object_once(gallery: Gallery) -> None:
    document = gallery.document()
    assert document is not None
    keys = [(each["image"], each["annotation"]) for each in document["objects"]]
    assert len(keys) == len(set(keys))
    for view, case in zip(gallery.cases, document["cases"], strict=True):
        assert keys[case["object"]] == (view.case.image_id, view.case.annotation_id)
        assert document["objects"][case["object"]]["truth"] == view.truth
        assert len(case["masks"]) == 2
    assert Gallery(why="nothing").document() is None


def test_model_without_predictions_is_absent() -> None:
    table = frame(3)
    table = table[~((table.model == "b") & (table.protocol == "center"))]
    cases = choose_cases(table, ["box", "center", "random-1"], each=2)
    assert {tuple(case.ious) for case in cases if case.protocol == "center"} == {("a",)}
    assert medians(table, ["center"], ["a", "b"])[0][1] is None


def test_scenes_of_recreates_a_dataset_from_its_name() -> None:
    from benchmarks.datasets.synthetic import SyntheticDataset

    for made in (SyntheticDataset(3, 7), SyntheticDataset(2, 0, (96, 128), (1, 2))):
        again = scenes_of(made.name, made.fingerprint)
        assert again is not None
        assert again.name == made.name
    assert scenes_of("coco:val2017", "") is None
    with pytest.raises(DataError, match="another version"):
        scenes_of("synthetic:seed=7,n=3", "0" * 64)


@pytest.mark.parametrize("limit", [None, 1, 18, 40])
def test_photos_of_checks_the_fingerprint(limit: int | None) -> None:
    from benchmarks.datasets.photos import FOLDER, open_photos

    dataset = open_photos(limit)
    assert photos_of(dataset.name, dataset.fingerprint) == FOLDER / "images"
    assert photos_of("coco:photos", dataset.fingerprint) is None
    with pytest.raises(DataError, match="another version"):
        photos_of("photos", "0" * 64)


def test_shrink_fits_the_budget(rng: np.random.Generator) -> None:
    noise = {i: (f"{i}.png", rng.integers(0, 256, (480, 640, 3), np.uint8)) for i in range(4)}
    roomy, tight = shrink(noise, 10_000_000), shrink(noise, 300_000)
    assert {p.width_px for p in roomy.values()} == {640}
    assert {p.width_px for p in tight.values()} < {512, 416, 320, 224}
    assert sum(len(p.uri) for p in tight.values()) <= 300_000


def test_image_source_finds_files_by_their_stored_names(tmp_path: Path) -> None:
    """A number at the end of a name is not an id: `dog-1.png` is not the image 1."""
    (tmp_path / "sub").mkdir()
    for name in ("dog-1.png", "cat.png", "sub/cow.png", "000000000139.png"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    (tmp_path.parent / "secret.png").write_bytes((tmp_path / "cat.png").read_bytes())
    names = {1: "cat.png", 2: "dog-1.png", 3: "sub/cow.png", 4: "gone-1.png", 139: "139.jpg",
             6: "../secret.png"}  # fmt: skip
    images = ImageSource(tmp_path, None, names)
    found = [images.get(image_id, (3, 4))[0] for image_id in (1, 2, 3, 139)]
    assert found == ["cat.png", "dog-1.png", "cow.png", "000000000139.png"]
    for image_id in (4, 6):
        with pytest.raises(DataError, match=f"has no file {names[image_id]}"):
            images.get(image_id, (3, 4))


def test_image_source_finds_files_by_number(tmp_path: Path) -> None:
    for name in ("000000000139.png", "sa_7.png", "notes.txt", "cover.png"):
        Image.new("RGB", (4, 3)).save(tmp_path / name, "png")
    images = ImageSource(tmp_path, None)
    assert images.get(139, (3, 4))[0] == "000000000139.png"
    assert images.get(7, (3, 4))[0] == "sa_7.png"
    with pytest.raises(DataError, match="ends with its number, 8"):
        images.get(8, (3, 4))
    with pytest.raises(DataError, match="4x3 px"):
        images.get(7, (9, 9))
    Image.new("RGB", (4, 3)).save(tmp_path / "copy-7.png")
    with pytest.raises(DataError, match=r"copy-7\.png and sa_7\.png"):
        ImageSource(tmp_path, None).get(7, (3, 4))
    with pytest.raises(DataError, match="--images"):
        ImageSource(tmp_path / "nowhere", None)
