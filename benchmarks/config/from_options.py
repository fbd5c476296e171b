"""Checks options and converts them into a `RunConfig`, before anything is measured."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines import DEFAULT_SELECTION
from baselines.registry import ModelEntry, select, select_one
from benchmarks.config.model_resolution import ResolvedModel, WeightsPolicy, resolve_models
from benchmarks.config.options import (
    AccuracyArguments,
    DataArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
)
from benchmarks.config.run_config import (
    DEFAULT_IMAGES_PER_SHARD,
    DetectorInput,
    Profile,
    RunConfig,
    ShardingConfig,
    find_profile,
)
from benchmarks.datasets.limits import PIXELS_CEILING
from benchmarks.prompts import protocols
from benchmarks.prompts.protocols import (
    DEFAULT_PROTOCOLS,
    DETECTOR_BOX,
    DETECTOR_BOX_MULTI,
    EVERYTHING,
    WHOLE_IMAGE_PROTOCOLS,
)
from benchmarks.records.environment import default_threads, use_threads
from benchmarks.records.record import RECORD_NAME
from benchmarks.records.run_folder import command_line, create_folder
from mobilesam.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from benchmarks.datasets.dataset import Dataset

DEFAULT_OUT = Path("bench-runs")
STANDARD_SCENES = find_profile("standard").n_images
PRECISIONS = ("fp32", "fp16", "bf16")
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_DATASET_OPTIONS = {
    "photos": (),
    "synthetic": (),
    "coco": ("--images", "--annotations"),
    "sa1b": ("--root",),
}
_DETECTOR_MASKS = {DETECTOR_BOX: "single", DETECTOR_BOX_MULTI: "multi"}


def make_config(
    command: str,
    models: ModelArguments,
    output: OutputArguments,
    *,
    profile: Profile | None = None,
    counting: bool = False,
    accuracy: AccuracyArguments | None = None,
    n_scenes: int = STANDARD_SCENES,
    scale: ScaleArguments | None = None,
    publishable: bool = False,
    entries: Sequence[ModelEntry] | None = None,
    dataset: Dataset | None = None,
    command_text: str | None = None,
) -> RunConfig:
    """Converts options into the configuration of a run, and sets the threads of this process.

    Args:
        command: Name of the command, for the default folder.
        models: Selection of models, weights, device, precision, threads and seed.
        output: Folder and note of the record.
        profile: Thoroughness of the latency measurement; None measures no latency.
        counting: Count parameters and FLOPs.
        accuracy: Dataset and protocols; None measures no accuracy.
        n_scenes: Number of scenes of the synthetic dataset without `--limit`.
        scale: Shards and cluster; None evaluates the dataset as a whole.
        publishable: Wait until the machine is idle.
        entries: Models to use instead of those that `models` names.
        dataset: Dataset to use instead of the one that `accuracy` names.
        command_text: What the record states as its command; None for the command line.

    Raises:
        UsageError: An option is invalid, or options contradict each other.
        DataError: The dataset cannot be read.
    """
    threads = apply_threads(models)
    sharding = None
    if scale is not None and accuracy is not None:
        sharding = sharding_config(scale, models)
        _check_sharding(sharding, accuracy)
    config = RunConfig(
        command=command_text or command_line(),
        note=output.note,
        models=select(listed(models.models)) if entries is None else tuple(entries),
        weights_policy=weights_policy(
            models, None if profile is None else profile.fetch_limit_bytes
        ),
        out=output.out or DEFAULT_OUT,
        threads=threads,
        device=device_of(models, sharding),
        precision=check_precision(models.precision),
        seed=models.seed,
        profile=profile,
        count_parameters=counting,
        default_models=entries is None and models.models == DEFAULT_SELECTION,
        publishable=publishable,
        sharding=sharding,
    )
    if accuracy is not None:
        if dataset is None:
            streaming = sharding is not None
            dataset = open_dataset(accuracy, n_scenes, models.seed, streaming=streaming)
        config = replace(config, **_accuracy_fields(accuracy, dataset, config.models))
    # Created last, so that invalid options leave no empty folder.
    return config if output.out is not None else replace(config, out=new_folder(command))


def _accuracy_fields(
    options: AccuracyArguments, dataset: Dataset, models: Sequence[ModelEntry]
) -> dict[str, Any]:
    """The fields of a `RunConfig` that determine how accuracy is measured."""
    for option, text in (("--protocol", options.protocol), ("--reference", options.reference)):
        if text is not None and not listed(text):
            raise UsageError(f"{option} is empty; leave it out for the default")
    references = protocols.check_references(listed(options.reference))
    names = listed(options.protocol) if options.protocol else list(DEFAULT_PROTOCOLS)
    masks = tuple(_DETECTOR_MASKS[each] for each in dict.fromkeys(names) if each in _DETECTOR_MASKS)
    whole_images = [name for name in names if name in WHOLE_IMAGE_PROTOCOLS]
    if options.detections is not None and not masks:
        raise UsageError(f"--detections is for --protocol {DETECTOR_BOX}")
    if whole_images and protocols.GROUND_TRUTH not in references:
        raise UsageError(f"{', '.join(WHOLE_IMAGE_PROTOCOLS)} are judged by ground truth only")
    if options.embeddings is not None:
        _require_writable(options.embeddings, "--embeddings")
    own = {entry.name: entry for entry in models}
    teachers = [each for each in map(protocols.reference_model, references) if each is not None]
    return {
        "dataset": dataset,
        "detector": _detector(options, dataset) if masks else None,
        "detector_masks": masks,
        "everything": EVERYTHING in names,
        "protocols": protocols.find_protocols(
            name for name in names if name not in WHOLE_IMAGE_PROTOCOLS
        ),
        "references": references,
        "reference_models": tuple(own.get(name) or select_one(name) for name in teachers),
        "save_masks": options.save_masks,
        "embeddings": options.embeddings,
        "boundary": not options.no_boundary,
    }


def _detector(options: AccuracyArguments, dataset: Dataset) -> DetectorInput:
    from benchmarks.datasets.coco import CocoDataset

    if options.detections is None:
        raise UsageError(f"--protocol {DETECTOR_BOX} needs --detections FILE, a COCO results file")
    images, annotations = options.images, options.annotations
    if not isinstance(dataset, CocoDataset) or images is None or annotations is None:
        raise UsageError(f"--protocol {DETECTOR_BOX} needs --dataset coco: AP is COCO's")
    return DetectorInput(dataset, images, annotations, options.detections)


def sharding_config(
    scale: ScaleArguments, models: ModelArguments, images_per_shard: int = DEFAULT_IMAGES_PER_SHARD
) -> ShardingConfig | None:
    """Converts the options of shards and cluster; returns None if none of them is given.

    Args:
        scale: The options.
        models: With `--device cuda`, each worker gets a GPU by default.
        images_per_shard: Maximum number of images of a shard without `--chunk`.

    Raises:
        UsageError: An option is out of range, or needs `--cluster`.
    """
    if scale == ScaleArguments():
        return None
    if scale.cluster is None and scale != ScaleArguments(chunk=scale.chunk, lanes=scale.lanes):
        raise UsageError("--workers, --worker-cpus and --worker-gpus go with --cluster")
    gpus = scale.worker_gpus
    if gpus is None and models.device.startswith("cuda"):
        gpus = 1.0
    given: dict[str, Any] = {
        "images_per_shard": images_per_shard if scale.chunk is None else scale.chunk,
        "prefetch_threads": scale.lanes,
        "cluster": scale.cluster,
        "workers": scale.workers,
        "worker_cpus": scale.worker_cpus,
        "worker_gpus": gpus,
    }
    config = ShardingConfig(**{name: value for name, value in given.items() if value is not None})
    if config.images_per_shard < 1 or config.prefetch_threads < 0:
        raise UsageError("--chunk must be at least 1, and --lanes at least 0")
    too_few = config.workers is not None and config.workers < 1
    if too_few or config.worker_cpus <= 0 or config.worker_gpus < 0:
        raise UsageError("--workers and --worker-cpus must be above 0, --worker-gpus at least 0")
    return config


def _check_sharding(sharding: ShardingConfig | None, options: AccuracyArguments) -> None:
    if sharding is None:
        return
    if any(name in _DETECTOR_MASKS for name in listed(options.protocol or "")):
        raise UsageError(f"{', '.join(_DETECTOR_MASKS)} need all images at once: not in chunks")
    if options.save_masks:
        raise UsageError("--save-masks keeps every answer in memory: not in chunks")


def weights_policy(models: ModelArguments, fetch_limit_bytes: int | None = None) -> WeightsPolicy:
    """Converts the options of weights.

    Raises:
        UsageError: Malformed, or for an unknown model or one without weights.
    """
    from mobilesam.weights.checkpoints import parse_override

    overrides = dict(parse_override(text) for text in models.weights)
    for name in overrides:
        entry = select_one(name)  # a misspelt name would leave its model with random weights
        if entry.checkpoint is None and not entry.third_party:
            raise UsageError(f"{name} takes no weights; drop --weights {name}=...")
    return WeightsPolicy(overrides, models.offline, models.trust, fetch_limit_bytes)


def open_dataset(
    options: DataArguments, n_scenes: int, seed: int, *, streaming: bool = False
) -> Dataset:
    """Opens the dataset that the options name.

    Args:
        options: Name, paths and limits.
        n_scenes: Number of scenes of the synthetic dataset without `--limit`.
        seed: Seed of the synthetic scenes.
        streaming: SA-1B: keep no list of all images in memory.

    Raises:
        UsageError: Unknown dataset, or an option that is missing or belongs to another dataset.
        DataError: It cannot be read.
    """
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit must be at least 1; got {options.limit}")
    max_pixels = check_max_pixels(options.max_pixels)
    paths = {
        "--images": options.images,
        "--annotations": options.annotations,
        "--root": options.root,
    }
    for option, value in paths.items():
        if value and option not in _DATASET_OPTIONS.get(options.dataset, paths):
            raise UsageError(f"{option} does not belong to --dataset {options.dataset}")
    if options.dataset == "photos":
        from benchmarks.datasets.photos import open_photos

        return open_photos(options.limit, max_pixels)
    if options.dataset == "synthetic":
        from benchmarks.datasets.synthetic import SyntheticDataset

        return SyntheticDataset(
            n_images=n_scenes if options.limit is None else options.limit, seed=seed
        )
    if options.dataset == "coco":
        from benchmarks.datasets.coco import CocoDataset

        if options.images is None or options.annotations is None:
            raise UsageError("--dataset coco needs --images DIR and --annotations FILE")
        return CocoDataset(options.images, options.annotations, options.limit, max_pixels)
    if options.dataset == "sa1b":
        from benchmarks.datasets.sa1b import Sa1bDataset

        if not options.root:
            raise UsageError("--dataset sa1b needs --root DIR_OR_TARS")
        return Sa1bDataset(list(options.root), options.limit, max_pixels, streaming=streaming)
    raise UsageError(f"unknown dataset {options.dataset!r}; choose photos, coco, sa1b or synthetic")


def check_max_pixels(max_pixels: int) -> int:
    """Returns the maximum size of an image if it is valid.

    Raises:
        UsageError: It is below 1, or too large for the masks of such an image.
    """
    if not 1 <= max_pixels <= PIXELS_CEILING:
        raise UsageError(f"--max-pixels must be 1 to {PIXELS_CEILING}; got {max_pixels}")
    return max_pixels


def check_device(device: str) -> str:
    """Returns the device if torch can use it here.

    Raises:
        UsageError: Unknown, or not present.
    """
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in _DEVICES:
        raise UsageError(f"unknown device {device!r}; choose from {', '.join(_DEVICES)}")
    kind = wanted.type
    backend: Any = {
        "cpu": None,
        "cuda": torch.cuda,
        "mps": torch.backends.mps,
        "xpu": getattr(torch, "xpu", None),
    }[kind]
    if kind != "cpu" and (backend is None or not backend.is_available()):
        raise UsageError(f"no {kind} device is usable here; use --device cpu, or see doctor")
    if kind == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"{device} is not here: there are {torch.cuda.device_count()} GPUs")
    return device


def device_of(models: ModelArguments, sharding: ShardingConfig | None) -> str:
    """Returns the device of the options, which must be present unless a remote cluster is used.

    Raises:
        UsageError: Unknown, or not present.
    """
    is_here = sharding is None or sharding.cluster in (None, "local")
    return check_device(models.device) if is_here else models.device


def check_precision(precision: str) -> str:
    """Returns the precision if it is known.

    Raises:
        UsageError: It is not.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    return precision


