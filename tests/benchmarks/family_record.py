"""A record of the mini family, as a run writes it."""

from __future__ import annotations

from typing import Any

from benchmarks.records.environment import collect
from benchmarks.records.record import LatencyRow, MiouRow, ParamsRow, RunRecord, WeightsRow

TEACHER = "teacher:sam-mini"


def miou_row(model: str, protocol: str, reference: str, value: float) -> MiouRow:
    return MiouRow(
        model=model,
        dataset="synthetic:seed=77,n=500",
        protocol=protocol,
        reference=reference,
        miou=value,
        weights=WeightsRow(kind="file"),
    )


def family(student_box: float) -> RunRecord:
    encode: dict[str, Any] = {
        "phase": "encode", "device": "cpu", "precision": "fp32", "threads": 1, "weights": "file",
        "decode_kind": "decoder",
    }  # fmt: skip
    return RunRecord(
        id="x",
        created_utc="2026-01-01T00:00:00+00:00",
        command="c",
        profile=None,
        config={},
        resume_key="k",
        environment=collect(threads=1),
        duration_s=1.0,
        params=(
            ParamsRow(model="sam-mini", component="image_encoder", total=400),
            ParamsRow(model="sam-mini", component="all", total=800),
            ParamsRow(model="mobilesam-mini", component="image_encoder", total=100),
        ),
        latency=(
            LatencyRow(model="sam-mini", median_ms=30.0, **encode),
            LatencyRow(model="mobilesam-mini", median_ms=20.0, **encode),
        ),
        miou=(
            miou_row("sam-mini", "box", "ground-truth", 0.85),
            miou_row("mobilesam-mini", "box", "ground-truth", student_box),
            miou_row("mobilesam-mini", "box", TEACHER, 0.99),
            miou_row("mobilesam-mini", "center", TEACHER, 0.7),
        ),
    )
