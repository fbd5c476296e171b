"""Makes chunks; models are loaded once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from baselines.interface import Segmenter
from baselines.options import ModelOptions
from baselines.registry import ModelEntry, build
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import RunConfig, ShardingConfig
from benchmarks.datasets.dataset import Shard, ShardDataset
from benchmarks.evaluation.evaluate import AccuracyPlan, AnswersResult, answer_all
from benchmarks.evaluation.prefetch import Lanes
from benchmarks.evaluation.shard_store import Chunk, ChunkInfo, chunk_key
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import AccuracyProtocol
from benchmarks.records.environment import code_version, machine
from benchmarks.records.progress import Reporter
from benchmarks.records.result_cache import content_key
from mobilesam.fast.allocator import keep_buffers


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """What is done with each part. It can be sent to another process.

    Attributes:
        run: `content_key` of code, configuration, weights and libraries.
        models: In the order of the tables.
        teachers: Models that are references.
        protocols: Which prompts are given and which answers scored.
        references: `ground-truth` and `teacher:NAME`.
        seed: Of the prompts.
        threads: That the models are given.
        lanes: Threads that load and score beside the model.
        code: `code_version` of who asks, which who works must share.
        embeddings: Folder of image embeddings; None keeps none.
        boundary: Boundary IoU is scored as well.
    """

    run: str
    models: tuple[ResolvedModel, ...]
    teachers: tuple[ResolvedModel, ...]
    protocols: tuple[AccuracyProtocol, ...]
    references: tuple[str, ...]
    seed: int
    threads: int
    lanes: int
    code: str
    embeddings: Path | None = None
    boundary: bool = True

    def worker(self) -> Worker:
        """A new worker, in the process that calls this."""
        return Worker(self)


def work_plan(
    request: RunConfig,
    scale: ShardingConfig,
    models: Sequence[ResolvedModel],
    teachers: Sequence[ResolvedModel],
) -> WorkPlan:
    """What a run asks of its workers."""
    key = content_key(
        {
            "kind": "chunk",
            "models": [model.key for model in models],
            "teachers": [model.key for model in teachers],
            "protocols": [protocol.name for protocol in request.protocols],
            "references": list(request.references),
            "seed": request.seed,
            "threads": request.threads,
            "boundary": request.boundary,
        }
    )
    return WorkPlan(
        run=key,
        models=tuple(models),
        teachers=tuple(teachers),
        protocols=request.protocols,
        references=request.references,
        seed=request.seed,
        threads=request.threads,
        lanes=scale.prefetch_threads,
        code=code_version(),
        embeddings=request.embeddings,
        boundary=request.boundary,
    )


def machine_of(models: Sequence[ResolvedModel]) -> tuple[str, ...]:
    """Parts of this machine that determine the times of models, as by `environment.machine`.

    The number of threads is part of the key of a chunk.
    """
    devices = dict.fromkeys(model.options.device for model in models)
    return tuple(dict.fromkeys(part for device in devices for part in machine(device)))


@dataclass(frozen=True, slots=True, eq=False)
class _Done:
    """What came of one look at a part: prompts are known by their hashes alone."""

    dataset: ShardDataset
    answers: AnswersResult
    hashes: dict[str, str | None]
    no_prompt: dict[str, int]


class Worker:
    """Does one part after the other.

    Args:
        plan: What is done with each.
    """

    def __init__(self, plan: WorkPlan) -> None:
        self._plan = plan
        self._models: dict[str, Segmenter] = {}
        self._lanes = Lanes(plan.lanes)
        keep_buffers()

    def run(self, part: Shard, poison: Mapping[int, str] | None = None) -> Chunk:
        """Makes the chunk of a part.

        Args:
            part: Which.
            poison: Images, by position, that are known to bring a worker down, with the reason.

        Raises:
            BenchError: Something failed that is no fault of a model or an image.
        """
        part = part.without(poison or {})
        return self._chunk(part, self._ask(part))

    def _ask(self, part: Shard) -> _Done:
        plan = self._plan
        dataset = ShardDataset(part)
        with tempfile.TemporaryDirectory() as folder:
            # By name: the state of a file on one machine is nothing to the prompts.
            manifests = ManifestStore(part.dataset, plan.seed, Path(folder))
            work = AccuracyPlan(
                dataset,
                plan.protocols,
                plan.references,
                Path(folder),
                embeddings=plan.embeddings,
                boundary=plan.boundary,
                lanes=self._lanes,
                build=self._build,
                whole=False,
            )
            found = answer_all(plan.models, plan.teachers, work, manifests, Reporter(quiet=True))
            rules = sorted({protocol.prompt for protocol in plan.protocols})
            hashes = {rule: manifests.sha256(rule) for rule in rules}
            no_prompt = {rule: manifests.left_out(rule) for rule in rules}
        return _Done(dataset, found, hashes, no_prompt)

    def _build(self, entry: ModelEntry, options: ModelOptions) -> Segmenter:
        if entry.name not in self._models:
            self._models[entry.name] = build(entry, options)
        return self._models[entry.name]

    def _chunk(self, part: Shard, done: _Done) -> Chunk:
        info = ChunkInfo(
            key=chunk_key(self._plan.run, part),
            n_images=len(part.readers),
            blank=done.answers.blank,
            failures=done.answers.failures,
            attempts=done.answers.attempts,
            manifests={rule: sha256 for rule, sha256 in done.hashes.items() if sha256 is not None},
            no_prompt=done.no_prompt,
            left_out=dict(done.dataset.left_out),
            problems=done.dataset.problems,
        )
        times = done.answers.times
        here = machine_of(self._plan.models) if times else ()
        return Chunk.of(part.name, info, done.answers.instances, times, here)

    def alone(self) -> Worker:
        """The same models in a worker where nothing overlaps."""
        found = Worker(replace(self._plan, lanes=0))
        found._models = self._models
        return found

    def close(self) -> None:
        """Ends its threads."""
        self._lanes.close()
