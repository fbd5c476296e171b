"""Model names and how to build them; a model's module is imported when it is built.

Third parties add models through the entry-point group `mobilesam_bench.models`: the entry point's
name is the model's, its value `module:factory`, as in `pyproject.toml`:

    [project.entry-points."mobilesam_bench.models"]
    my-sam = "my_package.adapter:build"
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from baselines import DEFAULT_SELECTION
from baselines.boundary import adapter_call
from baselines.interface import ModelInfo, ModelOptions, Segmenter
from mobilesam.errors import DataError, UsageError
from mobilesam.weights.checkpoints import shipped_path

ENTRY_POINT_GROUP = "mobilesam_bench.models"
Factory = Callable[[ModelOptions], Segmenter]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A registered model.

    Attributes:
        name: Name on the command line.
        target: `module:factory`; the factory takes `ModelOptions` and returns a `Segmenter`.
        summary: One line for `mobilesam-bench models`.
        checkpoint: Name in `mobilesam.weights.checkpoints` of the weights it needs; None if none.
        shipped: File in `mobilesam/weights` with its default weights; None if there is none.
        requires: Packages besides those that are always installed.
        derive: `module:function` for a model that runs files made from its checkpoint; it takes
            `ModelOptions` and creates missing files. A folder of these files can then be given as
            the checkpoint.
        derive_requires: Packages needed to create these files, besides `requires`.
        third_party: Whether it comes from an entry point.
        by_default: Whether the selection `default` includes it; models for tests do not belong.
        factory: Used instead of `target`, for a model that exists in this process only; `target`
            then identifies the object.
    """

    name: str
    target: str
    summary: str
    checkpoint: str | None = None
    requires: tuple[str, ...] = ()
    derive: str | None = None
    derive_requires: tuple[str, ...] = ()
    third_party: bool = False
    shipped: str | None = None
    by_default: bool = True
    factory: Factory | None = None

    def missing(self) -> tuple[str, ...]:
        """Required packages that are not installed."""
        return _absent(self.requires)

    @property
    def can_run(self) -> bool:
        """Whether its packages and, for a shipped model, its weights are installed."""
        shipped = self.shipped is None or shipped_path(self.shipped).is_file()
        return shipped and not self.missing_from_scratch()

    def missing_from_scratch(self) -> tuple[str, ...]:
        """Packages that are not installed of those needed to run it from a checkpoint."""
        return _absent((*self.requires, *self.derive_requires))


def _absent(packages: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in packages if importlib.util.find_spec(name) is None)


_BUILT_IN = (
    ModelEntry(
        "mobilesam",
        "baselines.sam:build_mobilesam",
        "MobileSAM: TinyViT-5M encoder, SAM's decoder, computed as published",
        "mobilesam",
    ),
    ModelEntry(
        "mobilesam-fast",
        "baselines.mobile_sam_fast:build",
        "MobileSAM on this project's inference path: same weights, same masks, less time",
        "mobilesam",
    ),
    ModelEntry(
        "mobilesam-onnx",
        "baselines.exported:build_onnx",
        "MobileSAM exported to ONNX, in ONNX Runtime",
        "mobilesam",
        ("onnxruntime",),
        "baselines.exported:derive_onnx",
        ("onnx",),
    ),
    ModelEntry(
        "mobilesam-onnx-int8",
        "baselines.exported:build_onnx_int8",
        "the same with matrix products in 8-bit integers: other masks",
        "mobilesam",
        ("onnxruntime",),
        "baselines.exported:derive_onnx_int8",
        ("onnx",),
    ),
    ModelEntry(
        "mobilesam-openvino",
        "baselines.exported:build_openvino",
        "MobileSAM exported to OpenVINO",
        "mobilesam",
        ("openvino",),
        "baselines.exported:derive_openvino",
        ("onnx",),
    ),
    ModelEntry("sam-vit-h", "baselines.sam:build_h", "SAM ViT-H (segment-anything)", "sam-vit-h"),
    ModelEntry("sam-vit-l", "baselines.sam:build_l", "SAM ViT-L (segment-anything)", "sam-vit-l"),
    ModelEntry("sam-vit-b", "baselines.sam:build_b", "SAM ViT-B (segment-anything)", "sam-vit-b"),
    ModelEntry(
        "fastsam-x",
        "baselines.fast_sam:build_x",
        "FastSAM-x: YOLOv8x-seg (ultralytics, AGPL-3.0)",
        "fastsam-x",
        ("ultralytics",),
    ),
    ModelEntry(
        "fastsam-s",
        "baselines.fast_sam:build_s",
        "FastSAM-s: YOLOv8s-seg (ultralytics, AGPL-3.0)",
        "fastsam-s",
        ("ultralytics",),
    ),
    ModelEntry(
        "sam-mini",
        "baselines.sam:build_mini",
        "small SAM, trained from scratch by this project on synthetic scenes",
        "sam-mini",
        shipped="sam-mini.safetensors",
        by_default=False,
    ),
    ModelEntry(
        "mobilesam-mini",
        "baselines.sam:build_mobilesam_mini",
        "small MobileSAM, distilled from sam-mini",
        "mobilesam-mini",
        shipped="mobilesam-mini.safetensors",
        by_default=False,
    ),
    ModelEntry(
        "grabcut",
        "baselines.classical:GrabCutSegmenter",
        "OpenCV GrabCut from the prompt (no learning)",
        requires=("cv2",),
    ),
    ModelEntry("box", "baselines.classical:BoxSegmenter", "the prompt box itself (floor)"),
    ModelEntry(
        "dummy",
        "baselines.dummy:build",
        "known masks and delays: tests the suite",
        by_default=False,
    ),
)


