"""Public functions and methods of `mobilesam` and `baselines`, and which of them are called.

A method counts once for each public class that has it, so that inherited methods of an adapter must
be called on that adapter, too.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from types import CodeType, FrameType, ModuleType
from typing import Any

import baselines
import mobilesam

PACKAGES = (mobilesam, baselines)
OPTIONAL = ("efficientsam", "transformers")


def modules(package: ModuleType) -> list[ModuleType]:
    """Imports all modules of a package, except adapters of packages that are not installed."""
    found = []
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        try:
            found.append(importlib.import_module(each.name))
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
    return found


class Surface:
    """Public functions and methods, by their code.

    Args:
        found: Modules to list; names imported from elsewhere do not count.

    Attributes:
        names: `module.function`, `module.Class.method`; a property's setter ends in ` =`.
    """

    def __init__(self, found: list[ModuleType]) -> None:
        self._modules = {each.__name__ for each in found}
        self._functions: dict[CodeType, str] = {}
        self._methods: dict[CodeType, dict[type, str]] = {}
        for module in found:
            for name, value in vars(module).items():
                if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
                    continue
                if inspect.isclass(value):
                    self._add_class(value)
                elif inspect.isfunction(inspect.unwrap(value)):
                    self._functions[inspect.unwrap(value).__code__] = f"{module.__name__}.{name}"
        methods = (name for each in self._methods.values() for name in each.values())
        self.names = frozenset((*self._functions.values(), *methods))

    def _add_class(self, owner: type) -> None:
        """Adds the methods of a class and its bases, unless it is a protocol or abstract."""
        if getattr(owner, "_is_protocol", False) or inspect.isabstract(owner):
            return
        for name in dir(owner):
            if name.startswith("_") and name != "__call__":
                continue
            base = next((each for each in owner.__mro__ if name in vars(each)), None)
            if base is None or base.__module__ not in self._modules:
                continue
            for ending, function in _functions(vars(base)[name]):
                code = inspect.unwrap(function).__code__
                full = f"{owner.__module__}.{owner.__qualname__}.{name}{ending}"
                self._methods.setdefault(code, {})[owner] = full

    def name_of(self, frame: FrameType) -> str | None:
        """Name of the public function or method that a frame runs, or None."""
        code = frame.f_code
        if code in self._functions:
            return self._functions[code]
        owners = self._methods.get(code)
        if not owners:
            return None
        first: Any = frame.f_locals.get(code.co_varnames[0])
        kind = first if isinstance(first, type) else type(first)
        return next((owners[each] for each in kind.__mro__ if each in owners), None)

    @contextmanager
    def watched(self, called: set[str]) -> Iterator[None]:
        """Adds the public names that this thread calls within the block to `called`."""

        def look(frame: FrameType, event: str, _: Any) -> None:
            if event == "call":
                name = self.name_of(frame)
                if name is not None:
                    called.add(name)

        before = sys.getprofile()
        sys.setprofile(look)
        try:
            yield
        finally:
            sys.setprofile(before)


def _functions(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the functions of a class attribute, each with a suffix for its name."""
    if isinstance(value, property):
        yield from (
            (ending, each)
            for ending, each in (("", value.fget), (" =", value.fset))
            if each is not None
        )
    elif isinstance(value, cached_property):
        yield "", value.func
    elif isinstance(value, (classmethod, staticmethod)):
        yield "", value.__func__
    elif inspect.isfunction(value):
        yield "", value


@cache
def public_surface() -> Surface:
    """All of `mobilesam` and `baselines`."""
    return Surface([each for package in PACKAGES for each in modules(package)])


