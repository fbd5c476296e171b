"""The commands `models` and `doctor`."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from benchmarks.config.options import OutputArguments
from mobilesam.errors import WeightsError

if TYPE_CHECKING:
    from baselines.registry import ModelEntry
    from mobilesam.weights.checkpoints import VerifyReport

_OUTPUT = OutputArguments()

_EXTRAS = {
    "onnxruntime": "ONNX backends",
    "openvino": "OpenVINO backends",
    "ray": "runs on a cluster",
}


def models(*, output: OutputArguments = _OUTPUT) -> int:
    """List the models, and whether their weights are here."""
    from baselines.registry import entries
    from benchmarks.cli.commands.printing import print_json, print_table
    from benchmarks.tables.table import Cell, Column, Table

    weights, _ = _weights()
    rows = [_model(entry, weights.get(entry.checkpoint or "")) for entry in entries().values()]
    if output.json:
        print_json({"rows": rows})
        return 0
    columns = ("model", "summary", "weights", "installed")
    print_table(
        Table(
            "models",
            "Models",
            tuple(Column(name.capitalize(), (name,)) for name in columns),
            tuple(
                tuple(Cell(str(row[name]), (str(row[name]),)) for name in columns) for row in rows
            ),
        )
    )
    return 0


def _model(entry: ModelEntry, weights: VerifyReport | None) -> dict[str, Any]:
    from mobilesam.weights.checkpoint_specs import specs
    from mobilesam.weights.checkpoints import shipped_path

    missing = entry.missing()
    if entry.shipped is not None:
        here = shipped_path(entry.shipped)
        state = "shipped" if here.is_file() else "missing from this installation"
    elif entry.checkpoint is None:
        state = "none needed" if not entry.third_party else "its own"
    elif weights is None or weights.place is None:
        state = f"not here: mobilesam-bench weights fetch {entry.checkpoint}"
        shipped = specs()[entry.checkpoint].shipped
        if weights is not None and shipped is not None:
            state = f"shipped ({shipped.label}), not official; official {state}"
    else:
        state = f"{weights.status}: {weights.path}"
    return {
        "model": entry.name,
        "summary": entry.summary,
        "target": entry.target,
        "weights": state,
        "installed": "yes" if not missing else f"no: pip install {' '.join(missing)}",
    }


def doctor(*, output: OutputArguments = _OUTPUT) -> int:
    """Describe this machine, what is installed and what is missing, and what to do about it."""
    from benchmarks.cli.commands.printing import print_json, print_table
    from benchmarks.records import environment
    from benchmarks.tables.table import Cell, Column, Table

    here = environment.collect(environment.default_threads())
    advice = [*environment.warnings(here), *_advice()]
    if output.json:
        print_json({"environment": here.model_dump(mode="json"), "advice": advice})
        return 0
    facts = {
        "processor": f"{here.cpu}, {here.cpu_physical_cores} cores ({here.cpu_logical_cores} "
        f"logical), {' '.join(here.cpu_features)}",
        "accelerator": ", ".join(here.gpu) or "none that torch can use",
        "memory": f"{here.ram_bytes / 2**30:.1f} GiB",
        "system": f"{here.os}, Python {here.python}",
        "allocator": here.allocator,
        "threads": str(here.threads),
        "load": "unknown" if here.load_1min is None else f"{here.load_1min:.2f} (one minute)",
        "libraries": ", ".join(f"{name} {version}" for name, version in here.libraries.items()),
        "code": "no git checkout"
        if here.git_commit is None
        else f"git {here.git_commit[:12]}{' with changes' if here.git_dirty else ''}",
    }
    rows = [*facts.items(), *((f"extra: {name}", text) for name, text in _extras().items())]
    table = Table(
        "doctor",
        "This machine",
        (Column("What", ("what",)), Column("Found", ("found",))),
        tuple((Cell(name, (name,)), Cell(text, (text,))) for name, text in rows),
        tuple(advice) or ("Nothing is missing.",),
    )
    print_table(table)
    return 0


def _cv2_works() -> bool:
    """Whether OpenCV loads: on a bare Linux image it is installed but lacks system libraries."""
    try:
        importlib.import_module("cv2")
    except ImportError:
        return False
    return True


def _weights() -> tuple[dict[str, VerifyReport], str | None]:
    """Status of the published weights, or the reason why it is not known."""
    from mobilesam.weights.checkpoints import checkpoint_statuses

    try:
        return checkpoint_statuses(), None
    except WeightsError as error:
        return {}, str(error)


def _extras() -> dict[str, str]:
    return {
        name: f"installed ({use})" if importlib.util.find_spec(name) else f"not installed ({use})"
        for name, use in _EXTRAS.items()
    }


def _advice() -> list[str]:
    from baselines.registry import entries
    from mobilesam.weights.checkpoint_specs import specs

    advice = []
    for entry in entries().values():
        missing = entry.missing()
        if missing:
            advice.append(
                f"{entry.name} needs {' '.join(missing)}: pip install {' '.join(missing)}"
            )
    if not _cv2_works():
        advice.append(
            "OpenCV cannot be loaded, so grabcut and FastSAM cannot run; on Debian and Ubuntu: "
            "apt-get install libgl1 libglib2.0-0"
        )
    weights, problem = _weights()
    if problem is not None:
        advice.append(problem)
    for name, row in weights.items():
        spec = specs()[name]
        if row.status == "absent" and spec.shipped is not None:
            advice.append(
                f"{name} runs with shipped weights ({spec.shipped.label}), not official; for the "
                f"published claims: mobilesam-bench weights fetch {name}"
            )
        elif row.status == "absent":
            advice.append(
                f"no accuracy for {name}: weights are not here ({spec.megabytes:.0f} MB); "
                f"mobilesam-bench weights fetch {name}, or --weights {name}=PATH"
            )
        elif row.status != "ok":
            advice.append(f"{row.path} is {row.status}: mobilesam-bench weights verify {name}")
    return advice
