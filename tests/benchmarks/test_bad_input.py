"""Bad input of each kind: one line of error, counted, and the rest of the run is kept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import check_messages
from PIL import Image

from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_sa1b
from benchmarks.records.record import RECORD_NAME, load_record
from benchmarks.records.run_folder import LOCK_NAME

ROOT = Path(__file__).resolve().parents[2]
BOX = ("miou", "--models=box", "--protocol=box")

Document = dict[str, Any]


def check_one_failure(
    done: Any, message: str, n_images: int, n_instances: int | None = None
) -> None:
    """Asserts one failure of one line, exit code 1, and that the rest was measured."""
    assert done.code == 1
    (failure,) = done.json["failures"]
    assert message in failure["why"]
    assert "\n" not in failure["why"]
    assert done.err.count(failure["why"]) == 1
    assert "1 failures (1 of data); the rest is kept" in done.err
    check_messages(done.err)
    (row,) = done.json["rows"]
    assert (row["status"], row["n_images"]) == ("ok", n_images)
    assert n_instances is None or row["n_instances"] == n_instances


# --- one image of three ---------------------------------------------------------------------------


def truncate_jpeg(path: Path) -> None:
    buffer = io.BytesIO()
    Image.open(path).convert("RGB").save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[:-300])


def blank_image(width: int, height: int) -> Callable[[Path], None]:
    return lambda path: Image.new("1", (width, height)).save(path)


def make_symlink_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


IMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing image": (Path.unlink, "No such file"),
    "empty file": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "truncated JPEG": (truncate_jpeg, "cut off"),
    "text named as an image": (lambda path: path.write_text("hello"), "not an image"),
    "1x1 image": (blank_image(1, 1), "is 1x1 px, but its annotations are for 128x96 px"),
    "100-megapixel image": (blank_image(10_001, 10_000), "allow it with --max-pixels 100010000"),
    "symlink loop": (make_symlink_loop, "Too many levels of symbolic links"),
    "pipe": (make_fifo, "pipe or device"),
}


@pytest.mark.parametrize(("damage", "message"), IMAGES.values(), ids=IMAGES)
def test_an_unreadable_image_is_one_failure(
    run: Any, scenes: Any, damage: Callable[[Path], None], message: str
) -> None:
    first = min(scenes.images.iterdir())
    damage(first)
    done = run(*BOX, *scenes.arguments, "--json")
    check_one_failure(done, message, n_images=2)
    assert done.json["failures"][0]["culprit"] == first.name


def test_max_pixels_sets_the_largest_image(run: Any, scenes: Any) -> None:
    n_pixels = 96 * 128
    refused = run(*BOX, *scenes.arguments, f"--max-pixels={n_pixels - 1}", "--out=a", "--json")
    assert refused.code == 1
    assert len(refused.json["failures"]) == 3
    allowed = run(*BOX, *scenes.arguments, f"--max-pixels={n_pixels}", "--out=b", "--json")
    assert allowed.code == 0
    assert allowed.json["rows"][0]["n_images"] == 3
    picture = min(scenes.images.iterdir())
    predict = ("predict", picture, "--model=box", "--box=1,1,9,9", "--json")
    assert run(*predict, "--max-pixels=100").code == 1
    assert run(*predict, f"--max-pixels={n_pixels}").code == 0
    for invalid in ("0", "3000000000"):
        assert run(*BOX, *scenes.arguments, f"--max-pixels={invalid}").code == 2


# --- one annotation -------------------------------------------------------------------------------


def replaced(key: str, value: Any) -> Callable[[Document], None]:
    def damage(document: Document) -> None:
        document["annotations"][0][key] = value

    return damage


def same_id(document: Document) -> None:
    rows = document["annotations"]
    rows[-1]["id"] = rows[0]["id"]


ANNOTATIONS: dict[str, tuple[Callable[[Document], None], str]] = {
    "RLE of the wrong size": (
        replaced("segmentation", {"size": [96, 127], "counts": [96 * 127]}),
        "the RLE has size [96, 127], but the image [96, 128]",
    ),
    "RLE too short": (replaced("segmentation", {"size": [96, 128], "counts": [5]}), "add up to 5"),
    "polygon with 2 points": (replaced("segmentation", [[1, 1, 9, 9]]), "2 points; an area needs"),
    "box outside the image": (replaced("bbox", [500, 3, 9, 9]), "outside of the image of 128x96"),
    "NaN in a box": (replaced("bbox", [1, float("nan"), 9, 9]), "bbox.1: Input should be a finite"),
    "NaN in a polygon": (
        replaced("segmentation", [[1, 1, 9, 9, 1, float("nan")]]),
        "coordinate nan",
    ),
    "infinite area": (replaced("area", float("inf")), "area: Input should be a finite"),
    "duplicate id": (same_id, "is given twice; ids must be unique"),
    "unknown image": (replaced("image_id", 4711), "image_id 4711, which the file does"),
}


@pytest.mark.parametrize(("damage", "message"), ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_a_malformed_annotation_is_one_failure(
    run: Any, scenes: Any, damage: Callable[[Document], None], message: str
) -> None:
    document = scenes.read()
    n_instances = len(document["annotations"])
    damage(document)
    scenes.write(document)
    done = run(*BOX, *scenes.arguments, "--json")
    check_one_failure(done, message, n_images=3, n_instances=n_instances - 1)
    assert "annotations left out: malformed" in " ".join(done.json["warnings"])


@pytest.mark.parametrize("command", ["miou", "everything"])
def test_a_resumed_run_reports_malformed_annotations_again(
    run: Any, tmp_path: Path, command: str
) -> None:
    folder = tmp_path / "sa1b"
    write_sa1b(SyntheticDataset(n_images=2, seed=5, size_hw=(48, 64)), folder, tar=False)
    file = sorted(folder.rglob("*.json"))[0]
    document = json.loads(file.read_text())
    document["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [5]}
    file.write_text(json.dumps(document))
    protocol = ("--protocol=box",) if command == "miou" else ()
    arguments = (command, "--models=dummy", "--dataset=sa1b", f"--root={folder}", "--out=o",
                 *protocol, "--json", "--verbose")  # fmt: skip
    first, again = run(*arguments), run(*arguments)
    assert "taken from the interrupted run" in again.err
    assert (first.code, again.code) == (1, 1)
    assert again.json["failures"] == first.json["failures"]
    assert len(first.json["failures"]) == 1
    notes = [
        [line for line in each.json["warnings"] if "left out" in line] for each in (first, again)
    ]
    assert notes[0] == notes[1] != []


def test_a_duplicate_image_id_is_reported(run: Any, scenes: Any) -> None:
    document = scenes.read()
    document["images"][1]["id"] = document["images"][0]["id"]
    scenes.write(document)
    done = run(*BOX, *scenes.arguments, "--json")
    assert done.code == 1
    whys = " ".join(failure["why"] for failure in done.json["failures"])
    assert "image id 0 is given twice" in whys
    assert "image_id 1, which the file does not define" in whys
    assert done.json["rows"][0]["n_images"] == 1


# --- the whole annotation file --------------------------------------------------------------------

FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing annotation file": (Path.unlink, "No such file"),
    "empty annotation file": (lambda path: path.write_bytes(b""), "not valid JSON"),
    "malformed JSON": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not valid JSON"),
    "JSON of something else": (lambda path: path.write_text("{}"), "COCO instances file?"),
    "annotation file is a loop": (make_symlink_loop, "Too many levels of symbolic links"),
}


@pytest.mark.parametrize(("damage", "message"), FILES.values(), ids=FILES)
def test_an_unreadable_annotation_file_is_one_error(
    run: Any, scenes: Any, damage: Callable[[Path], Any], message: str
) -> None:
    damage(scenes.annotations)
    done = run(*BOX, *scenes.arguments)
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert "instances.json" in done.err
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


# --- SA-1B ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sa1b_source(scenes_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes as a folder of SA-1B with two tars, of two images and of one image."""
    folder = tmp_path_factory.mktemp("sa1b")
    dataset = CocoDataset(scenes_source / "images", scenes_source / "instances.json")
    write_sa1b(dataset, folder, tar=True, images_per_tar=2)
    return folder


