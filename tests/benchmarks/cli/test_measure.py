"""The commands that measure: `run`, `params`, `latency`, `miou` and `everything`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.records import environment
from benchmarks.records.instances import COLUMNS
from benchmarks.records.record import load_record

FAST = "--models=box,dummy,grabcut"


def test_params_prints_the_fixed_document(run: Any) -> None:
    done = run("params", "--models=mobilesam,box", "--json")
    assert done.code == 0
    rows = {(row["model"], row["component"]): row for row in done.json["rows"]}
    assert rows["mobilesam", "all"]["total"] == 10_130_092
    assert rows["mobilesam", "image_encoder"]["used"] == 5_743_892
    assert {c for m, c in rows if m == "mobilesam"} == {
        "image_encoder", "prompt_encoder", "mask_decoder", "all",
    }  # fmt: skip
    assert "flops" in rows["mobilesam", "all"]


def test_miou_prints_the_fixed_document(run: Any, scenes: Any, tmp_path: Path) -> None:
    done = run("miou", FAST, *scenes.arguments, "--protocol=box,center", "--json", "--out=o")
    assert done.code == 0
    rows = {(row["model"], row["protocol"]): row for row in done.json["rows"]}
    box = rows["box", "box"]
    for key in ("dataset", "reference", "n_images", "n_instances", "miou", "ci95", "weights"):
        assert key in box
    assert box["reference"] == "ground-truth"
    assert box["by_size"].keys() == {"small", "medium", "large"}
    assert box["weights"] == {
        "kind": "none", "sha256": None, "official": False, "file_bytes": None, "why": None,
            "shipped": None,
    }  # fmt: skip
    assert 0 < box["miou"] < 1
    assert rows["box", "center"]["status"] == "skipped"
    assert rows["box", "center"]["miou"] is None
    assert rows["box", "center"]["why"] == "box takes no points as prompts"
    table = pd.read_parquet(done.json["instances"])
    assert list(table.columns) == list(COLUMNS)
    mine = table[(table.model == "box") & (table.protocol == "box")]
    assert len(mine) == box["n_instances"]
    np.testing.assert_allclose(mine.iou.mean(), box["miou"])
    assert load_record(tmp_path / "o").miou[0].manifest_sha256


def test_the_dummy_has_the_iou_that_is_known(run: Any, scenes: Any) -> None:
    """The dummy answers a box with the left part of it: its IoU can be told from the reference."""
    from baselines.dummy import DummySegmenter
    from benchmarks.datasets.coco import CocoDataset
    from benchmarks.datasets.dataset import Sample
    from benchmarks.datasets.masks import iou
    from benchmarks.prompts.samplers import prompt_sampler, to_prompts

    done = run("miou", "--models=dummy", *scenes.arguments, "--protocol=box,box-multi", "--json")
    dummy = DummySegmenter()
    single, multi = [], []
    for sample in CocoDataset(scenes.images, scenes.annotations).samples():
        assert isinstance(sample, Sample)
        embedding = dummy.encode(dummy.prepare(sample.image))
        for instance in sample.instances:
            prompts = to_prompts(prompt_sampler("box"), instance.box[None])
            one = dummy.decode(embedding, prompts)
            three = dummy.decode(embedding, prompts, multimask=True)
            single.append(iou(one.masks[0, 0], instance.mask()))
            multi.append(iou(three.masks[0, int(np.argmax(three.scores[0]))], instance.mask()))
    found = {row["protocol"]: row["miou"] for row in done.json["rows"]}
    assert found["box"] == pytest.approx(np.mean(single))
    assert found["box-multi"] == pytest.approx(np.mean(multi))
    assert found["box"] != found["box-multi"]


def test_numbers_of_clicks_in_chunks_are_those_of_the_whole(
    run: Any, scenes: Any, tmp_path: Path
) -> None:
    """And the tables, plots and instances of clicks are written."""
    asked = ("miou", "--models=dummy,sam-mini", *scenes.arguments, "--protocol=noc,noc-multi",
             "--noc=0.75,0.5", "--noc-ceiling=7", "--no-boundary", "--limit=2")  # fmt: skip
    assert run(*asked, "--out=whole").code == 0
    assert run(*asked, "--chunk=1", "--out=parts", "--json").code == 0
    whole, parts = (load_record(tmp_path / name) for name in ("whole", "parts"))
    found = {(row.model, row.protocol): row.clicks for row in whole.miou if row.clicks}
    assert found == {(row.model, row.protocol): row.clicks for row in parts.miou if row.clicks}
    clicks = found["dummy", "clicks-multi-7"]
    assert [each.iou for each in clicks.thresholds] == [0.5, 0.75]
    assert (clicks.budget, clicks.noc85) == (7, None)
    table = pd.read_csv(tmp_path / "whole" / "tables" / "clicks.csv")
    assert {"noc50", "noc50_low", "noc75", "failed75", "n_failed75"} <= set(table)
    curve = pd.read_csv(tmp_path / "whole" / "tables" / "clicks-curve.csv")
    assert [name for name in curve if name.startswith("miou")] == [f"miou_{n}" for n in range(1, 8)]
    assert (tmp_path / "whole" / "plots" / "clicks-multi.png").is_file()
    compared = {row.protocol for row in whole.comparisons}
    assert compared == {f"{kind}-{n}" for kind in ("clicks", "clicks-multi") for n in (1, 3, 5, 7)}


def test_center_oracle_is_never_below_center_multi(run: Any, scenes: Any) -> None:
    done = run(
        "miou",
        "--models=dummy",
        *scenes.arguments,
        "--protocol=center-multi,center-oracle",
        "--json",
    )
    multi, oracle = (row["miou"] for row in done.json["rows"])
    assert oracle > multi


def test_without_weights_there_is_a_reason_and_no_number(run: Any, scenes: Any) -> None:
    done = run("miou", "--models=sam-vit-b,box", *scenes.arguments, "--offline", "--json",
               "--protocol=box")  # fmt: skip
    assert done.code == 0
    sam, box = done.json["rows"]
    assert (sam["status"], sam["miou"]) == ("skipped", None)
    assert "--offline" in sam["why"]
    assert "mobilesam-bench weights fetch sam-vit-b" in sam["why"]
    assert box["status"] == "ok"


def test_all_models_see_the_same_prompts(run: Any, scenes: Any, tmp_path: Path) -> None:
    run("miou", FAST, *scenes.arguments, "--protocol=box,center", "--out=a", "--json")
    run("miou", "--models=dummy", *scenes.arguments, "--protocol=center", "--out=b", "--json")
    one, two = load_record(tmp_path / "a"), load_record(tmp_path / "b")
    hashes = {row.manifest_sha256 for row in one.miou if row.protocol == "center" and row.miou}
    assert len(hashes) == 1
    assert hashes == {row.manifest_sha256 for row in two.miou}


def test_an_unreadable_image_folder_is_one_clear_line(run: Any, scenes: Any) -> None:
    done = run("miou", "--models=box", "--dataset=coco", "--images=nowhere",
               f"--annotations={scenes.annotations}")  # fmt: skip
    assert done.code == 1
    assert "nowhere" in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["miou", "--models=mobilsam"], "did you mean mobilesam"),
        (["miou", "--models=box", "--protocol=centre"], "did you mean center"),
        (["miou", "--models=box", "--dataset=imagenet"], "unknown dataset"),
        (["miou", "--models=box", "--dataset=coco"], "needs --images"),
        (["miou", "--models=box", "--dataset=sa1b"], "needs --root"),
        (["miou", "--models=box", "--weights=box"], "NAME=PATH"),
        (["miou", "--models=box", "--weights=bx=p.pt"], "unknown model 'bx'"),
        (["miou", "--models=box", "--weights=box=p.pt"], "box takes no weights"),
        (["latency", "--models=box", "--weights=mobilesam=p.pt"], "no model here uses them"),
        (["figures", "--models=box", "--weights=mobilesam=p.pt"], "no model here uses them"),
        (["miou", "--models=box", "--images=there"], "--images does not belong to"),
        (["miou", "--models=box", "--limit=0"], "--limit must be at least 1"),
        (["miou", "--models=box", "--device=tpu"], "unknown device"),
        (["miou", "--models=box", "--device=cpu:foo"], "unknown device"),
        (["miou", "--models=box", "--device=cuda:99"], "cuda"),
        (["latency", "--models=box", "--precision=int3"], "unknown precision"),
        (["latency", "--models=box", "--profile=slow"], "unknown profile"),
        (["latency", "--models=box", "--threads=0"], "--threads must be"),
        (["miou", "--models=box", "--no-such-option"], "no-such-option"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_a_wrong_request_is_exit_code_2(run: Any, arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.fixture(scope="module")
def wrong_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.save({"layer.weight": torch.zeros(2, 2)}, folder / "wrong.pt")
    (folder / "cut.pt").write_bytes((folder / "wrong.pt").read_bytes()[:400])
    (folder / "page.pt").write_text("<html>404</html>")
    return folder


@pytest.mark.parametrize("file", ["wrong.pt", "cut.pt", "page.pt", "absent.pt"])
def test_useless_weights_are_a_row_with_the_reason_and_the_rest_is_kept(
    run: Any, scenes: Any, wrong_weights: Path, file: str
) -> None:
    done = run("miou", "--models=mobilesam,box", f"--weights=mobilesam={wrong_weights / file}",
               *scenes.arguments, "--protocol=box", "--json")  # fmt: skip
    assert done.code == 1
    broken, box = done.json["rows"]
    assert (broken["status"], broken["miou"]) == ("error", None)
    assert file in broken["why"]
    assert box["status"] == "ok"
    assert "Traceback" not in done.err


def test_a_run_taken_up_again_measures_nothing_twice(run: Any, scenes: Any, tmp_path: Path) -> None:
    command = (
        "miou",
        "--models=box,dummy",
        *scenes.arguments,
        "--protocol=box",
        "--json",
        "--out=o",
    )
    first = run(*command)
    again = run(*command)
    assert again.json["rows"] == first.json["rows"]
    assert "nothing to do" in again.err
    record = tmp_path / "o" / "record.json"
    document = json.loads(record.read_text())
    document["complete"] = False
    record.write_text(json.dumps(document))
    resumed = run(*command, "--verbose")
    assert "box: taken from the interrupted run" in resumed.err
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.json["rows"]]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in first.json["rows"]]


@pytest.mark.parametrize("what", ["cpu_name", "allocator", "threads"])
def test_accuracy_of_another_machine_is_taken_up_without_its_time(
    run: Any, scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    command = ("miou", "--models=box,dummy", *scenes.arguments, "--protocol=box", "--json")
    first = run(*command, "--out=o", "--threads=1").json
    assert all(row["seconds"] > 0 for row in first["rows"])
    (tmp_path / "o" / "record.json").unlink()  # as if it had been killed before the end
    same = run(*command, "--out=o", "--threads=1")
    assert same.json["times"] == first["times"]
    assert "time left out" not in same.err
    (tmp_path / "o" / "record.json").unlink()
    threads = "2" if what == "threads" else "1"
    if what != "threads":
        monkeypatch.setattr(environment, what, lambda: "another")
    moved = run(*command, "--out=o", f"--threads={threads}", "--verbose")
    assert "box: taken from the interrupted run" in moved.err
    assert moved.json["times"] == []
    for mine, other in zip(moved.json["rows"], first["rows"], strict=True):
        assert mine == {**other, "seconds": None}
    said = [line for line in load_record(tmp_path / "o").warnings if "time left out" in line]
    assert [line.partition(":")[0] for line in said] == ["accuracy of box", "accuracy of dummy"]


def test_a_folder_with_another_run_is_not_overwritten(run: Any, scenes: Any) -> None:
    run("miou", "--models=box", *scenes.arguments, "--protocol=box", "--out=o", "--json")
    done = run("miou", "--models=dummy", *scenes.arguments, "--protocol=box", "--out=o", "--json")
    assert done.code == 1
    assert "choose another --out" in done.err


def test_an_out_that_is_no_folder_is_one_clear_line(run: Any, scenes: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("miou", "--models=box", *scenes.arguments, "--protocol=box", "--out=file/inside")
    assert done.code == 1
    assert "choose another --out" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("tar", [False, True])
def test_sa1b_and_coco_give_the_same_numbers(
    run: Any, scenes: Any, tmp_path: Path, tar: bool
) -> None:
    """Trap 5: SA-1B's boxes are one pixel smaller as written, and equal as read."""
    from benchmarks.datasets.coco import CocoDataset
    from benchmarks.datasets.writers import write_sa1b

    write_sa1b(CocoDataset(scenes.images, scenes.annotations), tmp_path / "sa1b", tar=tar)
    protocols = (
        "--protocol=box,box-multi,center,center-oracle,random-1,random-3,two-point-20,clicks-3"
    )
    sa1b_arguments = ("--dataset=sa1b", f"--root={tmp_path / 'sa1b'}")
    coco, sa1b = (
        run("miou", "--models=dummy", *arguments, protocols, "--json").json["rows"]
        for arguments in (scenes.arguments, sa1b_arguments)
    )
    same = ("protocol", "miou", "boundary_miou", "n_instances", "n_left_out", "by_size", "clicks")
    assert [[row[key] for key in same] for row in coco] == [
        [row[key] for key in same] for row in sa1b
    ]
    assert all(row["status"] == "ok" for row in coco)


