"""Finds the weights of the models of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from baselines.interface import Checkpoint, ModelOptions
from baselines.registry import HUGGING_FACE, ModelEntry
from benchmarks.debugging import format_error
from benchmarks.records.record import WeightsRow
from mobilesam.errors import NetworkUnreachableError, WeightsError, WeightsUnavailableError
from mobilesam.weights.cache import digest_file
from mobilesam.weights.checkpoint_specs import specs
from mobilesam.weights.checkpoints import SHIPPED, resolve, shipped_checkpoint


@dataclass(frozen=True, slots=True)
class WeightsPolicy:
    """Allowed sources of weights."""

    overrides: Mapping[str, Path]  # local files by name of the model (`--weights NAME=PATH`)
    offline: bool = False
    trust: bool = False  # load pickled checkpoints of unknown hash, which can run code
    fetch_limit_bytes: int | None = None  # of an automatic download; None: no limit


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model of a run with its weights."""

    entry: ModelEntry
    options: ModelOptions
    weights: WeightsRow
    error: str | None = None
    """Reason why the weights are unusable (wrong, truncated, untrusted): nothing is measured."""
    reason: str | None = None
    """Reason why the official weights are not used, without the name of the model; None if they
    are used, or if other weights were requested."""
    deferred: str | None = None
    """Reason why only parameters are counted; None if everything is measured."""

    @property
    def key(self) -> dict[str, object]:
        """Everything that determines the results of the model, for the key of cached results."""
        options = self.options
        files: object = None
        if options.checkpoint is not None and options.checkpoint.path.is_dir():
            # A folder of exported files, of which others may have been made of the same weights, or
            # one of transformers, whose settings are in other files of the folder.
            if self.entry.hugging_face:
                paths = sorted(options.checkpoint.path.glob("*.json"))
                files = {path.name: digest_file(path).sha256 for path in paths}
            else:
                from mobilesam.export.runtime import MANIFEST_NAME

                files = digest_file(options.checkpoint.path / MANIFEST_NAME).sha256
        return {
            "model": options.name,
            "weights": self.identity,
            "files": files,
            "device": options.device,
            "precision": options.precision,
            "seed": options.seed,
        }

    @property
    def identity(self) -> str | None:
        """SHA-256 of the weights; for a model of a file that of the file comes before it.

        For an object of this process, an identifier of the object.
        """
        if self.entry.factory is not None:
            return self.entry.target
        hashes = (self.entry.file_sha256, self.weights.sha256)
        return " ".join(filter(None, hashes)) or None

    @property
    def trained(self) -> bool:
        """Whether its masks are meaningful: it has trained weights, or needs none."""
        return self.weights.kind != "random" and self.error is None


def resolve_models(
    entries: Iterable[ModelEntry],
    policy: WeightsPolicy | None,
    *,
    device: str,
    precision: str,
    seed: int,
) -> list[ResolvedModel]:
    """Finds the weights of each model; a model without available weights gets random ones.

    No policy means that no weights are needed. Once a download has failed because there is no
    network, nothing else is downloaded.
    """
    models: list[ResolvedModel] = []
    no_network: NetworkUnreachableError | None = None
    for entry in entries:
        options = entry.options(device=device, precision=precision, seed=seed)
        if policy is None or not (
            entry.checkpoint or entry.hugging_face or entry.name in policy.overrides
        ):
            models.append(ResolvedModel(entry, options, WeightsRow(kind="none")))
            continue
        now = policy if no_network is None else replace(policy, offline=True)
        checkpoint: Checkpoint | None = None
        unavailable: list[WeightsUnavailableError] = []
        try:
            checkpoint = find_checkpoint(entry, now, on_fallback=unavailable.append)
        except WeightsUnavailableError as error:
            unavailable.append(error)
        except WeightsError as error:
            unusable = format_error(error)
            row = WeightsRow(kind="random", why=unusable)
            models.append(ResolvedModel(entry, options, row, error=unusable))
            continue
        cause = unavailable[-1] if unavailable else None
        if isinstance(cause, NetworkUnreachableError):
            no_network = cause
        elif cause is not None and no_network is not None:
            cause = no_network  # the reason why it was offline
        message, reason = (None, None) if cause is None else (str(cause), cause.reason)
        row = WeightsRow(kind="random", why=message)
        if checkpoint is not None:
            row = WeightsRow(
                kind="file",
                sha256=checkpoint.sha256,
                official=checkpoint.official,
                file_bytes=checkpoint.n_bytes,
                why=message,
                shipped=checkpoint.shipped,
            )
        options = replace(options, checkpoint=checkpoint)
        models.append(ResolvedModel(entry, options, row, reason=reason))
    return models


