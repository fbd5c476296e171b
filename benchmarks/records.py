"""What a run leaves behind: one immutable JSON document, validated on the way out and back in."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from baselines.interface import DecodeKind, WeightsKind
from mobilesam.errors import DataError

SCHEMA_VERSION = 1
RECORD_NAME = "record.json"
INSTANCES_NAME = "instances.parquet"

Status = Literal["ok", "skipped", "error"]


class Value(BaseModel):
    """Base of all parts of a record: frozen, nothing unknown, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WeightsRow(Value):
    """The weights behind a row; `official` only where the hash is the published one."""

    kind: WeightsKind
    sha256: str | None = None
    official: bool = False
    file_bytes: int | None = None
    why: str | None = Field(default=None, description="why these weights and not the official ones")


class ModelRow(Value):
    """A model that took part, or the reason why it could not."""

    model: str
    family: str
    input_size_px: int
    licence: str
    decode_kind: DecodeKind
    weights: WeightsRow
    status: Status = "ok"
    why: str | None = None


class ParamsRow(Value):
    """Size and arithmetic of one component of a model.

    `total` counts every parameter, `used` those that take part in the forward pass. `flops` are
    floating-point operations (one multiply-add is two) of one call: the encoder for one image, the
    prompt encoder and decoder for one point prompt.
    """

    model: str
    component: str
    status: Status = "ok"
    why: str | None = None
    total: int | None = None
    used: int | None = None
    total_1e6: float | None = None
    total_2_20: float | None = None
    used_1e6: float | None = None
    used_2_20: float | None = None
    flops: int | None = None
    flops_unit: Literal["FLOP"] = "FLOP"
    flops_not_counted: tuple[str, ...] = ()
    weight_bytes: int | None = None


class LatencyRow(Value):
    """One phase of one model, derived from `samples_ms`, which holds one tuple a process."""

    model: str
    phase: str
    n_prompts: int | None = None
    device: str
    precision: str
    threads: int
    weights: WeightsKind
    decode_kind: DecodeKind | None = Field(description="None if the model could not be built")
    status: Status = "ok"
    why: str | None = None
    n: int = 0
    processes: int = 0
    median_ms: float | None = None
    ci95_ms: tuple[float, float] | None = None
    mean_ms: float | None = None
    min_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    warmup_calls: int = 0
    warnings: tuple[str, ...] = ()
    samples_ms: tuple[tuple[float, ...], ...] = ()


class MemoryRow(Value):
    """Memory of the fresh processes that measured a model, in bytes; the median over processes."""

    model: str
    device: str
    processes: int
    rss_before_load_bytes: int
    peak_rss_bytes: int
    weight_bytes: int
    cuda_peak_allocated_bytes: int | None = None
    cuda_peak_reserved_bytes: int | None = None


class BySize(Value):
    """One value for each COCO size class; None where the class is empty."""

    small: float | None = None
    medium: float | None = None
    large: float | None = None


class MiouRow(Value):
    """Accuracy of one model under one protocol. Values are fractions in [0, 1]."""

    model: str
    dataset: str
    protocol: str
    reference: str
    n_images: int = 0
    n_instances: int = 0
    miou: float | None = None
    ci95: tuple[float, float] | None = None
    miou_per_image: float | None = None
    by_size: BySize = BySize()
    n_by_size: BySize = BySize()
    weights: WeightsRow
    status: Status = "ok"
    why: str | None = None
    manifest_sha256: str | None = None
    seconds: float | None = Field(default=None, description="wall time of models and scoring")


class Failure(Value):
    """Something that went wrong and was survived."""

    stage: str
    culprit: str
    why: str


class Environment(Value):
    """Where and with what a run was made."""

    cpu: str
    cpu_physical_cores: int | None
    cpu_logical_cores: int
    cpu_features: tuple[str, ...]
    gpu: tuple[str, ...]
    ram_bytes: int
    os: str
    python: str
    libraries: dict[str, str]
    threads: int
    interop_threads: int
    allocator: str
    load_1min: float | None
    git_commit: str | None
    git_dirty: bool | None


class RunRecord(Value):
    """The whole of one run."""

    schema_version: int = SCHEMA_VERSION
    id: str
    created_utc: str
    command: str
    note: str | None = Field(default=None, description="what the user wants remembered of it")
    profile: str | None
    config: dict[str, Any]
    resume_key: str
    environment: Environment
    models: tuple[ModelRow, ...] = ()
    params: tuple[ParamsRow, ...] = ()
    latency: tuple[LatencyRow, ...] = ()
    memory: tuple[MemoryRow, ...] = ()
    miou: tuple[MiouRow, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    instances: str | None = Field(default=None, description="Parquet file beside the record")
    duration_s: float
    complete: bool = Field(default=True, description="False if the run was interrupted")


def write_atomic(path: Path, data: bytes) -> None:
    """Writes under a temporary name in the same folder and renames: a reader never sees a part.

    Raises:
        DataError: The folder cannot be written, or the disk is full.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror}; choose another --out") from error


def save_record(record: RunRecord, folder: Path) -> Path:
    """Writes `record.json` into the folder and returns its path."""
    path = folder / RECORD_NAME
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())
    return path


def load_record(path: Path) -> RunRecord:
    """Reads a record from its file or from the folder that holds it.

    Raises:
        DataError: Missing, unreadable, not JSON, or not of this schema.
    """
    file = path / RECORD_NAME if path.is_dir() else path
    try:
        return RunRecord.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read the record {file}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise DataError(
            f"{file} is not a record of this version: {where}: {first['msg']}"
        ) from error


def schema() -> dict[str, Any]:
    """The JSON schema of a record, committed as `results/schema.json`."""
    return RunRecord.model_json_schema()
