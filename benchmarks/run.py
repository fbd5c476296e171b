"""One run: resolve the models, count, time and evaluate them, and write the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.child_processes import interrupted_by_term
from benchmarks.config.model_resolution import ResolvedModel, deferral_notes, weights_notes
from benchmarks.config.run_config import RunConfig
from benchmarks.datasets.dataset import Dataset
from benchmarks.latency.parameters import build_and_count
from benchmarks.prompts.protocols import DETECTOR_BOX, EVERYTHING
from benchmarks.records import environment
from benchmarks.records.environment import DISTURBED, NOISY
from benchmarks.records.progress import Reporter
from benchmarks.records.record import (
    INSTANCES_NAME,
    RECORD_NAME,
    RecordBuilder,
    RunRecord,
    save_record,
)
from benchmarks.records.result_cache import content_key
from benchmarks.records.run_folder import find_finished, held, require_writable

_COUNTING_S, _IMAGE_S, _EVERYTHING_S = 1.0, 1.0, 5.0
"""Guesses, in seconds, of the time to count a model and to predict and score an image with it."""
_PHASES = 5
"""Timed phases whose number of prompts does not vary."""


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
        require_writable(config.out)
        models, reference_models = config.resolve()
        settings = config.to_dict(models, reference_models)
        key = content_key(settings)
        # Not part of the key, so that a run with failures is resumed after images were repaired.
        if config.dataset is not None and config.dataset.images_state:
            settings["images_state"] = config.dataset.images_state
        finished = find_finished(config.out, key, settings.get("images_state"), reporter.say)
        if finished is not None:
            yield finished
            return
        other_load = None
        if config.publishable:
            from benchmarks.latency.idle import wait_until_idle

            other_load = wait_until_idle(reporter.say)
        machine = environment.collect(config.threads, other_load, config.threads_reason or None)
        profile = None if config.profile is None else config.profile.name
        record = RecordBuilder(settings, key, machine, config.command, config.note, profile)
        if not (config.out / RECORD_NAME).exists():
            # For the number of threads, if this process is killed.
            save_record(record.build(), config.out)
        try:
            _Run(config, models, reference_models, record, reporter).measure()
            record.complete = True
        except KeyboardInterrupt:
            reporter.warn(f"interrupted: the same command with --out {config.out} resumes the run")
            raise
        finally:
            built = record.build()
            save_record(built, config.out)
        yield built


@dataclass
class _Run:
    """The stages of one run, each of which adds to the record."""

    config: RunConfig
    models: Sequence[ResolvedModel]
    reference_models: Sequence[ResolvedModel]
    record: RecordBuilder
    reporter: Reporter

    def measure(self) -> None:
        """Runs all stages that are configured."""
        self.report_conditions()
        self.plan()
        infos, models = build_and_count(self.config, self.models, self.record, self.reporter)
        self.models = [model for model in models if model.deferred is None]
        if self.config.profile is not None:
            from benchmarks.latency import runner

            load = runner.measure(self.config, self.models, infos, self.record, self.reporter)
            self.record.add(warnings=self.disturbed_times(load))
        if self.config.dataset is not None:
            self.evaluate(self.config.dataset)
        self.report_failures()

    def disturbed_times(self, other_load: float) -> list[str]:
        """Warnings if the load, or the times, show that something else ran meanwhile."""
        from benchmarks.latency.idle import MAX_OTHER_LOAD
        from benchmarks.tables.record_queries import disturbances

        machine, warnings = self.record.environment, []
        cores = machine.cpu_physical_cores or machine.cpu_logical_cores
        if other_load > MAX_OTHER_LOAD and self.config.threads + other_load > cores:
            used = f"other processes used {other_load:.1f} of {cores} cores"
            warnings.append(f"{NOISY}{used} while times were measured")
        if found := disturbances(self.record.build()):
            why = "; ".join(found.values())
            warnings.append(f"{NOISY}{DISTURBED}, measure again on an idle machine: {why}")
        return warnings

    def plan(self) -> None:
        """Tells the reporter which stages follow, with a first guess of their time."""
        config, outlook = self.config, self.reporter.outlook
        outlook.plan("parameters", len(self.models), len(self.models) * _COUNTING_S)
        running = {m.entry.name: m for m in self.models if m.error is None and m.deferred is None}
        if (profile := config.profile) is not None:
            n_processes = profile.processes * len(running)
            n_phases = _PHASES + 2 * len(profile.n_prompts)
            phase_s = profile.rule.warmup_seconds + profile.rule.min_seconds
            outlook.plan("latency", n_processes, n_processes * n_phases * phase_s)
        if config.dataset is None or config.dataset.n_images is None:
            return
        references = {m.entry.name: m for m in self.reference_models}
        n_models = sum(m.trained for m in {**running, **references}.values())
        n_own = sum(m.trained for m in running.values())
        if config.sharding is not None:  # a step is an image, for all models
            n_models = n_own = 1
        stages = (
            (DETECTOR_BOX, n_own * len(config.detector_masks), _IMAGE_S),
            (EVERYTHING, n_own * config.everything, _EVERYTHING_S),
            ("miou", n_models * bool(config.protocols), _IMAGE_S),
        )
        for stage, n_passes, image_s in stages:
            n_steps = n_passes * config.dataset.n_images
            outlook.plan(stage, n_steps, n_steps * image_s)

    def report_conditions(self) -> None:
        """Reports what may disturb measurements, and which weights were found."""
        # Nothing disturbs a count.
        warnings = (
            environment.warnings(self.record.environment) if self.config.needs_weights else ()
        )
        self.record.add(warnings=warnings)
        for text in warnings:
            self.reporter.warn(text)
        config = self.config
        environment.ThreadChoice(config.threads, config.threads_reason).say(self.reporter)
        resolved = {each.entry.name: each for each in (*self.models, *self.reference_models)}
        for line in (*weights_notes(resolved.values()), *deferral_notes(self.models)):
            self.reporter.say(line)
        for name, model in resolved.items():
            if model.error is not None:
                self.record.add_failure("weights", name, model.error)

    def evaluate(self, dataset: Dataset) -> None:
        """Evaluates all protocols, and records notes on the dataset."""
        config, reporter = self.config, self.reporter
        if config.detector is not None:
            from benchmarks.evaluation.detector_boxes import evaluate_detections

            self.record.add(**evaluate_detections(config, self.models, reporter).rows())
        if config.everything:
            # Before the prompted protocols, which change the allocator: this one is timed.
            from benchmarks.evaluation.everything import evaluate_everything

            self.record.add(**evaluate_everything(config, self.models, reporter).rows())
        if config.protocols:
            from benchmarks.evaluation.evaluate import evaluate

            self.record.instances = INSTANCES_NAME
            result = evaluate(config, self.models, self.reference_models, reporter)
            self.record.add(**result.rows())
        for note in dataset.notes:
            self.record.add(warnings=[f"{dataset.name}: {note}"])
            reporter.warn(f"{dataset.name}: {note}")

    def report_failures(self) -> None:
        """Reports each reason once: a model that cannot be built fails in every stage."""
        failures = self.record.failures
        for line in dict.fromkeys(f"{failure.culprit}: {failure.why}" for failure in failures):
            self.reporter.warn(line)
        if failures:
            stages = Counter(failure.stage for failure in failures)
            counts = ", ".join(f"{count} of {stage}" for stage, count in sorted(stages.items()))
            self.reporter.warn(f"{len(failures)} failures ({counts}); the rest is kept")
