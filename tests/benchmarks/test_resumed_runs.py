"""Runs that are interrupted and resumed: finished results are kept unless inputs have changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.config import from_options
from benchmarks.datasets import photos
from benchmarks.datasets.images import files_state
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_sa1b
from benchmarks.evaluation.evaluate import ShardEvaluation
from benchmarks.records.environment import ThreadChoice
from benchmarks.records.record import RecordBuilder, RunRecord, load_record


def test_ctrl_c_is_exit_130_and_finished_models_are_kept(
    run: Any, scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (
        "miou",
        "--models=box,dummy",
        *scenes.arguments,
        "--protocol=box",
        "--out=o",
        "--json",
    )
    measure = ShardEvaluation.measure
    seen: list[str] = []

    def interrupted(self: ShardEvaluation, model: Any, *arguments: Any) -> Any:
        seen.append(model.info.name)
        if model.info.name == "dummy" and seen.count("dummy") == 1:
            raise KeyboardInterrupt
        return measure(self, model, *arguments)

    monkeypatch.setattr(ShardEvaluation, "measure", interrupted)
    stopped = run(*command)
    assert stopped.code == 130
    assert "kept" in stopped.err
    assert not load_record(tmp_path / "o").complete
    again = run(*command)
    assert again.code == 0
    assert seen == ["box", "dummy", "dummy"]
    assert [row["status"] for row in again.json["rows"]] == ["ok", "ok"]
    assert load_record(tmp_path / "o").complete


def test_a_run_is_resumed_with_its_number_of_threads(
    run: Any, scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many cores are free when it is resumed, and though it may have been killed."""
    command = ("miou", "--models=box", *scenes.arguments, "--protocol=box", "--out=o")
    built = RecordBuilder.build

    def killed(self: RecordBuilder) -> RunRecord:
        if self.complete:
            raise OSError("as if killed: the record at the start is what is left")
        return built(self)

    monkeypatch.setattr(
        from_options, "free_threads", lambda **_: ThreadChoice(1, "one core is free")
    )
    monkeypatch.setattr(RecordBuilder, "build", killed)
    assert run(*command).code == 1
    record = load_record(tmp_path / "o")
    assert not record.complete
    assert (record.environment.threads, record.environment.threads_reason) == (
        1,
        "one core is free",
    )
    monkeypatch.setattr(RecordBuilder, "build", built)
    monkeypatch.setattr(
        from_options, "free_threads", lambda **_: ThreadChoice(2, "two cores are free")
    )
    resumed = run(*command)
    assert resumed.code == 0
    assert "resuming the run" in resumed.err
    assert load_record(tmp_path / "o").environment.threads == 1
    assert "nothing to do" in run(*command).err
    other = run(*command, "--threads=2")
    assert other.code == 1
    assert "holds a run of other inputs" in other.err
    assert "2 threads (two cores are free)" in run(*command[:-1], "--out=p").err