@pytest.mark.usefixtures("short_quick")
def test_a_model_of_a_file_is_measured_like_a_registered_one(
    run: Any, scenes: Any, tmp_path: Path
) -> None:
    """CONTRIBUTING's adapter: accuracy here, times in a fresh process; a changed file is new."""
    text = (Path(__file__).resolve().parents[3] / "CONTRIBUTING.md").read_text()
    path = tmp_path / "boxes.py"
    path.write_text(text.partition("```python\n")[2].partition("```")[0])
    name = ["--models=./boxes.py:build,box", *scenes.arguments, "--protocol=box", "--json"]
    done = run("miou", *name, "--reference=ground-truth,teacher:./boxes.py:build", "--out=m")
    assert done.code == 0, done.err
    rows = {(row["model"], row["reference"]): row["miou"] for row in done.json["rows"]}
    assert rows["boxes", "ground-truth"] == pytest.approx(rows["box", "ground-truth"], abs=0.1)
    assert ("box", "teacher:boxes") in rows
    timed = run("latency", "--models=./boxes.py:build", "--profile=quick", "--json", "--out=t")
    assert timed.code == 0, timed.err
    assert {row["status"] for row in timed.json["rows"]} == {"ok"}
    path.write_text(path.read_text() + "# changed\n")
    refused = run("miou", *name, "--reference=ground-truth,teacher:./boxes.py:build", "--out=m")
    assert refused.code != 0
    assert "a run of other inputs, weights, code" in refused.err


