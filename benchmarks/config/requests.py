"""From arguments to what a run is asked to do, checked before anything is measured."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines import DEFAULT_SELECTION
from baselines.registry import select, select_one
from benchmarks.config import profiles
from benchmarks.config.model_resolution import ResolvedModel, WeightsPolicy, resolve_models
from benchmarks.config.options import (
    AccuracyArguments,
    DataArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
)
from benchmarks.config.profiles import Profile
from benchmarks.config.run_config import DEFAULT_IMAGES_PER_SHARD, RunConfig, ShardingConfig
from benchmarks.datasets.dataset import Dataset
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
    from benchmarks.evaluation.detector_boxes import DetectorInput

DEFAULT_OUT = Path("bench-runs")
STANDARD_SCENES = profiles.find("standard").n_images
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_DATASET_OPTIONS = {
    "photos": (),
    "synthetic": (),
    "coco": ("--images", "--annotations"),
    "sa1b": ("--root",),
}
PRECISIONS = ("fp32", "fp16", "bf16")


def weights_policy(models: ModelArguments, fetch_limit_bytes: int | None = None) -> WeightsPolicy:
    """Where weights may come from, as the user said."""
    from mobilesam.weights.checkpoints import parse_override

    overrides = dict(parse_override(text) for text in models.weights)
    for name in overrides:
        entry = select_one(name)  # a misspelt name would leave its model with random weights
        if entry.checkpoint is None and not entry.third_party:
            raise UsageError(f"{name} takes no weights; drop --weights {name}=...")
    return WeightsPolicy(overrides, models.offline, models.trust, fetch_limit_bytes)


def open_dataset(
    data: DataArguments, n_images: int, seed: int, *, in_parts: bool = False
) -> Dataset:
    """The dataset that the user named.

    Args:
        data: The arguments.
        n_images: Scenes of the synthetic dataset, unless `--limit` says otherwise.
        seed: Of the synthetic scenes.
        in_parts: SA-1B without a list of all its images in memory.

    Raises:
        UsageError: Unknown, or an option that it needs is missing.
        DataError: It cannot be read.
    """
    if data.limit is not None and data.limit < 1:
        raise UsageError(f"--limit must be at least 1; got {data.limit}")
    check_max_pixels(data.max_pixels)
    given = {"--images": data.images, "--annotations": data.annotations, "--root": data.root}
    for option, value in given.items():
        if value and option not in _DATASET_OPTIONS.get(data.dataset, given):
            raise UsageError(f"{option} does not belong to --dataset {data.dataset}")
    if data.dataset == "photos":
        from benchmarks.datasets.photos import open_photos

        return open_photos(data.limit, data.max_pixels)
    if data.dataset == "synthetic":
        from benchmarks.datasets.synthetic import SyntheticDataset

        return SyntheticDataset(n_images=n_images if data.limit is None else data.limit, seed=seed)
    if data.dataset == "coco":
        from benchmarks.datasets.coco import CocoDataset

        if data.images is None or data.annotations is None:
            raise UsageError("--dataset coco needs --images DIR and --annotations FILE")
        return CocoDataset(data.images, data.annotations, data.limit, data.max_pixels)
    if data.dataset == "sa1b":
        from benchmarks.datasets.sa1b import Sa1bDataset

        if not data.root:
            raise UsageError("--dataset sa1b needs --root DIR_OR_TARS")
        return Sa1bDataset(list(data.root), data.limit, data.max_pixels, streaming=in_parts)
    raise UsageError(f"unknown dataset {data.dataset!r}; choose photos, coco, sa1b or synthetic")


def check_max_pixels(max_pixels: int) -> int:
    """Returns the largest size of an image if it makes sense.

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


