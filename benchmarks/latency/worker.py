"""The process in which everything is timed: one model or one task, one request a line.

`benchmarks.latency.controller` starts this file by its path, with the tree that is measured in
`PYTHONPATH`. The tree can be another commit of this repository (`regress`): this file, the timer
beside it and numpy measure both versions, so that a change of the suite itself affects neither.
It uses nothing of the tree but the models and their interface, and has its own boundary around
them.

The first line of standard input is the set-up, each further line a request; each is answered by one
line of JSON, so that a process that dies loses nothing it has measured. Whatever else prints goes
to standard error.

The timed region of a sample is the call alone, between two reads of `perf_counter_ns`, with the
device idle before the first and waited for before the second (`timer.time_once`). Building the
model, inputs of a phase, boundary, garbage collection and pipes are outside.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import statistics
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil

Call = Callable[[], Any]
_BLOCK_CALLS = 3
Answer = dict[str, Any]


def _load_timer() -> ModuleType:
    """Loads `timer.py` of this folder, since `benchmarks` may be of another version."""
    name = "latency_timer"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("timer.py"))
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - the file exists
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


timer = _load_timer()


class SubjectError(Exception):
    """A model or task raised an error, which is kept as the cause."""


@contextmanager
def model_call(method: str) -> Iterator[None]:
    """Converts exceptions of a model to `SubjectError`; around calls of a model alone."""
    try:
        yield
    except Exception as error:  # models are foreign code, here also of another version
        words = [f"{type(error).__name__}:", *str(error).split(), f"(in {method})"]
        message = str(error) if _is_expected(error) else " ".join(words)
        raise SubjectError(message) from error


@contextmanager
def task_call() -> Iterator[None]:
    """Converts a `BenchError` of a task to `SubjectError`; other errors end the process."""
    try:
        yield
    except Exception as error:
        if not _is_expected(error):
            raise
        raise SubjectError(str(error)) from error


def _is_expected(error: Exception) -> bool:
    """Whether an error is a `BenchError` of the tree, which is not imported here."""
    return any(base.__name__ == "BenchError" for base in type(error).__mro__)


class Model:
    """A model of the tree on one image, an .npy file of (H, W, 3) uint8 RGB.

    Options are those of `baselines.interface.ModelOptions` as JSON; with `shipped`, weights are
    those that the tree ships for this model, if it does. `file` is the target of a model of a file,
    and the SHA-256 of the file.
    """

    def __init__(
        self,
        tree: str,
        options: dict[str, Any],
        image: str,
        *,
        shipped: bool,
        file: tuple[str, str] | None = None,
    ) -> None:
        from pydantic import TypeAdapter

        import baselines.registry as registry

        if not Path(registry.__file__).is_relative_to(tree):
            sys.exit(f"baselines is imported from {registry.__file__}, not from {tree}")
        # The registry of every version has these names, whose modules have moved.
        names = vars(registry)
        (entry,) = registry.select([options["name"] if file is None else file[0]])
        if file is not None:
            entry = replace(entry, file_sha256=file[1])
        weights = getattr(entry, "shipped", None) if shipped else None
        if weights is not None:
            checkpoints = importlib.import_module(names["shipped_path"].__module__)
            if checkpoints.shipped_path(weights).is_file():
                options = {**options, "checkpoint": checkpoints.shipped_checkpoint(weights)}
        built = TypeAdapter(names["ModelOptions"]).validate_python(options)
        models: list[Any] = []

        def wait() -> None:
            for model in models:
                model.synchronize()

        with model_call("build"):
            load = timer.time_once(lambda: models.append(registry.build(entry, built)), wait)
        self.load_ms = float(load)
        self._model = models[0]
        self._is_detector = hasattr(self._model, "run_network")
        self._splits_decoding = hasattr(self._model, "decode_logits")
        self.boundary = model_call
        self.synchronize: Callable[[], None] = self._model.synchronize
        self._image = np.load(image)
        self._prepared: Any = None
        self._embedding: Any = None
        self._network_output: Any = None
        self._logits: dict[int, Any] = {}
        self._batch: list[Any] = []

    def first_call(self, _request: Answer) -> Answer:
        """Times the first image and prompt with all lazy set-up, and describes the model."""
        model, image, one = self._model, self._image, self._prompts(1)
        times_ms = {}

        def once(method: str, call: Call) -> Any:
            found = []
            with model_call(method):
                times_ms[method] = timer.time_once(lambda: found.append(call()), self.synchronize)
            return found[0]

        self._prepared = once("prepare", lambda: model.prepare(image))
        self._embedding = once("encode", lambda: model.encode(self._prepared))
        self._check_masks(1, once("decode", lambda: model.decode(self._embedding, one)))
        if not (self._is_detector and model.info.weights.kind == "random"):
            with model_call("decode"):
                found = model.decode(self._embedding, self._prompts(2))
            self._check_masks(2, found)
        gc.collect()
        gc.freeze()
        return {
            "ms": times_ms,
            "supports": sorted(model.info.supports),
            "weights": model.info.weights.kind,
            "is_detector": self._is_detector,
            "splits_decoding": self._splits_decoding,
        }

    def _check_masks(self, n_prompts: int, found: Any) -> None:
        """Raises a SubjectError if masks do not have a shape of the interface."""
        shape = getattr(getattr(found, "masks", None), "shape", None)
        height, width = self._image.shape[:2]
        if shape is None or len(shape) != 4 or shape != (n_prompts, shape[1] or 1, height, width):
            got = f"a {type(found).__name__}" if shape is None else f"masks of shape {shape}"
            raise SubjectError(
                f"{self._model.info.name}.decode gave {got}; wanted bool masks of shape "
                f"({n_prompts}, C, {height}, {width}); fix the adapter"
            )

    def describe_batches(self, _request: Answer) -> Answer:
        """Whether the model encodes several images in one call."""
        return {"encodes_batches": hasattr(self._model, "encode_batch")}

    def find_call(self, phase: str, n_prompts: int | None, n_images: int | None = None) -> Call:
        """The call of a phase, whose inputs are made here, outside the timed region.

        With `n_images`, it encodes a batch of different images, each of which is the image of this
        model, shifted.
        """
        model, image = self._model, self._image
        if n_images is not None:
            with model_call("prepare"):
                self._batch += [
                    model.prepare(np.roll(image, 16 * index, axis=1))
                    for index in range(len(self._batch), n_images)
                ]
            batch = self._batch[:n_images]
            return lambda: model.encode_batch(batch)
        prepared, embedding = self._prepared, self._embedding
        n = n_prompts or 1
        prompts = self._prompts(n)
        if phase == "postprocess" and n_prompts is None and self._network_output is None:
            with model_call("run_network"):
                self._network_output = model.run_network(prepared)
        elif phase == "postprocess" and n_prompts is not None and n not in self._logits:
            with model_call("decode_logits"):
                self._logits[n] = model.decode_logits(embedding, prompts)
        output, logits = self._network_output, self._logits.get(n)

        def decode_logits() -> None:
            self._logits[n] = model.decode_logits(embedding, prompts)

        calls: dict[str, Call] = {
            "preprocess": lambda: model.prepare(image),
            "encode": lambda: model.encode(prepared),
            "decode": lambda: model.decode(embedding, prompts),
            "postprocess": lambda: model.postprocess(logits),
            "end_to_end": lambda: model.decode(model.encode(model.prepare(image)), prompts),
            "everything": lambda: model.everything(image),
        }
        if self._is_detector:
            calls["encode"] = lambda: model.run_network(prepared)
        if self._splits_decoding:
            calls["decode"] = decode_logits
        if n_prompts is None:
            calls["postprocess"] = lambda: model.find_masks(output, prepared)
        return calls[phase]

    def _prompts(self, n: int) -> Any:
        """N seeded prompts inside the image: points if the model takes them, otherwise boxes."""
        from baselines.interface import Prompts

        size = np.array([self._image.shape[1], self._image.shape[0]])
        points = np.random.default_rng(n).uniform(0.1, 0.9, (n, 1, 2)) * size
        if "points" in self._model.info.supports:
            return Prompts(points=points.astype(np.float32), labels=np.ones((n, 1), np.int64))
        corners = np.concatenate([points[:, 0] - 0.1 * size, points[:, 0] + 0.1 * size], axis=1)
        return Prompts(boxes=corners.astype(np.float32))

    def weight_bytes(self) -> int:
        """Bytes of the parameters and buffers of all networks."""
        with model_call("modules"):
            modules = self._model.modules().values()
            tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def accuracy(self, request: Answer) -> Answer:
        """IoU of every predicted mask by protocol, and the index of its image.

        The request names a folder of `scenes`: .npz files with `image` (H, W, 3), `boxes` (N, 4),
        `points` (N, 2) and `masks` (N, H, W).
        """
        from baselines.interface import Prompts

        ious: defaultdict[str, list[float]] = defaultdict(list)
        images: defaultdict[str, list[int]] = defaultdict(list)
        for index, path in enumerate(sorted(Path(request["scenes"]).glob("*.npz"))):
            scene = np.load(path)
            with model_call("prepare"):
                prepared = self._model.prepare(scene["image"])
            with model_call("encode"):
                embedding = self._model.encode(prepared)
            protocols = {"box": Prompts(boxes=scene["boxes"])}
            if "points" in self._model.info.supports:
                labels = np.ones((len(scene["points"]), 1), np.int64)
                protocols["center"] = Prompts(points=scene["points"][:, None], labels=labels)
            for protocol, prompts in protocols.items():
                with model_call("decode"):  # one prompt at a time: masks have the image's size
                    masks = [
                        self._model.decode(embedding, prompts[row : row + 1]).masks[0, 0]
                        for row in range(len(prompts))
                    ]
                for a, b in zip(masks, scene["masks"], strict=True):
                    union = int((a | b).sum())
                    ious[protocol].append(int((a & b).sum()) / union if union else 1.0)
                    images[protocol].append(index)
        return {"iou": ious, "images": images}


class Task:
    """A task of this project: `module:function` returns the calls as a function of the phase."""

    def __init__(self, path: str, arguments: dict[str, Any]) -> None:
        module, _, name = path.partition(":")
        start = time.perf_counter_ns()
        with task_call():
            self._calls = getattr(importlib.import_module(module), name)(**arguments)
        self.load_ms = (time.perf_counter_ns() - start) * timer.MS
        self._known: dict[str, Call] = {}

    def boundary(self, _phase: str) -> Any:
        """The boundary around the calls."""
        return task_call()

    def synchronize(self) -> None:
        """Tasks run on the CPU."""

    def find_call(self, phase: str, _n_prompts: int | None) -> Call:
        """The call of a phase; its inputs are made once."""
        if phase not in self._known:
            self._known[phase] = self._calls(phase)
        return self._known[phase]


class Server:
    """Answers requests on one model or task, which is the set-up; see `controller.Setup`."""

    def __init__(self, setup: dict[str, Any]) -> None:
        setup = dict(setup)
        threads, kind = setup.pop("threads"), setup.pop("kind")
        for name in filter(importlib.util.find_spec, setup.pop("imports", ())):
            importlib.import_module(name)
        _use_threads(threads)
        self._rss_before_load_bytes = psutil.Process().memory_info().rss
        self.subject: Any = {"model": Model, "task": Task}[kind](**setup)
        _use_threads(threads)  # of libraries that the subject has imported
        self._output: Any = None

    def ready(self) -> Answer:
        """The answer to the set-up."""
        return {"load_ms": self.subject.load_ms}

    def answer(self, request: Answer) -> Answer:
        """Answers a request; `do` names one of the methods of this class or of the model."""
        do = request["do"]
        receiver = self if do in ("time", "call", "output", "memory") else self.subject
        found: Answer = getattr(receiver, do)(request)
        return found

    def time(self, request: Answer) -> Answer:
        """Times `calls` calls of a phase, or calls until a stop `rule` is met."""
        subject, phase = self.subject, request["phase"]
        batch = {name: request[name] for name in ("n_images",) if name in request}
        call = subject.find_call(phase, request.get("n_prompts"), **batch)
        with subject.boundary(phase):  # around all calls, so that no sample includes it
            if "calls" in request:
                return {"ms": timer.time_calls(call, request["calls"], subject.synchronize)}
            samples = timer.measure(
                call,
                timer.StopRule(**request["rule"]),
                subject.synchronize,
                expected_ms=request["expected_ms"],
            )
        return asdict(samples)

    def call(self, request: Answer) -> Answer:
        """Calls a phase once, with the garbage collector as it is, and keeps what it returns.

        Returns wall and processor time in milliseconds, and the page faults served without a disk.
        With `block_ms` the call is repeated: see `_call_block`.
        """
        call = self.subject.find_call(request["phase"], None)
        with self.subject.boundary(request["phase"]):
            if "block_ms" in request:
                return self._call_block(call, request["block_ms"], request["long_ms"])
            return self._call_once(call)

    def _call_block(self, call: Call, block_ms: float, long_ms: float) -> Answer:
        """Calls once as `first_ms`, then at least three times and for `block_ms`: their medians.

        A first call of `long_ms` or more is not repeated, and counts as both.
        """
        first = self._call_once(call)
        calls: list[Answer] = []
        if first["ms"] < long_ms:
            while len(calls) < _BLOCK_CALLS or sum(each["ms"] for each in calls) < block_ms:
                calls.append(self._call_once(call))
        calls = calls or [first]
        medians = {name: statistics.median(each[name] for each in calls) for name in first}
        return {**medians, "first_ms": first["ms"]}

    def _call_once(self, call: Call) -> Answer:
        found: list[Any] = []
        faults, cpu_ns = _page_faults(), time.process_time_ns()
        ms = timer.time_once(lambda: found.append(call()), self.subject.synchronize)
        cpu_ms = (time.process_time_ns() - cpu_ns) * timer.MS
        self._output = found[0]
        return {"ms": ms, "cpu_ms": cpu_ms, "faults": _page_faults() - faults}

    def output(self, request: Answer) -> Answer:
        """What the last `call` returned: a tensor is written to `path`, all else is the answer."""
        output = self._output
        if hasattr(output, "numpy"):
            np.save(request["path"], output.float().numpy())
            return {}
        return {"value": output}

    def memory(self, request: Answer) -> Answer:
        """Memory of this process in bytes, with that of the `weights` and of a CUDA `device`."""
        found = {
            "rss_before_load_bytes": self._rss_before_load_bytes,
            "rss_bytes": psutil.Process().memory_info().rss,
            "peak_rss_bytes": _peak_rss_bytes(),
        }
        device = request.get("device", "cpu")
        if device.startswith("cuda"):
            import torch

            found["cuda_peak_allocated_bytes"] = torch.cuda.max_memory_allocated(device)
            found["cuda_peak_reserved_bytes"] = torch.cuda.max_memory_reserved(device)
        if request.get("weights"):  # last: FastSAM makes a second network to be counted
            found["weight_bytes"] = self.subject.weight_bytes()
        return found


def _use_threads(threads: int) -> None:
    """Sets the threads of the libraries that are loaded; numpy's are set by the environment."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)


def _peak_rss_bytes() -> int:
    """As `benchmarks.records.environment.peak_rss_bytes`, which the tree may lack."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _page_faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main() -> int:
    """Answers until standard input ends, or the model or task fails; returns the exit code."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def write(answer: Answer) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    try:
        server = Server(json.loads(sys.stdin.readline()))
        write(server.ready())
        for line in sys.stdin:
            write(server.answer(json.loads(line)))
    except SubjectError as error:
        traceback.print_exception(error)
        write({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