@pytest.mark.usefixtures("rendered")
def test_params_writes_plots_on_request_only(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "warnings", lambda _: ("noisy",))
    done = run("params", "--models=dummy", "--out=a")
    assert (done.code, done.err) == (0, "")
    assert not Path("a/plots").exists()
    assert run("params", "--models=mobilesam-mini", "--out=b", "--plots").code == 0
    plots = list(Path("b").glob("plots/*"))
    assert {path.suffix for path in plots if path.stat().st_size > 1000} == {".png", ".svg"}


@pytest.mark.usefixtures("short_quick")
def test_latency_prints_the_fixed_document_and_the_dummys_known_delays(run: Any) -> None:
    done = run("latency", "--models=dummy,box", "--profile=quick", "--threads=1", "--json")
    assert done.code == 0
    rows = {(r["model"], r["phase"], r["n_prompts"]): r for r in done.json["rows"]}
    encode = rows["dummy", "encode", None]
    for key in ("device", "precision", "threads", "n", "median_ms", "ci95_ms", "decode_kind"):
        assert key in encode
    # Known delays, from below for sure; from above as far as a busy machine lets it.
    for phase, n, delay_ms in (
        ("preprocess", None, 1.0),
        ("encode", None, 5.0),
        ("decode", 1, 1.1),
        ("decode", 10, 2.0),
        ("end_to_end", 1, 7.1),
    ):
        assert delay_ms <= rows["dummy", phase, n]["min_ms"] < 3 * delay_ms + 20
    assert rows["dummy", "load", None]["n"] == 1
    assert rows["dummy", "first_call", 1]["n"] == 1
    assert {row["model"] for row in done.json["memory"]} == {"dummy", "box"}
    for row in done.json["memory"]:
        assert len(row["peaks_rss_bytes"]) == row["processes"]
        assert row["peak_rss_bytes"] in row["peaks_rss_bytes"]


