"""What is left of a judgement: all verdicts as one document, and the tables beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.judge import tally
from benchmarks.paper.tables import FOLDER, write_paper_tables
from benchmarks.paper.verdicts import ClaimVerdict
from benchmarks.records.record import RunRecord, write_atomic

CLAIMS_NAME = "claims.json"


def claim_rows(verdicts: Sequence[ClaimVerdict]) -> list[dict[str, object]]:
    """The verdicts as JSON has them, in their order."""
    return [verdict.model_dump(mode="json") for verdict in verdicts]


def write_claims(record: RunRecord, verdicts: Sequence[ClaimVerdict], folder: Path) -> list[Path]:
    """Writes `paper/claims.json` and the tables of `write_paper_tables`.

    Args:
        record: The run, or several that were merged, that the verdicts are from.
        verdicts: On the whole ledger.
        folder: `paper` is made below it; older files of the same names are replaced.

    Returns:
        The files, in the order of writing.

    Raises:
        DataError: The folder cannot be written.
    """
    document = {"run": record.id, "verdicts": tally(verdicts), "claims": claim_rows(verdicts)}
    path = folder / FOLDER / CLAIMS_NAME
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode())
    return [path, *write_paper_tables(verdicts, folder)]
