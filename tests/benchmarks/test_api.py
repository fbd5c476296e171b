"""The Python API: names and objects as models, names and arrays as datasets, results as frames."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_records import MODELS, build_record

import benchmarks
from baselines.boundary import AdapterError
from baselines.interface import BoolArray, ModelOptions, Prompts, UInt8Array
from baselines.registry import build, select_one
from benchmarks import (
    FunctionSegmenter,
    Result,
    compare,
    count_parameters,
    evaluate,
    load_record,
    time_model,
)
from benchmarks.datasets.dataset import ArrayDataset, Sample
from mobilesam.errors import DataError, UsageError

QUIET: dict[str, Any] = {"quiet": True, "threads": 1}


def predict_box(image: UInt8Array, prompts: Prompts) -> BoolArray:
    """The prompt box as a mask."""
    masks = np.zeros((len(prompts), *image.shape[:2]), bool)
    assert prompts.boxes is not None
    for mask, (x0, y0, x1, y1) in zip(masks, prompts.boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def squares(n_images: int = 3) -> list[tuple[UInt8Array, BoolArray]]:
    """Images with two squares each."""
    items = []
    for index in range(n_images):
        masks = np.zeros((2, 40, 60), bool)
        masks[0, 5:15, 5 + index : 20] = True
        masks[1, 20:35, 30:50] = True
        image = np.full((40, 60, 3), 30, np.uint8)
        image[masks.any(axis=0)] = (200, 40 * index, 90)
        items.append((image, masks))
    return items


@pytest.fixture(scope="module")
def example() -> Result:
    """The example of the README, with models that run fast."""
    return evaluate(["box", "grabcut"], dataset="photos", protocols=["box"], limit=2, **QUIET)


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import benchmarks, sys\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pydantic', 'benchmarks.api'} & set(sys.modules)\n"
        "assert 'evaluate' in dir(benchmarks)\nsys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(hasattr(benchmarks, name) for name in benchmarks.__all__)
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = benchmarks.evalute


def test_the_example_has_one_row_per_model_and_protocol(example: Result) -> None:
    summary = example.summary
    assert list(summary["model"]) == ["box", "grabcut"]
    assert set(summary["protocol"]) == {"box"}
    assert {"miou", "ci95_low", "ci95_high", "n_instances"} <= set(summary.columns)
    n_instances = int(summary["n_instances"].iloc[0])
    assert len(example.instances) == 2 * n_instances
    means = example.instances.groupby("model")["iou"].mean()
    assert means["grabcut"] == pytest.approx(summary["miou"].iloc[1])
    assert example.folder is None
    assert "<table" in example._repr_html_()


def test_the_command_line_gives_the_same_figures(example: Result, run: Any) -> None:
    done = run("miou", "--models=box,grabcut", "--protocol=box", "--limit=2", "--threads=1",
               "--json")  # fmt: skip
    assert [row["miou"] for row in done.json["rows"]] == list(example.summary["miou"])
    assert [row["ci95"] for row in done.json["rows"]] == [
        None if row.ci95 is None else list(row.ci95) for row in example.record.miou
    ]


def test_a_plot_without_times_is_one_line(example: Result) -> None:
    with pytest.raises(UsageError, match="needs times, and none were measured") as caught:
        example.plot("accuracy-latency")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="nothing for the plot 'decode'"):
        example.plot("decode")


def test_a_plot_is_a_figure_that_displays_itself() -> None:
    record = build_record(list(MODELS)[:3])
    figure = Result(record).plot("accuracy-latency")
    assert type(figure).__name__ == "Figure"
    png: Callable[[], bytes] = vars(figure)["_repr_png_"]
    assert png().startswith(b"\x89PNG")


def test_times_of_another_result_complete_a_plot() -> None:
    record = build_record(list(MODELS)[:3])
    accuracy = Result(record.model_copy(update={"id": "a", "latency": (), "memory": ()}))
    times = Result(record.model_copy(update={"id": "b", "miou": (), "comparisons": ()}))
    assert accuracy.plot("accuracy-latency", times=times) is not None


def test_a_function_is_evaluated_on_arrays() -> None:
    result = evaluate([predict_box], dataset=squares(), protocols="box", **QUIET)
    (row,) = result.record.miou
    assert (row.model, row.dataset, row.n_images, row.n_instances) == (
        "predict_box",
        "arrays",
        3,
        6,
    )
    assert row.miou == 1.0
    assert not result.record.failures


def test_a_model_object_agrees_with_its_name() -> None:
    own = build(select_one("grabcut"), ModelOptions("mine"))
    data = squares(2)
    found = evaluate([own, "grabcut", "box"], dataset=data, protocols=["box", "center"], **QUIET)
    miou = found.summary.set_index(["model", "protocol"])["miou"]
    assert list(dict.fromkeys(found.summary["model"])) == ["mine", "grabcut", "box"]
    for protocol in ("box", "center"):
        assert miou["mine", protocol] == miou["grabcut", protocol]


def test_a_function_that_returns_no_masks_is_a_failure() -> None:
    def wrong(image: UInt8Array, prompts: Prompts) -> BoolArray:
        return np.zeros((len(prompts), 3, 3), bool)

    result = evaluate([wrong], dataset=squares(1), protocols=["box"], **QUIET)
    assert result.record.miou[0].status == "error"
    assert "must return (2, 40, 60) bool masks" in (result.record.miou[0].why or "")
    segmenter = FunctionSegmenter(wrong, "named", supports=["boxes"])
    assert segmenter.info.name == "named"
    embedding = segmenter.encode(segmenter.prepare(squares()[0][0]))
    with pytest.raises(AdapterError, match="bool masks; got"):
        segmenter.decode(embedding, Prompts(boxes=np.array([[1, 1, 5, 5]], np.float32)))


IMAGE, MASKS = squares(1)[0]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "the dataset is empty"),
        ([IMAGE], "item 0 of the dataset must be a pair"),
        ([(IMAGE, MASKS), (IMAGE.astype(float), MASKS)], r"item 1 .*: the image must be .*float64"),
        ([(IMAGE[..., 0], MASKS)], r"image must be \(H, W, 3\) uint8 RGB; got \(40, 60\)"),
        ([(IMAGE, MASKS.astype(np.uint8))], r"masks must be \(N, H, W\) bool; .* uint8"),
        ([(IMAGE, MASKS[0])], r"masks must be \(N, H, W\) bool"),
        ([(IMAGE, MASKS[:, :-1])], "same height and width"),
        ([(IMAGE, MASKS[:0])], "item 0 of the dataset has no mask"),
        ([(IMAGE, np.zeros_like(MASKS))], "mask 0 is empty"),
    ],
)
def test_arrays_of_another_form_are_refused(items: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(["box"], dataset=items, **QUIET)


def test_arrays_become_samples() -> None:
    dataset = ArrayDataset(squares())
    samples = list(dataset.samples())
    assert dataset.n_images == len(samples) == 3
    assert isinstance(samples[1], Sample)
    first, second = samples[1].instances
    assert list(first.box) == [6, 5, 20, 15]
    assert (first.mask() == squares()[1][1][0]).all()
    assert (second.area_px, second.annotation_id) == (300, 3)
    assert ArrayDataset(squares()).fingerprint == dataset.fingerprint
    assert ArrayDataset(squares(2)).fingerprint != dataset.fingerprint
    assert [len(shard.readers) for shard in dataset.shards(2)] == [2, 1]


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([], {}, "no model given"),
        ("dumy", {}, "did you mean dummy"),
        ([3], {}, "a model is a name, a Segmenter or a function"),
        ([predict_box, predict_box], {}, "two models are named 'predict_box'"),
        ("box", {"protocols": ["bx"]}, "bx"),
        ("box", {"limit": 1}, "are for named datasets"),
        (predict_box, {"profile": "quick"}, "register the model"),
        ("box", {"device": "nowhere"}, "unknown device"),
        ("box", {"threads": 0}, "at least 1"),
    ],
)
def test_invalid_arguments_are_refused(models: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(models, dataset=squares(1), **({"quiet": True} | options))


def test_a_folder_keeps_the_record_and_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments: dict[str, Any] = {"dataset": squares(), "protocols": ["box"], "out": out, **QUIET}
    first = evaluate(["box"], **arguments)
    assert first.folder == out
    again = evaluate(["box"], **arguments)
    assert again.record == first.record == load_record(out).record
    assert load_record(out / "record.json").instances.equals(first.instances)
    with pytest.raises(DataError, match="holds a run of other inputs"):
        evaluate([predict_box], **arguments)


def test_results_of_an_object_are_not_resumed(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"dataset": squares(1), "protocols": ["box"], **QUIET}
    evaluate([predict_box], out=tmp_path / "run", **arguments)
    with pytest.raises(DataError, match="choose another"):
        evaluate([predict_box], out=tmp_path / "run", **arguments)


def test_parameters_are_counted() -> None:
    summary = count_parameters(["mobilesam", "box"]).summary
    total = summary[summary["component"] == "all"].set_index("model")["total"]
    assert total["mobilesam"] == 10_130_092


def test_models_are_timed_in_fresh_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.config import run_config
    from benchmarks.latency.timer import StopRule

    short = run_config.Profile("short", 1, StopRule(2, 0, 0.1, 0), n_prompts=(1,))
    monkeypatch.setitem(run_config.PROFILES, "short", short)
    result = time_model("box", profile="short", **QUIET)
    assert {"end_to_end", "decode"} <= set(result.summary["phase"])
    assert (result.table("memory")["peak_rss_bytes"] > 0).all()
    with pytest.raises(DataError, match="no table of instances"):
        _ = result.instances


def test_two_results_are_compared(tmp_path: Path) -> None:
    out = tmp_path / "a"
    a = evaluate(["box"], dataset=squares(), protocols=["box"], out=out, **QUIET)
    found = compare(a, out)
    assert set(found.summary["verdict"]) <= {"same", "unclear"}
    assert found.notes
    with pytest.raises(UsageError, match="above 1"):
        compare(a, out, threshold=0.5)