@pytest.mark.usefixtures("short_quick")
def test_run_leaves_record_tables_and_plots(run: Any, scenes: Any, tmp_path: Path) -> None:
    done = run("run", "--models=box,dummy", "--profile=quick", *scenes.arguments,
               "--out=o", "--threads=1")  # fmt: skip
    assert done.code == 0
    folder = tmp_path / "o"
    record = load_record(folder)
    assert record.complete
    assert record.profile == "quick"
    assert {row.model for row in record.models} == {"box", "dummy"}
    assert record.params
    assert record.latency
    assert record.miou
    assert record.instances == "instances.parquet"
    assert (folder / "summary.md").is_file()
    for suffix in ("md", "csv", "tex"):
        assert (folder / "tables" / f"summary.{suffix}").is_file()
    for stem in ("latency", "decode", "size-box", "accuracy-latency-box"):
        assert (folder / "plots" / f"{stem}.svg").is_file()
        assert (folder / "plots" / f"{stem}.png").is_file()
    assert "record" in done.out
    assert "dummy" in done.out
    assert done.out.splitlines()[-1] == "report  o/report.html (open it in a browser)"
    # Masks and pictures are kept, so that the report shows them without --images.
    page = (folder / "report.html").read_text()
    document = json.loads(page.split('id="data">')[1].split("</script>")[0])["gallery"]
    assert document["models"] == ["box", "dummy"]
    assert len(document["images"]) == 3
    table = pd.read_parquet(folder / "instances.parquet")
    assert len(document["cases"]) == len(table.drop_duplicates(["annotation_id", "protocol"]))

    # The report is derived: a finished run writes it again, and keeps its record without it.
    command = ("run", "--models=box,dummy", "--profile=quick", *scenes.arguments, "--out=o",
               "--threads=1")  # fmt: skip
    before = (folder / "record.json").read_bytes()
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    failed = run(*command, "--quiet")
    assert failed.code == 1
    (line,) = failed.err.splitlines()
    assert line.startswith("warning: no report was written: ")
    assert "report.html" in line
    assert failed.out.splitlines()[-1].startswith("plots")
    assert (folder / "record.json").read_bytes() == before
    (folder / "report.html").rmdir()
    without = run(*command, "--no-report")
    assert without.code == 0
    assert not (folder / "report.html").exists()
    assert without.out.splitlines()[-1].startswith("plots")


