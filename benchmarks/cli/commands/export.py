"""The command `export`: MobileSAM for other runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

from baselines.options import Checkpoint
from baselines.registry import select_one
from benchmarks.cli.commands.printing import print_json
from benchmarks.config.from_options import weights_policy
from benchmarks.config.model_resolution import find_checkpoint
from benchmarks.config.options import ModelArguments
from benchmarks.records.run_folder import held
from mobilesam.errors import UsageError
from mobilesam.export.runtime import TARGETS, Manifest, Source, Target

EXPORTABLE = "mobilesam"
"""Model whose weights are exported; models that run exported files use the same weights."""


def export(
    arguments: ModelArguments, target: str, out: Path, *, int8: bool = False, as_json: bool = False
) -> int:
    """Exports MobileSAM, and prints the differences between the files and torch.

    Raises:
        UsageError: An unknown target, or a package is missing.
        WeightsError: There are no weights, they do not fit, or a file differs from torch.
    """
    chosen = next((each for each in TARGETS if each == target), None)
    if chosen is None:
        raise UsageError(f"unknown --to {target!r}; choose from {', '.join(TARGETS)}")
    entry = select_one(arguments.models)
    policy = weights_policy(arguments)
    for name in policy.overrides:
        if name != entry.name:
            raise UsageError(f"export reads the weights of {entry.name}; drop --weights {name}=...")
    reasons: list[str] = []
    checkpoint = find_checkpoint(
        entry, policy, on_fallback=lambda error: reasons.append(f": {error.reason}")
    )
    sys.stderr.write(f"weights: {checkpoint.description}{''.join(reasons)}\n")
    manifest = _export(checkpoint, chosen, out, int8=int8)
    if as_json:
        print_json({"folder": str(out), **manifest.model_dump(mode="json")})
    else:
        _print(manifest, out)
    return 0


def _export(checkpoint: Checkpoint, target: Target, out: Path, *, int8: bool) -> Manifest:
    from mobilesam.export.writer import check_target, export_model
    from mobilesam.model.mobile_sam import load_mobile_sam

    check_target(target, int8=int8)
    sam = load_mobile_sam(checkpoint.path)
    source = Source(kind="file", sha256=checkpoint.sha256, n_bytes=checkpoint.n_bytes)
    with held(out):
        return export_model(sam, out, target, source=source, int8=int8)


def _print(manifest: Manifest, out: Path) -> None:
    lines = [f"{name}: {file.n_bytes / 1e6:.1f} MB" for name, file in manifest.files.items()]
    lines.append("largest difference from torch (float32, fixed pseudo-random inputs):")
    worst: dict[tuple[str, str], tuple[float, float | None]] = {}
    for row in manifest.parity:
        key = row.graph, row.output
        if key not in worst or row.max_abs > worst[key][0]:
            worst[key] = row.max_abs, row.tolerance
    for (graph, output), (difference, tolerance) in worst.items():
        judged = "not judged" if tolerance is None else f"allowed {tolerance:.2g}"
        lines.append(f"  {graph} {output}: {difference:.2g} ({judged})")
    lines.append(f"written to {out}, with manifest.json")
    sys.stdout.write("\n".join(lines) + "\n")
