"""The commands that measure: `run`, `params`, `latency`, `miou` and `everything`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.cli.commands.printing import TERMINAL_COLUMNS, print_json, print_table
from benchmarks.config import profiles
from benchmarks.config.options import (
    AccuracyArguments,
    DataArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
    TimingArguments,
)
from benchmarks.config.requests import make_request
from benchmarks.config.run_config import RunConfig
from benchmarks.prompts.protocols import EVERYTHING
from benchmarks.records.progress import Reporter
from benchmarks.records.record import RECORD_NAME, RunRecord
from benchmarks.run import executed
from mobilesam.frozen_model import FrozenModel


def run(
    timing: TimingArguments,
    models: ModelArguments,
    data: AccuracyArguments,
    output: OutputArguments,
) -> int:
    """Measures everything, and prints the summary and where all of it is."""
    profile = profiles.find(timing.profile)
    request = make_request(
        "run",
        models,
        output,
        profile=profile,
        counting=True,
        accuracy=data,
        n_scenes=profile.n_images,
        publishable=timing.publishable,
    )
    with _executed(request, output) as record:
        files = _report(record, request.out)
        if output.json:
            print_json(
                record.model_dump(mode="json", exclude={"latency": {"__all__": {"samples_ms"}}})
            )
        else:
            from benchmarks.tables.record_tables import headline_table

            print_table(headline_table(record), width=TERMINAL_COLUMNS)
            _say_where(request.out, files)
    return _exit_code(record)


def params(models: ModelArguments, output: OutputArguments) -> int:
    """Counts parameters and FLOPs."""
    request = make_request("params", models, output, counting=True)
    with _executed(request, output) as record:
        if output.json:
            print_json({"rows": _rows(record.params), "failures": _rows(record.failures)})
        else:
            from benchmarks.tables.record_tables import params_table

            print_table(params_table(record))
            _say_where(request.out, _report(record, request.out))
    return _exit_code(record)


def latency(timing: TimingArguments, models: ModelArguments, output: OutputArguments) -> int:
    """Times every phase."""
    profile = profiles.find(timing.profile)
    request = make_request(
        "latency", models, output, profile=profile, publishable=timing.publishable
    )
    with _executed(request, output) as record:
        if output.json:
            rows = [row.model_dump(mode="json", exclude={"samples_ms"}) for row in record.latency]
            print_json(
                {
                    "rows": rows,
                    "memory": _rows(record.memory),
                    "failures": _rows(record.failures),
                    "record": str(request.out / RECORD_NAME),
                }
            )
        else:
            from benchmarks.tables.record_tables import latency_table

            print_table(latency_table(record))
            _say_where(request.out, _report(record, request.out))
    return _exit_code(record)


def miou(
    models: ModelArguments,
    data: AccuracyArguments,
    output: OutputArguments,
    scale: ScaleArguments,
) -> int:
    """Measures accuracy."""
    request = make_request("miou", models, output, accuracy=data, scale=scale)
    with _executed(request, output) as record:
        return finish_miou(record, request.out, output)


def everything(
    models: ModelArguments, data: DataArguments, output: OutputArguments, scale: ScaleArguments
) -> int:
    """Measures average recall and time of segmenting everything."""
    asked = AccuracyArguments(**vars(data), protocol=EVERYTHING)
    request = make_request(EVERYTHING, models, output, accuracy=asked, scale=scale)
    with _executed(request, output) as record:
        return finish_miou(record, request.out, output)


def finish_miou(record: RunRecord, out: Path, output: OutputArguments) -> int:
    """Prints what a record says of accuracy, writes its tables and plots, returns the exit code."""
    if output.json:
        found = record.instances
        print_json(
            {
                "rows": _rows(record.miou),
                "comparisons": _rows(record.comparisons),
                "detector": _rows(record.detector),
                "everything": _rows(record.everything),
                "times": _rows(record.accuracy_times),
                "instances": None if found is None else str((out / found).resolve()),
                "failures": _rows(record.failures),
                "warnings": list(record.warnings),
            }
        )
    else:
        from benchmarks.tables.accuracy_tables import accuracy_tables

        for table in accuracy_tables(record):
            print_table(table)
        _say_where(out, _report(record, out))
    return _exit_code(record)


@contextmanager
def _executed(request: RunConfig, output: OutputArguments) -> Iterator[RunRecord]:
    """Runs the request; its folder is locked until the block has written tables and plots."""
    with executed(request, Reporter(quiet=output.quiet)) as record:
        yield record


def _report(record: RunRecord, out: Path) -> list[Path]:
    from benchmarks.report.plots import write_plots
    from benchmarks.tables.record_tables import write_tables

    return [*write_tables(record, out), *write_plots(record, out)]


def _rows(rows: Sequence[FrozenModel]) -> list[dict[str, Any]]:
    return [row.model_dump(mode="json") for row in rows]


def _say_where(out: Path, files: Sequence[Path]) -> None:
    tables = sum(path.suffix == ".md" and path.parent.name == "tables" for path in files)
    plots = sum(path.suffix == ".svg" for path in files)
    sys.stdout.write(
        f"\nrecord  {out / RECORD_NAME}\n"
        f"tables  {out / 'tables'} ({tables}, as Markdown, CSV and LaTeX), {out / 'summary.md'}\n"
        f"plots   {out / 'plots'} ({plots}, as SVG and PNG)\n"
    )


def _exit_code(record: RunRecord) -> int:
    return 1 if record.failures else 0