@pytest.fixture
def boxes(run: Any, scenes: Any, tmp_path: Path) -> Path:
    done = run("data", "boxes", scenes.annotations, tmp_path / "boxes.json")
    assert done.code == 0
    assert "detector-box" in done.out
    return tmp_path / "boxes.json"


def test_detector_boxes_give_ap_and_a_results_file(
    run: Any, scenes: Any, boxes: Path, tmp_path: Path
) -> None:
    done = run(
        "miou",
        "--models=box,dummy",
        *scenes.arguments,
        "--protocol=detector-box,detector-box-multi,box",
        f"--detections={boxes}",
        "--out=o",
        "--json",
    )
    assert done.code == 0
    found = {(row["model"], row["mask"]): row["ap"] for row in done.json["detector"]}
    assert set(found) == {(m, k) for m in ("box", "dummy") for k in ("single", "multi")}
    assert all(0 < ap < 1 for ap in found.values())
    assert {row["protocol"] for row in done.json["rows"]} == {"box"}
    results = json.loads((tmp_path / "o" / "detections-box.json").read_text())
    assert len(results) == len(json.loads(boxes.read_text()))


def test_only_detector_boxes_can_be_asked_for(run: Any, scenes: Any, boxes: Path) -> None:
    done = run(
        "miou",
        "--models=box",
        *scenes.arguments,
        "--protocol=detector-box",
        f"--detections={boxes}",
    )
    assert done.code == 0
    assert "AP" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset=synthetic", "--detections=x.json"), "needs --dataset coco"),
        ((), "needs --detections"),
    ],
)
def test_detector_boxes_need_boxes_and_coco(
    run: Any, scenes: Any, arguments: tuple[str, ...], message: str
) -> None:
    data = () if arguments else tuple(scenes.arguments)
    done = run("miou", "--models=box", *data, *arguments, "--protocol=detector-box")
    assert done.code == 2
    assert message in done.err


def test_a_broken_results_file_is_named(run: Any, scenes: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('[{"image_id": 1}]')
    done = run(
        "miou",
        "--models=box",
        *scenes.arguments,
        "--protocol=detector-box",
        f"--detections={tmp_path / 'bad.json'}",
    )
    assert done.code == 1
    assert "bad.json" in done.err


def test_everything_of_the_dummy_and_of_a_model_that_cannot(
    run: Any, scenes: Any, tmp_path: Path
) -> None:
    done = run("everything", "--models=dummy,box", *scenes.arguments, "--out=o", "--json")
    assert done.code == 0
    rows = {row["model"]: row for row in done.json["everything"]}
    assert rows["dummy"]["masks_per_image"] == 4
    assert rows["dummy"]["median_ms"] > 0
    assert (rows["box"]["status"], rows["box"]["ar1000"]) == ("skipped", None)
    assert load_record(tmp_path / "o").everything
    assert run("everything", "--models=dummy", *scenes.arguments, "--protocol=box").code == 2
