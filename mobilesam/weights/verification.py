"""Where published checkpoints lie on this machine, and whether a file is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilesam.errors import UsageError, WeightsError
from mobilesam.weights import checkpoint_specs
from mobilesam.weights.cache import cache_dir, digest_file
from mobilesam.weights.checkpoint_specs import CheckpointSpec, FileDigest

WEIGHTS_ENV = "MOBILESAM_WEIGHTS"

CheckpointStatus = Literal["ok", "absent", "corrupt", "custom"]
Place = Literal["folder", "cache"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a file turned out to be, read in full.

    Attributes:
        status: `ok` (a published file), `absent`, `corrupt` (stands for a published file and is
            not it) or `custom` (somebody's own weights, which may be used and are not official).
        name: The published checkpoint that it is, or stands for; None if neither.
        path: The file, or where it was looked for last.
        found: Its size and digest; None if it is absent or unreadable.
        message: All of this in one line.
    """

    status: CheckpointStatus
    name: str | None
    path: Path
    found: FileDigest | None
    message: str


@dataclass(frozen=True, slots=True)
class StatusRow:
    """One published checkpoint in the list of `weights list`.

    Attributes:
        name: Registry name.
        file: Official file name.
        n_bytes: Published size.
        licence: SPDX identifier.
        place: Where it was found: `folder` ($MOBILESAM_WEIGHTS) or `cache`; None if absent.
        path: The file found; None if absent.
        status: As in `VerifyReport`.
        note: What there is to know about it; may be empty.
        shipped: Origin of the weights inside this package that replace the file, or None.
    """

    name: str
    file: str
    n_bytes: int
    licence: str
    place: Place | None
    path: Path | None
    status: CheckpointStatus
    note: str
    shipped: str | None = None

    @property
    def megabytes(self) -> float:
        """Published size in units of 10^6 bytes."""
        return self.n_bytes / 1e6


def verify(target: str | Path) -> VerifyReport:
    """Reads a checkpoint in full, whatever is remembered of it, and says what it is.

    Args:
        target: A registry name, which is looked for in $MOBILESAM_WEIGHTS and the cache, or the
            path of any file. Nothing is fetched.

    Raises:
        UsageError: A text that is neither a known name nor a path that exists.
        WeightsError: $MOBILESAM_WEIGHTS is no folder.
    """
    known = checkpoint_specs.specs()
    if isinstance(target, str) and target in known:
        spec = known[target]
        place, found = _find(spec)
        return _report(found or cache_dir() / spec.file, spec, custom=place == "folder")
    path = Path(target).expanduser().absolute()
    if isinstance(target, str) and not _is_there(path):
        raise UsageError(
            f"{target!r} is neither a file nor a known checkpoint ({', '.join(known)})"
        )
    namesake = next((spec for spec in known.values() if spec.file == path.name), None)
    return _report(path, namesake, custom=False)


def status_rows() -> tuple[StatusRow, ...]:
    """What is on this machine of every published checkpoint; fetches nothing.

    Raises:
        WeightsError: $MOBILESAM_WEIGHTS is no folder.
    """
    rows = []
    for spec in checkpoint_specs.specs().values():
        place, path = _find(spec)
        status: CheckpointStatus = "absent"
        if path is not None:
            report = _report(path, spec, custom=place == "folder", memo=memo_dir(spec))
            status = report.status
        rows.append(
            StatusRow(
                spec.name,
                spec.file,
                spec.n_bytes,
                spec.licence,
                place,
                path,
                status,
                spec.note,
                None if spec.shipped is None else spec.shipped.label,
            )
        )
    return tuple(rows)


def check_cached(spec: CheckpointSpec) -> tuple[FileDigest | None, str | None]:
    """Looks for a published checkpoint in the cache.

    Returns:
        Its digest, or None; and what is wrong with a file that lies there in its place, or None.
    """
    path = cache_dir() / spec.file
    if not _is_there(path):
        return None, None
    report = _report(path, spec, custom=False, memo=memo_dir(spec))
    return (report.found, None) if report.status == "ok" else (None, report.message)


def in_weights_folder(spec: CheckpointSpec) -> Path | None:
    """The file with the official name directly in $MOBILESAM_WEIGHTS, whatever it holds.

    Raises:
        WeightsError: $MOBILESAM_WEIGHTS is no folder.
    """
    named = os.environ.get(WEIGHTS_ENV)
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise WeightsError(f"{WEIGHTS_ENV} names {named}, which is not a folder; mend or unset it")
    path = folder / spec.file
    return path if _is_there(path) else None


def memo_dir(spec: CheckpointSpec | None) -> Path | None:
    """Where digests of such a checkpoint are remembered; None if it must be read every time."""
    # A remembered digest must not be what lets a pickle run.
    return cache_dir() if spec is not None and spec.format == "state_dict" else None


def cure(name: str) -> str:
    """What to do where a checkpoint is not to be had."""
    return (
        f"fetch it where there is a network (mobilesam-bench weights fetch {name}) "
        f"or give a local file (--weights {name}=PATH)"
    )


def _report(
    path: Path, spec: CheckpointSpec | None, *, custom: bool, memo: Path | None = None
) -> VerifyReport:
    """Judges a file; `custom` tells what it is called if its content is not a published one."""
    name = spec.name if spec else None
    if not _is_there(path):
        what_to_do = f"; {cure(name)}" if name else ""
        return VerifyReport("absent", name, path, None, f"{path} does not exist{what_to_do}")
    try:
        found = digest_file(path, memo_dir=memo)
    except WeightsError as error:
        return VerifyReport("corrupt", name, path, None, str(error))
    candidates = [spec] if spec else list(checkpoint_specs.specs().values())
    owner = next((each for each in candidates if each.is_published(found.sha256)), None)
    if owner:
        text = f"{path} is the published {owner.file} of {owner.name}"
        return VerifyReport("ok", owner.name, path, found, text)
    if spec is None:
        text = f"{path} is not a published checkpoint; sha256 {found.sha256}"
        return VerifyReport("custom", None, path, found, text)
    return VerifyReport(
        "custom" if custom else "corrupt", name, path, found, _difference(path, spec, found)
    )


def _difference(path: Path, spec: CheckpointSpec, found: FileDigest) -> str:
    wanted = " or ".join(f"{each.sha256} ({each.n_bytes} bytes)" for each in spec.digests)
    return (
        f"{path} is not the published {spec.file}: sha256 {found.sha256} ({found.n_bytes} bytes), "
        f"published {wanted}"
    )


def _find(spec: CheckpointSpec) -> tuple[Place | None, Path | None]:
    in_folder = in_weights_folder(spec)
    if in_folder is not None:
        return "folder", in_folder
    cached = cache_dir() / spec.file
    return ("cache", cached) if _is_there(cached) else (None, None)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
