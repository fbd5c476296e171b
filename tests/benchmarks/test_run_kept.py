"""Nothing that was measured is lost: interrupted runs, damaged cells, changed inputs."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import photos
from benchmarks.datasets.images import files_state
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_sa1b
from benchmarks.evaluation import shard_worker
from benchmarks.latency.runner import PhaseLine
from benchmarks.records import environment
from benchmarks.records import result_cache as cells
from benchmarks.records.record import (
    MiouRow,
    RunRecord,
    WeightsRow,
    load_record,
    save_record,
    write_atomic,
)
from benchmarks.records.result_cache import ResultCache, content_key
from mobilesam.errors import DataError


def test_ctrl_c_is_exit_130_and_what_was_finished_is_kept(
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
    whole = shard_worker.evaluate_model
    seen: list[str] = []

    def interrupted(model: Any, *arguments: Any) -> Any:
        seen.append(model.info.name)
        if model.info.name == "dummy" and seen.count("dummy") == 1:
            raise KeyboardInterrupt
        return whole(model, *arguments)

    monkeypatch.setattr(shard_worker, "evaluate_model", interrupted)
    stopped = run(*command)
    assert stopped.code == 130
    assert "kept" in stopped.err
    assert not load_record(tmp_path / "o").complete
    again = run(*command)
    assert again.code == 0
    assert seen == ["box", "dummy", "dummy"]
    assert [row["status"] for row in again.json["rows"]] == ["ok", "ok"]
    assert load_record(tmp_path / "o").complete


def test_a_model_that_fails_is_a_row_and_the_next_one_is_measured(
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


def test_an_image_that_is_mended_counts_when_the_run_is_started_again(
    run: Any, scenes: Any
) -> None:
    command = ("miou", "--models=box,dummy", *scenes.arguments, "--protocol=box", "--out=o")
    first = min(scenes.images.iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[:100])
    broken = run(*command, "--json")
    assert broken.code == 1
    assert [row["n_images"] for row in broken.json["rows"]] == [2, 2]
    first.write_bytes(whole)
    mended = run(*command, "--json")
    assert mended.code == 0
    assert [row["n_images"] for row in mended.json["rows"]] == [3, 3]


def test_a_foreign_network_without_weights_gets_no_accuracy(
    run: Any, scenes: Any, third_party: Any
) -> None:
    third_party("theirs", "baselines.sam:build_mobilesam")
    done = run("miou", "--models=theirs", *scenes.arguments, "--protocol=box", "--json")
    (row,) = done.json["rows"]
    assert (row["status"], row["miou"], row["weights"]["kind"]) == ("skipped", None, "random")
    assert "--weights theirs=PATH" in row["why"]


def test_an_unusable_out_is_found_before_anything_is_measured(
    run: Any, scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_worker, "evaluate_model", lambda *_: pytest.fail("measured in vain"))
    (tmp_path / "file").write_text("")
    done = run("miou", "--models=box", *scenes.arguments, "--out=file/inside")
    assert done.code == 1
    assert "choose another --out" in done.err


LINE = PhaseLine(phase="encode", samples_ms=(1.0,))


def test_a_cell_is_found_again_under_the_same_key_only(tmp_path: Path) -> None:
    store = ResultCache(tmp_path)
    store.put({"a": 1}, LINE)
    assert store.get({"a": 1}, PhaseLine) == LINE
    assert store.get({"a": 2}, PhaseLine) is None


def test_a_damaged_cell_counts_as_missing(tmp_path: Path) -> None:
    store = ResultCache(tmp_path)
    store.put({"a": 1}, LINE)
    (cell,) = tmp_path.glob("*.json")
    cell.write_bytes(cell.read_bytes()[:-5])
    assert store.get({"a": 1}, PhaseLine) is None


@pytest.mark.parametrize("what", ["code_version", "library_versions"])
def test_other_code_or_libraries_are_another_key(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = content_key({"a": 1})
    monkeypatch.setattr(cells, what, lambda: "changed")
    assert content_key({"a": 1}) != before


def record() -> RunRecord:
    return RunRecord(
        id="x",
        created_utc="2026-01-01T00:00:00+00:00",
        command="c",
        profile=None,
        config={},
        resume_key="k",
        environment=environment.collect(threads=1),
        duration_s=1.0,
    )


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    made = record()
    assert load_record(save_record(made, tmp_path)) == made
    assert load_record(tmp_path) == made


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 3}'])
def test_what_is_no_record_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(DataError, match=r"record\.json is not a record") as caught:
        load_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_absent_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the record"):
        load_record(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        write_atomic(tmp_path / "taken", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


MAPS = """
400000-500000 r-xp 00000000 fe:00 1                              /usr/bin/python3.11
7f0000000000-7f0000001000 r-xp 00000000 fe:00 2                  /opt/my libs/libtcmalloc.so.4
7f0000001000-7f0000002000 r-xp 00000000 fe:00 3                  /usr/lib/libc.so.6
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
""".strip()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0x7F0000000000, "libtcmalloc.so.4"),
        (0x7F0000000FFF, "libtcmalloc.so.4"),
        (0x7F0000001000, "libc.so.6"),
        (0x7F0000002000, None),
        (0x1, None),
    ],
)
def test_a_library_is_found_by_an_address_in_it(address: int, name: str | None) -> None:
    assert environment.library_at(MAPS, address) == name


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("libtcmalloc_minimal.so.4", "tcmalloc (libtcmalloc_minimal.so.4)"),
        ("libjemalloc.so.2", "jemalloc (libjemalloc.so.2)"),
        ("libhoard.so", "libhoard.so"),
        ("libc-2.31.so", "glibc"),
        (None, "glibc"),
    ],
)
def test_the_environment_names_the_allocator_that_is_mapped(
    monkeypatch: pytest.MonkeyPatch, library: str | None, name: str
) -> None:
    monkeypatch.setattr(environment, "_malloc_library", lambda: library)
    monkeypatch.setattr(environment.platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert environment.allocator().startswith(name)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert ("MALLOC_ARENA_MAX=1" in environment.allocator()) == (name == "glibc")


def test_the_text_of_ld_preload_names_no_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nowhere/libtcmalloc.so.4")
    assert "tcmalloc" not in environment.allocator()


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs a C compiler")
def test_a_preloaded_allocator_is_seen(tmp_path: Path) -> None:
    source, library = tmp_path / "own.c", tmp_path / "libownjemalloc.so"
    source.write_text(
        "#include <stddef.h>\nextern void *__libc_malloc(size_t);\n"
        "void *malloc(size_t n) { return __libc_malloc(n); }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    code = "from benchmarks.records import environment; print(environment.allocator())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout.strip() == "jemalloc (libownjemalloc.so)"


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_record_of_another_version_is_refused(tmp_path: Path, version: object) -> None:
    path = save_record(record(), tmp_path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "schema_version": version}))
    with pytest.raises(DataError, match="not a record of this version: schema_version"):
        load_record(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_record_with_a_number_that_is_none_is_not_written(tmp_path: Path, value: float) -> None:
    row = MiouRow(
        model="box", dataset="d", protocol="box", reference="r", weights=WeightsRow(kind="none")
    )
    broken = record().model_copy(update={"miou": (row.model_copy(update={"miou": value}),)})
    with pytest.raises(DataError, match=f"not written: miou.0.miou is {value}"):
        save_record(broken, tmp_path)
    assert not list(tmp_path.iterdir())
    in_config = record().model_copy(update={"config": {"a": {"b": [1.0, value]}}})
    with pytest.raises(DataError, match=r"config\.a\.b\.1"):
        save_record(in_config, tmp_path)


def test_a_loaded_machine_is_warned_of() -> None:
    here = record().environment
    busy = here.model_copy(update={"load_1min": 99.0, "threads": 999})
    texts = environment.warnings(busy)
    assert any(text.startswith("noisy") for text in texts)
    assert any("999 threads" in text for text in texts)
    calm = here.model_copy(update={"load_1min": 0.0, "threads": 1})
    assert not any(text.startswith("noisy") for text in environment.warnings(calm))


def test_peak_memory_is_this_processs_own() -> None:
    before = environment.peak_rss_bytes()
    block = bytearray(150 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert environment.peak_rss_bytes() >= before
    assert environment.peak_rss_bytes() > 150 * 2**20


def darkened(images: Path, copies: Path) -> Path:
    """Copies of a folder's pictures without their light, with the times of the originals."""
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
def test_changed_copies_of_the_images_are_another_run(
    run: Any, scenes: Any, tmp_path: Path, chunk: tuple[str, ...]
) -> None:
    copies = darkened(scenes.images, tmp_path / "copies")
    usual = ("miou", "--models=grabcut", "--protocol=box", f"--annotations={scenes.annotations}")
    usual = (*usual, "--dataset=coco", *chunk, "--json")
    before = run(*usual, f"--images={scenes.images}", "--out=o").json["rows"][0]
    alone = run(*usual, f"--images={copies}", "--out=alone").json["rows"][0]
    assert alone["miou"] != before["miou"]
    refused = run(*usual, f"--images={copies}", "--out=o")
    assert refused.code == 1
    assert "moved or changed" in refused.err
    (tmp_path / "o" / "record.json").unlink()  # as if the first run had been killed
    (row,) = run(*usual, f"--images={copies}", "--out=o").json["rows"]
    assert row["miou"] == alone["miou"]
    # The annotations are the same, so are the prompts.
    assert row["manifest_sha256"] == before["manifest_sha256"]


