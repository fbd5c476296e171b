"""The commands that measure: `run`, `params`, `latency` and `miou`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from baselines.registry import select
from benchmarks import profiles, protocols
from benchmarks.cli_options import DataArguments, ModelArguments, OutputArguments
from benchmarks.commands.printing import print_json, print_table
from benchmarks.data.dataset import Dataset
from benchmarks.environment import default_threads, use_threads
from benchmarks.planning import WeightsPolicy
from benchmarks.profiles import Profile
from benchmarks.progress import Reporter
from benchmarks.protocols import DEFAULT_PROTOCOLS, AccuracyProtocol
from benchmarks.records import RECORD_NAME, RunRecord, Value
from benchmarks.run import RunRequest, execute
from mobilesam.errors import UsageError

DEFAULT_OUT = Path("bench-runs")
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_DATASET_OPTIONS = {
    "synthetic": (),
    "coco": ("--images", "--annotations"),
    "sa1b": ("--root",),
}
PRECISIONS = ("fp32", "fp16", "bf16")


def run(
    profile_name: str, models: ModelArguments, data: DataArguments, output: OutputArguments
) -> int:
    """Measures everything, and prints the summary and where all of it is."""
    profile = profiles.find(profile_name)
    request = _request(
        "run",
        models,
        output,
        profile=profile,
        counting=True,
        dataset=open_dataset(data, profile.n_images, models.seed),
        accuracy=_protocols(data),
        fetch_limit_bytes=profile.fetch_limit_bytes,
    )
    record = _execute(request, output)
    files = _report(record, request.out)
    if output.json:
        print_json(record.model_dump(mode="json", exclude={"latency": {"__all__": {"samples_ms"}}}))
    else:
        from benchmarks.report.tables import summary_table

        print_table(summary_table(record))
        _say_where(request.out, files)
    return _exit_code(record)


def params(models: ModelArguments, output: OutputArguments) -> int:
    """Counts parameters and FLOPs."""
    request = _request("params", models, output, counting=True)
    record = _execute(request, output)
    if output.json:
        print_json({"rows": _rows(record.params), "failures": _rows(record.failures)})
    else:
        from benchmarks.report.tables import params_table

        print_table(params_table(record))
        _say_where(request.out, _report(record, request.out))
    return _exit_code(record)


def latency(profile_name: str, models: ModelArguments, output: OutputArguments) -> int:
    """Times every phase."""
    profile = profiles.find(profile_name)
    request = _request(
        "latency", models, output, profile=profile, fetch_limit_bytes=profile.fetch_limit_bytes
    )
    record = _execute(request, output)
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
        from benchmarks.report.tables import latency_table

        print_table(latency_table(record))
        _say_where(request.out, _report(record, request.out))
    return _exit_code(record)


def miou(models: ModelArguments, data: DataArguments, output: OutputArguments) -> int:
    """Measures accuracy."""
    n_images = profiles.find("standard").n_images
    request = _request(
        "miou",
        models,
        output,
        dataset=open_dataset(data, n_images, models.seed),
        accuracy=_protocols(data),
    )
    record = _execute(request, output)
    if output.json:
        print_json(
            {
                "rows": _rows(record.miou),
                "instances": None
                if record.instances is None
                else str((request.out / record.instances).resolve()),
                "failures": _rows(record.failures),
                "warnings": list(record.warnings),
            }
        )
    else:
        from benchmarks.report.tables import miou_tables

        for table in miou_tables(record):
            print_table(table)
        _say_where(request.out, _report(record, request.out))
    return _exit_code(record)


def weights_policy(models: ModelArguments, fetch_limit_bytes: int | None = None) -> WeightsPolicy:
    """Where weights may come from, as the user said."""
    from mobilesam.checkpoints import parse_override

    overrides = dict(parse_override(text) for text in models.weights)
    for name in overrides:
        (entry,) = select([name])  # a misspelt name would leave its model with random weights
        if entry.checkpoint is None and not entry.third_party:
            raise UsageError(f"{name} takes no weights; drop --weights {name}=...")
    return WeightsPolicy(overrides, models.offline, models.trust, fetch_limit_bytes)


def open_dataset(data: DataArguments, n_images: int, seed: int) -> Dataset:
    """The dataset that the user named.

    Args:
        data: The arguments.
        n_images: Synthetic scenes, unless `--limit` says otherwise.
        seed: Of the synthetic scenes.

    Raises:
        UsageError: Unknown, or an option that it needs is missing.
        DataError: It cannot be read.
    """
    given = {"--images": data.images, "--annotations": data.annotations, "--root": data.root}
    for option, value in given.items():
        if value and option not in _DATASET_OPTIONS.get(data.dataset, given):
            raise UsageError(f"{option} does not belong to --dataset {data.dataset}")
    if data.dataset == "synthetic":
        from benchmarks.data.synthetic import SyntheticDataset

        return SyntheticDataset(n_images=n_images if data.limit is None else data.limit, seed=seed)
    if data.dataset == "coco":
        from benchmarks.data.coco import CocoDataset

        if data.images is None or data.annotations is None:
            raise UsageError("--dataset coco needs --images DIR and --annotations FILE")
        return CocoDataset(data.images, data.annotations, limit=data.limit)
    if data.dataset == "sa1b":
        from benchmarks.data.sa1b import Sa1bDataset

        if not data.root:
            raise UsageError("--dataset sa1b needs --root DIR_OR_TARS")
        root = data.root[0] if len(data.root) == 1 else data.root
        return Sa1bDataset(root, limit=data.limit)
    raise UsageError(f"unknown dataset {data.dataset!r}; choose synthetic, coco or sa1b")


def check_device(device: str) -> str:
    """Returns the device if torch can use it here.

    Raises:
        UsageError: Unknown, or not present.
    """
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in _DEVICES:
        raise UsageError(f"unknown device {device!r}; choose from {', '.join(_DEVICES)}")
    kind = wanted.type
    backend: Any = {
        "cpu": None,
        "cuda": torch.cuda,
        "mps": torch.backends.mps,
        "xpu": getattr(torch, "xpu", None),
    }[kind]
    if kind != "cpu" and (backend is None or not backend.is_available()):
        raise UsageError(f"no {kind} device is usable here; use --device cpu, or see doctor")
    if kind == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"{device} is not here: there are {torch.cuda.device_count()} GPUs")
    return device


def check_precision(precision: str) -> str:
    """Returns the precision if it is one.

    Raises:
        UsageError: It is not.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    return precision