def entries() -> Mapping[str, ModelEntry]:
    """All registered models by name: built-in ones first, then third parties' by name."""
    found = {entry.name: entry for entry in _BUILT_IN}
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    for point in sorted(points, key=lambda each: each.name):
        # A built-in name keeps its meaning, or published numbers would change under their label.
        found.setdefault(
            point.name,
            ModelEntry(point.name, point.value, f"third party ({point.value})", third_party=True),
        )
    return found


def select(patterns: Iterable[str]) -> tuple[ModelEntry, ...]:
    """Finds models by name or wildcard, each once, in the order of the patterns.

    `default` selects all models except those for tests and experiments. Like a wildcard, it omits
    models that this installation cannot run because a package or shipped weights are missing;
    these can be selected by name only.

    Raises:
        UsageError: A pattern matches nothing; suggests the nearest names, or what to install.
    """
    known = entries()
    chosen: dict[str, ModelEntry] = {}
    for pattern in patterns:
        matching = fnmatch.filter(known, pattern)
        if pattern == DEFAULT_SELECTION:
            matching = [name for name, entry in known.items() if entry.by_default]
        able = [name for name in matching if known[name].can_run]
        names = [pattern] if pattern in known else able
        if matching and not names:
            lacking = sorted({p for name in matching for p in known[name].missing_from_scratch()})
            hint = _install(lacking) if lacking else "this package has no weights for it yet"
            raise UsageError(f"{pattern!r} matches nothing that can run: {hint}")
        if not names:
            near = difflib.get_close_matches(pattern, known, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"unknown model {pattern!r}; {hint}")
        chosen.update((name, known[name]) for name in names)
    if not chosen:
        raise UsageError("no model named; give --models a,b or a wildcard such as 'sam-*'")
    return tuple(chosen.values())


def select_one(name: str) -> ModelEntry:
    """Finds the model of this name; raises a UsageError if there is none, or for a wildcard."""
    found = select([name])
    if name not in entries():
        names = ", ".join(entry.name for entry in found)
        raise UsageError(f"{name!r} may be one of {names}; name a single model")
    return found[0]


def build(entry: ModelEntry, options: ModelOptions) -> Segmenter:
    """Imports the model's module and builds it.

    Raises:
        UsageError: The module, the factory or a required package is missing.
        WeightsError: Its checkpoint does not fit.
        DataError: The factory does not return a model.
        AdapterError: The module or the factory raises any other exception.
    """
    missing = entry.missing()
    if missing:
        raise UsageError(f"{entry.name} needs {', '.join(missing)}: {_install(missing)}")
    with adapter_call("build"):
        factory = entry.factory or cast("Factory", _load(entry, entry.target))
        built = factory(options)
        info: object = getattr(built, "info", None)
    if not isinstance(info, ModelInfo):
        raise DataError(
            f"{entry.target} gave a {type(built).__name__} for {entry.name}; wanted a Segmenter "
            "with a ModelInfo as `info`"
        )
    return built


def derive(entry: ModelEntry, options: ModelOptions) -> None:
    """Creates the files that a model runs, if it runs any; call it before anything is timed.

    Raises:
        UsageError: The module, the function or a required package is missing.
        WeightsError: Its checkpoint does not fit, or the files cannot be created.
        AdapterError: The function raises any other exception.
    """
    if entry.derive is not None and not entry.missing():
        with adapter_call("derive"):
            _load(entry, entry.derive)(options)


def _load(entry: ModelEntry, target: str) -> Callable[[ModelOptions], object]:
    module_name, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{entry.name} cannot be loaded from {target}: {error}") from error
    return cast("Callable[[ModelOptions], object]", found)


def _install(packages: Iterable[str]) -> str:
    return f"pip install {' '.join(packages)}"
