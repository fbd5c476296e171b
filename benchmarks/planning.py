"""Which models take part in a run, and with which weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from baselines.options import Checkpoint, ModelOptions
from baselines.registry import ModelEntry
from benchmarks.records import WeightsRow
from mobilesam.errors import NetworkUnreachableError, WeightsError, WeightsUnavailableError


@dataclass(frozen=True, slots=True)
class WeightsPolicy:
    """Where weights may come from.

    Attributes:
        overrides: Local files by model name (`--weights NAME=PATH`).
        offline: Fetch nothing.
        trust: Load pickles whose hash is not a published one.
        fetch_limit_bytes: Larger files are not fetched without being asked for; None: no limit.
    """

    overrides: Mapping[str, Path]
    offline: bool = False
    trust: bool = False
    fetch_limit_bytes: int | None = None


def _manifest_sha256(folder: Path) -> str:
    from mobilesam.cache import digest_file
    from mobilesam.exported import MANIFEST_NAME

    return digest_file(folder / MANIFEST_NAME).sha256


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model of a run.

    Attributes:
        entry: Its registration.
        options: How it is built.
        weights: The weights, as recorded.
        error: Its weights are unusable (wrong, truncated, untrusted): nothing is measured.
    """

    entry: ModelEntry
    options: ModelOptions
    weights: WeightsRow
    error: str | None = None

    @property
    def key(self) -> dict[str, object]:
        """What of a model decides its results, for the key under which they are kept."""
        options = self.options
        path = None if options.checkpoint is None else options.checkpoint.path
        return {
            "model": options.name,
            "weights": self.weights.sha256,
            # A folder of exported files: others may have been made of the same weights.
            "files": None if path is None or not path.is_dir() else _manifest_sha256(path),
            "device": options.device,
            "precision": options.precision,
            "seed": options.seed,
        }

    @property
    def trained(self) -> bool:
        """Its answers mean something: it has trained weights, or needs none."""
        return self.weights.kind != "random" and self.error is None


def plan(
    entries: Iterable[ModelEntry],
    policy: WeightsPolicy | None,
    *,
    device: str,
    precision: str,
    seed: int,
) -> list[PlannedModel]:
    """Finds the weights of each model; unavailable ones leave it with random weights.

    The first file that fails for want of a network is the last that is tried. Without a policy no
    weights are looked for.
    """
    models = []
    no_network: str | None = None
    for entry in entries:
        options = ModelOptions(entry.name, device, precision, None, seed)
        if policy is None or (entry.checkpoint is None and entry.name not in policy.overrides):
            models.append(PlannedModel(entry, options, WeightsRow(kind="none")))
            continue
        try:
            now = policy if no_network is None else replace(policy, offline=True)
            checkpoint = find_checkpoint(entry, now)
        except NetworkUnreachableError as error:
            no_network = str(error)
            models.append(_untrained(entry, options, no_network))
        except WeightsUnavailableError as error:
            models.append(_untrained(entry, options, no_network or str(error)))
        except WeightsError as error:
            untrained = _untrained(entry, options, str(error))
            models.append(replace(untrained, error=str(error)))
        else:
            row = WeightsRow(
                kind="file",
                sha256=checkpoint.sha256,
                official=checkpoint.official,
                file_bytes=checkpoint.n_bytes,
            )
            models.append(PlannedModel(entry, replace(options, checkpoint=checkpoint), row))
    return models


def _untrained(entry: ModelEntry, options: ModelOptions, why: str) -> PlannedModel:
    return PlannedModel(entry, options, WeightsRow(kind="random", why=why))


def find_checkpoint(entry: ModelEntry, policy: WeightsPolicy) -> Checkpoint:
    """Finds the weights of one model, fetching them if the policy lets it.

    Several models may run the same weights: a file given for the model itself comes first, then
    one given under the name of its checkpoint. A model that runs files made from a checkpoint takes
    a folder of these as well.

    Raises:
        WeightsUnavailableError: They are not here and cannot or may not be fetched.
        WeightsError: They are here and unusable.
    """
    from mobilesam.checkpoint_specs import specs
    from mobilesam.checkpoints import resolve, shipped_checkpoint
    from mobilesam.download import stderr_progress

    name = entry.checkpoint or entry.name
    if entry.shipped is not None and name not in policy.overrides:
        return shipped_checkpoint(entry.shipped)
    own = policy.overrides.get(entry.name)
    if own is not None and entry.derive is not None:
        from baselines.exported import folder_checkpoint, is_exported

        if is_exported(own):
            return folder_checkpoint(own)
    overrides = policy.overrides if own is None else {**policy.overrides, name: own}
    spec, limit = specs().get(name), policy.fetch_limit_bytes
    large = spec is not None and limit is not None and spec.n_bytes > limit
    try:
        with stderr_progress() as progress:
            return resolve(
                name,
                overrides=overrides,
                offline=policy.offline,
                trust=policy.trust,
                fetch=not large,
                progress=progress,
            )
    except WeightsUnavailableError as error:
        if large and not policy.offline and spec is not None and limit is not None:
            raise WeightsUnavailableError(
                f"{spec.file} ({spec.n_bytes / 1e6:.0f} MB) is not on this machine, and this "
                f"profile fetches at most {limit / 1e6:.0f} MB a file; "
                f"mobilesam-bench weights fetch {name}"
            ) from error
        raise
