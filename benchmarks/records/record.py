"""Schema of `record.json`: one immutable JSON document per run, validated on writing and reading.

Docstrings and descriptions below are part of the JSON schema, `results/schema.json`.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from baselines.interface import DecodeKind, WeightsKind
from mobilesam.errors import DataError
from mobilesam.files import write_atomic as write_atomic
from mobilesam.frozen_model import FrozenModel
from mobilesam.weights.checkpoints import shipped_origins

SchemaVersion = Literal[1]
SCHEMA_VERSION: SchemaVersion = 1
RECORD_NAME = "record.json"
INSTANCES_NAME = "instances.parquet"

Status = Literal["ok", "skipped", "error"]


class WeightsRow(FrozenModel):
    """The weights behind a row; `official` only where the hash is the published one."""

    kind: WeightsKind
    sha256: str | None = None
    official: bool = False
    file_bytes: int | None = None
    why: str | None = Field(default=None, description="why these weights and not the official ones")
    shipped: str | None = Field(
        default=None, description="origin of weights from inside this package; None for others"
    )

    @model_validator(mode="before")
    @classmethod
    def _recognize(cls, data: Any) -> Any:
        """Adds `shipped` to weights of this package that were given as any file."""
        if isinstance(data, dict) and data.get("sha256") and not data.get("shipped"):
            return data | {"shipped": shipped_origins().get(data["sha256"])}
        return data


class ModelRow(FrozenModel):
    """A model that took part, or the reason why it could not."""

    model: str
    family: str
    input_size_px: int
    licence: str
    decode_kind: DecodeKind
    weights: WeightsRow
    status: Status = "ok"
    why: str | None = None
    note: str = Field(default="", description="what a reader of its results has to know")
    weights_licence: str | None = Field(
        default=None, description="SPDX identifier of the licence of its published weights"
    )
    commercial_use: Literal["yes", "no", "ask"] | None = None
    weights_note: str = Field(
        default="", description="what a user has to know about its licence, access or weights"
    )


class ParamsRow(FrozenModel):
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


class LatencyRow(FrozenModel):
    """One phase of one model, derived from `samples_ms`, which holds one tuple a process."""

    model: str
    phase: str
    n_prompts: int | None = None
    n_images: int = Field(
        default=1, description="images in one call; more than 1 in `batches` only"
    )
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
    range_ms: tuple[float, float] | None = Field(
        default=None,
        description="least and greatest median of the processes, or call of one process, where "
        "there are too few processes for an interval",
    )
    mean_ms: float | None = None
    min_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    warmup_calls: int = 0
    warnings: tuple[str, ...] = ()
    samples_ms: tuple[tuple[float, ...], ...] = ()
    run: str | None = Field(default=None, description="id of its run, in merged records only")


class MemoryRow(FrozenModel):
    """Memory of the fresh processes that measured a model, in bytes.

    It is that of the process with the median peak; `peaks_rss_bytes` holds the peak of each.
    """

    model: str
    device: str
    processes: int
    rss_before_load_bytes: int
    peak_rss_bytes: int
    peaks_rss_bytes: tuple[int, ...] = Field(
        default=(), description="one a process; empty in older records"
    )
    weight_bytes: int
    cuda_peak_allocated_bytes: int | None = None
    cuda_peak_reserved_bytes: int | None = None


class BySize(FrozenModel):
    """One value for each COCO size class; None where the class is empty."""

    small: float | None = None
    medium: float | None = None
    large: float | None = None


class CategoryMean(FrozenModel):
    """Mean IoU over the instances of one category."""

    category: str
    n_instances: int
    miou: float


class Noc(FrozenModel):
    """Number of clicks until an IoU is reached (NoC): mean over instances, with its interval.

    An instance that never reaches it counts with all clicks; `n_failed` is the number of those
    (NoF).
    """

    iou: float
    noc: float
    ci95: tuple[float, float] | None = None
    n_failed: int


class Clicks(FrozenModel):
    """Number of clicks until an IoU is reached (NoC), for protocols that click K times.

    `noc*` are means over instances, of which those that never reach the IoU count with K clicks;
    `failed*` is the share of those. They are None if their IoU is not among the thresholds.
    """

    budget: int
    noc85: float | None = None
    failed85: float | None = None
    noc90: float | None = None
    failed90: float | None = None
    thresholds: tuple[Noc, ...] = Field(default=(), description="empty in older records")


class MiouRow(FrozenModel):
    """Accuracy of one model under one protocol. Values are fractions in [0, 1].

    `n_left_out` counts instances for which the protocol has no prompt, the same for all models.
    """

    model: str
    dataset: str
    protocol: str
    reference: str
    n_images: int = 0
    n_instances: int = 0
    n_left_out: int = 0
    miou: float | None = None
    ci95: tuple[float, float] | None = None
    miou_per_image: float | None = None
    boundary_miou: float | None = None
    boundary_ci95: tuple[float, float] | None = None
    by_size: BySize = BySize()
    n_by_size: BySize = BySize()
    by_category: tuple[CategoryMean, ...] = ()
    clicks: Clicks | None = None
    weights: WeightsRow
    reference_weights: WeightsRow | None = Field(
        default=None, description="weights of the teacher; None against the ground truth"
    )
    status: Status = "ok"
    why: str | None = None
    manifest_sha256: str | None = None
    seconds: float | None = Field(default=None, description="wall time of models and scoring")


class AccuracyTimeRow(FrozenModel):
    """Where the wall time of one model's pass over a dataset went, in seconds.

    `model_s` is preparing, encoding and decoding; all else is overhead of this suite.
    """

    model: str
    dataset: str
    wall_s: float
    model_s: float
    data_s: float
    prompts_s: float
    scoring_s: float
    writing_s: float
    cached_embeddings: int = 0

    def plus(self, other: AccuracyTimeRow) -> AccuracyTimeRow:
        """The times of two parts of the data together."""
        numbers = self.model_dump(exclude={"model", "dataset"})
        total = {name: value + getattr(other, name) for name, value in numbers.items()}
        return self.model_copy(update=total)

    @property
    def overhead(self) -> float:
        """Share of the wall time outside the model, in [0, 1]."""
        return 1 - self.model_s / self.wall_s if self.wall_s > 0 else 0.0


class ComparisonRow(FrozenModel):
    """Paired comparison of two models on the same prompts: mean IoU of A minus that of B.

    `p_adjusted` is corrected (Holm) over all pairs of models and protocols with the same
    dataset and reference; models that do not differ count as one.
    """

    dataset: str
    protocol: str
    reference: str
    model_a: str
    model_b: str
    n_images: int
    n_instances: int
    difference: float
    ci95: tuple[float, float] | None
    p_value: float
    p_adjusted: float


class RobustnessRow(FrozenModel):
    """Loss of mean IoU under disturbed prompts, over the instances that also have the clean prompt.

    `loss` is `miou_clean` minus `miou`, paired by instance; its interval is over images.
    """

    model: str
    dataset: str
    protocol: str
    clean: str = Field(description="protocol with the undisturbed prompt")
    reference: str
    n_images: int = 0
    n_instances: int = 0
    miou_clean: float | None = None
    miou: float | None = None
    loss: float | None = None
    ci95: tuple[float, float] | None = None
    status: Status = "ok"
    why: str | None = None


class DetectorRow(FrozenModel):
    """COCO AP (fractions) of the masks that a model gives for a detector's boxes."""

    model: str
    dataset: str
    detections: str
    detections_sha256: str
    mask: Literal["single", "multi"] = "single"
    n_images: int = 0
    n_detections: int = 0
    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    ap_by_size: BySize = BySize()
    weights: WeightsRow
    status: Status = "ok"
    why: str | None = None
    seconds: float | None = None