def test_a_failing_model_is_an_error_row_and_the_next_model_is_measured(
    run: Any, scenes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from baselines.dummy import DummySegmenter

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of colours")

    monkeypatch.setattr(DummySegmenter, "decode", broken)
    done = run("miou", "--models=dummy,box", *scenes.arguments, "--protocol=box", "--json")
    assert done.code == 1
    dummy, box = done.json["rows"]
    why = "fails at each of the first 3 images: RuntimeError: out of colours (in decode)"
    assert (dummy["status"], dummy["why"]) == ("error", why)
    assert box["status"] == "ok"


def test_a_repaired_image_is_measured_when_the_run_is_repeated(run: Any, scenes: Any) -> None:
    command = ("miou", "--models=box,dummy", *scenes.arguments, "--protocol=box", "--out=o")
    first = min(scenes.images.iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[:100])
    broken = run(*command, "--json")
    assert broken.code == 1
    assert [row["n_images"] for row in broken.json["rows"]] == [2, 2]
    first.write_bytes(whole)
    repaired = run(*command, "--json")
    assert repaired.code == 0
    assert [row["n_images"] for row in repaired.json["rows"]] == [3, 3]


def test_a_third_party_network_without_weights_is_skipped(
    run: Any, scenes: Any, third_party: Any
) -> None:
    third_party("theirs", "baselines.sam:build_mobilesam")
    done = run("miou", "--models=theirs", *scenes.arguments, "--protocol=box", "--json")
    (row,) = done.json["rows"]
    assert (row["status"], row["miou"], row["weights"]["kind"]) == ("skipped", None, "random")
    assert "--weights theirs=PATH" in row["why"]


def test_an_unusable_out_is_an_error_before_the_first_measurement(
    run: Any, scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardEvaluation, "measure", lambda *_: pytest.fail("a model was run"))
    (tmp_path / "file").write_text("")
    done = run("miou", "--models=box", *scenes.arguments, "--out=file/inside")
    assert done.code == 1
    assert "choose another --out" in done.err


def darken(images: Path, copies: Path) -> Path:
    """Writes darker copies of a folder's images with the same modification times."""
    copies.mkdir()
    for path in sorted(images.iterdir()):
        copy = copies / path.name
        if path.suffix == ".json":
            shutil.copy2(path, copy)
            continue
        Image.fromarray(np.asarray(Image.open(path)) // 8).save(copy)
        os.utime(copy, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    return copies


@pytest.mark.parametrize("chunk", [(), ("--chunk=2",)])
def test_changed_copies_of_the_images_are_measured_again(
    run: Any, scenes: Any, tmp_path: Path, chunk: tuple[str, ...]
) -> None:
    copies = darken(scenes.images, tmp_path / "copies")
    usual = ("miou", "--models=grabcut", "--protocol=box", f"--annotations={scenes.annotations}")
    usual = (*usual, "--dataset=coco", *chunk, "--json")
    before = run(*usual, f"--images={scenes.images}", "--out=o").json["rows"][0]
    alone = run(*usual, f"--images={copies}", "--out=alone").json["rows"][0]
    assert alone["miou"] != before["miou"]
    refused = run(*usual, f"--images={copies}", "--out=o")
    assert refused.code == 1
    assert "moved or changed" in refused.err
    (tmp_path / "o" / "record.json").unlink()  # as after a killed run
    (row,) = run(*usual, f"--images={copies}", "--out=o").json["rows"]
    assert row["miou"] == alone["miou"]
    # The annotations are the same, so are the prompts.
    assert row["manifest_sha256"] == before["manifest_sha256"]


@pytest.mark.parametrize("chunk", [(), ("--chunk=1",)])
def test_changed_pixels_of_the_packaged_photos_are_measured_again(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: tuple[str, ...]
) -> None:
    """Installing a package with other images and the same annotations has this effect."""
    folder = tmp_path / "photos"
    shutil.copytree(photos.FOLDER, folder)
    monkeypatch.setattr(photos, "FOLDER", folder)
    usual = ("miou", "--models=grabcut", "--protocol=box", "--no-boundary", "--limit=1")
    usual = (*usual, "--dataset=photos", *chunk, "--json")
    before = run(*usual, "--out=o").json["rows"][0]
    dark = darken(folder / "images", tmp_path / "dark")
    shutil.rmtree(folder / "images")
    dark.rename(folder / "images")
    alone = run(*usual, "--out=alone").json["rows"][0]
    assert alone["miou"] != before["miou"]
    refused = run(*usual, "--out=o")
    assert refused.code == 1
    assert "moved or changed" in refused.err
    (tmp_path / "o" / "record.json").unlink()  # as after a killed run
    (row,) = run(*usual, "--out=o").json["rows"]
    assert row["miou"] == alone["miou"]
    assert row["manifest_sha256"] == before["manifest_sha256"]


def test_the_state_of_images_includes_lvis_in_a_flat_folder(tmp_path: Path) -> None:
    """A file of `coco_url` may be in one of two places; the state includes the existing one."""
    from benchmarks.datasets.coco import CocoDataset

    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 6)).save(images / "1.jpg")
    document = {
        "images": [
            {"id": 1, "coco_url": "http://images.invalid/val2017/1.jpg", "width": 8, "height": 6}
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "area": 12.0,
                "bbox": [1, 1, 4, 3],
                "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]],
            }
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    annotations = tmp_path / "lvis.json"
    annotations.write_text(json.dumps(document))
    before = CocoDataset(images, annotations).images_state
    assert CocoDataset(images, annotations).images_state == before
    os.utime(images / "1.jpg", ns=(0, 1))
    assert CocoDataset(images, annotations).images_state != before


@pytest.mark.parametrize("chunk", [(), ("--chunk=2",)])
@pytest.mark.parametrize("tar", [False, True])
def test_a_changed_image_of_sa1b_is_measured_again(
    run: Any, tmp_path: Path, chunk: tuple[str, ...], tar: bool
) -> None:
    folder = tmp_path / "sa1b"
    write_sa1b(SyntheticDataset(n_images=3, seed=5, size_hw=(48, 64)), folder, tar=tar)
    usual = ("miou", "--models=grabcut", "--protocol=box", "--dataset=sa1b", f"--root={folder}")
    usual = (*usual, *chunk, "--out=o", "--json")
    assert run(*usual).code == 0
    file = min(folder.glob("*.tar" if tar else "*.jpg"))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert run(*usual).code == 1
    (tmp_path / "o" / "record.json").unlink()
    measured = run(*usual[:-1])
    assert measured.code == 0
    assert "taken from the interrupted run" not in measured.err
    assert "2 of 2 chunks were there" not in measured.err


def test_the_state_of_images_depends_on_folder_name_size_and_time(tmp_path: Path) -> None:
    files = [(tmp_path / "a", "x"), (tmp_path / "a", "y")]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    os.utime(tmp_path / "a" / "x", ns=(0, 5))
    states = [files_state(files)]
    assert states == [files_state(files)]
    os.utime(tmp_path / "a" / "x", ns=(0, 6))
    states.append(files_state(files))
    (tmp_path / "a" / "x").write_bytes(b"12")
    os.utime(tmp_path / "a" / "x", ns=(0, 6))
    states.append(files_state(files))
    (tmp_path / "a" / "y").write_bytes(b"")
    states.append(files_state(files))
    (tmp_path / "a").rename(tmp_path / "b")
    states.append(files_state([(tmp_path / "b", name) for _, name in files]))
    assert len(set(states)) == 5
    assert files_state([(tmp_path, "\0")])
