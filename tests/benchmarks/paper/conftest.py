"""A synthetic record with the rows that the claims need; its times are invented."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.paper.claims import Claim, load_claims
from benchmarks.records.record import (
    Environment,
    LatencyRow,
    MiouRow,
    ModelRow,
    ParamsRow,
    RunRecord,
    WeightsRow,
)

OFFICIAL = WeightsRow(kind="file", sha256="a" * 64, official=True)
CUSTOM = WeightsRow(kind="file", sha256="cf3a48bb" + "0" * 56)
RANDOM = WeightsRow(kind="random", why="not here")
COUNTS = {
    ("mobilesam", "image_encoder"): (6_065_532, 5_743_892),
    ("sam-vit-h", "image_encoder"): (637_026_048,) * 2,
    ("sam-vit-l", "image_encoder"): (308_278_272,) * 2,
    ("sam-vit-b", "image_encoder"): (89_670_912,) * 2,
    ("fastsam-x", "all"): (72_234_149,) * 2,
    ("fastsam-s", "all"): (11_790_483,) * 2,
}
HEADS = {"prompt_encoder": 6_220, "mask_decoder": 4_058_340}
# encode, decode at 1, 10, 100, in ms
TIMES = {
    "mobilesam": (8.0, 4.0, 12.0, 60.0),
    "sam-vit-h": (452.0, 4.0, 12.0, 60.0),
    "sam-vit-b": (106.0, 4.0, 12.0, 60.0),
    "fastsam-x": (60.0, 1.0, 1.0, 1.0),
}
RTX = "NVIDIA GeForce RTX 3090"


def params_rows() -> list[ParamsRow]:
    rows = []
    for (model, component), (total, used) in COUNTS.items():
        rows.append(ParamsRow(model=model, component=component, total=total, used=used))
        if component == "all":
            continue
        for part, count in HEADS.items():
            rows.append(ParamsRow(model=model, component=part, total=count, used=count))
        heads = sum(HEADS.values())
        rows.append(ParamsRow(model=model, component="all", total=total + heads, used=used + heads))
    return rows


def latency_row(
    model: str, phase: str, ms: float | None, n_prompts: int | None = None, **changes: Any
) -> LatencyRow:
    values: dict[str, Any] = {
        "model": model,
        "phase": phase,
        "n_prompts": n_prompts,
        "device": "cpu",
        "precision": "fp32",
        "threads": 2,
        "weights": "file",
        "decode_kind": "decoder",
        "n": 10,
        "processes": 1,
        "median_ms": ms,
    }
    return LatencyRow(**{**values, **changes})


def latency_rows(device: str = "cpu", *, fastsam_trained: bool = False) -> list[LatencyRow]:
    rows = []
    for model, (encode, *decode) in TIMES.items():
        rows.append(latency_row(model, "encode", encode, device=device))
        detector = model.startswith("fastsam")
        blind = {"status": "skipped", "why": "needs trained weights", "weights": "random", "n": 0}
        extra = blind if detector and not fastsam_trained else {}
        for n, ms in zip((1, 10, 100), decode, strict=True):
            shown = None if extra else ms
            rows.append(latency_row(model, "decode", shown, n, device=device, **extra))
            if not detector:
                rows.append(latency_row(model, "postprocess", n / 10, n, device=device))
        if detector:
            search = None if extra else 3.0
            rows.append(latency_row(model, "postprocess", search, device=device, **extra))
    return rows


def model_rows(weights: WeightsRow = RANDOM) -> list[ModelRow]:
    names = ("mobilesam", "sam-vit-h", "sam-vit-l", "sam-vit-b", "fastsam-x", "fastsam-s")
    return [
        ModelRow(
            model=name,
            family="SAM",
            input_size_px=1024,
            licence="Apache-2.0",
            decode_kind="decoder",
            weights=weights,
        )
        for name in names
    ]


def miou_row(model: str, protocol: str, value: float | None, **changes: Any) -> MiouRow:
    values: dict[str, Any] = {
        "model": model,
        "protocol": protocol,
        "dataset": "coco:val2017",
        "reference": "ground-truth",
        "n_images": 4952,
        "n_instances": 36_335,
        "miou": value,
        "weights": OFFICIAL,
    }
    return MiouRow(**{**values, **changes})


def environment(gpu: tuple[str, ...] = ()) -> Environment:
    return Environment(
        cpu="Example CPU",
        cpu_physical_cores=2,
        cpu_logical_cores=2,
        cpu_features=(),
        gpu=gpu,
        ram_bytes=2**34,
        os="Linux",
        python="3.11.7",
        libraries={},
        threads=2,
        interop_threads=1,
        allocator="glibc",
        load_1min=0.1,
        git_commit=None,
        git_dirty=None,
    )


def build(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "id": "run-1",
        "created_utc": "2026-01-01T00:00:00+00:00",
        "command": "mobilesam-bench paper",
        "profile": "quick",
        "config": {},
        "resume_key": "k",
        "environment": environment(),
        "models": tuple(model_rows()),
        "params": tuple(params_rows()),
        "latency": tuple(latency_rows()),
        "duration_s": 1.0,
    }
    return RunRecord(**{**values, **changes})


class Kit:
    """Builders of records for the tests of this folder."""

    official, custom, random, rtx = OFFICIAL, CUSTOM, RANDOM, RTX
    build = staticmethod(build)
    environment = staticmethod(environment)
    latency_row = staticmethod(latency_row)
    latency_rows = staticmethod(latency_rows)
    miou_row = staticmethod(miou_row)
    model_rows = staticmethod(model_rows)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="session")
def ledger() -> dict[str, Claim]:
    return {claim.id: claim for claim in load_claims()}


@pytest.fixture(scope="session")
def edit() -> Callable[..., Claim]:
    """A claim with other fields, validated again."""

    def change(claim: Claim, **fields: Any) -> Claim:
        return Claim.model_validate({**claim.model_dump(), **fields})

    return change
