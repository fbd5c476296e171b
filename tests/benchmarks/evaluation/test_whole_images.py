"""`everything --chunk`: the rows of a run that holds all in memory, and taken up again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scale_records import lasting

from baselines.dummy import DummySegmenter
from baselines.interface import MaskRecord, UInt8Array
from baselines.options import ModelOptions
from benchmarks.datasets.dataset import Sample
from benchmarks.datasets.detections import GroundTruthMask
from benchmarks.datasets.masks import encode_mask
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.evaluation.coco_eval import AGNOSTIC, FoundMask, average_recall
from benchmarks.evaluation.everything import LIMITS
from benchmarks.evaluation.recall import WHOLE_IMAGES_NAME, _Sums
from benchmarks.evaluation.whole_images import WholeImageRow, WholeImageWorker, _Asked, _score

TIMES = ("median_ms", "ci95_ms", "range_ms")


def everything(run: Any, shards: Path, out: str, *more: str) -> Any:
    models = () if any(each.startswith("--models") for each in more) else ("--models=dummy",)
    return run("everything", "--dataset=sa1b", f"--root={shards}", f"--out={out}",
               "--threads=1", *models, *more, "--json")  # fmt: skip


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in found["everything"]
    ]


def approximately(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def close(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: close(each) for name, each in value.items()}
        return pytest.approx(value, abs=1e-12) if isinstance(value, float) else value

    return [{name: close(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("lanes", ["0", "2"])
def test_chunks_have_the_rows_of_the_whole(run: Any, shards: Path, lanes: str) -> None:
    standard_output = sys.stdout
    whole = everything(run, shards, "whole", "--models=dummy,box")
    parts = everything(run, shards, "parts", "--models=dummy,box", "--chunk=3", f"--lanes={lanes}")
    assert (whole.code, parts.code) == (0, 0), parts.err
    assert rows_of(parts.json) == approximately(rows_of(whole.json))
    dummy, box = parts.json["everything"]
    assert (dummy["status"], dummy["n_images"]) == ("ok", 11)
    assert dummy["ar1000"] > 0
    assert dummy["median_ms"] > 0
    assert box["status"] == "skipped"
    assert sys.stdout is standard_output
    assert len(list(Path("parts", WHOLE_IMAGES_NAME).iterdir())) == 5  # of 4, 4 and 3 images


def test_a_second_start_makes_only_what_is_missing(
    run: Any, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert everything(run, shards, "out", "--chunk=2").code == 0
    before = rows_of(lasting(Path("out")))
    Path("out/record.json").unlink()
    Path("out", WHOLE_IMAGES_NAME, "00001-00000.parquet").unlink()
    Path("out", WHOLE_IMAGES_NAME, "00002-00001.parquet").write_bytes(b"half of it")
    made: list[str] = []
    whole = WholeImageWorker.run

    def counted(self: WholeImageWorker, part: Any, poison: Any = None) -> Any:
        made.append(part.name)
        return whole(self, part, poison)

    monkeypatch.setattr(WholeImageWorker, "run", counted)
    done = everything(run, shards, "out", "--chunk=2")
    assert done.code == 0
    assert made == ["00001-00000", "00002-00001"]
    assert "4 of 6 chunks were there from before" in done.err
    assert rows_of(lasting(Path("out"))) == before


def test_both_kinds_of_protocol_share_a_folder(run: Any, shards: Path) -> None:
    done = run("miou", "--models=dummy", "--dataset=sa1b", f"--root={shards}", "--out=both",
               "--threads=1", "--protocol=everything,box", "--chunk=4", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert [row["protocol"] for row in done.json["rows"]] == ["box"]
    assert done.json["everything"][0]["n_images"] == done.json["rows"][0]["n_images"] == 11
    assert done.json["times"]


def test_a_broken_image_is_listed_once_and_counts(run: Any, shards: Path) -> None:
    from benchmarks.datasets.synthetic import SyntheticDataset
    from benchmarks.datasets.writers import write_sa1b

    folder = shards / "loose"
    scenes = SyntheticDataset(n_images=3, seed=5, size_hw=(48, 64), n_objects=(2, 4))
    write_sa1b(scenes, folder, tar=False)
    victim = sorted(folder.rglob("*.jpg"))[1]
    victim.write_text("no picture")
    done = everything(run, folder, "out", "--chunk=2")
    assert done.code == 1
    (failure,) = done.json["failures"]
    assert victim.name in failure["culprit"]
    assert done.json["everything"][0]["n_images"] == 2


class Picky(DummySegmenter):
    """Runs out of memory at some images, which it knows by their first pixel."""

    pixels: tuple[tuple[int, ...], ...] = ()

    def everything(self, image: UInt8Array) -> list[MaskRecord]:
        if tuple(image[0, 0]) in Picky.pixels:
            np.empty(2**60, np.uint8)  # more than any machine has
        return super().everything(image)


def picky(options: ModelOptions) -> Picky:
    return Picky(options.name, {})


def test_an_image_at_which_memory_runs_out_is_left_out_for_the_model_and_listed(
    run: Any, shards: Path, third_party: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [each for each in Sa1bDataset(shards).samples() if isinstance(each, Sample)]
    pixels = [tuple(map(int, each.image[0, 0])) for each in samples]
    victim = next(i for i, pixel in enumerate(pixels) if pixels.count(pixel) == 1)
    monkeypatch.setattr(Picky, "pixels", (pixels[victim],))
    third_party("picky", f"{__name__}:picky")
    done = everything(run, shards, "out", "--models=dummy,picky", "--chunk=3")
    assert done.code == 1
    assert [row["n_images"] for row in done.json["everything"]] == [11, 10]
    (failure,) = done.json["failures"]
    assert failure["culprit"] == samples[victim].name
    assert "picky fails at it: " in failure["why"]
    assert "Unable to allocate" in failure["why"]
    whole = everything(run, shards, "whole", "--models=dummy,picky")
    assert rows_of(done.json) == approximately(rows_of(whole.json))
    assert done.json["failures"] == whole.json["failures"]
    for found in (done, whole):
        assert [line for line in found.json["warnings"] if "picky" in line] == [
            "picky answered 10 of 11 images of everything: its figures are on fewer images than "
            "those of the others"
        ]


def test_a_model_that_fails_always_has_an_error_and_the_others_their_figures(
    run: Any, shards: Path, third_party: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [each for each in Sa1bDataset(shards).samples() if isinstance(each, Sample)]
    monkeypatch.setattr(Picky, "pixels", tuple(tuple(map(int, s.image[0, 0])) for s in samples))
    third_party("picky", f"{__name__}:picky")
    done = everything(run, shards, "out", "--models=dummy,picky", "--chunk=4")
    assert done.code == 1
    statuses = [(row["status"], row["n_images"]) for row in done.json["everything"]]
    assert statuses == [("ok", 11), ("error", 0)]
    (failure,) = done.json["failures"]
    assert failure["culprit"] == "picky"
    assert "fails at each of the first 5 images: " in failure["why"]
    whole = everything(run, shards, "whole", "--models=dummy,picky")
    assert done.json["failures"] == whole.json["failures"]
    assert rows_of(done.json) == approximately(rows_of(whole.json))


scores = st.sampled_from([0.1, 0.5, 0.9])


@st.composite
def images(draw: st.DrawFn) -> tuple[list[Any], list[tuple[Any, float]]]:
    size = 40

    def box() -> Any:
        y, x = draw(st.integers(0, 30)), draw(st.integers(0, 30))
        mask = np.zeros((size, size), np.bool_)
        mask[y : y + draw(st.integers(1, size)), x : x + draw(st.integers(1, size))] = True
        return mask

    truth = [box() for _ in range(draw(st.integers(0, 3)))]
    found = [
        (draw(st.sampled_from(truth)) if truth and draw(st.booleans()) else box(), draw(scores))
        for _ in range(draw(st.integers(0, 13)))
    ]
    return truth, found


@settings(max_examples=25, deadline=None)
@given(st.lists(images(), min_size=1, max_size=4), st.sampled_from([32.0**2, 96.0**2, 5.0]))
def test_recall_adds_up_over_images(drawn: list[Any], area: float) -> None:
    sizes, truth, found, rows = {}, [], [], []
    for number, (objects, masks) in enumerate(drawn):
        sizes[number] = (40, 40)
        # A stated area on the border between two sizes belongs to both.
        own = [GroundTruthMask(number, AGNOSTIC, encode_mask(mask), area) for mask in objects]
        given_masks = [FoundMask(number, AGNOSTIC, encode_mask(m), score) for m, score in masks]
        truth += own
        found += given_masks
        alone = [FoundMask(0, AGNOSTIC, each.rle, each.score) for each in given_masks]
        at_zero = [GroundTruthMask(0, AGNOSTIC, each.rle, each.area_px) for each in own]
        asked = _Asked(number, str(number), (40, 40), at_zero, (("model", 1.0, alone),))
        rows += _score(asked)
    if not truth:
        return
    expected = average_recall(sizes, truth, found, LIMITS)
    import pandas as pd

    sums = _Sums()
    names = list(WholeImageRow.model_fields)
    frame = pd.DataFrame({name: [getattr(row, name) for row in rows] for name in names})
    sums.add(frame.astype({name: float for name in names if name not in ("name", "model")}))
    fields = sums.fields()
    for name, value in zip(("ar10", "ar100", "ar1000"), expected.at, strict=True):
        assert fields[name] == pytest.approx(value, abs=1e-12)
    for name in ("small", "medium", "large"):
        mine, theirs = getattr(fields["ar1000_by_size"], name), getattr(expected.by_size, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine == pytest.approx(theirs, abs=1e-12)
