"""Results of shards on disk, and the summary of what they report besides their rows.

Each result is one Parquet file, written atomically, under a key of everything that determines it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from pydantic import Field, ValidationError

from benchmarks.datasets.dataset import Dataset, Shard
from benchmarks.evaluation.run_model import Attempts, left_out_text, malformed_annotation_failures
from benchmarks.records.instances import parquet_file, stored_metadata
from benchmarks.records.record import AccuracyTimeRow, Failure, Status, write_atomic
from mobilesam.frozen_model import FrozenModel

TIMES_FOLDER = "chunk-times"
MAX_LISTED = 10_000
"""Failures that a record lists one by one; the files of the shards hold all."""
_METADATA_KEY = b"mobilesam-bench.chunk"
_SUFFIX = ".parquet"


class Unavailable(FrozenModel):
    """Reason why a model has no results in a shard."""

    status: Status
    why: str


class ShardInfo(FrozenModel):
    """What a shard reports besides its rows, as metadata of its file; the same in every run.

    Manifests (SHA-256) and numbers of instances without a prompt are by prompt sampler, all else by
    model. Failures are images that cannot be read, and models that cannot be built.
    """

    key: str
    n_images: int
    unavailable: dict[str, Unavailable] = Field(default_factory=dict)
    unsupported: dict[str, dict[str, str]] = Field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    attempts: dict[str, Attempts] = Field(default_factory=dict)
    manifests: dict[str, str] = Field(default_factory=dict)
    no_prompt: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def n_failures(self) -> int:
        """Number of failures of images and models."""
        return len(self.failures) + sum(each.n_failed for each in self.attempts.values())


class ShardTimes(FrozenModel):
    """Times of a shard and their `environment.machine`; not in its info, since runs differ."""

    key: str
    times: tuple[AccuracyTimeRow, ...]
    machine: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ShardResult:
    """Result of one shard, with the bytes of its file; it can be sent to another process."""

    name: str
    info: ShardInfo
    table: bytes
    n_rows: int
    times: ShardTimes | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def of_rows(
        cls,
        name: str,
        info: ShardInfo,
        kind: type[FrozenModel],
        rows: Sequence[FrozenModel],
        times: ShardTimes | None = None,
        warnings: Sequence[str] = (),
    ) -> ShardResult:
        """Result with rows of one kind."""
        table = parquet_file(kind, rows, {_METADATA_KEY: info.model_dump_json().encode()})
        return cls(name, info, table, len(rows), times, tuple(warnings))


def shard_key(task: str, shard: Shard) -> str:
    """SHA-256 of all that determines the rows of a shard; `task` covers code and configuration."""
    inputs = f"{task} {shard.fingerprint} {shard.images_state} {len(shard.readers)}"
    return hashlib.sha256(inputs.encode()).hexdigest()


class ShardStore:
    """Results of the shards of a run: Parquet files in a folder that holds nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._times = path.parent / TIMES_FOLDER / path.stem

    def file(self, name: str) -> Path:
        """File of a shard."""
        return self.path / f"{name}{_SUFFIX}"

    def _times_file(self, name: str) -> Path:
        return self._times / f"{name}.json"

    def info(self, name: str) -> ShardInfo | None:
        """What a stored shard reports; None if it is missing or damaged."""
        return stored_metadata(self.file(name), _METADATA_KEY, ShardInfo)

    def times(self, name: str, key: str) -> ShardTimes | None:
        """Times of a shard; None if they are not known."""
        try:
            found = ShardTimes.model_validate_json(self._times_file(name).read_bytes())
        except (OSError, ValidationError):
            return None
        return found if found.key == key else None

    def write(self, result: ShardResult) -> None:
        """Stores a result atomically."""
        if result.times is not None:
            # The table is written last, since it marks the shard as finished.
            times = result.times.model_dump_json().encode()
            write_atomic(self._times_file(result.name), times, durable=False)
        write_atomic(self.file(result.name), result.table)

    def finished(self, keys: Mapping[str, str]) -> dict[str, ShardInfo]:
        """What the stored shards that have the given keys report, by name, in order."""
        infos = ((name, self.info(name)) for name in sorted(keys))
        return {name: info for name, info in infos if info is not None and info.key == keys[name]}

    def names(self) -> Iterator[str]:
        """Yields the names of all stored shards, in order."""
        if self.path.is_dir():
            for path in sorted(self.path.iterdir()):
                if path.suffix == _SUFFIX and not path.name.startswith("."):
                    yield path.stem

    def remove(self, name: str) -> None:
        """Deletes a shard, if it is there."""
        self.file(name).unlink(missing_ok=True)
        self._times_file(name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Deletes temporary files of writers that were killed."""
        for folder in (self.path, self._times):
            for path in folder.glob(".*") if folder.is_dir() else ():
                path.unlink(missing_ok=True)


@dataclass(slots=True)
class ShardSummary:
    """Sums of what the shards of a run report; see `ShardInfo`.

    Times count if they were taken on `machine`; None is any, if it is the same for all shards.
    """

    dataset: str
    machine: tuple[str, ...] | None = None
    given_up: tuple[Failure, ...] = ()
    n_given_up: int = 0
    warnings: list[str] = field(default_factory=list)
    unavailable: dict[str, Unavailable] = field(default_factory=dict)
    unsupported: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    no_prompt: Counter[str] = field(default_factory=Counter)
    attempts: defaultdict[str, Attempts] = field(default_factory=lambda: defaultdict(Attempts))
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    n_images: int = 0
    _n_unreadable: int = 0
    _n_unavailable: Counter[str] = field(default_factory=Counter)
    _times: dict[str, AccuracyTimeRow] = field(default_factory=dict)
    _untimed: dict[str, None] = field(default_factory=dict)
    _failures: dict[Failure, None] = field(default_factory=dict)
    _n_failures: int = 0
    _manifests: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of_dataset(
        cls,
        dataset: Dataset,
        shards: Iterable[tuple[ShardInfo, ShardTimes | None]] = (),
        machine: tuple[str, ...] | None = None,
    ) -> ShardSummary:
        """Summary of shards, with what is known of a dataset before its images are read."""
        summary = cls(dataset.name, machine)
        summary.left_out.update(dataset.left_out)
        summary.problems.extend(dataset.problems)
        for info, times in shards:
            summary.add(info, times)
        return summary

    def add(self, info: ShardInfo, times: ShardTimes | None) -> None:
        """Adds a shard; shards are added in order."""
        for model, unavailable in info.unavailable.items():
            if unavailable.status == "error":
                self._n_unavailable[model] += info.n_images
            self.unavailable.setdefault(model, unavailable)
        for model, protocols in info.unsupported.items():
            self.unsupported[model].update(protocols)
        for failure in info.failures:
            self._n_unreadable += failure.stage == "data"
            self._n_failures += failure not in self._failures
            if len(self._failures) < MAX_LISTED:
                self._failures[failure] = None
        for sampler, sha256 in info.manifests.items():
            self._manifests[sampler].append(sha256)
        for model, attempts in info.attempts.items():
            self.attempts[model] = self.attempts[model].plus(attempts, MAX_LISTED)
        self.n_images += info.n_images
        self.no_prompt.update(info.no_prompt)
        self.left_out.update(info.left_out)
        self.problems.extend(info.problems[: max(0, MAX_LISTED - len(self.problems))])
        if times is not None and self.machine is None:
            self.machine = times.machine
        if times is None or times.machine != self.machine:
            answered = [model for model, each in info.attempts.items() if each.n_answered]
            self._untimed.update(dict.fromkeys(answered))
            return
        for time in times.times:
            known = self._times.get(time.model)
            self._times[time.model] = time if known is None else known.plus(time)

    @property
    def times(self) -> dict[str, AccuracyTimeRow]:
        """Times by model, without models that were not timed here in all shards."""
        return {name: row for name, row in self._times.items() if name not in self._untimed}

    @property
    def untimed(self) -> str | None:
        """One line with the models that have no time; None if all have one."""
        if not self._untimed:
            return None
        return (
            f"accuracy of {', '.join(self._untimed)}: time left out: some chunks have none, or "
            "were made on another machine or with another allocator"
        )

    @property
    def broken(self) -> dict[str, str]:
        """Models that failed on each of the first images, with the reason."""
        reasons = {model: attempts.broken for model, attempts in self.attempts.items()}
        return {model: why for model, why in reasons.items() if why is not None}

    def why_nothing(self, model: str) -> str:
        """Reason why a model has no figures, if there is no other reason."""
        return (self.n_given_up and self.left_out_text(model)) or self._nothing_read

    @property
    def _nothing_read(self) -> str:
        if self.n_images:
            return f"none of the {self.n_images} images can be read: nothing was measured"
        return "there is no image with an instance: nothing was measured"

    def left_out_text(self, model: str) -> str | None:
        """Text about the images that the rows of a model leave out."""
        n_unusable = self._n_unreadable + self.attempts[model].n_failed
        return left_out_text(n_unusable, self.n_given_up, self._n_unavailable[model])

    def manifest(self, sampler: str) -> str | None:
        """SHA-256 of the prompts; of the hashes of all shards if there are several."""
        hashes = self._manifests[sampler]
        if len(hashes) <= 1:
            return next(iter(hashes), None)
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Failures of images, models, shards and annotations, each once."""
        malformed = malformed_annotation_failures(self.dataset, self.left_out, self.problems)
        models = [each.listed(model) for model, each in self.attempts.items()]
        parts = (self._failures, *models, self.given_up, malformed)
        found = tuple(dict.fromkeys(chain.from_iterable(parts)))
        if found or self.n_images:
            return found
        return (Failure(stage="data", culprit=self.dataset, why=self._nothing_read),)

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Warnings, unused annotations, and whether not all failures are listed."""
        unused = sorted((reason, n) for reason, n in self.left_out.items() if n)
        lines = [f"{self.dataset}: {n} annotations left out: {reason}" for reason, n in unused]
        found = [*self.warnings, *lines]
        failed = [each for each in self.attempts.values() if each.broken is None]
        n_failures = self._n_failures + sum(each.n_failed for each in failed)
        if n_failures > len(self._failures) + sum(len(each.failures) for each in failed):
            most = f"the first {MAX_LISTED:,} of each kind are listed"
            found.append(f"{n_failures:,} failures; {most}")
        return tuple(found)
