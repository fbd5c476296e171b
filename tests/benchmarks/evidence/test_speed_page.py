"""The page on speed shows the committed results, and leaves out missing ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.pages import ROOT
from benchmarks.evidence.speed_page import (
    PAGE,
    RESULTS,
    RUNS,
    limits,
    load_accuracies,
    load_results,
    page,
    targets,
)
from benchmarks.records.instances import InstanceRow, write_instances
from benchmarks.records.record import MiouRow, save_record
from mobilesam.errors import DataError
from tests.benchmarks.example_records import CUSTOM

ENVIRONMENT = {
    "cpu": "A <cpu>",
    "cpu_features": ["avx2"],
    "threads": 2,
    "allocator": "glibc",
    "python": "3.11",
    "libraries": {"torch": "2.5"},
    "git_commit": "abcdef0123456789",
    "git_dirty": False,
}


AGAINST_GRID = {"times_quicker": 2.5, "ours_among_theirs": 0.99, "theirs_among_ours": 0.93}


def row(task: str, side: str, ms: float, ratio: float) -> dict[str, Any]:
    return {
        "task": task,
        "side": side,
        "ms": ms,
        "ratio": ratio,
        "ci95": [ratio - 0.1, ratio + 0.1],
        "page_faults": 12345,
        "max_difference": 1e-5,
    }


def inference(
    rows: list[dict[str, Any]], processes: int = 5, features: list[str] | None = None
) -> str:
    environment = ENVIRONMENT | ({} if features is None else {"cpu_features": features})
    return json.dumps({"processes": processes, "rows": rows, "environment": environment})


def test_the_committed_page_is_fresh() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(ROOT / RESULTS, ROOT / RUNS), (
        "docs/speed.md is stale: python -m benchmarks.evidence.speed_page"
    )


def test_committed_results_have_their_commit() -> None:
    found = load_results(ROOT / RESULTS)
    assert found["inference"]
    assert all(each["environment"]["git_commit"] for kind in found.values() for each in kind)


def test_gains_and_targets_are_by_processor_and_against_the_authors(tmp_path: Path) -> None:
    rows = [
        row("encoder", "plain", 1000, 1.0),
        row("encoder", "batches", 1000, 1.0),
        row("encoder", "folded", 500, 2.0),
        row("encoder", "fast", 330, 3.0),
        row("encoder", "authors", 1155, 0.9),
        row("decoder-1", "plain", 10, 1.0),
        row("decoder-1", "fast", 5, 2.0),
        row("decoder-1-prepared", "plain", 10, 1.0),
        row("decoder-1-prepared", "fast", 2, 5.0),
    ]
    (tmp_path / "inference-b.json").write_text(inference(rows))
    wide = [row("encoder", "authors", 900, 1.0), row("encoder", "bf16", 150, 6.0)]
    (tmp_path / "inference-a.json").write_text(inference(wide, features=["avx2", "avx512f"]))
    text = page(tmp_path, tmp_path)
    assert "| What | AVX-512 | AVX2 | How |" in text
    assert "| encoder, float32 |  | 3.5 x | `MobileSam.from_pretrained()` |" in text
    assert "| encoder, bfloat16, AVX-512 | at least 6 x | 6 x | reached |" in text
    assert "| encoder, float32, AVX2 | at least 2.8 x | 3.5 x | reached |" in text
    assert "| decoder, 1 prompt on a new embedding, AVX2 | at least 3 x | 2 x | missed |" in text
    assert (
        "decoder, 1 prompt on a new embedding, AVX2.** A call on a new embedding computes" in text
    )
    assert "| decoder, 1 prompt after set\\_image, AVX2 | at least 3 x | 5 x | reached |" in text
    assert "`set_image` runs the encoder and computes what all prompts" in text
    assert "First call" not in text  # of older documents
    assert "| ours | 1.50 x (3.00) | 2.00 x (2.00) | 5.00 x (5.00) |  |" in text
    assert "3.00 [2.90, 3.10]" in text
    assert "A &lt;cpu&gt; (avx2), 2 threads" in text


@pytest.mark.parametrize(("ms", "outcome"), [(1000, "77.5% | reached"), (1100, "70.5% | missed")])
def test_the_rate_of_the_encoder_is_compared_with_that_of_a_product(
    tmp_path: Path, ms: float, outcome: str
) -> None:
    rows = [row("encoder", "authors", 2000, 1.0), row("encoder", "fast", ms, 2000 / ms)]
    rows = [each | {"first_of_turn_ms": 1234} for each in rows]
    more = {"product_gflops": 100, "encoder_flops": 77_500_000_000, "block": {"long_ms": 500}}
    (tmp_path / "inference.json").write_text(json.dumps(json.loads(inference(rows)) | more))
    text = page(tmp_path, tmp_path)
    assert f"2048 x 2048 product, AVX2 | at least 75% | {outcome}" in text
    assert ("are 77.5 GFLOP, 775 ms at that rate; all of the encoder takes 1100 ms" in text) == (
        ms == 1100
    )
    assert (
        "- **encoder, float32, AVX2.** At the full rate of that product it would be 2.58 x" in text
    )
    assert f"| ours | {ms:,} | 1,234 |" in text
    assert "A call of 0.5 s or more is not repeated" in text


def test_a_limit_of_instructions_is_said(tmp_path: Path) -> None:
    document = json.loads(inference([row("encoder", "plain", 5, 1.0), row("encoder", "fast", 1, 5)],
                                    features=["avx2", "avx512f"])) | {"isa": "avx2"}  # fmt: skip
    (tmp_path / "inference-avx2.json").write_text(json.dumps(document))
    text = page(tmp_path, tmp_path)
    assert "| What | AVX2 | How |" in text
    assert "- AVX2, `inference`: AVX2 instructions only, on a processor with AVX-512." in text
    assert "A &lt;cpu&gt; (avx2 avx512f), limited to AVX2 instructions, 2 threads" in text


def accuracy_run(folder: Path, precision: str, losses: dict[str, float], make_record: Any) -> None:
    """Models on four images with three objects each; the loss differs by image."""
    rows, found = [], []
    for model, loss in losses.items():
        ious = [0.7 - loss - 0.002 * (image % 2) * (loss != 0) for image in range(4)]
        rows.append(MiouRow(model=model, dataset="coco:val2017_dev", protocol="box",
                            reference="ground-truth", n_images=4, n_instances=12,
                            miou=sum(ious) / 4, weights=CUSTOM, manifest_sha256="a"))  # fmt: skip
        found += [
            InstanceRow(image_id=image, annotation_id=3 * image + n, model=model, protocol="box",
                        reference="ground-truth", iou=iou,
                        boundary_iou=None, score=1.0, area=9.0, category="")
            for image, iou in enumerate(ious) for n in range(3)
        ]  # fmt: skip
    record = make_record(0, miou=tuple(rows), config={"precision": precision},
                         instances="instances.parquet")  # fmt: skip
    save_record(record, folder)
    write_instances(found, folder / "instances.parquet")


def test_accuracies_are_compared_in_pairs_with_the_fast_path(
    tmp_path: Path, make_record: Any
) -> None:
    losses = {"mobilesam-fast": 0.0, "mobilesam-fast-unpadded": 0.0015,
              "mobilesam-openvino-int8": 0.02}  # fmt: skip
    accuracy_run(tmp_path / "speed-accuracy-a", "fp32", losses, make_record)
    accuracy_run(tmp_path / "speed-accuracy-b", "bf16", {"mobilesam-fast": 0.001}, make_record)
    text = page(tmp_path, tmp_path)
    where = "coco:val2017\\_dev, box | 4 | 12"
    assert f"| mobilesam-fast | {where} | 70.0 |  |" in text
    assert f"| mobilesam-fast, bf16 | {where} | 69.8 | −0.20 [" in text
    assert f"| mobilesam-openvino-int8 | {where} | 67.9 | −2.10 [" in text
    found = {each.what: each for each in targets({}, load_accuracies(tmp_path))}
    padding = found["without padding, mIoU lost on val2017_dev"]
    assert padding.value == pytest.approx(0.25)
    assert padding.bounds is not None
    assert padding.bounds[0] < 0.25 < padding.bounds[1]
    assert padding.outcome == "reached, but its interval goes beyond"
    assert found["encoder, int8, mIoU lost on val2017_dev"].outcome == "missed"
    (tmp_path / "speed-accuracy-a" / "record.json").unlink()
    with pytest.raises(DataError, match="speed-accuracy-b: no run of mobilesam-fast"):
        page(tmp_path, tmp_path)


def test_missed_targets_have_their_reasons() -> None:
    found = targets(load_results(ROOT / RESULTS), load_accuracies(ROOT / RUNS))
    missed = {(each.what, each.processor) for each in found if not each.reached}
    assert missed <= set(limits()), "add what bounds them to benchmarks/evidence/speed_limits.toml"


def test_slowdowns_and_cold_starts_are_compared_with_the_others(tmp_path: Path) -> None:
    sides = {"fast": 1.8, "fast-free": 1.5, "authors": 1.6, "onnx": 1.4}
    rows = [
        {"task": "encoder", "side": side, "alone_ms": 100, "loaded_ms": 100 * slowdown,
         "slowdown": slowdown, "ci95": None, "range": [slowdown - 0.1, slowdown + 0.1]}
        for side, slowdown in sides.items()
    ]  # fmt: skip
    document = {"rows": rows, "processes": 3, "nice": 10, "environment": ENVIRONMENT}
    (tmp_path / "load.json").write_text(json.dumps(document))
    steps = {f"{step}_s": 1.0 for step in ("total", "import", "load", "image", "box")}
    rows = [
        {"side": side, **steps, "seconds": [1.0] * 5, "share": share, "ci95": [0.3, 0.5],
         "range": None}
        for side, share in (("fast", 0.4), ("authors", 1.0))
    ]  # fmt: skip
    document = {"rows": rows, "turns": 5, "environment": ENVIRONMENT}
    (tmp_path / "cold-start.json").write_text(json.dumps(document))
    text = page(tmp_path, tmp_path)
    loaded = "1024 px, slowdown under load, AVX2 | at most 1.4 x | 1.8 x | missed"
    assert loaded in text
    assert (
        "| cold start, share of the authors' time, AVX2 | at most 60% | 40.0% | reached |" in text
    )
    assert "| encoder, 1024 px | ours | 100 | 180 | 1.80 (range 1.70 to 1.90) |" in text
    assert "with threads for the free cores only in 0 of 1 tasks" in text
    assert "| first mask of a new process | 2.5 x | nothing to do |" in text
    assert "| 0.40 [0.30, 0.50] |" in text


def test_a_check_on_a_gpu_has_a_table_and_without_one_the_page_says_so(tmp_path: Path) -> None:
    assert "No GPU was at hand" in page(tmp_path, tmp_path)
    parts = {
        "parity": {"status": "ok", "mean_iou": 0.9996, "max_difference_of_embeddings": 1e-4},
        **{f"encoder-{n}": {"status": "ok", "median_ms": float(n)} for n in (1, 8, 32)},
        "decoder-1": {"status": "failed", "why": "?"},
        "everything": {"status": "ok", "median_ms": 1500.0},
    }
    variants = {"fp32": {"parts": parts}, "tf32": {"left_out": "not here"}}
    (tmp_path / "cuda.json").write_text(
        json.dumps({"variants": variants, "environment": ENVIRONMENT})
    )
    text = page(tmp_path, tmp_path)
    assert "| fp32 | 0.9996 | 1.0e-04 | 1.0, 8.0, 32.0 | failed | 1.50 |" in text
    assert "tf32" not in text
    assert "No GPU" not in text


def test_intervals_and_ranges_are_named(tmp_path: Path) -> None:
    """An interval of five processes, and a range of fewer."""
    plain, fast = row("encoder", "plain", 1000, 1.0), row("encoder", "fast", 330, 3.0)
    ranged = {**fast, "ci95": None, "range": [2.9, 3.1]}
    few = "fewer than 5 give no interval"
    for rows, processes, beside, note in (
        ([plain, fast], 5, "[2.90, 3.10]", "- Brackets hold 95 % intervals over 5 processes."),
        ([ranged], 4, "(range 2.90 to 3.10)", f"smallest and largest median of 4 processes; {few}"),
        (
            [ranged],
            1,
            "(range 2.90 to 3.10)",
            "smallest and largest ratio of a turn of one process",
        ),
    ):
        (tmp_path / "inference.json").write_text(inference(rows, processes))
        text = page(tmp_path, tmp_path)
        assert f"3.00 {beside}" in text
        assert text.count(note) == 1
        assert ("Brackets" in text) == (processes == 5)


def test_spreads_of_images_are_named(tmp_path: Path) -> None:
    document = json.loads(everything({"grid": 0.3, "hierarchical": 0.3}, {"grid": 10.0,
                                      "hierarchical": 4.0}))  # fmt: skip
    side = document["sides"]["hierarchical"]
    for name, beside, note in (
        ("ci95", "[2.02, 3.17]", "95 % intervals over images, each"),
        ("range", "(range 2.02 to 3.17)", "ratio of an image, each in a process of its own; fewer"),
    ):
        side |= {"times_quicker": 2.5, "times_quicker_ci95": None, "times_quicker_range": None}
        side[f"times_quicker_{name}"] = [2.02, 3.17]
        (tmp_path / "everything.json").write_text(json.dumps(document))
        text = page(tmp_path, tmp_path)
        assert f"| 2.50 {beside} |" in text
        assert note in text


def test_missing_results_are_left_out(tmp_path: Path) -> None:
    headings = [line for line in page(tmp_path, tmp_path).splitlines() if line.startswith("##")]
    assert headings == ["## On a GPU", "## How it was measured"]


def test_a_damaged_result_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "everything.json").write_text("{")
    with pytest.raises(DataError, match=r"everything\.json is no result"):
        page(tmp_path, tmp_path)


def everything(recalls: dict[str, float], seconds: dict[str, float]) -> str:
    sides = {
        side: {
            "median_s": seconds[side],
            "seconds": [seconds[side]] * 30,
            "times_quicker": 1.0,
            "times_quicker_ci95": [1.0, 1.0],
            "images": 30,
            "masks": 100,
            "ours_among_theirs": 1.0,
            "theirs_among_ours": 1.0,
            "average_recall": {"10": 0.1, "100": 0.2, "1000": recall},
            "peak_bytes": 10**9,
            "loaded_bytes": 10**8,
            "peak_of_theirs": 1.0,
            "against_grid": AGAINST_GRID,
        }
        for side, recall in recalls.items()
    }
    found = {
        "base": next(iter(sides)),
        "images": [f"{number}.jpg" for number in range(30)],
        "points_per_side": None,
        "sides": sides,
        "environment": ENVIRONMENT,
    }
    return json.dumps(found)


@pytest.mark.parametrize(("kept", "outcome"), [(0.297, "0.003 | reached"), (0.28, "0.02 | missed")])
def test_the_hierarchical_grid_is_compared_with_the_whole_one(
    tmp_path: Path, kept: float, outcome: str
) -> None:
    times = {"reference": 60.0, "grid": 10.0, "hierarchical": 4.0}
    recalls = {"reference": 0.3, "grid": 0.3, "hierarchical": kept}
    document = json.loads(everything(recalls, times))
    (tmp_path / "everything.json").write_text(json.dumps(document))
    text = page(tmp_path, tmp_path)
    assert (
        "| hierarchical grid, gain over the default, AVX2 | at least 2.5 x | 2.5 x | reached |"
        in text
    )
    assert "| hierarchical grid, masks found again, AVX2 | at least 95% | 93.0% | missed |" in text
    assert f"| hierarchical grid, AR@1000 lost, AVX2 | at most 0.005 | {outcome} |" in text
    assert "99.0 % of its masks and 93.0 % of the grid's matched" in text
