"""The command that writes a model as files for other runtimes: `export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines
from benchmarks.config.options import ModelArguments
from mobilesam.errors import UsageError

if TYPE_CHECKING:
    from baselines.interface import Checkpoint
    from mobilesam.export.runtime import Manifest, Target

EXPORTABLE = "mobilesam"
"""Model whose networks are exported; models that run exported files have the same weights."""


def export(
    out: Path,
    /,
    *,
    to: Annotated[str, Parameter(help="onnx or openvino.")],
    int8: Annotated[bool, Parameter(help="Quantised files as well.")] = False,
    calibration: Annotated[
        Path | None,
        Parameter(
            metavar="FOLDER",
            help="OpenVINO with --int8: images such as will be encoded, none that is evaluated. "
            "Without it, ranges in this package are used; they are of the shipped weights.",
        ),
    ] = None,
    calibration_images: Annotated[int, Parameter(help="So many images of the folder.")] = 32,
    weights: Annotated[tuple[str, ...], Parameter(metavar="NAME=PATH", help="Local weights.")] = (),
    offline: bool = False,
    trust: bool = False,
    json: bool = False,
) -> int:
    """Write MobileSAM for ONNX Runtime or OpenVINO, kept if it agrees with torch (not so int8)."""
    from baselines.registry import select_one
    from benchmarks.config.from_options import weights_policy
    from benchmarks.config.model_resolution import find_checkpoint
    from mobilesam.export.runtime import TARGETS

    chosen = next((each for each in TARGETS if each == to), None)
    if chosen is None:
        raise UsageError(f"unknown --to {to!r}; choose from {', '.join(TARGETS)}")
    if calibration is not None and not (int8 and chosen == "openvino"):
        raise UsageError("--calibration is for --to openvino --int8; omit it")
    entry = select_one(EXPORTABLE)
    policy = weights_policy(ModelArguments(weights=weights, offline=offline, trust=trust))
    for name in policy.overrides:
        if name != entry.name:
            raise UsageError(f"export reads the weights of {entry.name}; drop --weights {name}=...")
    reasons: list[str] = []
    checkpoint = find_checkpoint(
        entry, policy, on_fallback=lambda error: reasons.append(f": {error.reason}")
    )
    sys.stderr.write(f"weights: {checkpoint.description}{''.join(reasons)}\n")
    manifest = _export(checkpoint, chosen, out, int8, calibration, calibration_images)
    if json:
        print_json({"folder": str(out), **manifest.model_dump(mode="json")})
        return 0
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
    print_lines(*lines, f"written to {out}, with manifest.json")
    return 0


def _export(
    checkpoint: Checkpoint,
    target: Target,
    out: Path,
    int8: bool,
    calibration: Path | None,
    n_images: int,
) -> Manifest:
    from benchmarks.records.run_folder import held
    from mobilesam.export.quantized import find_ranges
    from mobilesam.export.runtime import Source
    from mobilesam.export.writer import check_target, export_model
    from mobilesam.model.mobile_sam import load_mobile_sam

    check_target(target)
    sam = load_mobile_sam(checkpoint.path)
    ranges = None
    if int8 and target == "openvino":
        ranges = find_ranges(sam, calibration, n_images)
    source = Source(kind="file", sha256=checkpoint.sha256, n_bytes=checkpoint.n_bytes)
    with held(out):
        return export_model(sam, out, target, source=source, int8=int8, ranges=ranges)
