"""`distill embed --chunk`: the store of a run that goes image by image."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_distill_embed import EMBED, content

from baselines.options import Checkpoint, ModelOptions
from baselines.registry import build, select_one
from benchmarks.config.model_resolution import PlannedModel
from benchmarks.config.options import ModelArguments
from benchmarks.config.requests import device_of
from benchmarks.config.scale_options import ScaleRequest
from benchmarks.datasets.dataset import UnreadableImage
from benchmarks.distillation.embed import teacher_of
from benchmarks.distillation.embedding_shards import EmbedPlan
from benchmarks.distillation.sources import FolderImages
from benchmarks.records.environment import code_version
from benchmarks.records.record import WeightsRow
from mobilesam.errors import UsageError, WeightsError

pytestmark = pytest.mark.usefixtures("package")

Encoded = Callable[[], list[str]]
# What differs between two runs that find the same.
OF_THE_MOMENT = {"store", "seconds", "images_per_second"}


def add_odd_ones(pictures: Path) -> None:
    """A picture twice, one that cannot be read, one without a name as text, one of poison."""
    (pictures / "z.png").write_bytes((pictures / "p00.png").read_bytes())
    (pictures / "a.jpg").write_bytes(b"no picture")
    Path(os.fsdecode(bytes(pictures) + b"/d\xff.png")).write_bytes(b"")
    poison(pictures / "poison.png")


def poison(path: Path) -> None:
    Image.fromarray(np.full((8, 8, 3), 13, np.uint8)).save(path)


def lasting(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in OF_THE_MOMENT}


@pytest.mark.parametrize("options", [["--chunk=5"], ["--chunk=1", "--lanes=0"], ["--lanes=1"]])
def test_chunks_give_the_files_and_the_report_of_the_plain_run(
    run: Any, pictures: Path, tmp_path: Path, encoded: Encoded, options: list[str]
) -> None:
    add_odd_ones(pictures)
    if "--chunk=1" in options:
        (pictures / "poison.png").unlink()  # a chunk of nothing else is given up as a whole
    whole = run(*EMBED[:3], "--out=whole", f"--images={pictures}", "--json")
    parts = run(*EMBED, f"--images={pictures}", "--json", *options)
    assert whole.code == parts.code == 1
    assert lasting(parts.json) == lasting(whole.json)
    assert (parts.json["n_encoded"], parts.json["n_known"]) == (12, 1)
    assert parts.json["images_per_second"] > 0
    assert content(tmp_path / "s") == content(tmp_path / "whole")
    assert len(encoded()) == 24
    assert all(f"skipped {each['culprit']}" in parts.err for each in parts.json["failures"])


@pytest.mark.parametrize("source", ["coco", "sa1b", "synthetic"])
def test_every_dataset_is_embedded_in_chunks_as_it_is_in_one(
    run: Any, scenes: Any, tmp_path: Path, source: str
) -> None:
    if source == "sa1b":
        assert run("data", "make", tmp_path / "sa", "--format=sa1b", "--n=3", "--tar").code == 0
    arguments = {
        "coco": scenes.arguments,
        "sa1b": ["--dataset=sa1b", f"--root={tmp_path / 'sa'}"],
        "synthetic": [],
    }[source]
    whole = run(*EMBED[:3], "--out=whole", *arguments, "--limit=3", "--json")
    parts = run(*EMBED, *arguments, "--limit=3", "--chunk=2", "--json")
    assert whole.code == parts.code == 0
    assert lasting(parts.json) == lasting(whole.json)
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_an_interrupted_run_is_taken_up_and_only_the_chunk_of_that_moment_is_made_again(
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
        assert run(*arguments).code == 130
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


def test_a_chunk_that_the_model_fails_at_is_listed_and_the_others_are_kept(
    run: Any, pictures: Path
) -> None:
    for number in range(4):
        poison(pictures / f"a{number}.png")
    done = run(*EMBED, f"--images={pictures}", "--chunk=4", "--json")
    assert done.code == 1
    assert done.json["n_embeddings"] == 12
    (failure,) = done.json["failures"]
    assert (failure["stage"], failure["culprit"]) == ("chunk", "00000000")
    assert "tiny failed on 4 of 4 images, the last time with: RuntimeError: out" in failure["why"]


def test_a_model_that_fails_at_chunk_after_chunk_is_stopped(run: Any, tmp_path: Path) -> None:
    (tmp_path / "poison").mkdir()
    for number in range(30):
        poison(tmp_path / "poison" / f"{number:02d}.png")
    done = run(*EMBED, f"--images={tmp_path / 'poison'}", "--chunk=5")
    assert done.code == 1
    assert "3 chunks in a row could not be done, the last because: tiny failed on 4" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--chunk=0",), "--chunk must be at least 1"),
        (("--chunk=2", "--lanes=-1"), "--lanes at least 0"),
        (("--chunk=2", "--workers=2"), "go with --cluster"),
        (("--worker-gpus=1",), "go with --cluster"),
        (("--cluster=local", "--workers=0"), "must be above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_store_is_made(
    run: Any, pictures: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = run(*EMBED, f"--images={pictures}", *options)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "s").exists()


def test_the_devices_of_another_machines_cluster_need_not_be_here() -> None:
    models = ModelArguments(device="cuda:77")
    assert device_of(models, ScaleRequest(cluster="10.0.0.1:6379")) == "cuda:77"
    for scale in (None, ScaleRequest(), ScaleRequest(cluster="local")):
        with pytest.raises(UsageError):
            device_of(models, scale)


def test_a_folder_in_parts_is_what_it_is_in_one_wherever_it_is_read(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_odd_ones(pictures)
    monkeypatch.chdir(tmp_path)
    source = FolderImages(Path("pictures"), limit=14)
    whole = list(source.images())
    parts = pickle.loads(pickle.dumps(list(source.shards(4))))
    monkeypatch.chdir(pictures)
    assert [len(part.readers) for part in parts] == [4, 4, 4, 2]
    assert [part.name for part in parts] == sorted({part.name for part in parts})
    assert len({part.fingerprint for part in parts}) == 4
    assert sum(part.share for part in parts) == pytest.approx(1)
    names = [name for part in parts for _, name in part.images]
    assert names == [item.name for item in whole]
    read = [reader().sample for part in parts for reader in part.readers]
    for found, wanted in zip(read, whole, strict=True):
        if isinstance(wanted, UnreadableImage):
            assert found == wanted
        else:
            assert found.name == wanted.name
            assert np.array_equal(found.image, wanted.image)


def plan_of(checkpoint: Checkpoint | None = None) -> EmbedPlan:
    entry, options = select_one("tiny"), ModelOptions("tiny", checkpoint=checkpoint)
    teacher = teacher_of(build(entry, options), "fp32")
    model = PlannedModel(entry, options, WeightsRow(kind="none"))
    return EmbedPlan(model, teacher, threads=1, lanes=0, code=code_version())


def test_a_worker_refuses_other_weights_and_another_model(pictures: Path, tmp_path: Path) -> None:
    part = next(FolderImages(pictures).shards(2))
    assert plan_of().worker().run(part).n_rows == 2
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"not those that were meant")
    here = plan_of(Checkpoint(weights, "0" * 64, official=False, n_bytes=25, trusted=True))
    with pytest.raises(WeightsError, match="holds other weights"):
        here.worker().run(part)
    plan = plan_of()
    other = replace(plan, teacher=plan.teacher.model_copy(update={"input_size_px": 64}))
    with pytest.raises(WeightsError, match="another model where a worker is"):
        other.worker().run(part)


def test_a_part_of_which_a_worker_has_failed_is_made_in_full_when_it_comes_again(
    pictures: Path, encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny_teacher

    whole, failing = tiny_teacher.Tiny.encode, [True]

    def encode(self: Any, prepared: Any) -> Any:
        if failing[0] and len(encoded()) == 3:
            raise RuntimeError("out of memory")
        return whole(self, prepared)

    monkeypatch.setattr(tiny_teacher.Tiny, "encode", encode)
    worker = plan_of().worker()
    (part,) = FolderImages(pictures).shards(12)
    with pytest.raises(Exception, match="failed on 4 of 12 images"):
        worker.run(part)
    failing[0] = False
    assert worker.alone().run(part).n_rows == 12
    known = worker.run(part, {0: "it brings down every worker"})
    assert (known.n_rows, known.n_known, known.n_failures) == (0, 11, 1)
