"""`miou --rescore`: stored masks are scored without a model and without images."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from baselines import registry
from baselines.dummy import DummySegmenter
from baselines.interface import ModelOptions, Prepared
from benchmarks.cli.app import main
from benchmarks.datasets.coco import CocoDataset
from benchmarks.evaluation.predictions import load_predictions, load_references, predictions_path
from benchmarks.records.instances import read_instances
from benchmarks.records.record import load_record
from mobilesam.errors import DataError

PROTOCOLS = "box,box-multi,center,center-multi,center-oracle,random-2,two-point-20,clicks-3"


@pytest.fixture(scope="module")
def stored_source(scenes_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with stored masks of two models, one of which is a reference as well."""
    out = tmp_path_factory.mktemp("stored") / "live"
    code = main(
        [
            "miou",
            "--models=dummy,box",
            "--dataset=coco",
            f"--images={scenes_source / 'images'}",
            f"--annotations={scenes_source / 'instances.json'}",
            f"--protocol={PROTOCOLS}",
            "--reference=ground-truth,teacher:dummy",
            "--save-masks",
            f"--out={out}",
            "--quiet",
        ]
    )
    assert code == 0
    return out


@pytest.fixture
def stored(stored_source: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(stored_source, tmp_path / "live"))


def rows_of(outcome: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["model"], row["protocol"], row["reference"]): row for row in outcome.json["rows"]}


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


def test_other_protocols_can_be_scored_from_the_same_masks(run: Any, stored: Path) -> None:
    done = run("miou", f"--rescore={stored}", "--protocol=center-oracle,box", "--json")
    assert done.code == 0
    assert {row["protocol"] for row in done.json["rows"]} == {"center-oracle", "box"}


def test_a_query_that_was_not_run_has_no_masks(run: Any, stored: Path) -> None:
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


def test_masks_of_different_prompts_are_not_compared(run: Any, scenes: Any) -> None:
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


def test_a_reference_model_without_the_query_is_a_reason(run: Any, scenes: Any) -> None:
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


def test_a_run_without_stored_masks_is_an_error_with_a_hint(run: Any, scenes: Any) -> None:
    assert run("miou", "--models=box", *scenes.arguments, "--protocol=box", "--out=o").code == 0
    done = run("miou", "--rescore=o")
    assert done.code == 1
    assert "--save-masks" in done.err


@pytest.mark.parametrize("argument", ["--models=box", "--save-masks", "--limit=3"])
def test_rescoring_takes_no_options_of_models_and_data(
    run: Any, stored: Path, argument: str
) -> None:
    done = run("miou", f"--rescore={stored}", argument)
    assert done.code == 2
    assert "--rescore takes" in done.err


class Picky(DummySegmenter):
    """Fails on one image, identified by its pixels."""

    image: np.ndarray | None = None

    def prepare(self, image: Any) -> Prepared:
        if np.array_equal(image, Picky.image):
            raise KeyError("too green")
        return super().prepare(image)


def picky(options: ModelOptions) -> Picky:
    return Picky(options.name, {})


def test_images_that_a_model_failed_on_are_stored(
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


def test_an_image_that_another_run_lost_keeps_its_reference(run: Any, scenes: Any) -> None:
    command = ("miou", *scenes.arguments, "--protocol=box", "--save-masks", "--out=o")
    assert run(*command, "--models=box").code == 0
    first = min(scenes.images.iterdir())
    first.write_bytes(first.read_bytes()[:100])
    shutil.rmtree("o/cells")
    Path("o/record.json").unlink()
    assert run(*command, "--models=dummy").code == 1
    assert run("miou", "--rescore=o").code == 0


def test_stored_predictions_cover_all_instances(stored: Path) -> None:
    info, rows = load_predictions(predictions_path(stored, "dummy"))
    references = load_references(stored / "predictions" / "references.parquet")
    assert info.fingerprint == references.fingerprint
    assert {(row.image_id, row.annotation_id) for row in rows} == references.instances.keys()
    assert {len(row.rles) for row in rows if row.query.multimask} == {3}
    with pytest.raises(DataError):
        load_references(predictions_path(stored, "dummy"))


def test_masks_of_some_images_are_not_scored_again(
    run: Any, scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.config.from_options import make_config
    from benchmarks.config.options import AccuracyArguments, ModelArguments, OutputArguments
    from benchmarks.records.progress import Reporter
    from benchmarks.run import execute

    data = AccuracyArguments(
        dataset="coco", images=scenes.images, annotations=scenes.annotations, protocol="box"
    )
    models, output = ModelArguments(models="box,dummy"), OutputArguments(out=tmp_path / "o")
    config = make_config("run", models, output, accuracy=data, n_pictures=2)
    execute(config, Reporter(quiet=True))
    kept = {}
    for name in ("box", "dummy"):
        info, rows = load_predictions(predictions_path(tmp_path / "o", name))
        kept[name] = {row.image_id for row in rows}
        assert info.n_prompts is not None
        assert len(rows) < info.n_prompts
    assert kept["box"] == kept["dummy"]
    assert len(kept["box"]) == 2
    references = load_references(tmp_path / "o" / "predictions" / "references.parquet").instances
    assert {image_id for image_id, _ in references} == kept["box"]
    assert not list((tmp_path / "o" / "predictions").glob("coco-*"))
    done = run("miou", f"--rescore={tmp_path / 'o'}")
    assert done.code == 1
    assert "answers of box were kept, for the report" in done.err
    assert "--save-masks" in done.err
    monkeypatch.setattr("benchmarks.evaluation.predictions.MOST_OBJECTS", 1)
    execute(replace(config, out=tmp_path / "p"), Reporter(quiet=True))
    _, rows = load_predictions(predictions_path(tmp_path / "p", "box"))
    assert len(rows) == 2
