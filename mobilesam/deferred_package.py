"""Packages whose `__init__` is executed when a name of it is used, not when a submodule is."""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_EXECUTING = threading.RLock()


class _DeferredPackage(ModuleType):
    """A package in `sys.modules` that has not been executed."""

    def __getattr__(self, name: str) -> Any:
        """Executes the package at the first name that it lacks, and returns the name."""
        spec = self.__spec__
        with _EXECUTING:
            if type(self) is _DeferredPackage and not name.startswith("__") and spec is not None:
                object.__setattr__(self, "__class__", ModuleType)
                assert spec.loader is not None  # noqa: S101 - it was found
                spec.loader.exec_module(self)
            return ModuleType.__getattribute__(self, name)


def defer_package(name: str) -> None:
    """Defers the `__init__` of a package, if it can be imported and is not imported yet.

    `importlib.util.LazyLoader` executes a package as soon as one of its submodules is imported.
    """
    if name in sys.modules:
        return
    try:
        spec = find_spec(name)
    except ImportError:  # of a finder that refuses the package
        return
    if spec is not None:
        package = sys.modules[name] = module_from_spec(spec)
        package.__class__ = _DeferredPackage