@pytest.mark.parametrize("chunk", [(), ("--chunk=1",)])
def test_changed_pixels_of_the_packaged_photos_are_measured_again(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: tuple[str, ...]
) -> None:
    """As if a package with other pictures and the same annotations had been installed."""
    folder = tmp_path / "photos"
    shutil.copytree(photos.FOLDER, folder)
    monkeypatch.setattr(photos, "FOLDER", folder)
    usual = ("miou", "--models=grabcut", "--protocol=box", "--no-boundary", "--limit=1")
    usual = (*usual, "--dataset=photos", *chunk, "--json")
    before = run(*usual, "--out=o").json["rows"][0]
    dark = darkened(folder / "images", tmp_path / "dark")
    shutil.rmtree(folder / "images")
    dark.rename(folder / "images")
    alone = run(*usual, "--out=alone").json["rows"][0]
    assert alone["miou"] != before["miou"]
    refused = run(*usual, "--out=o")
    assert refused.code == 1
    assert "moved or changed" in refused.err
    (tmp_path / "o" / "record.json").unlink()  # as if the first run had been killed
    (row,) = run(*usual, "--out=o").json["rows"]
    assert row["miou"] == alone["miou"]
    assert row["manifest_sha256"] == before["manifest_sha256"]


def test_a_changed_image_of_lvis_in_a_flat_folder_is_noticed(tmp_path: Path) -> None:
    """`coco_url` gives two places where a file may lie; the state holds whichever is there."""
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


def test_the_state_of_images_tells_folders_names_sizes_and_times_apart(tmp_path: Path) -> None:
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
