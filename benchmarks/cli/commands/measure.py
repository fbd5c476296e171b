"""The commands that measure: `run`, `params`, `latency`, `miou` and `everything`."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines, print_table
from benchmarks.config.options import (
    OUTPUT_GROUP,
    AccuracyArguments,
    DataArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
    TimingArguments,
)
from benchmarks.records.progress import is_verbose
from mobilesam.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.api import Result
    from benchmarks.config.run_config import RunConfig
    from benchmarks.records.record import RunRecord
    from benchmarks.tables.table import Table

PICTURES = 24
"""Images of a run whose masks are kept for its report."""
ACCOUNTING = "accuracy-times"
"""Table of where the time of the measurement went, which is printed with --verbose only."""
_MODELS, _OUTPUT, _SCALE = ModelArguments(), OutputArguments(), ScaleArguments()
_TIMING, _DATA, _ACCURACY = TimingArguments(), DataArguments(), AccuracyArguments()


def run(
    *,
    timing: TimingArguments = _TIMING,
    models: ModelArguments = _MODELS,
    data: AccuracyArguments = _ACCURACY,
    output: OutputArguments = _OUTPUT,
    no_report: Annotated[
        bool, Parameter(group=OUTPUT_GROUP, help="Do not write report.html next to the record.")
    ] = False,
) -> int:
    """Measure everything: parameters, latency and accuracy of every model.

    The masks of a few images are kept, and report.html shows all results and these masks.
    """
    from benchmarks.config.from_options import make_config
    from benchmarks.config.run_config import find_profile
    from benchmarks.tables.record_tables import headline_table

    profile = find_profile(timing.profile)
    config = make_config(
        "run",
        models,
        output,
        profile=profile,
        counting=True,
        accuracy=data,
        n_scenes=profile.n_images,
        publishable=timing.publishable,
        batch=timing.batch,
        n_pictures=PICTURES,
    )
    result = _measure(config, output, write_files=True, report=not no_report)
    if output.json:
        samples = {name: {"__all__": {"samples_ms"}} for name in ("latency", "batches")}
        print_json(result.record.model_dump(mode="json", exclude=samples))
    else:
        print_table(headline_table(result.record))
        _print_paths(result)
    return _exit_code(result)


def params(
    *,
    models: ModelArguments = _MODELS,
    output: OutputArguments = _OUTPUT,
    plots: Annotated[
        bool, Parameter(group=OUTPUT_GROUP, help="Write plots as well as tables.")
    ] = False,
) -> int:
    """Count parameters, FLOPs and bytes by component."""
    from benchmarks.config.from_options import make_config
    from benchmarks.tables.record_tables import params_table

    config = make_config("params", models, output, counting=True)
    result = _measure(config, output, plots=plots)
    document = _document(result, rows="params", models="models", failures="failures")
    return _print(result, output, document, lambda record: [params_table(record)])


def latency(
    *,
    timing: TimingArguments = _TIMING,
    models: ModelArguments = _MODELS,
    output: OutputArguments = _OUTPUT,
) -> int:
    """Time every phase of every model, in fresh processes."""
    from benchmarks.config.from_options import make_config
    from benchmarks.config.run_config import find_profile
    from benchmarks.records.record import RECORD_NAME
    from benchmarks.tables.record_tables import batches_table, latency_table

    profile = find_profile(timing.profile)
    config = make_config(
        "latency",
        models,
        output,
        profile=profile,
        publishable=timing.publishable,
        batch=timing.batch,
    )
    result = _measure(config, output)
    document = _document(
        result, rows="latency", batches="batches", memory="memory", failures="failures"
    )
    document["record"] = str(config.out / RECORD_NAME)

    def tables(record: RunRecord) -> list[Table]:
        return [latency_table(record), *([batches_table(record)] if record.batches else [])]

    return _print(result, output, document, tables)


def miou(
    *,
    models: ModelArguments = _MODELS,
    data: AccuracyArguments = _ACCURACY,
    scale: ScaleArguments = _SCALE,
    output: OutputArguments = _OUTPUT,
    rescore: Annotated[
        tuple[Path, ...],
        Parameter(help="Score stored predictions (a file, or a run's folder) without a model."),
    ] = (),
) -> int:
    """Measure mean IoU under named protocols, against ground truth or a teacher's masks."""
    if rescore:
        kept = replace(
            AccuracyArguments(), protocol=data.protocol, reference=data.reference, noc=data.noc
        )
        if models != ModelArguments() or data != kept or scale != ScaleArguments():
            raise UsageError(
                "--rescore takes models, weights and data from the stored predictions: only "
                "--protocol, --noc, --reference and the options of output go with it"
            )
        return _print_accuracy(_rescored(rescore, data, output), output)
    from benchmarks.config.from_options import make_config

    config = make_config("miou", models, output, accuracy=data, scale=scale)
    return _print_accuracy(_measure(config, output), output)


def everything(
    *,
    models: ModelArguments = _MODELS,
    data: DataArguments = _DATA,
    output: OutputArguments = _OUTPUT,
    scale: ScaleArguments = _SCALE,
) -> int:
    """Segment everything: average recall at 10, 100 and 1000 masks, and the time it takes."""
    from benchmarks.config.from_options import make_config
    from benchmarks.prompts.protocols import EVERYTHING

    options = AccuracyArguments(**vars(data), protocol=EVERYTHING)
    config = make_config(EVERYTHING, models, output, accuracy=options, scale=scale)
    return _print_accuracy(_measure(config, output), output)


