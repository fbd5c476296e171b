"""Benchmarks for promptable segmentation: the Python API and the command line.

    from benchmarks import compare, count_parameters, evaluate, load_record, time_model

    result = evaluate(["mobilesam", "grabcut"], dataset="photos", protocols=["box", "center"])
    result.summary          # one row per model and protocol, with 95 % intervals
    result.instances        # one row per prompt

A model is a registered name, a `Segmenter`, or a function; a dataset is a name or a list of arrays:

    def my_model(image, prompts):                       # (H, W, 3) uint8, N prompts
        masks = np.zeros((len(prompts), *image.shape[:2]), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, prompts.boxes.astype(int)):
            mask[y0:y1, x0:x1] = True
        return masks                                    # (N, H, W) bool

    evaluate([my_model], dataset=[(image, masks), ...], protocols=["box"])

Importing this package imports nothing else; see `benchmarks.api` for all functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baselines.function import FunctionSegmenter as FunctionSegmenter
    from benchmarks.api import Comparison as Comparison
    from benchmarks.api import Result as Result
    from benchmarks.api import compare as compare
    from benchmarks.api import count_parameters as count_parameters
    from benchmarks.api import evaluate as evaluate
    from benchmarks.api import load_record as load_record
    from benchmarks.api import time_model as time_model

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "FunctionSegmenter",
    "Result",
    "compare",
    "count_parameters",
    "evaluate",
    "load_record",
    "time_model",
]


def __getattr__(name: str) -> object:
    """Imports a public function when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = "baselines.function" if name == "FunctionSegmenter" else "benchmarks.api"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