# Names, or patterns of names, that no case of `threads.CASES` calls, with reasons. Methods that run
# a model need a case instead.
EXEMPT = {
    "mobilesam.distillation.*": "training: one thread in a process of its own; threads that read a "
    "store have a test in tests/mobilesam/distillation/test_embedding_store.py",
    "mobilesam.export.writer.export_model": "torch's exporter is not safe from several threads",
    "mobilesam.export.graphs.*": "graphs that are traced by the exporter, and never run",
    "mobilesam.export.runtime.ParityRow.passed": "part of the export",
    "mobilesam.export.quantized.*": "calibration and a graph that is traced, before anything runs",
    "mobilesam.export.writer.write_int8_encoder": "as `export_model`",
    "mobilesam.export.int8_network.*": "a graph of `mobilesam.export.runtime`; built once",
    "mobilesam.weights.cache.*": "files, behind locks: tests/mobilesam/weights/test_cache.py",
    "mobilesam.weights.checkpoint_specs.*": "reads a table that never changes",
    "mobilesam.weights.checkpoints.*": "finds and fetches files before a model is built",
    "mobilesam.weights.download.*": "finds and fetches files before a model is built",
    "mobilesam.deferred_package.defer_package": "called while mobilesam is imported, by one thread",
    "mobilesam.files.*": "writes files",
    "mobilesam.frozen_model.*": "reads files",
    "mobilesam.fast.kernels.fuses_gelu": "asks the processor, once in a process",
    "mobilesam.weights.ship.*": "a command of its own, which writes a file",
    "mobilesam.errors.*": "words of an error, and a boundary without state",
    "mobilesam.fast.allocator.keep_buffers": "a setting of the process, without a way back",
    "mobilesam.fast.kernels.computes_bf16": "asks the processor, once",
    "mobilesam.fast.kernels.has_onednn_linear": "asks torch, once",
    "mobilesam.fast.scripts.*": "without state; compiled for the encoder, which has a case",
    "mobilesam.fast.decoder_scripts.*": "without state; compiled for the decoder, which has a case",
    "mobilesam.process_state.logger_level": "tested in tests/mobilesam/test_process_state.py",
    "mobilesam.process_state.ignored_warnings": "tested in tests/mobilesam/test_process_state.py",
    "mobilesam.model.mini.*": "builds a model; the case of the mini adapter runs one",
    "mobilesam.model.mobile_sam.load_sam_mini": "as `load_mobile_sam`",
    "mobilesam.model.model_files.*": "reads a header",
    "mobilesam.model.state_dicts.load_torch_file": "reads a file",
    "mobilesam.predictor.MobileSam.from_pretrained": "finds a file; then `from_checkpoint`",
    "baselines.boundary.naming": "adds a name to an error",
    "mobilesam.export.writer.check_target": "reads a path",
    "mobilesam.model.mobile_sam.build_mobile_sam_mini": "builds a model of full size",
    "baselines.registry.*": "finds and builds models by name",
    "baselines.*.build*": "builds a model of full size; the cases build small ones",
    "baselines.*.derive*": "exports a model, behind a lock",
    "baselines.exported.ensure_exported": "exports a model, behind a lock",
    "baselines.exported.exported_folder": "reads a path",
    "baselines.exported.is_exported": "reads a path",
    "baselines.exported.folder_checkpoint": "reads a path",
    "baselines.fast_sam.import_ultralytics": "once for each process, behind a lock",
    "baselines.pixels.mask_box": "arithmetic on the arguments",
    "baselines.sam.load_or_random": "builds a model of full size",
    "baselines.sam.mobile_sam": "builds a model of full size",
    "baselines.sam.FiniteMasks.*": "part of a generator, which each call makes for itself",
    "baselines.efficientvit_sam.*": "exists in full size only; but for a transform without state, "
    "its methods are those of the SAM adapter, which has a case",
    "baselines.hugging_face.find_snapshot": "finds files",
    "baselines.hugging_face.from_meta_names": "renames tensors of its argument",
    "mobilesam.model.mobile_sam.input_size": "arithmetic on the arguments",
    "mobilesam.export.runtime.*": "files; tests/baselines/test_exported.py opens graphs",
}


def without_case(surface: Surface, called: frozenset[str]) -> list[str]:
    """Names that neither a case calls nor `EXEMPT` lists."""
    return sorted(
        name
        for name in surface.names - called
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in EXEMPT)
    )


def stale_exemptions(surface: Surface) -> list[str]:
    """Entries of `EXEMPT` that name nothing."""
    return [pattern for pattern in EXEMPT if not fnmatch.filter(surface.names, pattern)]
