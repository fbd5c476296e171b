"""Model names and how to build them; a model's module is imported when it is built.

Third parties add models through the entry-point group `mobilesam_bench.models`: the entry point's
name is the model's, its value `module:factory`, as in `pyproject.toml`:

    [project.entry-points."mobilesam_bench.models"]
    my-sam = "my_package.adapter:build"

A name may be followed by the input size of the network, as in `mobilesam@512`, and a checkpoint of
Hugging Face transformers is named by its repository or folder, as in `hf:facebook/sam-vit-base`.
`PATH.py:FACTORY`, such as `./adapter.py:build`, is a model of a file and has the file's name.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from baselines import DEFAULT_SELECTION
from baselines.boundary import adapter_call
from baselines.interface import ModelInfo, ModelOptions, Segmenter
from mobilesam.errors import DataError, UsageError
from mobilesam.weights.checkpoints import shipped_path

ENTRY_POINT_GROUP = "mobilesam_bench.models"
HUGGING_FACE = "hf:"
PERMISSIVE = frozenset(("Apache-2.0", "BSD-3-Clause", "MIT"))
"""Licences that allow use in closed products."""

_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<factory>[A-Za-z_]\w*))?")

CommercialUse = Literal["yes", "no", "ask"]
Factory = Callable[[ModelOptions], Segmenter]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A registered model.

    Attributes:
        name: Name on the command line.
        target: `module:factory`, or `PATH.py:factory` with an absolute path for a model of a file;
            the factory takes `ModelOptions` and returns a `Segmenter`.
        file_sha256: SHA-256 of that file; None for other models.
        summary: One line for `mobilesam-bench models`.
        checkpoint: Name in `mobilesam.weights.checkpoints` of the weights it needs; None if none.
        shipped: File in `mobilesam/weights` with its default weights; None if there is none.
        requires: Packages besides those that are always installed.
        derive: `module:function` for a model that runs files made from its checkpoint; it takes
            `ModelOptions` and creates missing files. A folder of these files can then be given as
            the checkpoint.
        derive_requires: Packages needed to create these files, besides `requires`.
        extra: Extra of this project that installs `requires` and `derive_requires`.
        third_party: Whether it comes from an entry point.
        by_default: Whether the selection `default` includes it; models for tests do not belong.
        factory: Used instead of `target`, for a model that exists in this process only; `target`
            then identifies the object.
        parameters: Number of parameters of its networks; None if unknown or 0.
        licence: SPDX identifier of the licence of its code.
        weights_licence: The same of its published weights; None if it has none.
        commercial: Whether commercial use is allowed: `ask` where a lawyer should read the terms.
        note: What a user has to know about licence, access or weights.
        input_size_px: Side of the network's input; None is the model's own.
        own_size_px: Its own input size, if `NAME@SIZE` selects another one; else None.
    """

    name: str
    target: str
    summary: str
    checkpoint: str | None = None
    requires: tuple[str, ...] = ()
    derive: str | None = None
    derive_requires: tuple[str, ...] = ()
    extra: str | None = None
    third_party: bool = False
    shipped: str | None = None
    by_default: bool = True
    factory: Factory | None = None
    parameters: int | None = None
    licence: str = "Apache-2.0"
    weights_licence: str | None = None
    commercial: CommercialUse = "yes"
    note: str = ""
    input_size_px: int | None = None
    own_size_px: int | None = None
    file_sha256: str | None = None

    @property
    def permissive(self) -> bool:
        """Whether code and weights have permissive licences without further terms."""
        licences = {self.licence, self.weights_licence or self.licence}
        return licences <= PERMISSIVE and self.commercial == "yes"

    @property
    def on_fast_path(self) -> bool:
        """Whether it runs on `mobilesam.fast`, whose threads take work as they become free."""
        return self.target.startswith("baselines.mobile_sam_fast:")

    def resized(self, side: int) -> ModelEntry:
        """The model at another input size, in pixels, which is part of its name."""
        return replace(self, name=f"{self.name}@{side}", input_size_px=side, own_size_px=None)

    def options(self, **fields: Any) -> ModelOptions:
        """Options of the factory with this entry's name and input size."""
        return ModelOptions(self.name, input_size_px=self.input_size_px, **fields)

    @property
    def hugging_face(self) -> bool:
        """Whether its name is a repository or folder of Hugging Face transformers."""
        return self.name.startswith(HUGGING_FACE)

    @property
    def install(self) -> str:
        """Command that installs what is missing to run it from a checkpoint."""
        if self.extra is not None:
            return f'pip install "mobilesam-bench[{self.extra}]"'
        return f"pip install {' '.join(self.missing_from_scratch())}"

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