def repack(path: Path, change: Callable[[dict[str, bytes | str]], None]) -> None:
    """Changes the files of a tar; a text in place of bytes is the target of a link."""
    with tarfile.open(path) as tar:
        files: dict[str, bytes | str] = {
            member.name: tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
        }
    change(files)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def in_tar(change: Callable[[dict[str, bytes | str]], Any]) -> Callable[[Path], None]:
    return lambda folder: repack(folder / "sa_000000.tar", change)


def cut_short(folder: Path) -> None:
    path = folder / "sa_000001.tar"
    path.write_bytes(path.read_bytes().rstrip(b"\0"))  # removes the end marker


def without(name: str) -> Callable[[dict[str, bytes | str]], Any]:
    return lambda files: files.pop(next(each for each in files if each.endswith(name)))


def make_tar_loop(folder: Path) -> None:
    (folder / "sa_000002.tar").symlink_to("sa_000002.tar")


TARS: dict[str, tuple[Callable[[Path], None], str, int]] = {
    "tar cut short": (cut_short, "sa_000001.tar is cut off or damaged", 3),
    "empty tar": (
        lambda folder: (folder / "sa_000001.tar").write_bytes(b"") and None,
        "sa_000001.tar is not a plain tar",
        2,
    ),
    "text named .tar": (
        lambda folder: (folder / "sa_000002.tar").write_text("hello") and None,
        "sa_000002.tar is not a plain tar",
        3,
    ),
    "absolute name": (in_tar(lambda files: files.update({"/sa_7.jpg": b"x"})), "outside", 3),
    "name with ..": (in_tar(lambda files: files.update({"../sa_7.jpg": b"x"})), "outside", 3),
    "link": (in_tar(lambda files: files.update({"sa_7.jpg": "/etc/passwd"})), "is a link", 3),
    "tar is a loop": (make_tar_loop, "Too many levels of symbolic links", 3),
    "missing annotation file": (in_tar(without("sa_0.json")), "no sa_0.json next to it", 2),
    "missing image": (in_tar(without("sa_0.jpg")), "no sa_0.jpg next to it", 2),
}


