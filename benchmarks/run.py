"""One run: resolve the models, count, time and evaluate them, and write the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from baselines.interface import ModelInfo
from benchmarks.child_processes import interrupted_by_term
from benchmarks.config.model_resolution import ResolvedModel, deferral_notes, weights_notes
from benchmarks.config.profiles import Profile
from benchmarks.config.run_config import RunConfig
from benchmarks.datasets.dataset import Dataset
from benchmarks.evaluation.comparison import compare_models, unshared_images, unshared_prompts
from benchmarks.evaluation.dataset_notes import notes_of
from benchmarks.evaluation.run_model import malformed
from benchmarks.latency.parameters import build_and_count
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import DETECTOR_BOX, EVERYTHING
from benchmarks.records import environment
from benchmarks.records.instances import to_frame, write_instances
from benchmarks.records.progress import Reporter
from benchmarks.records.record import INSTANCES_NAME, Environment, RunRecord, save_record
from benchmarks.records.record_builder import RecordBuilder
from benchmarks.records.result_cache import ResultCache, content_key
from benchmarks.records.run_folder import find_finished, held, require_writable
from mobilesam.fast.allocator import keep_buffers

CACHE_FOLDER = "cells"


def execute(config: RunConfig, reporter: Reporter) -> RunRecord:
    """Runs the configuration, and writes `record.json` and the instances into `config.out`.

    A folder with cached results of the same run, interrupted or with failures, is resumed. On
    Ctrl-C or SIGTERM the record of the finished stages is written, cached results of the other
    stages are kept, and the interrupt is raised again.

    Raises:
        DataError: The folder cannot be written, another process writes to it, or it holds the
            record of another run.
        BusyMachineError: The run is to be published, and the machine stays busy.
    """
    with executed(config, reporter) as record:
        return record


@contextmanager
def executed(config: RunConfig, reporter: Reporter) -> Iterator[RunRecord]:
    """Runs the configuration like `execute`; the folder stays locked until the block has ended.

    The block may write further files into `config.out`, such as tables and plots.

    Raises:
        BenchError: As `execute`.
    """
    with held(config.out, config.command), interrupted_by_term():
        yield _execute(config, reporter)


def _execute(config: RunConfig, reporter: Reporter) -> RunRecord:
    require_writable(config.out)
    models, reference_models = config.resolve()
    settings = config.to_dict(models, reference_models)
    key = content_key(settings)
    # Not part of the key, so that a run with failures is resumed after images were repaired.
    if config.dataset is not None and config.dataset.images_state:
        settings["images_state"] = config.dataset.images_state
    finished = find_finished(config.out, key, settings.get("images_state"), reporter.say)
    if finished is not None:
        return finished
    record = RecordBuilder(
        settings,
        _environment(config, reporter),
        config.command,
        config.note,
        None if config.profile is None else config.profile.name,
        key,
    )
    run = _Run(config, models, reference_models, record, reporter)
    try:
        run.measure()
        record.complete = True
    except KeyboardInterrupt:
        reporter.warn(f"interrupted: the same command with --out {config.out} resumes the run")
        raise
    finally:
        built = record.build()
        save_record(built, config.out)
    return built


def _environment(config: RunConfig, reporter: Reporter) -> Environment:
    other_load = None
    if config.publishable:
        from benchmarks.latency.idle import wait_until_idle

        other_load = wait_until_idle(reporter.say)
    return environment.collect(config.threads, other_load)


class _Run:
    """The stages of one run, each of which adds to the record."""

    def __init__(
        self,
        config: RunConfig,
        models: Sequence[ResolvedModel],
        reference_models: Sequence[ResolvedModel],
        record: RecordBuilder,
        reporter: Reporter,
    ) -> None:
        self.config = config
        self.models = models
        self.reference_models = reference_models
        self.record = record
        self.reporter = reporter
        self.cache = ResultCache(config.out / CACHE_FOLDER)

    def measure(self) -> None:
        """Runs all stages that are configured."""
        self.report_conditions()
        infos, models = build_and_count(self.config, self.models, self.record, self.reporter)
        self.models = [model for model in models if model.deferred is None]
        if self.config.profile is not None:
            self.time(self.config.profile, infos)
        if self.config.dataset is not None:
            # Before accuracy, which changes the allocator: `everything` is timed with the default.
            self.evaluate_whole_images(self.config.dataset)
            if self.config.protocols:
                self.evaluate(self.config.dataset)
            self.record_dataset_notes(self.config.dataset)
        self.report_failures()

    def report_conditions(self) -> None:
        """Reports what may disturb measurements, and which weights were found."""
        warnings = environment.warnings(self.record.environment)
        self.record.add(warnings=warnings)
        for text in warnings:
            self.reporter.warn(text)
        resolved = {each.entry.name: each for each in (*self.models, *self.reference_models)}
        for line in (*weights_notes(resolved.values()), *deferral_notes(self.models)):
            self.reporter.say(line)
        for name, model in resolved.items():
            if model.error is not None:
                self.record.add_failure("weights", name, model.error)

    def time(self, profile: Profile, infos: Mapping[str, ModelInfo]) -> None:
        """Times every phase of the models in fresh processes."""
        from benchmarks.latency import runner

        settings = runner.LatencyConfig(profile, self.config.threads, self.config.seed)
        timed = runner.measure(self.models, infos, settings, self.cache, self.reporter)
        self.record.add(latency=timed.rows, memory=timed.memory, failures=timed.failures)

    def evaluate(self, dataset: Dataset) -> None:
        """Evaluates the protocols that prompt for one object at a time."""
        config, sharding = self.config, self.config.sharding
        self.record.instances = INSTANCES_NAME
        if sharding is not None:
            from benchmarks.evaluation.sharded import evaluate_request

            sharded = evaluate_request(
                config, sharding, self.models, self.reference_models, self.reporter
            )
            self.record.add(
                miou=sharded.rows,
                comparisons=sharded.comparisons,
                accuracy_times=sharded.times,
                failures=sharded.failures,
                warnings=sharded.warnings,
            )
            return
        from benchmarks.evaluation.evaluate import AccuracyPlan, evaluate

        # Accuracy times are not compared with latencies, so the allocator may keep its buffers:
        # fresh pages for every call would take half of the time.
        keep_buffers()
        plan = AccuracyPlan(
            dataset,
            config.protocols,
            config.references,
            config.out,
            config.save_masks,
            config.embeddings,
            config.boundary,
        )
        manifests = ManifestStore(dataset.fingerprint, config.seed, config.out)
        result = evaluate(
            self.models, self.reference_models, plan, manifests, self.cache, self.reporter
        )
        write_instances(result.instances, config.out / INSTANCES_NAME)
        frame = to_frame(result.instances)
        self.record.add(
            miou=result.rows,
            comparisons=compare_models(frame, dataset.name),
            accuracy_times=result.times,
            failures=result.failures,
            warnings=(*result.warnings, *unshared_prompts(frame)),
        )

    def evaluate_whole_images(self, dataset: Dataset) -> None:
        """Evaluates the protocols that score all masks of an image together."""
        config = self.config
        if config.detector is not None:
            from benchmarks.evaluation.detector_boxes import evaluate_detections

            for mask in config.detector_masks:
                rows, failures = evaluate_detections(
                    self.models, config.detector, self.cache, config.out, self.reporter, mask
                )
                warnings = unshared_images(rows, f"{DETECTOR_BOX} ({mask})")
                self.record.add(detector=rows, warnings=warnings, failures=failures)
        if config.everything and config.sharding is not None:
            from benchmarks.evaluation.recall import recall_of_request

            recall = recall_of_request(config, config.sharding, self.models, self.reporter)
            warnings = unshared_images(recall.rows, EVERYTHING)
            self.record.add(warnings=(*recall.warnings, *warnings))
            self.record.add(everything=recall.rows, failures=recall.failures)
        elif config.everything:
            from benchmarks.evaluation.everything import evaluate_everything

            recalls, failures = evaluate_everything(self.models, dataset, self.cache, self.reporter)
            warnings = unshared_images(recalls, EVERYTHING)
            self.record.add(everything=recalls, failures=failures, warnings=warnings)

    def record_dataset_notes(self, dataset: Dataset) -> None:
        """Records unused annotations as warnings, and malformed ones as failures."""
        notes = notes_of(self.cache, dataset)
        for reason, count in notes.left_out.items():
            self.record.add(warnings=[f"{dataset.name}: {count} annotations left out: {reason}"])
        for note in dataset.notes:
            self.record.add(warnings=[f"{dataset.name}: {note}"])
            self.reporter.warn(f"{dataset.name}: {note}")
        self.record.add(failures=malformed(dataset.name, notes.left_out, notes.problems))

    def report_failures(self) -> None:
        """Reports each reason once: a model that cannot be built fails in every stage."""
        failures = self.record.failures
        for line in dict.fromkeys(f"{failure.culprit}: {failure.why}" for failure in failures):
            self.reporter.warn(line)
        if failures:
            stages = Counter(failure.stage for failure in failures)
            counts = ", ".join(f"{count} of {stage}" for stage, count in sorted(stages.items()))
            self.reporter.warn(f"{len(failures)} failures ({counts}); the rest is kept")