def check_precision(precision: str) -> str:
    """Returns the precision if it is one.

    Raises:
        UsageError: It is not.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    return precision


def apply_threads(models: ModelArguments) -> int:
    """Gives this process the threads that the user wants; returns how many.

    Raises:
        UsageError: Fewer than one.
    """
    if models.threads is not None and models.threads < 1:
        raise UsageError(f"--threads must be at least 1; got {models.threads}")
    threads = models.threads or default_threads()
    use_threads(threads)
    return threads


def one_trained(
    models: ModelArguments, command: str, scale: ShardingConfig | None = None
) -> ResolvedModel:
    """The one model that the user named, with weights that mean something.

    Args:
        models: The arguments.
        command: What takes no more than one model, for the error.
        scale: Who works on it, if it is done in chunks.

    Raises:
        UsageError: Several are named, or it cannot be built as asked.
        WeightsError: Its weights are unusable or not here.
    """
    entries = select(listed(models.models))
    if len(entries) != 1:
        raise UsageError(f"{command} takes one model; {models.models!r} names {len(entries)}")
    (planned,) = resolve_models(
        entries,
        weights_policy(models),
        device=device_of(models, scale),
        precision=check_precision(models.precision),
        seed=models.seed,
    )
    if not planned.trained:
        # What random weights give would look like an answer.
        raise WeightsError(planned.error or planned.weights.why or f"{entries[0].name}: no weights")
    return planned


def print_weights(model: ResolvedModel) -> None:
    """Prints on standard error if shipped weights replace the official ones, and why."""
    found = model.options.checkpoint
    if found is not None and found.shipped is not None and model.entry.shipped is None:
        reason = "" if model.reason is None else f": {model.reason}"
        sys.stderr.write(f"weights: {found.description}{reason}\n")


def make_request(
    command: str,
    models: ModelArguments,
    output: OutputArguments,
    *,
    profile: Profile | None = None,
    counting: bool = False,
    accuracy: AccuracyArguments | None = None,
    n_scenes: int | None = None,
    scale: ScaleArguments | None = None,
    publishable: bool = False,
) -> RunConfig:
    """Turns arguments into what a run is asked to do.

    Args:
        command: Name of the command, for the default folder.
        models: Which models.
        output: Where results go.
        profile: How thorough latency is measured; None leaves it out.
        counting: Count parameters and FLOPs.
        accuracy: Data and protocols of accuracy; None leaves it out.
        n_scenes: Number of scenes if the synthetic dataset is named; 50 by default.
        scale: Work in chunks; None, or nothing in it, holds all rows in memory.
        publishable: Wait until the machine is idle.

    Raises:
        UsageError: They cannot be meant.
        DataError: The dataset cannot be read.
    """
    threads = apply_threads(models)
    chunks = None if scale is None or accuracy is None else _scale(scale, accuracy, models)
    scenes = n_scenes or STANDARD_SCENES
    asked = RunConfig(
        command=command_line(),
        note=output.note,
        models=select(listed(models.models)),
        weights_policy=weights_policy(
            models, None if profile is None else profile.fetch_limit_bytes
        ),
        out=output.out or DEFAULT_OUT,
        threads=threads,
        device=device_of(models, chunks),
        precision=check_precision(models.precision),
        seed=models.seed,
        profile=profile,
        count_parameters=counting,
        default_models=models.models == DEFAULT_SELECTION,
        publishable=publishable,
        sharding=chunks,
        **({} if accuracy is None else _accuracy(accuracy, scenes, models, in_parts=bool(chunks))),
    )
    # Created last, so that a refused request leaves no empty folder.
    return asked if output.out is not None else replace(asked, out=new_folder(command))


def device_of(models: ModelArguments, scale: ShardingConfig | None) -> str:
    """The device that the user named; those of another machine's cluster need not be here.

    Raises:
        UsageError: Unknown, or not present.
    """
    is_here = scale is None or scale.cluster in (None, "local")
    return check_device(models.device) if is_here else models.device


def _scale(
    scale: ScaleArguments, data: AccuracyArguments, models: ModelArguments
) -> ShardingConfig | None:
    """How accuracy is measured in chunks, if that is asked for."""
    request = sharding_config(scale, models)
    if request is None:
        return None
    names = listed(data.protocol or "")
    boxes = (DETECTOR_BOX, DETECTOR_BOX_MULTI)
    if any(name in boxes for name in names):
        raise UsageError(f"{', '.join(boxes)} need all images at once: not in chunks")
    if data.save_masks:
        raise UsageError("--save-masks keeps every answer in memory: not in chunks")
    return request


def new_folder(command: str) -> Path:
    """Creates a folder below `bench-runs`, named after the command and the time."""
    return create_folder(DEFAULT_OUT, f"{command}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")


def _accuracy(
    data: AccuracyArguments, n_scenes: int, models: ModelArguments, *, in_parts: bool
) -> dict[str, Any]:
    """The fields of a `RunConfig` that say how accuracy is measured."""
    dataset = open_dataset(data, n_scenes, models.seed, in_parts=in_parts)
    references = protocols.check_references(listed(data.reference))
    for option, text in (("--protocol", data.protocol), ("--reference", data.reference)):
        if text is not None and not listed(text):
            raise UsageError(f"{option} is empty; leave it out for the default")
    named = [name for name in map(protocols.reference_model, references) if name is not None]
    names = listed(data.protocol) if data.protocol else DEFAULT_PROTOCOLS
    boxes = {DETECTOR_BOX: "single", DETECTOR_BOX_MULTI: "multi"}
    masks = tuple(boxes[name] for name in dict.fromkeys(names) if name in boxes)
    if data.detections is not None and not masks:
        raise UsageError(f"--detections is for --protocol {DETECTOR_BOX}")
    if protocols.GROUND_TRUTH not in references and any(
        name in WHOLE_IMAGE_PROTOCOLS for name in names
    ):
        raise UsageError(f"{', '.join(WHOLE_IMAGE_PROTOCOLS)} are judged by ground truth only")
    if data.embeddings is not None:
        require_writable(data.embeddings, "--embeddings")
    return {
        "dataset": dataset,
        "detector": _detector(data, dataset) if masks else None,
        "detector_masks": masks,
        "everything": EVERYTHING in names,
        "protocols": protocols.find_protocols(
            name for name in names if name not in WHOLE_IMAGE_PROTOCOLS
        ),
        "references": references,
        "reference_models": tuple(select_one(name) for name in named),
        "save_masks": data.save_masks,
        "embeddings": data.embeddings,
        "boundary": not data.no_boundary,
    }


def _detector(data: AccuracyArguments, dataset: Dataset) -> DetectorInput:
    from benchmarks.datasets.coco import CocoDataset
    from benchmarks.evaluation.detector_boxes import DetectorInput

    if data.detections is None:
        raise UsageError(f"--protocol {DETECTOR_BOX} needs --detections FILE, a COCO results file")
    if not isinstance(dataset, CocoDataset) or data.images is None or data.annotations is None:
        raise UsageError(f"--protocol {DETECTOR_BOX} needs --dataset coco: AP is COCO's")
    return DetectorInput(dataset, data.images, data.annotations, data.detections)


def listed(text: str) -> list[str]:
    """Parts of an argument that are separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def require_writable(folder: Path, option: str) -> None:
    """Finds out before hours of work whether a folder can be written.

    Raises:
        UsageError: It cannot; names the option.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{option} {folder}: {error.strerror or error}") from error


def require_new_folder(out: Path) -> None:
    """Refuses a folder that holds a record already: records are never overwritten.

    Raises:
        UsageError: It does.
    """
    if (out / RECORD_NAME).exists():
        raise UsageError(f"{out} holds the record of another run; choose another --out")


def sharding_config(
    scale: ScaleArguments, models: ModelArguments, images_per_shard: int = DEFAULT_IMAGES_PER_SHARD
) -> ShardingConfig | None:
    """How a run is cut into chunks, and who works on them; None if that is not asked for.

    Args:
        scale: The arguments.
        models: A worker with a GPU is given one.
        images_per_shard: Most images of a chunk, unless `--chunk` says otherwise.

    Raises:
        UsageError: They cannot be meant.
    """
    if scale == ScaleArguments():
        return None
    if scale.cluster is None and scale != ScaleArguments(chunk=scale.chunk, lanes=scale.lanes):
        raise UsageError("--workers, --worker-cpus and --worker-gpus go with --cluster")
    given: dict[str, Any] = vars(scale) | {
        "images_per_shard": images_per_shard if scale.chunk is None else scale.chunk
    }
    del given["chunk"]
    given["prefetch_threads"] = given.pop("lanes")
    if scale.worker_gpus is None and models.device.startswith("cuda"):
        given["worker_gpus"] = 1.0
    request = ShardingConfig(**{name: value for name, value in given.items() if value is not None})
    if request.images_per_shard < 1 or request.prefetch_threads < 0:
        raise UsageError("--chunk must be at least 1, and --lanes at least 0")
    too_few = request.workers is not None and request.workers < 1
    if too_few or request.worker_cpus <= 0 or request.worker_gpus < 0:
        raise UsageError("--workers and --worker-cpus must be above 0, --worker-gpus at least 0")
    return request
