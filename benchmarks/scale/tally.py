"""What the chunks of a run say of themselves, added up."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.model_pass import malformed
from benchmarks.records import AccuracyTimeRow, Failure, MiouRow
from benchmarks.scale.chunks import ChunkStore, Unable

MOST_LISTED = 10_000
"""Failures that a record lists one by one; the files of the chunks hold all."""


@dataclass(slots=True)
class Tally:
    """What all chunks of a dataset say of themselves; see `ChunkInfo`.

    Attributes:
        dataset: Its name.
        times: Where the time went, by model.
    """

    dataset: str
    blank: dict[tuple[str, str, str], MiouRow] = field(default_factory=dict)
    unable: dict[str, Unable] = field(default_factory=dict)
    no_prompt: Counter[str] = field(default_factory=Counter)
    times: dict[str, AccuracyTimeRow] = field(default_factory=dict)
    _failures: dict[Failure, None] = field(default_factory=dict)
    _n_failures: int = 0
    _manifests: dict[str, list[str]] = field(default_factory=dict)
    _left_out: Counter[str] = field(default_factory=Counter)
    _problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, dataset: str, store: ChunkStore, names: Sequence[str]) -> Tally:
        """Of some chunks in a store."""
        found = cls(dataset)
        for name in names:
            found._add(store, name)
        return found

    def _add(self, store: ChunkStore, name: str) -> None:
        info = store.info(name)
        if info is None:
            return
        for row in info.blank:
            self.blank.setdefault((row.model, row.protocol, row.reference), row)
        for model, unable in info.unable.items():
            self.unable.setdefault(model, unable)
        for failure in info.failures:
            self._n_failures += failure not in self._failures
            if len(self._failures) < MOST_LISTED:
                self._failures[failure] = None
        for rule, sha256 in info.manifests.items():
            self._manifests.setdefault(rule, []).append(sha256)
        self.no_prompt.update(info.no_prompt)
        self._left_out.update(info.left_out)
        self._problems.extend(info.problems[: max(0, MOST_LISTED - len(self._problems))])
        for time in store.times(name, info.key):
            known = self.times.get(time.model)
            self.times[time.model] = time if known is None else known.plus(time)

    def manifest(self, rule: str) -> str | None:
        """SHA-256 over the hashes of the chunks' prompts: another one where the cut is another."""
        hashes = self._manifests.get(rule)
        return None if not hashes else hashlib.sha256(json.dumps(hashes).encode()).hexdigest()

    def listed(self, given_up: Sequence[Failure]) -> tuple[Failure, ...]:
        """What failed, each once: in chunks, chunks that could not be made, and annotations."""
        broken = malformed(self.dataset, self._left_out, self._problems)
        return tuple(dict.fromkeys([*self._failures, *given_up, *broken]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Annotations that are not used, and that not all failures are listed."""
        left_out = [
            f"{self.dataset}: {count} annotations left out: {reason}"
            for reason, count in sorted(self._left_out.items())
            if count
        ]
        if self._n_failures > len(self._failures):
            more = f"{self._n_failures:,} failures; the first {MOST_LISTED:,} are listed"
            left_out.append(more)
        return tuple(left_out)
