"""`miou --rescore`: scores stored predictions again, without a model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.cli.commands.measure import finish_miou
from benchmarks.config.options import (
    AccuracyArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
)
from benchmarks.config.requests import listed, new_folder, require_new_folder
from benchmarks.evaluation.comparison import compare_models, unshared_prompts
from benchmarks.evaluation.rescore import load_stored, score_stored
from benchmarks.prompts import protocols
from benchmarks.records import environment
from benchmarks.records.instances import to_frame, write_instances
from benchmarks.records.record import INSTANCES_NAME, RunRecord, save_record
from benchmarks.records.result_cache import content_key
from benchmarks.records.run_folder import command_line, held
from mobilesam.errors import UsageError


def refuse_others(models: ModelArguments, data: AccuracyArguments, scale: ScaleArguments) -> None:
    """Refuses options that mean nothing without a model and without images.

    Raises:
        UsageError: One was given.
    """
    kept = replace(AccuracyArguments(), protocol=data.protocol, reference=data.reference)
    if models != ModelArguments() or data != kept or scale != ScaleArguments():
        raise UsageError(
            "--rescore takes models, weights and data from the stored predictions: only "
            "--protocol, --reference and the options of output go with it"
        )


def rescore(paths: Sequence[Path], data: AccuracyArguments, output: OutputArguments) -> int:
    """Scores files of predictions, or folders of runs made with `--save-masks`."""
    start = time.monotonic()
    if output.out is not None:
        require_new_folder(output.out)
    references = protocols.check_references(listed(data.reference))
    names = listed(data.protocol) if data.protocol else []
    stored = load_stored(paths)
    rows, instances = score_stored(stored, names, references)
    frame = to_frame(instances)
    created = datetime.now(UTC)
    config = {
        "rescored": {info.model: info.weights.sha256 for info in stored.infos.values()},
        "dataset": stored.dataset,
        "protocols": [row.protocol for row in rows],
        "references": list(references),
    }
    key = content_key(config)
    record = RunRecord(
        id=f"{created:%Y%m%dT%H%M%SZ}-{key[:8]}",
        created_utc=created.isoformat(timespec="seconds"),
        command=command_line(),
        note=output.note,
        profile=None,
        config=config,
        resume_key=key,
        environment=environment.collect(environment.default_threads()),
        miou=tuple(rows),
        comparisons=compare_models(frame, stored.dataset),
        warnings=unshared_prompts(frame),
        instances=INSTANCES_NAME,
        duration_s=time.monotonic() - start,
    )
    out = output.out or new_folder("rescore")
    with held(out):
        require_new_folder(out)  # another process may have written to it meanwhile
        write_instances(instances, out / INSTANCES_NAME)
        save_record(record, out)
        return finish_miou(record, out, output)
