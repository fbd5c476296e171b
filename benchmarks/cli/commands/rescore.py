"""`miou --rescore`: scores stored predictions again, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.api import Result, write_tables_and_plots
from benchmarks.config.from_options import listed, new_folder, require_new_folder
from benchmarks.config.options import AccuracyArguments, OutputArguments
from benchmarks.evaluation.comparison import compare_models, unshared_prompts
from benchmarks.evaluation.rescore import load_stored, score_stored
from benchmarks.prompts import protocols
from benchmarks.records import environment
from benchmarks.records.instances import to_frame, write_instances
from benchmarks.records.record import INSTANCES_NAME, RecordBuilder, save_record
from benchmarks.records.result_cache import content_key
from benchmarks.records.run_folder import command_line, held


def rescore(paths: Sequence[Path], data: AccuracyArguments, output: OutputArguments) -> Result:
    """Scores files of predictions, or folders of runs made with `--save-masks`.

    Raises:
        UsageError: `--out` holds a record, or predictions do not fit together.
        DataError: A file cannot be read.
    """
    if output.out is not None:
        require_new_folder(output.out)
    references = protocols.check_references(listed(data.reference))
    names = listed(data.protocol) if data.protocol else []
    threads = environment.default_threads()
    stored = load_stored(paths)
    rows, instances = score_stored(stored, names, references)
    config = {
        "rescored": {info.model: info.weights.sha256 for info in stored.infos.values()},
        "dataset": stored.dataset,
        "protocols": [row.protocol for row in rows],
        "references": list(references),
    }
    builder = RecordBuilder(
        config, content_key(config), environment.collect(threads), command_line(), output.note
    )
    frame = to_frame(instances)
    builder.add(
        miou=rows,
        comparisons=compare_models(frame, stored.dataset),
        warnings=unshared_prompts(frame),
    )
    builder.instances, builder.complete = INSTANCES_NAME, True
    out = output.out or new_folder("rescore")
    with held(out):
        require_new_folder(out)  # another process may have written to it meanwhile
        write_instances(instances, out / INSTANCES_NAME)
        record = builder.build()
        save_record(record, out)
        files = [] if output.json else write_tables_and_plots(record, out)
    return Result(record, out, files)
