"""The command `paper`, which measures what the published claims need and judges each claim."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines, print_table, terminal_width
from benchmarks.config.options import AccuracyArguments, ModelArguments, OutputArguments
from benchmarks.records.progress import Reporter
from mobilesam.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.paper.verdicts import ClaimVerdict

_MODELS, _DATA, _OUTPUT = ModelArguments(), AccuracyArguments(), OutputArguments()


def paper(
    *,
    run: Annotated[
        tuple[Path, ...],
        Parameter(help="Judge by the record of a run; repeatable. Measures nothing."),
    ] = (),
    teacher: Annotated[
        str, Parameter(help="The model that claims about agreement are judged against.")
    ] = "sam-vit-h",
    profile: Annotated[str, Parameter(help="quick, standard or full.")] = "quick",
    models: ModelArguments = _MODELS,
    data: AccuracyArguments = _DATA,
    output: OutputArguments = _OUTPUT,
) -> int:
    """Measure what the published claims need, and give each of them a verdict.

    Without --protocol, the protocols that the claims need are used. With --run, files are written
    only if --out is given. Exit code 1: a measurement failed; a claim that is not reproduced is no
    failure.
    """
    from baselines.registry import select, select_one
    from benchmarks.config.from_options import listed, make_config
    from benchmarks.config.run_config import find_profile
    from benchmarks.paper.claims import load_claims, models_needed, protocols_needed
    from benchmarks.paper.paper_output import FOLDER, claim_rows, write_claims
    from benchmarks.paper.verdicts import judge, tally, tally_by_basis
    from benchmarks.prompts.protocols import DETECTOR_BOX, DETECTOR_BOX_MULTI, TEACHER_PREFIX
    from benchmarks.records.record import RECORD_NAME, load_record
    from benchmarks.records.run_folder import held
    from benchmarks.run import executed
    from benchmarks.tables.merging import merge_records

    claims = load_claims()
    if run and (models != ModelArguments() or data != AccuracyArguments()):
        raise UsageError("--run measures nothing: leave the options of models and data out")
    if run:
        record = merge_records([load_record(path) for path in run])
        out, failed = output.out, False
        verdicts = judge(record, claims)
        written = []
        if out is not None:
            with held(out):
                written = write_claims(record, verdicts, out)
    else:
        # Everything that the claims need and the arguments allow.
        chosen, needed = find_profile(profile), models_needed(claims)
        selected = [entry.name for entry in select(listed(models.models))]
        names = [name for name in selected if name in needed]
        unknown = [name for name in listed(models.models) if name in {*selected} - {*needed}]
        if names and unknown:
            sys.stderr.write(f"left out, since no claim is about them: {', '.join(unknown)}\n")
        if not names:
            raise UsageError(f"no claim is about {models.models!r}; known: {', '.join(needed)}")
        reference = f"{TEACHER_PREFIX}{select_one(teacher).name}"
        protocols = protocols_needed(claims, "coco" if data.dataset == "lvis" else data.dataset)
        if data.detections:
            protocols = (*protocols, DETECTOR_BOX, DETECTOR_BOX_MULTI)
        accuracy = replace(
            data,
            protocol=data.protocol or ",".join(protocols),
            reference=",".join(dict.fromkeys((*listed(data.reference), reference))),
        )
        config = make_config(
            "paper",
            replace(models, models=",".join(names)),
            output,
            profile=chosen,
            counting=True,
            accuracy=accuracy,
            n_scenes=chosen.n_images,
        )
        out = config.out
        with executed(config, Reporter(quiet=output.quiet)) as record:
            failed = bool(record.failures)
            verdicts = judge(record, claims)
            written = write_claims(record, verdicts, out)
    if output.json:
        tallies = {"verdicts": tally(verdicts), "by_basis": tally_by_basis(verdicts)}
        print_json({"claims": claim_rows(verdicts), **tallies, "run": record.id})
    else:
        _print(verdicts)
        if out is not None:
            if not run:
                print_lines(f"record  {out / RECORD_NAME}")
            print_lines(f"claims  {out / FOLDER} ({len(written)} files)")
    return 1 if failed else 0


def _print(verdicts: Sequence[ClaimVerdict]) -> None:
    """Prints the papers' tables and the ledger, at most as wide as the terminal."""
    from benchmarks.paper.paper_output import WIDTH, ledger_text, paper_tables

    for table in paper_tables(verdicts):
        print_table(table)
    sys.stdout.write(ledger_text(verdicts, min(terminal_width(), WIDTH)))