def apply_threads(models: ModelArguments) -> int:
    """Sets the number of threads of this process and returns it.

    Raises:
        UsageError: Fewer than one.
    """
    if models.threads is not None and models.threads < 1:
        raise UsageError(f"--threads must be at least 1; got {models.threads}")
    threads = models.threads or default_threads()
    use_threads(threads)
    return threads


def one_trained(
    models: ModelArguments, command: str, sharding: ShardingConfig | None = None
) -> ResolvedModel:
    """Resolves the single model that the options name; it must have trained weights.

    Args:
        models: The options.
        command: Name of the command, for the error.
        sharding: Where the model runs; None for this process.

    Raises:
        UsageError: Several models are named, or an option is invalid.
        WeightsError: Its weights are unusable or missing.
    """
    entries = select(listed(models.models))
    if len(entries) != 1:
        raise UsageError(f"{command} takes one model; {models.models!r} names {len(entries)}")
    (resolved,) = resolve_models(
        entries,
        weights_policy(models),
        device=device_of(models, sharding),
        precision=check_precision(models.precision),
        seed=models.seed,
    )
    if not resolved.trained:
        # The output of random weights would look like a result.
        raise WeightsError(
            resolved.error or resolved.weights.why or f"{entries[0].name}: no weights"
        )
    return resolved


def print_weights(model: ResolvedModel) -> None:
    """Prints on standard error if shipped weights replace the official ones, and why."""
    found = model.options.checkpoint
    if found is not None and found.shipped is not None and model.entry.shipped is None:
        reason = "" if model.reason is None else f": {model.reason}"
        sys.stderr.write(f"weights: {found.description}{reason}\n")


def listed(text: str) -> list[str]:
    """Splits an option at commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def new_folder(command: str) -> Path:
    """Creates a folder below `bench-runs`, named after the command and the time."""
    return create_folder(DEFAULT_OUT, f"{command}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")


def require_new_folder(out: Path) -> None:
    """Refuses a folder that holds a record, since records are never overwritten.

    Raises:
        UsageError: It holds one.
    """
    if (out / RECORD_NAME).exists():
        raise UsageError(f"{out} holds the record of another run; choose another --out")


def _require_writable(folder: Path, option: str) -> None:
    """Fails before hours of work if a folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{option} {folder}: {error.strerror or error}") from error