class EverythingRow(FrozenModel):
    """Segment everything: average recall (fractions) at 10, 100 and 1000 masks, and its time.

    The median time is over images, in one process.
    """

    model: str
    dataset: str
    n_images: int = 0
    n_objects: int = 0
    ar10: float | None = None
    ar100: float | None = None
    ar1000: float | None = None
    ar1000_by_size: BySize = BySize()
    masks_per_image: float | None = None
    median_ms: float | None = None
    ci95_ms: tuple[float, float] | None = Field(
        default=None, description="of older records, whose one process gives no interval"
    )
    range_ms: tuple[float, float] | None = Field(
        default=None, description="least and greatest time of an image"
    )
    weights: WeightsRow
    status: Status = "ok"
    why: str | None = None


class Failure(FrozenModel):
    """Something that went wrong and was survived."""

    stage: str
    culprit: str
    why: str


class Environment(FrozenModel):
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
    threads_reason: str | None = Field(
        default=None, description="why so many threads; None if all cores, or if asked for"
    )
    wait_policy: str | None = Field(
        default=None,
        description="OMP_WAIT_POLICY of the process: PASSIVE if waiting threads sleep; None: unset",
    )
    allocator: str
    load_1min: float | None
    other_load: float | None = Field(
        default=None,
        description="cores that other processes used just before a publishable run; None otherwise",
    )
    git_commit: str | None
    git_dirty: bool | None


