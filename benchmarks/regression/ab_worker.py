"""One side of an A/B measurement: it does what the lines on standard input ask for.

It is started by its path, with one version's tree in `PYTHONPATH`: the same file measures both
versions, so that a change of the suite's own timer or metrics hits neither side. So it uses of the
tree nothing but the models and their interface; it has a boundary around them of its own, since a
version of the tree may have none.

The first line is the set-up; each further line asks for one thing and is answered by one line.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Call = Callable[[], object]


class ModelError(Exception):
    """The model of a tree raised an exception, which is kept as the cause."""


@contextmanager
def model_call(method: str) -> Iterator[None]:
    """Converts exceptions of a model to `ModelError`; the block may hold only calls into a model.

    Args:
        method: Name of the model's method, for the message.

    Raises:
        ModelError: The model raised an exception.
    """
    try:
        yield
    except Exception as error:  # either version of the model is code that is being tested
        words = " ".join(str(error).split())
        # An expected error of the tree names what is wrong, and perhaps the method.
        if all(each.__name__ != "BenchError" for each in type(error).__mro__):
            words = f"{type(error).__name__}: {words}"
        where = f"(in {method})"
        raise ModelError(words if words.endswith(where) else f"{words} {where}") from error


class Side:
    """One model of one tree.

    Args:
        setup: `tree`, `model`, `image` (an .npy file, (H, W, 3) uint8), `seed`, `threads`.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        import baselines.registry as registry
        from baselines.options import ModelOptions

        if not Path(registry.__file__).is_relative_to(setup["tree"]):
            sys.exit(f"baselines comes from {registry.__file__}, not from {setup['tree']}")
        (entry,) = registry.select([setup["model"]])
        checkpoint = None
        shipped = getattr(entry, "shipped", None)
        if shipped is not None:
            from mobilesam.weights.checkpoints import shipped_checkpoint, shipped_path

            if shipped_path(shipped).is_file():
                checkpoint = shipped_checkpoint(shipped)
        options = ModelOptions(setup["model"], checkpoint=checkpoint, seed=setup["seed"])
        with model_call("build"):
            self._model: Any = registry.build(entry, options)
        _use_threads(setup["threads"])
        self._image = np.load(setup["image"])
        self._calls: dict[tuple[str, int | None], Call] = {}

    def phases(self, request: dict[str, Any]) -> dict[str, Any]:
        """Makes the inputs of all phases; returns their names and numbers of prompts."""
        model, image = self._model, self._image
        with model_call("prepare"):
            prepared = model.prepare(image)
        with model_call("encode"):
            embedding = model.encode(prepared)
        network = getattr(model, "run_network", None)
        calls: dict[tuple[str, int | None], Call] = {
            ("preprocess", None): _bound(model.prepare, image),
            ("encode", None): _bound(network or model.encode, prepared),
        }
        for n in request["n_prompts"]:
            prompts = self._prompts(n)
            if hasattr(model, "decode_logits"):
                with model_call("decode_logits"):
                    logits = model.decode_logits(embedding, prompts)
                calls["decode", n] = _bound(model.decode_logits, embedding, prompts)
                calls["postprocess", n] = _bound(model.postprocess, logits)
            else:
                calls["decode", n] = _bound(model.decode, embedding, prompts)
        self._calls = calls
        gc.collect()
        gc.freeze()
        return {"phases": list(calls)}

    def _prompts(self, n: int) -> Any:
        from baselines.interface import Prompts

        height, width = self._image.shape[:2]
        at = np.random.default_rng(n).uniform(0.2, 0.8, (n, 2)) * (width, height)
        if "points" in self._model.info.supports:
            return Prompts(points=at[:, None], labels=np.ones((n, 1), np.int64))
        half = np.array([0.1 * width, 0.1 * height])
        return Prompts(boxes=np.concatenate([at - half, at + half], axis=1))

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Milliseconds of so many `calls` of a phase."""
        call = self._calls[request["phase"], request["n_prompts"]]
        wait = self._model.synchronize
        found = []
        gc.disable()
        with model_call(request["phase"]):  # around all calls, so that no call's time includes it
            for _ in range(request["calls"]):
                wait()
                start = time.perf_counter_ns()
                call()
                wait()
                found.append((time.perf_counter_ns() - start) / 1e6)
        gc.enable()
        return {"ms": found}

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """The most memory that this process has held, in bytes."""
        del request
        status = Path("/proc/self/status")
        if status.is_file():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return {"peak_rss_bytes": 1024 * int(line.split()[1])}
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_rss_bytes": peak if sys.platform == "darwin" else 1024 * peak}

    def accuracy(self, request: dict[str, Any]) -> dict[str, Any]:
        """IoU of every answer, by protocol, and the index of its image; `scenes` is a folder."""
        from baselines.interface import Prompts

        found: dict[str, list[float]] = {}
        images: dict[str, list[int]] = {}
        for index, path in enumerate(sorted(Path(request["scenes"]).glob("*.npz"))):
            scene = np.load(path)
            with model_call("prepare"):
                prepared = self._model.prepare(scene["image"])
            with model_call("encode"):
                embedding = self._model.encode(prepared)
            asked = {"box": Prompts(boxes=scene["boxes"])}
            if "points" in self._model.info.supports:
                labels = np.ones((len(scene["points"]), 1), np.int64)
                asked["center"] = Prompts(points=scene["points"][:, None], labels=labels)
            for protocol, prompts in asked.items():
                # The prompts of an image in parts: masks are as large as the image.
                with model_call("decode"):
                    answers = [
                        self._model.decode(embedding, prompts[row : row + 1]).masks[0, 0]
                        for row in range(len(prompts))
                    ]
                ious = [_iou(a, b) for a, b in zip(answers, scene["masks"], strict=True)]
                found.setdefault(protocol, []).extend(ious)
                images.setdefault(protocol, []).extend([index] * len(ious))
        return {"iou": found, "images": images}


def _bound(method: Callable[..., object], *arguments: Any) -> Call:
    return lambda: method(*arguments)


def _iou(a: Any, b: Any) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _use_threads(threads: int) -> None:
    """Of those libraries that the model has loaded; numpy's are set by the environment."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)


def main() -> int:
    """Answers until standard input ends, or the model fails; returns the exit code."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints
    try:
        side = Side(json.loads(sys.stdin.readline()))
        _answer(out, {})
        for line in sys.stdin:
            request = json.loads(line)
            _answer(out, getattr(side, request["do"])(request))
    except ModelError as error:
        traceback.print_exception(error)
        _answer(out, {"error": str(error)})
        return 1
    return 0


def _answer(out: TextIO, document: dict[str, Any]) -> None:
    out.write(json.dumps(document) + "\n")
    out.flush()


if __name__ == "__main__":
    raise SystemExit(main())
