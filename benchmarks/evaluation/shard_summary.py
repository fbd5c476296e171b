"""What the chunks of a run say of themselves, added up."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.evaluation.run_model import Attempts, left_out_text, malformed, nothing_read
from benchmarks.evaluation.run_shards import Making
from benchmarks.evaluation.shard_store import ChunkInfo, ChunkStore, ChunkTimes, Unable
from benchmarks.prompts.protocols import EVERYTHING
from benchmarks.records.record import AccuracyTimeRow, Failure, MiouRow

MOST_LISTED = 10_000
"""Failures that a record lists one by one; the files of the chunks hold all."""


@dataclass(slots=True)
class Tally:
    """What all chunks of a dataset say of themselves; see `ChunkInfo`.

    Attributes:
        dataset: Its name.
        attempts: Counts of the images that each model answered and failed on, by model.
        n_given_up: Number of images of chunks that could not be made.
        n_unusable: Number of images of the other chunks that could not be read.
        n_failed: Number of images of the other chunks that failed as a whole chunk, by model, or by
            model, protocol and reference.
    """

    dataset: str
    blank: dict[tuple[str, str, str], MiouRow] = field(default_factory=dict)
    unable: dict[str, Unable] = field(default_factory=dict)
    no_prompt: Counter[str] = field(default_factory=Counter)
    attempts: dict[str, Attempts] = field(default_factory=dict)
    _machine: tuple[str, ...] | None = None
    _times: dict[str, AccuracyTimeRow] = field(default_factory=dict)
    _untimed: dict[str, None] = field(default_factory=dict)
    _n_images: int = 0
    n_given_up: int = 0
    n_unusable: int = 0
    n_failed: Counter[object] = field(default_factory=Counter)
    _failures: dict[Failure, None] = field(default_factory=dict)
    _n_failures: int = 0
    _manifests: dict[str, list[str]] = field(default_factory=dict)
    _left_out: Counter[str] = field(default_factory=Counter)
    _problems: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        dataset: str,
        store: ChunkStore,
        made: Making,
        machine: tuple[str, ...] | None = None,
    ) -> Tally:
        """Tally of the chunks of a run in its store.

        Args:
            dataset: Its name.
            store: Of the chunks.
            made: Which of them belong to the run.
            machine: Where their times must have been taken, as by `environment.machine`; None for
                any machine, if it is the same for all chunks.
        """
        found = cls(dataset, n_given_up=made.n_given_up, _machine=machine)
        for name in made.names:
            found._add(store, name)
        return found

    def _add(self, store: ChunkStore, name: str) -> None:
        info = store.info(name)
        if info is None:
            return
        for row in info.blank:
            if row.status == "error":
                self.n_failed[row.model, row.protocol, row.reference] += info.n_images
            self.blank.setdefault((row.model, row.protocol, row.reference), row)
        for model, unable in info.unable.items():
            if unable.status == "error":
                self.n_failed[model] += info.n_images
            self.unable.setdefault(model, unable)
        for failure in info.failures:
            is_image = failure.stage == "data" or failure.stage == EVERYTHING
            self.n_unusable += is_image and failure.culprit not in info.unable
            self._n_failures += failure not in self._failures
            if len(self._failures) < MOST_LISTED:
                self._failures[failure] = None
        for rule, sha256 in info.manifests.items():
            self._manifests.setdefault(rule, []).append(sha256)
        for model, attempts in info.attempts.items():
            known_attempts = self.attempts.get(model, Attempts())
            self.attempts[model] = known_attempts.plus(attempts, MOST_LISTED)
        self._n_images += info.n_images
        self.no_prompt.update(info.no_prompt)
        self._left_out.update(info.left_out)
        self._problems.extend(info.problems[: max(0, MOST_LISTED - len(self._problems))])
        self._add_times(info, store.times(name, info.key))

    def _add_times(self, info: ChunkInfo, found: ChunkTimes | None) -> None:
        if found is not None and self._machine is None:
            self._machine = found.machine
        if found is None or found.machine != self._machine:
            answered = [model for model, each in info.attempts.items() if each.n_answered]
            self._untimed.update(dict.fromkeys(answered))
            return
        for time in found.times:
            known = self._times.get(time.model)
            self._times[time.model] = time if known is None else known.plus(time)

    @property
    def times(self) -> dict[str, AccuracyTimeRow]:
        """Where the time went, by model; without models whose chunks were not all timed here."""
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
        whys = {model: attempts.broken for model, attempts in self.attempts.items()}
        return {model: why for model, why in whys.items() if why is not None}

    @property
    def why_nothing(self) -> str:
        """Reason why a model has no row, if there is no other reason."""
        return nothing_read(self._n_images)

    def left_out(self, *what: str) -> str | None:
        """Text about the images that a row leaves out; see `left_out_text`.

        Args:
            what: The model; or the model, the protocol and the reference.
        """
        key: object = what if len(what) > 1 else what[0]
        failed = self.attempts.get(what[0], Attempts()).n_failed
        return left_out_text(self.n_unusable + failed, self.n_given_up, self.n_failed[key])

    def manifest(self, rule: str) -> str | None:
        """SHA-256 over the hashes of the chunks' prompts: another one where the cut is another."""
        hashes = self._manifests.get(rule)
        return None if not hashes else hashlib.sha256(json.dumps(hashes).encode()).hexdigest()

    def listed(self, given_up: Sequence[Failure]) -> tuple[Failure, ...]:
        """What failed, each once: in chunks, chunks that could not be made, and annotations."""
        broken = malformed(self.dataset, self._left_out, self._problems)
        of_models = [
            failure
            for model, attempts in self.attempts.items()
            for failure in attempts.listed(model)
        ]
        found = list(dict.fromkeys([*self._failures, *of_models, *given_up, *broken]))
        if self._n_images == 0 and not found:
            found = [Failure(stage="data", culprit=self.dataset, why=self.why_nothing)]
        return tuple(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Annotations that are not used, and that not all failures are listed."""
        left_out = [
            f"{self.dataset}: {count} annotations left out: {reason}"
            for reason, count in sorted(self._left_out.items())
            if count
        ]
        failed = [each for each in self.attempts.values() if each.broken is None]
        n_failures = self._n_failures + sum(each.n_failed for each in failed)
        if n_failures > len(self._failures) + sum(len(each.failures) for each in failed):
            more = f"{n_failures:,} failures; the first {MOST_LISTED:,} of each kind are listed"
            left_out.append(more)
        return tuple(left_out)