@pytest.mark.parametrize(("damage", "message", "n_images"), TARS.values(), ids=TARS)
def test_a_bad_file_in_sa1b_is_one_failure(
    run: Any,
    sa1b_source: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    message: str,
    n_images: int,
) -> None:
    folder = shutil.copytree(sa1b_source, tmp_path / "sa1b")
    damage(folder)
    done = run(*BOX, "--dataset=sa1b", f"--root={folder}", "--json")
    check_one_failure(done, message, n_images)


def write_without_masks(folder: Path) -> None:
    """Writes two images of SA-1B whose annotations have boxes but no masks."""
    write_sa1b(SyntheticDataset(n_images=2, seed=5, size_hw=(48, 64)), folder)
    for path in folder.glob("*.json"):
        document = json.loads(path.read_text())
        document["annotations"] = [
            {**row, "segmentation": []} for row in document["annotations"][:3]
        ]
        path.write_text(json.dumps(document))


def write_without_pairs(folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / "sa_000000.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("readme.txt"), io.BytesIO())


@pytest.mark.parametrize("chunk", [(), ("--chunk=1",)], ids=["whole", "chunks"])
@pytest.mark.parametrize(
    "command", [("miou", "--protocol=box"), ("everything",)], ids=lambda x: x[0]
)
@pytest.mark.parametrize(
    ("make", "why", "failures"),
    [
        (
            write_without_masks,
            "none of the 2 images can be read: nothing was measured",
            [
                f"sa_{n}.json has no usable annotation: 3 of 3 have no mask: boxes only? "
                "(0 instances left out)"
                for n in (0, 1)
            ],
        ),
        (
            write_without_pairs,
            "there is no image with an instance: nothing was measured",
            ["there is no image with an instance: nothing was measured"],
        ),
    ],
    ids=["no masks", "no pairs"],
)
def test_without_usable_images_the_row_is_an_error_with_its_reason(
    run: Any,
    tmp_path: Path,
    make: Callable[[Path], None],
    why: str,
    failures: list[str],
    command: tuple[str, ...],
    chunk: tuple[str, ...],
) -> None:
    make(tmp_path / "d")
    done = run(*command, "--models=dummy", "--dataset=sa1b", f"--root={tmp_path / 'd'}", *chunk,
               "--threads=1", "--json")  # fmt: skip
    assert done.code == 1
    (row,) = [*done.json["rows"], *done.json["everything"]]
    assert (row["status"], row["why"], row["n_images"]) == ("error", why, 0)
    assert [each["why"] for each in done.json["failures"]] == failures
    assert not any("Traceback" in line for line in done.err.splitlines())


@pytest.mark.parametrize("dataset", ["coco", "sa1b"])
def test_chunks_report_the_same_failures_also_when_resumed(
    run: Any, scenes: Any, tmp_path: Path, dataset: str
) -> None:
    if dataset == "sa1b":
        write_sa1b(CocoDataset(scenes.images, scenes.annotations), tmp_path / "sa1b")
        path, image = tmp_path / "sa1b" / "sa_0.json", tmp_path / "sa1b" / "sa_1.jpg"
        arguments = ["--dataset=sa1b", f"--root={tmp_path / 'sa1b'}"]
    else:
        path, image = scenes.annotations, sorted(scenes.images.iterdir())[1]
        arguments = scenes.arguments
    document = json.loads(path.read_text())
    replaced("bbox", [1, float("nan"), 9, 9])(document)
    path.write_text(json.dumps(document))
    image.write_bytes(b"")
    whole = run(*BOX, *arguments, "--json")
    whys = sorted(failure["why"] for failure in whole.json["failures"])
    assert len(whys) == 2
    for _ in range(2):
        done = run(*BOX, *arguments, "--chunk=1", "--out=o", "--json")
        assert done.code == 1
        assert sorted(failure["why"] for failure in done.json["failures"]) == whys
        assert done.json["rows"][0]["miou"] == pytest.approx(whole.json["rows"][0]["miou"])


# --- output folders -----------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", *arguments]


def environment(tmp_path: Path) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "MOBILESAM_CACHE": str(tmp_path / "cache"),
    }


