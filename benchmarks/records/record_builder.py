"""Collects the rows of a run and makes its record."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from benchmarks.records.record import Environment, Failure, RunRecord
from benchmarks.records.result_cache import content_key


class RecordBuilder:
    """A record in the making: rows are added by the name of their field in `RunRecord`.

    Args:
        config: Settings that determine the results; the resume key is their hash.
        environment: Machine and libraries.
        command: Command line, or the function of the Python API.
        note: Free text of the user.
        profile: Name of the latency profile.

    Attributes:
        instances: Name of the table of instances in the folder of the record; None without one.
        complete: Whether the run has reached its end.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        environment: Environment,
        command: str,
        note: str | None = None,
        profile: str | None = None,
        resume_key: str | None = None,
    ) -> None:
        self._start = time.monotonic()
        self.environment = environment
        self._fixed: dict[str, Any] = {
            "config": dict(config),
            "environment": environment,
            "command": command,
            "note": note,
            "profile": profile,
            "resume_key": resume_key or content_key(config),
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