def _request(
    command: str,
    models: ModelArguments,
    output: OutputArguments,
    *,
    profile: Profile | None = None,
    counting: bool = False,
    dataset: Dataset | None = None,
    accuracy: tuple[AccuracyProtocol, ...] = (),
    fetch_limit_bytes: int | None = None,
) -> RunRequest:
    if models.threads is not None and models.threads < 1:
        raise UsageError(f"--threads must be at least 1; got {models.threads}")
    threads = models.threads or default_threads()
    use_threads(threads)
    return RunRequest(
        command=shlex.join(["mobilesam-bench", *sys.argv[1:]]),
        note=output.note,
        models=select(each.strip() for each in models.models.split(",") if each.strip()),
        policy=weights_policy(models, fetch_limit_bytes),
        out=output.out or _new_folder(command),
        threads=threads,
        device=check_device(models.device),
        precision=check_precision(models.precision),
        seed=models.seed,
        profile=profile,
        count=counting,
        dataset=dataset,
        protocols=accuracy,
    )


def _new_folder(command: str) -> Path:
    stem = f"{command}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = (stem if i == 1 else f"{stem}-{i}" for i in count(1))
    return next(DEFAULT_OUT / name for name in names if not (DEFAULT_OUT / name).exists())


def _protocols(data: DataArguments) -> tuple[AccuracyProtocol, ...]:
    names = data.protocol.split(",") if data.protocol else DEFAULT_PROTOCOLS
    return protocols.find(name.strip() for name in names)


def _execute(request: RunRequest, output: OutputArguments) -> RunRecord:
    return execute(request, Reporter(quiet=output.quiet))


def _report(record: RunRecord, out: Path) -> list[Path]:
    from benchmarks.report.plots import write_plots
    from benchmarks.report.tables import write_tables

    return [*write_tables(record, out), *write_plots(record, out)]


def _rows(rows: Sequence[Value]) -> list[dict[str, Any]]:
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