def deferral_notes(models: Iterable[ResolvedModel]) -> list[str]:
    """Returns one line per reason why models with weights are not measured.

    Models without weights are listed by `weights_notes`.
    """
    groups: dict[str, list[str]] = {}
    for model in models:
        if model.deferred is not None and model.trained:
            groups.setdefault(model.deferred, []).append(model.entry.name)
    return [f"{', '.join(names)}: not measured: {reason}" for reason, names in groups.items()]


def weights_notes(models: Iterable[ResolvedModel]) -> list[str]:
    """Returns one line per reason why official weights are missing, with models and what to do."""
    groups: dict[str, list[ResolvedModel]] = {}
    for model in models:
        if model.reason is not None:
            groups.setdefault(model.reason, []).append(model)
    lines = []
    for reason, group in groups.items():
        shipped = [model.entry.name for model in group if model.weights.shipped is not None]
        waiting = [model.entry.name for model in group if model.weights.shipped is None]
        parts = [f"shipped weights for {', '.join(shipped)}"] if shipped else []
        if waiting:
            parts.append(
                f"no weights for {', '.join(waiting)} (mobilesam-bench weights fetch NAME where "
                "there is a network, or --weights NAME=PATH)"
            )
        lines.append(f"{reason}: {'; '.join(parts)}")
    return lines


def find_checkpoint(
    entry: ModelEntry,
    policy: WeightsPolicy,
    *,
    on_fallback: Callable[[WeightsUnavailableError], None] | None = None,
) -> Checkpoint:
    """Finds the weights of one model, and downloads them if the policy allows it.

    Several models may run the same weights: a file given for the model itself comes first, then
    one given under the name of its checkpoint. A model that runs files exported from a checkpoint
    also accepts a folder of these. `on_fallback` gets the reason why shipped weights replace the
    official ones.

    Raises:
        WeightsUnavailableError: They are missing, and cannot or may not be downloaded.
        WeightsError: They are unusable.
    """
    own = policy.overrides.get(entry.name)
    if entry.hugging_face:
        from baselines.hugging_face import find_snapshot

        if own is not None and not own.is_dir():
            raise WeightsError(
                f"--weights {entry.name}={own} is no folder; give one that save_pretrained wrote"
            )
        source = entry.name if own is None else f"{HUGGING_FACE}{own}"
        return find_snapshot(source, offline=policy.offline)
    name = entry.checkpoint or entry.name
    if entry.shipped is not None and policy.overrides.get(name, SHIPPED) == SHIPPED:
        return shipped_checkpoint(entry.shipped)
    if own is not None and own != SHIPPED and entry.derive is not None:
        from baselines.exported import folder_checkpoint, is_exported

        if is_exported(own):
            return folder_checkpoint(own)
    spec, limit = specs().get(name), policy.fetch_limit_bytes
    too_large = spec is not None and limit is not None and spec.megabytes * 1e6 > limit
    try:
        return resolve(
            name,
            overrides=policy.overrides if own is None else {**policy.overrides, name: own},
            offline=policy.offline,
            trust=policy.trust,
            fetch=not too_large,
            progress=True,
            on_fallback=on_fallback,
        )
    except WeightsUnavailableError as error:
        if not too_large or policy.offline or spec is None or limit is None:
            raise
        profile = f"this profile fetches at most {limit / 1e6:.0f} MB a file"
        raise WeightsUnavailableError(
            f"{spec.file} ({spec.size}) is not on this machine, and {profile}; "
            f"mobilesam-bench weights fetch {name}",
            profile,
        ) from error