def can_mount(folder: Path) -> bool:
    """Whether this user can mount a file system in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    test = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)]
    return subprocess.run(test, capture_output=True, check=False).returncode == 0


MOUNTS = """
mkdir readonly tiny small
mount -t tmpfs -o ro none readonly
mount -t tmpfs -o size=4k none tiny
mount -t tmpfs -o size=28k none small
exec "$@"
"""
EACH = """
import pathlib, sys
from benchmarks.cli.app import main
for out in ("readonly", "tiny", "small"):
    sys.stderr.write(f"--- {out}\\n")
    code = main([*sys.argv[1:], f"--out={out}/run"])
    left = sorted(each.name for each in pathlib.Path(out).rglob("*") if each.is_file())
    sys.stderr.write(f"exit {code}, left {left}\\n")
    if "record.json" in left:
        from benchmarks.records.record import load_record
        load_record(pathlib.Path(out) / "run")
"""


def test_read_only_and_full_output_folders(scenes: Any, tmp_path: Path) -> None:
    """A full disk leaves no partial file, and complete files stay."""
    if not can_mount(tmp_path):
        pytest.skip("mounting a small file system is not permitted here")
    arguments = [sys.executable, "-c", EACH, *BOX, *scenes.arguments]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-ec", MOUNTS, "sh", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    _, readonly, tiny, small = done.stderr.split("--- ")
    for name, text, why in (
        ("readonly", readonly, "Read-only file system"),
        ("tiny", tiny, "No space left on device"),
        ("small", small, "No space left on device"),
    ):
        lines = text.splitlines()
        (error,) = [line for line in lines if line.startswith("error: ")]
        assert f"{name}/run" in error
        assert why in error
        assert lines[-1].startswith("exit 1, ")
        assert "'." not in lines[-1].replace(LOCK_NAME, "")  # no temporary file
    assert lines[-1] != "exit 1, left []"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Restores the handler of SIGINT, which processes started in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_finished_models_and_the_run_resumes(
    scenes: Any, tmp_path: Path, run: Any
) -> None:
    """The exit code is 130, the record is written, and the same command resumes it."""
    arguments = ("miou", "--models=box,grabcut", *scenes.arguments,
                 "--protocol=box,center,random-3,two-point-20", "--out=o")  # fmt: skip
    with (
        interruptible(),
        subprocess.Popen(
            command(*arguments),
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("box: mIoU"):  # grabcut comes next
                process.send_signal(signal.SIGINT)
    text = "".join(lines)
    assert process.returncode == 130, text
    assert "what was finished is kept" in text
    assert "Traceback" not in text
    assert not load_record(tmp_path / "o").complete
    again = run(*arguments, "--json", "--verbose")
    assert again.code == 0
    assert "box: taken from the interrupted run" in again.err
    assert load_record(tmp_path / "o" / RECORD_NAME).complete
    found = {(row["model"], row["protocol"]): row["status"] for row in again.json["rows"]}
    assert found["box", "box"] == found["grabcut", "box"] == "ok"


# --- images that are read -----------------------------------------------------------------------


def pixels_of(size_hw: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def as_grey16(path: Path, picture: Image.Image) -> None:
    grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path, "PNG")


def as_rotated(path: Path, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(path, "JPEG", exif=exif)


def as_animation(path: Path, picture: Image.Image) -> None:
    picture.save(path, "GIF", save_all=True, append_images=[picture.rotate(180)])


PICTURES: dict[str, Callable[[Path, Image.Image], None]] = {
    "grey": lambda path, picture: picture.convert("L").save(path, "PNG"),
    "CMYK": lambda path, picture: picture.convert("CMYK").save(path, "JPEG"),
    "16-bit": as_grey16,
    "EXIF-rotated": as_rotated,
    "animated": as_animation,
    "palette": lambda path, picture: picture.convert("P").save(path, "PNG"),
    "alpha": lambda path, picture: picture.convert("RGBA").save(path, "PNG"),
}


@pytest.mark.parametrize("save", PICTURES.values(), ids=PICTURES)
def test_images_of_each_mode_are_read(
    run: Any, scenes: Any, save: Callable[[Path, Image.Image], None]
) -> None:
    first = min(scenes.images.iterdir())
    save(first, Image.open(first).convert("RGB"))
    done = run(*BOX, *scenes.arguments, "--json")
    assert done.code == 0, done.err
    assert done.json["rows"][0]["n_images"] == 3


def one_image(folder: Path, size_hw: tuple[int, int]) -> list[str]:
    """Writes a dataset of one PNG with one object, a square of up to 40 px in a corner."""
    height, width = size_hw
    side = min(height, width, 40)
    Image.new("L", (width, height)).save(folder / "a.png", compress_level=1)
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, side, side],
           "segmentation": [[0, 0, side, 0, side, side, 0, side]]}  # fmt: skip
    image = {"id": 1, "file_name": "a.png", "height": height, "width": width}
    document = {"images": [image], "annotations": [row], "categories": [{"id": 1, "name": "a"}]}
    (folder / "instances.json").write_text(json.dumps(document))
    return ["--dataset=coco", f"--images={folder}", f"--annotations={folder / 'instances.json'}"]


@pytest.mark.parametrize("size_hw", [(1, 1), (5000, 6200)], ids=["1x1", "31 megapixels"])
def test_the_smallest_and_a_large_image_are_read(
    run: Any, tmp_path: Path, size_hw: tuple[int, int]
) -> None:
    done = run(*BOX, *one_image(tmp_path, size_hw), "--json")
    assert done.code == 0, done.err
    assert done.json["rows"][0]["miou"] == 1