def _rescored(paths: Sequence[Path], data: AccuracyArguments, output: OutputArguments) -> Result:
    """Scores files of predictions, or folders of runs made with `--save-masks`, again."""
    from benchmarks import api
    from benchmarks.config.from_options import listed, new_folder, noc_ious, require_new_folder
    from benchmarks.evaluation import comparison
    from benchmarks.evaluation.rescore import load_stored, score_stored
    from benchmarks.evaluation.robustness import robustness_rows
    from benchmarks.prompts.protocols import check_references, find_protocols, listed_protocols
    from benchmarks.records import environment, instances
    from benchmarks.records.record import INSTANCES_NAME, RecordBuilder, save_record
    from benchmarks.records.result_cache import content_key
    from benchmarks.records.run_folder import command_line, held

    if output.out is not None:
        require_new_folder(output.out)
    references = check_references(listed(data.reference))
    names = listed(data.protocol) if data.protocol else []
    threads = environment.default_threads()
    stored = load_stored(paths)
    rows, scored = score_stored(stored, names, references, noc_ious(data.noc))
    config = {
        "rescored": {info.model: info.weights.sha256 for info in stored.infos.values()},
        "dataset": stored.dataset,
        "protocols": [row.protocol for row in rows],
        "references": list(references),
    }
    key, here = content_key(config), environment.collect(threads)
    builder = RecordBuilder(config, key, here, command_line(), output.note)
    frame = instances.to_frame(scored)
    compared = frame[frame["protocol"].isin(listed_protocols(config["protocols"]))]
    comparisons = comparison.compare_models(compared, stored.dataset)
    unshared = comparison.unshared_prompts(compared)
    builder.add(miou=rows, comparisons=comparisons, warnings=unshared)
    protocols = find_protocols(row.protocol for row in rows)
    table = io.BytesIO(instances.parquet_file(instances.InstanceRow, scored))
    builder.add(robustness=robustness_rows(rows, [table], protocols))
    builder.instances, builder.complete = INSTANCES_NAME, True
    out = output.out or new_folder("rescore")
    with held(out):
        require_new_folder(out)  # another process may have written to it meanwhile
        instances.write_instances(scored, out / INSTANCES_NAME)
        record = builder.build()
        save_record(record, out)
        files = [] if output.json else api.write_tables_and_plots(record, out)
    return api.Result(record, out, files)


def _measure(
    config: RunConfig,
    output: OutputArguments,
    *,
    write_files: bool | None = None,
    plots: bool = True,
    report: bool = False,
) -> Result:
    """Runs a configuration; writes tables and plots unless JSON is printed."""
    from benchmarks.api import measure

    wanted = not output.json if write_files is None else write_files
    return measure(config, quiet=output.quiet, write_files=wanted, plots=plots, report=report)


def _document(result: Result, **fields: str) -> dict[str, Any]:
    """Rows of fields of the record, by key of the JSON document; without single samples."""
    return {
        key: [
            row.model_dump(mode="json", exclude={"samples_ms"})
            for row in getattr(result.record, field)
        ]
        for key, field in fields.items()
    }


def _print_accuracy(result: Result, output: OutputArguments) -> int:
    from benchmarks.tables.accuracy_tables import accuracy_tables

    record, folder = result.record, result.folder
    document = _document(
        result,
        rows="miou",
        comparisons="comparisons",
        robustness="robustness",
        detector="detector",
        everything="everything",
        times="accuracy_times",
        failures="failures",
    )
    document["warnings"] = list(record.warnings)
    document["instances"] = None
    if record.instances is not None and folder is not None:
        document["instances"] = str((folder / record.instances).resolve())
    return _print(result, output, document, accuracy_tables)


def _print(
    result: Result,
    output: OutputArguments,
    document: dict[str, Any],
    tables: Callable[[RunRecord], Sequence[Table]],
) -> int:
    from benchmarks.records.environment import NOISY

    if output.json:
        print_json(document)
    else:
        for table in tables(result.record):
            if table.name != ACCOUNTING or is_verbose():
                print_table(table)
        print_lines(*(text for text in result.record.warnings if text.startswith(NOISY)))
        _print_paths(result)
    return _exit_code(result)


def _print_paths(result: Result) -> None:
    from benchmarks.records.record import RECORD_NAME

    out, files = result.folder or Path(), result.files
    tables = sum(path.suffix == ".md" and path.parent.name == "tables" for path in files)
    plots = sum(path.suffix == ".svg" for path in files)
    print_lines(
        f"record  {out / RECORD_NAME}",
        f"tables  {out / 'tables'} ({tables}, as Markdown, CSV and LaTeX), {out / 'summary.md'}",
        *([f"plots   {out / 'plots'} ({plots}, as SVG and PNG)"] if plots else []),
        *(f"report  {path} (open it in a browser)" for path in files if path.suffix == ".html"),
    )


def _exit_code(result: Result) -> int:
    return 1 if result.record.failures or result.problems else 0