class RunRecord(FrozenModel):
    """The whole of one run."""

    schema_version: SchemaVersion = SCHEMA_VERSION
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
    batches: tuple[LatencyRow, ...] = Field(
        default=(), description="phase `encode` of `n_images` images in one call (--batch)"
    )
    other_latency: tuple[LatencyRow, ...] = Field(
        default=(), exclude=True, description="rows that others replaced, in merged records only"
    )
    memory: tuple[MemoryRow, ...] = ()
    miou: tuple[MiouRow, ...] = ()
    comparisons: tuple[ComparisonRow, ...] = ()
    robustness: tuple[RobustnessRow, ...] = ()
    accuracy_times: tuple[AccuracyTimeRow, ...] = ()
    detector: tuple[DetectorRow, ...] = ()
    everything: tuple[EverythingRow, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    instances: str | None = Field(default=None, description="Parquet file beside the record")
    names: dict[str, str] = Field(
        default={},
        exclude=True,
        description="models and references that merging renamed, since runs differ in precision: "
        "the name in the files beside the record, and the new name; empty in a stored record",
    )
    duration_s: float
    complete: bool = Field(default=True, description="False if the run was interrupted")


class RecordBuilder:
    """A record in the making: rows are added by the name of their field in `RunRecord`.

    Attributes:
        instances: Name of the table of instances in the folder of the record; None without one.
        complete: Whether the run has reached its end.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        resume_key: str,
        environment: Environment,
        command: str,
        note: str | None = None,
        profile: str | None = None,
    ) -> None:
        self._start = time.monotonic()
        self.environment = environment
        self._fixed: dict[str, Any] = {
            "config": dict(config),
            "environment": environment,
            "command": command,
            "note": note,
            "profile": profile,
            "resume_key": resume_key,
        }
        self._rows: dict[str, list[Any]] = defaultdict(list)
        self.instances: str | None = None
        self.complete = False

    def add(self, **rows: Iterable[Any]) -> None:
        """Adds rows to fields of the record, such as `miou` or `warnings`."""
        for field, values in rows.items():
            self._rows[field].extend(values)

    def add_failure(self, stage: str, source: str, reason: str) -> None:
        """Records a failure of a model or an image that did not stop the run."""
        self.add(failures=[Failure(stage=stage, culprit=source, why=reason)])

    @property
    def failures(self) -> list[Failure]:
        """Distinct failures so far."""
        return list(dict.fromkeys(self._rows["failures"]))

    def build(self) -> RunRecord:
        """Returns the record of everything that was added; repeated failures and warnings once."""
        created = datetime.now(UTC)
        rows: dict[str, Any] = {field: tuple(values) for field, values in self._rows.items()}
        rows["failures"] = tuple(self.failures)
        rows["warnings"] = tuple(dict.fromkeys(self._rows["warnings"]))
        return RunRecord(
            id=f"{created:%Y%m%dT%H%M%SZ}-{self._fixed['resume_key'][:8]}",
            created_utc=created.isoformat(timespec="seconds"),
            instances=self.instances,
            duration_s=time.monotonic() - self._start,
            complete=self.complete,
            **self._fixed,
            **rows,
        )


def save_record(record: RunRecord, folder: Path) -> Path:
    """Writes `record.json` into the folder and returns its path; see `document_of`."""
    path = folder / RECORD_NAME
    write_atomic(path, document_of(record, path, indent=1))
    return path


def document_of(value: FrozenModel, path: Path, indent: int | None = None) -> bytes:
    """Returns a model as JSON with a line break at its end, for a file at `path`.

    A number that is NaN or infinite is a `DataError`: JSON has neither, and `model_copy` does not
    check.
    """
    for place, number in _not_finite(value.model_dump(), ""):
        raise DataError(
            f"{path} is not written: {place} is {number}, which is no result; report this with the "
            "command that made it"
        )
    found = value.model_dump(mode="json")
    text = json.dumps(found, indent=indent, ensure_ascii=indent is None, allow_nan=False)
    return f"{text}\n".encode()


def _not_finite(value: object, place: str) -> Iterator[tuple[str, float]]:
    """Yields place and value of each NaN or infinite number in nested containers."""
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    elif isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    for name, part in parts:
        yield from _not_finite(part, f"{place}.{name}" if place else str(name))


def load_record(path: Path) -> RunRecord:
    """Reads a record from its file or folder; a `DataError` if it is not one."""
    return RunRecord.from_file(path / RECORD_NAME if path.is_dir() else path, "record")


def schema() -> dict[str, Any]:
    """The JSON schema of a record, committed as `results/schema.json`."""
    return RunRecord.model_json_schema()