@functools.cache
def _built_in() -> tuple[ModelEntry, ...]:
    tables = tomllib.loads((Path(__file__).parent / "models.toml").read_text(encoding="utf-8"))
    return tuple(
        ModelEntry(name, **{key: _frozen(value) for key, value in table.items()})
        for name, table in tables.items()
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def entries() -> Mapping[str, ModelEntry]:
    """All registered models by name: built-in ones first, then third parties' by name."""
    found = {entry.name: entry for entry in _built_in()}
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    for point in sorted(points, key=lambda each: each.name):
        # A built-in name keeps its meaning, or published numbers would change under their label.
        found.setdefault(
            point.name,
            ModelEntry(
                point.name,
                point.value,
                f"third party ({point.value})",
                third_party=True,
                licence="unknown",
                commercial="ask",
            ),
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
        if (special := _special(pattern, known)) is not None:
            if chosen.setdefault(special.name, special) != special:
                raise UsageError(f"two models are named {special.name!r}; rename one of the files")
            continue
        matching = fnmatch.filter(known, pattern)
        if pattern == DEFAULT_SELECTION:
            matching = [name for name, entry in known.items() if entry.by_default]
        able = [name for name in matching if known[name].can_run]
        names = [pattern] if pattern in known else able
        if matching and not names:
            lacking = [known[name] for name in matching if known[name].missing_from_scratch()]
            hints = dict.fromkeys(entry.install for entry in lacking)
            hint = ", ".join(hints) or "this package has no weights for it yet"
            raise UsageError(f"{pattern!r} matches nothing that can run: {hint}")
        if not names:
            near = difflib.get_close_matches(pattern, known, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"unknown model {pattern!r}; {hint}")
        chosen.update((name, known[name]) for name in names)
    if not chosen:
        raise UsageError("no model named; give --models a,b or a wildcard such as 'sam-*'")
    return tuple(chosen.values())


def _special(name: str, known: Mapping[str, ModelEntry]) -> ModelEntry | None:
    """The model of a file, of Hugging Face, or at another input size; None for other names."""
    return file_entry(name) or _hugging_face(name) or _resized(name, known)


def file_entry(name: str) -> ModelEntry | None:
    """The model of `PATH.py:FACTORY`, where FACTORY is `build` by default; None for other names.

    Raises:
        UsageError: The file cannot be read or parsed, lacks the factory, or has the name of a
            registered model.
    """
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    path, factory = Path(match["path"]), match["factory"] or "build"
    own_name = path.stem if factory == "build" else f"{path.stem}-{factory}"
    if own_name in entries():
        raise UsageError(f"{path}: {own_name} is a registered model; rename the file")
    content = _read(path)
    _require_name(path, content, factory)
    return ModelEntry(
        own_name,
        f"{path.resolve()}:{factory}",
        f"model of the file {path.name}",
        third_party=True,
        commercial="ask",
        file_sha256=hashlib.sha256(content).hexdigest(),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        where = f"cannot read {path} on {platform.node()}"
        raise UsageError(f"{where}: {error.strerror or error}") from error


def _require_name(path: Path, content: bytes, factory: str) -> None:
    """Checks, without running the file, that it defines, assigns or imports the factory."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    nodes = list(ast.walk(tree))
    names = {each.name for each in nodes if isinstance(each, ast.FunctionDef | ast.ClassDef)}
    names |= {each.asname or each.name for each in nodes if isinstance(each, ast.alias)}
    names |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if factory not in names and "*" not in names:
        near = difflib.get_close_matches(factory, names, n=1)
        hint = f"did you mean {path}:{near[0]}?" if near else f"name one: {path}:FACTORY"
        raise UsageError(f"{path} has no {factory}; {hint}")


def _hugging_face(name: str) -> ModelEntry | None:
    """The model of a name such as `hf:facebook/sam-vit-base` or `hf:folder`; None for others."""
    if not name.startswith(HUGGING_FACE):
        return None
    return ModelEntry(
        name,
        "baselines.hugging_face:build_any",
        "checkpoint of Hugging Face transformers",
        requires=("transformers",),
        extra="hf",
        commercial="ask",
        note="licence of the weights: see their page",
    )


def split_size(name: str) -> tuple[str, int | None]:
    """Name without its input size, and that size: (`mobilesam`, 512) for `mobilesam@512`."""
    base, _, size = name.rpartition("@")
    is_sized = base and size.isdecimal() and not name.startswith(HUGGING_FACE)
    return (base, int(size)) if is_sized else (name, None)


def _resized(name: str, known: Mapping[str, ModelEntry]) -> ModelEntry | None:
    """The model of a name such as `mobilesam@512`; None for a name without a size.

    Raises:
        UsageError: The model has one input size only, or the size is not a number.
    """
    base, separator, size = name.partition("@")
    if not separator or base not in known:
        return None
    entry = known[base]
    if entry.own_size_px is None:
        able = ", ".join(each.name for each in known.values() if each.own_size_px is not None)
        raise UsageError(f"{base} has one input size; these have others: {able}")
    if not size.isdecimal():
        raise UsageError(f"{name!r} has no input size in pixels, such as {base}@512")
    return entry if int(size) == entry.own_size_px else entry.resized(int(size))


def find(name: str) -> ModelEntry | None:
    """The model of exactly this name, of a file or of Hugging Face too; None if there is none."""
    known = entries()
    return known.get(name) or _special(name, known)


def select_one(name: str) -> ModelEntry:
    """Finds the model of this name; raises a UsageError if there is none, or for a wildcard."""
    found = select([name])
    if find(name) is None:
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
        raise UsageError(f"{entry.name} needs {', '.join(missing)}: {entry.install}")
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
    module_name, _, attribute = target.rpartition(":")
    try:
        if entry.file_sha256 is None:
            module = importlib.import_module(module_name)
        else:
            module = _import_file(Path(module_name), entry.file_sha256)
        found = getattr(module, attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{entry.name} cannot be loaded from {target}: {error}") from error
    return cast("Callable[[ModelOptions], object]", found)


def _import_file(path: Path, sha256: str) -> ModuleType:
    """Imports a file as a module, once; it can import modules of its folder."""
    if hashlib.sha256(_read(path)).hexdigest() != sha256:
        raise UsageError(f"{path} was changed after the run began; start the run again")
    name = f"mobilesam_bench_file_{path.stem}_{sha256[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 - a file that ends with .py has a loader
    assert spec.loader is not None  # noqa: S101
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
