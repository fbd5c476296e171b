"""Synthetic records: values of plausible size, none of them measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.records.record import (
    BySize,
    Environment,
    Failure,
    LatencyRow,
    MemoryRow,
    MiouRow,
    ModelRow,
    ParamsRow,
    RunRecord,
    WeightsRow,
)
from benchmarks.records.statistics import summarise_times

OFFICIAL = WeightsRow(kind="file", sha256="6dbb9052" + "0" * 56, official=True, file_bytes=40728226)
CUSTOM = WeightsRow(kind="file", sha256="abcd1234" + "0" * 56, why="given with --weights")
RANDOM = WeightsRow(kind="random", why="checkpoint not on this machine and --offline was given")
NONE = WeightsRow(kind="none")
SAM_PARTS = {"prompt_encoder": 6_220, "mask_decoder": 4_058_340}
# name: family, decode kind, weights, encoder parameters, encode ms, decode ms at 1, 10, 100
MODELS: dict[str, tuple[str, Any, WeightsRow, int, float, tuple[float, float, float]]] = {
    "mobilesam": ("MobileSAM", "decoder", OFFICIAL, 5_743_892, 1200, (55, 260, 2650)),
    "sam-vit-h": ("SAM", "decoder", RANDOM, 637_026_048, 28000, (56, 262, 2700)),
    "sam-vit-l": ("SAM", "decoder", RANDOM, 308_278_272, 15000, (57, 265, 2600)),
    "sam-vit-b": ("SAM", "decoder", RANDOM, 89_670_912, 5000, (55, 258, 2680)),
    "fastsam-x": ("FastSAM", "select", RANDOM, 72_234_149, 900, (12, 14, 40)),
    "fastsam-s": ("FastSAM", "select", RANDOM, 11_790_483, 250, (11, 13, 39)),
    "grabcut": ("classical", "classical", NONE, 0, 0.1, (400, 4000, 40000)),
    "box": ("classical", "classical", NONE, 0, 0.01, (0.05, 0.4, 4)),
    "dummy": ("dummy", "decoder", NONE, 0, 1, (0.5, 0.52, 0.6)),
    "mobilesam-onnx": ("MobileSAM", "decoder", CUSTOM, 5_743_892, 1000, (50, 240, 2500)),
    "mobilesam-openvino": ("MobileSAM", "decoder", CUSTOM, 5_743_892, 700, (40, 200, 2000)),
    "third-party/a-very-long-model-name_$with$-odd|chars": (
        "SAM", "decoder", CUSTOM, 25_000_000, 2000, (60, 300, 3000),
    ),
}  # fmt: skip
ACCURACY = {
    "mobilesam": (0.744, 0.522),
    "grabcut": (0.61, 0.31),
    "box": (0.55, None),
    "mobilesam-onnx": (0.743, 0.521),
    "mobilesam-openvino": (0.742, 0.520),
    "third-party/a-very-long-model-name_$with$-odd|chars": (0.75, 0.53),
}


def environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "cpu": "Example CPU | 9000",
        "cpu_physical_cores": 4,
        "cpu_logical_cores": 8,
        "cpu_features": ("avx2",),
        "gpu": (),
        "ram_bytes": 16 * 2**30,
        "os": "Linux 6.1",
        "python": "3.11.9",
        "libraries": {"torch": "2.15.0", "numpy": "2.4.0"},
        "threads": 4,
        "interop_threads": 1,
        "allocator": "glibc",
        "load_1min": 0.2,
        "git_commit": "0123456789abcdef0123",
        "git_dirty": False,
    }
    return Environment(**{**values, **changes})


def _latency(name: str, phase: str, ms: float, n_prompts: int | None = None) -> LatencyRow:
    _, kind, weights, *_ = MODELS[name]
    common: dict[str, Any] = {
        "model": name,
        "phase": phase,
        "n_prompts": n_prompts,
        "device": "cpu",
        "precision": "float32",
        "threads": 4,
        "weights": weights.kind,
        "decode_kind": kind,
    }
    if name == "fastsam-s" and phase == "end_to_end":
        return LatencyRow(**common, status="error", why="RuntimeError: out of memory | at <box>")
    if name.startswith("fastsam") and phase == "decode":
        return LatencyRow(
            **common, status="skipped", why="random weights find no masks to select among"
        )
    # A model of three processes has a range, the others an interval.
    factors = (0.98, 1.0, 1.02) if name == "mobilesam" else (0.97, 0.99, 1.0, 1.01, 1.04)
    samples = tuple((0.99 * each * ms, each * ms, 1.02 * each * ms) for each in factors)
    found = summarise_times(samples)
    return LatencyRow(
        **common,
        n=120,
        processes=len(factors),
        median_ms=ms,
        ci95_ms=found.ci95_ms,
        range_ms=found.range_ms,
        mean_ms=1.01 * ms,
        min_ms=0.9 * ms,
        p95_ms=1.2 * ms,
        samples_ms=samples,
    )


def latency_rows(name: str) -> list[LatencyRow]:
    encode, decode = MODELS[name][4], MODELS[name][5]
    phases = {
        "load": 300 + encode / 5,
        "first_call": 2 * encode,
        "preprocess": 14,
        "encode": encode,
    }
    return [
        *(_latency(name, phase, ms) for phase, ms in phases.items()),
        *(_latency(name, "decode", ms, n) for n, ms in zip((1, 10, 100), decode, strict=True)),
        _latency(name, "end_to_end", 14 + encode + decode[0], 1),
    ]


def params_rows(name: str) -> list[ParamsRow]:
    family, _, _, encoder, *_ = MODELS[name]
    if not encoder:
        return []
    if family == "FastSAM":
        return [_params(name, "all", encoder, 880e9)]
    return [_params(name, "image_encoder", encoder, 40e9)] + [
        _params(name, part, count, 3e9) for part, count in SAM_PARTS.items()
    ]


def _params(name: str, component: str, used: int, flops: float) -> ParamsRow:
    total = used + (321_640 if component == "image_encoder" and name == "mobilesam" else 0)
    return ParamsRow(
        model=name,
        component=component,
        total=total,
        used=used,
        flops=int(flops),
        flops_not_counted=("aten::softmax",),
        weight_bytes=4 * used,
    )


def miou_rows(name: str) -> list[MiouRow]:
    weights = MODELS[name][2]
    rows = []
    for index, protocol in enumerate(("box", "center", "center-multi")):
        value = ACCURACY.get(name, (None, None))[min(index, 1)]
        common: dict[str, Any] = {
            "model": name,
            "dataset": "coco:val2017_dev",
            "protocol": protocol,
            "reference": "ground-truth",
            "weights": weights,
        }
        if value is None:
            why = "random weights" if weights.kind == "random" else "box takes no points as prompts"
            rows.append(MiouRow(**common, status="skipped", why=why))
            continue
        rows.append(
            MiouRow(
                **common,
                n_images=50,
                n_instances=400,
                miou=value,
                ci95=(value - 0.03, value + 0.025),
                miou_per_image=value + 0.01,
                by_size=BySize(small=value - 0.1, medium=value, large=value + 0.06),
                n_by_size=BySize(small=120, medium=160, large=120),
                manifest_sha256="f" * 64,
            )
        )
    return rows


def build_record(names: list[str], **changes: Any) -> RunRecord:
    models = [
        ModelRow(
            model=name,
            family=MODELS[name][0],
            input_size_px=1024,
            licence="Apache-2.0",
            decode_kind=MODELS[name][1],
            weights=MODELS[name][2],
        )
        for name in names
    ]
    memory = [
        MemoryRow(
            model=name,
            device="cpu",
            processes=3,
            rss_before_load_bytes=200 * 2**20,
            peak_rss_bytes=1234 * 2**20,
            weight_bytes=0,
        )
        for name in names
    ]
    values: dict[str, Any] = {
        "id": "20261123-example",
        "created_utc": "2026-11-23T20:00:00Z",
        "command": "mobilesam-bench run",
        "profile": "standard",
        "config": {},
        "resume_key": "k",
        "environment": environment(),
        "models": tuple(models),
        "params": tuple(row for name in names for row in params_rows(name)),
        "latency": tuple(row for name in names for row in latency_rows(name)),
        "memory": tuple(memory),
        "miou": tuple(row for name in names for row in miou_rows(name)),
        "failures": (Failure(stage="latency", culprit="fastsam-s", why="out of memory"),),
        "warnings": ("noisy machine",),
        "duration_s": 12.0,
    }
    return RunRecord(**{**values, **changes})


MANY_PROTOCOLS = (
    "center", "box", "box-multi", "center-multi", "center-oracle", "random-3", "two-point-100",
    *(f"clicks-{number}" for number in range(1, 6)), "annotation-point",
)  # fmt: skip
TEACHER = "teacher:sam-vit-h"


def many_rows(name: str) -> list[MiouRow]:
    """Thirteen protocols against the ground truth and a teacher; no model has a stored point."""
    source = miou_rows(name)[0]
    rows = []
    for reference in ("ground-truth", TEACHER):
        for index, protocol in enumerate(MANY_PROTOCOLS):
            changes: dict[str, Any] = {"protocol": protocol, "reference": reference}
            clicks = protocol.startswith("clicks-")
            if source.miou is not None and protocol == "annotation-point":
                changes |= {"miou": None, "ci95": None, "status": "skipped", "why": "no such point"}
            elif source.miou is not None and clicks and reference == TEACHER:
                changes |= {"miou": None, "ci95": None, "status": "skipped", "why": "no reference"}
            elif source.miou is not None:
                value = source.miou - 0.03 + 0.01 * index
                changes |= {"miou": value, "ci95": (value - 0.03, value + 0.025)}
            rows.append(source.model_copy(update=changes))
    return rows


def sized_record() -> RunRecord:
    """MobileSAM at three input sizes, with times of batches and terms of its licence."""
    names = ["mobilesam@512", "grabcut", "mobilesam", "mobilesam@768"]
    shares = {"mobilesam@512": 0.25, "mobilesam@768": 0.56, "mobilesam": 1.0, "grabcut": 1.0}
    source = build_record(["mobilesam", "grabcut"])

    def sized(rows: Iterable[Any]) -> list[Any]:
        found = list(rows)
        return [
            row.model_copy(update={"model": name})
            for name in names
            for row in found
            if row.model == name.partition("@")[0]
        ]

    def timed(row: LatencyRow) -> LatencyRow:
        ms = (row.median_ms or 0) * shares[row.model]
        return row.model_copy(update={"median_ms": ms, "samples_ms": ((0.9 * ms, ms, 1.1 * ms),)})

    def scored(row: MiouRow) -> MiouRow:
        miou = (row.miou or 0) - 0.1 * (1 - shares[row.model])
        return row.model_copy(update={"miou": miou, "ci95": (miou - 0.03, miou + 0.03)})

    latency = [timed(row) for row in sized(source.latency)]
    encode = next(row for row in latency if (row.model, row.phase) == ("mobilesam", "encode"))
    batches = [
        encode.model_copy(
            update={
                "n_images": n,
                "median_ms": 900.0 * n,
                "samples_ms": tuple((900.0 * n * factor,) for factor in (0.9, 1.0, 1.2)),
            }
        )
        for n in (1, 4)
    ]
    alone = {"model": "grabcut", "status": "skipped", "why": "encodes one image at a time"}
    batches.append(batches[0].model_copy(update=alone | {"median_ms": None, "samples_ms": ()}))
    terms = {"weights_licence": "MIT", "commercial_use": "ask", "note": "masks are drawn"}
    models = [
        row.model_copy(
            update=terms
            | {"input_size_px": int(row.model.partition("@")[2] or 1024), "weights_note": "gated"}
        )
        if row.family == "MobileSAM"
        else row
        for row in sized(source.models)
    ]
    return source.model_copy(
        update={
            "models": tuple(models),
            "params": tuple(sized(source.params)),
            "latency": tuple(latency),
            "batches": tuple(batches),
            "memory": tuple(sized(source.memory)),
            "miou": tuple(scored(row) for row in sized(source.miou)),
        }
    )
