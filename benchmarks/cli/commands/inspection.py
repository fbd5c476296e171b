"""The commands `models` and `doctor`."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from benchmarks.cli.commands.printing import print_json, print_table, text_table
from benchmarks.config.options import LicenceOption, PrintJson
from mobilesam.errors import WeightsError

if TYPE_CHECKING:
    from baselines.registry import ModelEntry
    from mobilesam.weights.checkpoints import VerifyReport

_MODEL_COLUMNS = {
    "model": "Model",
    "summary": "Summary",
    "parameters": "Params (10⁶)",
    "licence": "Licence (code; weights)",
    "commercial": "Commercial",
    "weights": "Weights",
    "installed": "Installed",
}
_MODELS_NOTE = (
    "Weights: mobilesam-bench weights list, weights fetch NAME. Other sizes: NAME@SIZE, for "
    "mobilesam and mobilesam-fast. Any checkpoint of Hugging Face transformers: hf:ORG/NAME or "
    "hf:FOLDER."
)
_EXTRAS = {
    "onnxruntime": "ONNX backends",
    "openvino": "OpenVINO backends",
    "ray": "runs on a cluster",
    "gradio": "demo",
}


def models(*, licence: LicenceOption = None, json: PrintJson = False) -> int:
    """List the models, their licences, and whether their weights are here."""
    from baselines.registry import entries

    statuses, _ = _weights()
    rows = []
    for entry in entries().values():
        if licence == "permissive" and not entry.permissive:
            continue
        count = entry.parameters
        licences = dict.fromkeys((entry.licence, entry.weights_licence or entry.licence))
        rows.append(
            {
                "model": entry.name,
                "summary": entry.summary,
                "target": entry.target,
                "parameters": f"{count / 1e6:.2f}" if count else "",
                "licence": "; ".join(licences),
                "commercial": entry.commercial,
                "note": entry.note,
                "weights": _weights_text(entry, statuses.get(entry.checkpoint or "")),
                "installed": f"no: {entry.install}" if entry.missing() else "yes",
            }
        )
    if json:
        print_json({"rows": rows})
    else:
        notes: dict[str, list[str]] = {}
        for row in rows:
            notes.setdefault(row["note"], []).append(row["model"])
        notes.pop("", None)
        lines = [f"{', '.join(names)}: {note}" for note, names in notes.items()]
        table = text_table(
            "Models",
            _MODEL_COLUMNS,
            rows,
            _MODELS_NOTE,
            *lines,
            right="parameters",
            optional=("parameters", "licence", "installed", "commercial", "summary"),
        )
        print_table(table)
    return 0


def _weights_text(entry: ModelEntry, weights: VerifyReport | None) -> str:
    from mobilesam.weights.checkpoint_specs import specs
    from mobilesam.weights.checkpoints import shipped_path

    if entry.shipped is not None:
        here = shipped_path(entry.shipped).is_file()
        return "shipped" if here else "missing from this installation"
    if entry.checkpoint is None:
        return "its own" if entry.third_party else "none needed"
    if weights is not None and weights.place is not None:
        return f"{weights.status}: {weights.path}"
    spec = specs()[entry.checkpoint]
    state = "not here, gated" if spec.gate else "not here"
    shipped = spec.shipped
    if weights is not None and shipped is not None:
        state = "shipped, not official"
    return state


def protocols(*, json: PrintJson = False) -> int:
    """List the accuracy protocols: which prompt is given, and which mask is scored."""
    from benchmarks.prompts.protocols import DEFAULT_PROTOCOLS, EXPLAINED

    rows = [{"protocol": name, "prompt and mask": text} for name, text in EXPLAINED.items()]
    if json:
        print_json({"default": list(DEFAULT_PROTOCOLS), "rows": rows})
        return 0
    notes = (
        f"Without --protocol: {','.join(DEFAULT_PROTOCOLS)}. Several by commas.",
        "Details and sources: docs/protocols.md.",
    )
    columns = {"protocol": "Protocol", "prompt and mask": "Prompt and mask"}
    print_table(text_table("Accuracy protocols", columns, rows, *notes))
    return 0


def doctor(*, json: PrintJson = False) -> int:
    """Describe this machine, what is installed and what is missing, and what to do about it."""
    from benchmarks.records import environment

    threads, reason = environment.free_threads()
    here = environment.collect(threads, threads_reason=reason or None)
    advice = [*environment.warnings(here), *_advice()]
    if json:
        print_json({"environment": here.model_dump(mode="json"), "advice": advice})
        return 0
    changes = " with changes" if here.git_dirty else ""
    facts = {
        "processor": f"{here.cpu}, {here.cpu_physical_cores} cores ({here.cpu_logical_cores} "
        f"logical), {' '.join(here.cpu_features)}",
        "accelerator": ", ".join(here.gpu) or "none that torch can use",
        "memory": f"{here.ram_bytes / 2**30:.1f} GiB",
        "system": f"{here.os}, Python {here.python}",
        "allocator": here.allocator,
        "threads": f"{here.threads}{f' ({reason})' if reason else ''}; waiting threads: "
        f"{here.wait_policy or 'as OpenMP does by default'}",
        "load": "unknown" if here.load_1min is None else f"{here.load_1min:.2f} (one minute)",
        "libraries": ", ".join(f"{name} {version}" for name, version in here.libraries.items()),
        "code": f"git {here.git_commit[:12]}{changes}" if here.git_commit else "no git checkout",
    }
    for name, use in _EXTRAS.items():
        state = "installed" if importlib.util.find_spec(name) else "not installed"
        facts[f"extra: {name}"] = f"{state} ({use})"
    rows = [{"what": name, "found": text} for name, text in facts.items()]
    columns = {"what": "What", "found": "Found"}
    print_table(text_table("This machine", columns, rows, *(advice or ["Nothing is missing."])))
    return 0


def _weights() -> tuple[dict[str, VerifyReport], str | None]:
    """Status of the published weights, or the reason why it is not known."""
    from mobilesam.weights.checkpoints import checkpoint_statuses

    try:
        return checkpoint_statuses(), None
    except WeightsError as error:
        return {}, str(error)


def _advice() -> list[str]:
    from baselines.registry import entries
    from mobilesam.weights.checkpoint_specs import specs

    advice = [
        f"{entry.name} needs {names}: pip install {names}"
        for entry in entries().values()
        if (names := " ".join(entry.missing()))
    ]
    try:  # on a bare Linux image it is installed but lacks system libraries
        importlib.import_module("cv2")
    except ImportError:
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
                f"no accuracy for {name}: weights are not here ({spec.size}); "
                f"mobilesam-bench weights fetch {name}, or --weights {name}=PATH"
            )
        elif row.status != "ok":
            advice.append(f"{row.path} is {row.status}: mobilesam-bench weights verify {name}")
    return advice
