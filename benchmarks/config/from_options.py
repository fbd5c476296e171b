"""Checks options and converts them into a `RunConfig`, before anything is measured."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines import DEFAULT_SELECTION
from baselines.registry import ModelEntry, file_entry, select, select_one
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
    MaskChoice,
    Profile,
    RunConfig,
    ShardingConfig,
    find_profile,
)
from benchmarks.datasets import PIXELS_CEILING
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Dataset
from benchmarks.datasets.formats import INTERACTIVE
from benchmarks.datasets.photos import open_photos
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.prompts import protocols
from benchmarks.prompts.protocols import (
    DETECTOR_BOX,
    DETECTOR_BOX_MULTI,
    WHOLE_IMAGE_PROTOCOLS,
    AccuracyProtocol,
)
from benchmarks.records.environment import (
    ThreadChoice,
    default_threads,
    free_threads,
    use_threads,
)
from benchmarks.records.record import RECORD_NAME, load_record
from benchmarks.records.run_folder import command_line, create_folder
from mobilesam.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from benchmarks.datasets.formats.detection import Source
from mobilesam.weights.checkpoints import parse_override

DEFAULT_OUT = Path("bench-runs")
STANDARD_SCENES = find_profile("standard").n_images
_PRECISIONS = ("fp32", "fp16", "bf16")
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_DATASET_OPTIONS = {
    "photos": (),
    "synthetic": (),
    "coco": ("--images", "--annotations", "--root"),
    "lvis": ("--images", "--annotations", "--root"),
    "sa1b": ("--root",),
    "masks": ("--images", "--annotations", "--root", "--ignore", "--ids-16-bit"),
    "yolo-seg": ("--root",),
    "voc": ("--root", "--ignore"),
    "labelme": ("--root",),
    **dict.fromkeys(INTERACTIVE, ("--root",)),
    "auto": ("--images", "--root", "--ignore", "--ids-16-bit"),
}
_DETECTOR_MASKS: dict[str, MaskChoice] = {DETECTOR_BOX: "single", DETECTOR_BOX_MULTI: "multi"}


def make_config(
    command: str,
    models: ModelArguments,
    output: OutputArguments,
    *,
    profile: Profile | None = None,  # None: measure no latency
    counting: bool = False,
    accuracy: AccuracyArguments | None = None,  # None: measure no accuracy
    n_scenes: int = STANDARD_SCENES,  # of the synthetic dataset without --limit
    scale: ScaleArguments | None = None,  # None: evaluate the dataset as a whole
    publishable: bool = False,
    batch: str | None = None,
    n_pictures: int = 0,  # images whose masks are kept for the report
    entries: Sequence[ModelEntry] | None = None,  # instead of those that `models` names
    dataset: Dataset | None = None,  # instead of the one that `accuracy` names
    command_text: str | None = None,  # for the record; None: the command line
) -> RunConfig:
    """Converts options into the configuration of a run, and sets the threads of this process.

    Raises:
        UsageError: An option is invalid, or options contradict each other.
        DataError: The dataset cannot be read.
    """
    # A published run waits for idle cores later, and nothing disturbs a count.
    adapt = not publishable and (profile is not None or accuracy is not None)
    chosen_models = select_models(models) if entries is None else tuple(entries)
    use_busy = all(entry.on_fast_path for entry in chosen_models)
    chosen = apply_threads(models, output.out, adapt=adapt, use_busy=use_busy)
    sharding = None
    if scale is not None and accuracy is not None:
        sharding = sharding_config(scale, models)
        if sharding is not None and _DETECTOR_MASKS.keys() & set(listed(accuracy.protocol or "")):
            raise UsageError(f"{', '.join(_DETECTOR_MASKS)} need all images at once: not in chunks")
        if sharding is not None and accuracy.save_masks:
            raise UsageError("--save-masks keeps every answer in memory: not in chunks")
    config = RunConfig(
        command=command_text or command_line(),
        note=output.note,
        models=chosen_models,
        weights_policy=weights_policy(
            models, None if profile is None else profile.fetch_limit_bytes
        ),
        out=output.out or DEFAULT_OUT,
        threads=chosen.threads,
        threads_reason=chosen.reason,
        device=device_of(models, sharding),
        precision=_check_precision(models.precision),
        seed=models.seed,
        profile=profile,
        batch_sizes=() if batch is None else _batch_sizes(batch),
        count_parameters=counting,
        default_models=entries is None and models.models == DEFAULT_SELECTION,
        publishable=publishable,
        sharding=sharding,
        n_pictures=n_pictures,
    )
    if accuracy is not None:
        if dataset is None:
            streaming = sharding is not None
            dataset = open_dataset(accuracy, n_scenes, models.seed, streaming=streaming)
        config = _with_accuracy(config, accuracy, dataset)
    check_weights_are_used(models, (*config.models, *config.reference_models))
    # Created last, so that invalid options leave no empty folder.
    return config if output.out is not None else replace(config, out=new_folder(command))


def _batch_sizes(text: str) -> tuple[int, ...]:
    sizes = listed(text)
    if not sizes or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UsageError(f"--batch takes numbers of images, such as 1,4,8; got {text!r}")
    return tuple(sorted(set(map(int, sizes))))


def _with_accuracy(config: RunConfig, options: AccuracyArguments, dataset: Dataset) -> RunConfig:
    for option, text in (("--protocol", options.protocol), ("--reference", options.reference)):
        if text is not None and not listed(text):
            raise UsageError(f"{option} is empty; leave it out for the default")
    references = protocols.check_references(listed(options.reference))
    names = listed(options.protocol) if options.protocol else list(protocols.DEFAULT_PROTOCOLS)
    masks = tuple(_DETECTOR_MASKS[each] for each in dict.fromkeys(names) if each in _DETECTOR_MASKS)
    prompted = [name for name in names if name not in WHOLE_IMAGE_PROTOCOLS]
    if options.detections is not None and not masks:
        raise UsageError(f"--detections is for --protocol {DETECTOR_BOX}")
    if len(prompted) < len(names) and protocols.GROUND_TRUTH not in references:
        raise UsageError(f"{', '.join(WHOLE_IMAGE_PROTOCOLS)} are judged by ground truth only")
    detector = None
    if options.embeddings is not None:
        try:  # fails before hours of work
            options.embeddings.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=options.embeddings):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"--embeddings {options.embeddings}: {reason}") from error
    if masks:
        detections, images, annotations = options.detections, options.images, options.annotations
        if detections is None:
            raise UsageError(
                f"--protocol {DETECTOR_BOX} needs --detections FILE, a COCO results file"
            )
        if not isinstance(dataset, CocoDataset) or images is None or annotations is None:
            raise UsageError(
                f"--protocol {DETECTOR_BOX} needs --dataset coco --images DIR --annotations FILE: "
                "AP is COCO's"
            )
        detector = DetectorInput(dataset, images, annotations, detections)
    own = {entry.name: entry for entry in config.models}
    teachers = {
        name: own.get(name) or select_one(name)
        for name in map(protocols.reference_model, references)
        if name is not None
    }
    # A model of a file has a shorter name than the option.
    names_of = {
        f"{protocols.TEACHER_PREFIX}{name}": f"{protocols.TEACHER_PREFIX}{entry.name}"
        for name, entry in teachers.items()
    }
    return replace(
        config,
        dataset=dataset,
        detector=detector,
        detector_masks=masks,
        everything=protocols.EVERYTHING in names,
        protocols=_find_protocols(prompted, options),
        noc_ious=noc_ious(options.noc),
        references=tuple(dict.fromkeys(names_of.get(each, each) for each in references)),
        reference_models=tuple({entry.name: entry for entry in teachers.values()}.values()),
        save_masks=options.save_masks,
        embeddings=options.embeddings,
        boundary=not options.no_boundary,
    )


def _find_protocols(
    names: Sequence[str], options: AccuracyArguments
) -> tuple[AccuracyProtocol, ...]:
    ceiling, most = options.noc_ceiling, protocols.MAX_CLICKS
    if ceiling is not None and not protocols.COUNTED_PROTOCOLS & set(names):
        raise UsageError("--noc-ceiling is for --protocol noc or noc-multi")
    if ceiling is not None and not 1 <= ceiling <= most:
        raise UsageError(f"--noc-ceiling must be 1 to {most}; got {ceiling}")
    found = protocols.find_protocols(names, ceiling or protocols.DEFAULT_CEILING)
    if options.noc is not None and all(each.n_clicks is None for each in found):
        raise UsageError("--noc counts clicks: it is for --protocol noc, noc-multi and clicks-K")
    return found


def noc_ious(text: str | None) -> tuple[float, ...]:
    """IoUs of the option `--noc`, ascending."""
    if text is None:
        return protocols.NOC_IOUS
    try:
        found = tuple(sorted({float(part) for part in listed(text)}))
    except ValueError:
        found = ()
    if not found or not all(0 < iou <= 1 for iou in found):
        raise UsageError(f"--noc takes IoUs above 0 and up to 1, such as 0.85,0.9; got {text!r}")
    return found


def sharding_config(
    scale: ScaleArguments, models: ModelArguments, images_per_shard: int = DEFAULT_IMAGES_PER_SHARD
) -> ShardingConfig | None:
    """Converts the options of shards and cluster; returns None if none of them is given."""
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


def weights_policy(models: ModelArguments, fetch_limit_bytes: int | None = None) -> WeightsPolicy:
    """Converts the options of weights."""
    overrides = dict(parse_override(text) for text in models.weights)
    of_files = filter(None, map(file_entry, listed(models.models)))
    known = {entry.name: entry for entry in of_files} if overrides else {}
    for name in overrides:
        # A misspelt name would leave its model with random weights.
        entry = known.get(name) or select_one(name)
        if entry.checkpoint is None and not (entry.third_party or entry.hugging_face):
            raise UsageError(f"{name} takes no weights; drop --weights {name}=...")
    return WeightsPolicy(overrides, models.offline, models.trust, fetch_limit_bytes)


def check_weights_are_used(models: ModelArguments, entries: Iterable[ModelEntry]) -> None:
    """Raises a UsageError if `--weights` names a model that is none of `entries`."""
    used = {name for entry in entries for name in (entry.name, entry.checkpoint)}
    for name in (parse_override(text)[0] for text in models.weights):
        if name not in used:
            raise UsageError(
                f"--weights {name}=...: no model here uses them; add {name} to the models, or drop "
                "the option"
            )


def open_dataset(
    options: DataArguments, n_scenes: int, seed: int, *, streaming: bool = False
) -> Dataset:
    """Opens the dataset that the options name.

    `n_scenes` and `seed` are for synthetic scenes without `--limit`; `streaming` keeps no list of
    all images of SA-1B in memory.
    """
    limit, name = options.limit, options.dataset
    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be at least 1; got {limit}")
    max_pixels = check_max_pixels(options.max_pixels)
    if name not in _DATASET_OPTIONS:
        raise UsageError(f"unknown dataset {name!r}; choose {', '.join(_DATASET_OPTIONS)}")
    _check_options(options, name)
    if name == "photos":
        return open_photos(limit, max_pixels)
    if name == "synthetic":
        return SyntheticDataset(n_images=n_scenes if limit is None else limit, seed=seed)
    if name == "sa1b" and options.root:
        return Sa1bDataset(list(options.root), limit, max_pixels, streaming=streaming)
    from benchmarks.datasets.formats.detection import open_source

    source = find_source(options)
    _check_options(options, source.format)
    return open_source(
        source,
        limit,
        max_pixels,
        ignore=options.ignore,
        ids_16_bit=options.ids_16_bit,
        streaming=streaming,
    )


def _check_options(options: DataArguments, dataset: str) -> None:
    given = {
        "--images": options.images,
        "--annotations": options.annotations,
        "--root": options.root,
        "--ignore": options.ignore is not None,
        "--ids-16-bit": options.ids_16_bit,
    }
    for option, value in given.items():
        if value and option not in _DATASET_OPTIONS[dataset]:
            raise UsageError(f"{option} does not belong to --dataset {dataset}")


def find_source(options: DataArguments) -> Source:
    """Locates a dataset by its root, or by the folders of its images and annotations."""
    from benchmarks.datasets.formats.detection import Source, coco_source, detect

    name, images, annotations = options.dataset, options.images, options.annotations
    if annotations is not None and images is not None and not options.root:
        return Source(name, annotations, images)
    if len(options.root) != 1 or annotations is not None:
        kind = "DIR" if name == "masks" else "FILE"
        has_pair = "--annotations" in _DATASET_OPTIONS[name]
        pair = f"--images DIR and --annotations {kind}, or " if has_pair else ""
        what = "DIR_OR_TARS" if name == "sa1b" else "DIR_OR_FILE"
        raise UsageError(f"--dataset {name} needs {pair}--root {what}")
    (root,) = options.root
    if name == "auto":
        return detect(root, images)
    if name in ("coco", "lvis"):
        return replace(coco_source(root, images), format=name)
    if images is not None:
        raise UsageError(f"--images and --root are two sources of --dataset {name}; give one")
    return Source(name, root)


def check_max_pixels(max_pixels: int) -> int:
    """Returns the maximum size of an image; the masks of a larger one could not be encoded."""
    if not 1 <= max_pixels <= PIXELS_CEILING:
        raise UsageError(f"--max-pixels must be 1 to {PIXELS_CEILING}; got {max_pixels}")
    return max_pixels


def device_of(models: ModelArguments, sharding: ShardingConfig | None = None) -> str:
    """Returns the device of the options, which must be present unless a remote cluster is used."""
    import torch

    device = models.device
    if sharding is not None and sharding.cluster not in (None, "local"):
        return device
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


def _check_precision(precision: str) -> str:
    if precision not in _PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose from {', '.join(_PRECISIONS)}")
    return precision


def apply_threads(
    models: ModelArguments, run: Path | None = None, *, adapt: bool = True, use_busy: bool = False
) -> ThreadChoice:
    """Chooses the number of threads, and sets it for this process.

    Without `--threads` it is that of the record in the folder `run`, if there is one, since results
    of other threads are not resumed. Otherwise it is the number of cores, or with `adapt` that of
    `OMP_NUM_THREADS`, or of free cores unless `use_busy` is set.

    Raises:
        UsageError: Fewer than one.
        DataError: The record of the folder is damaged.
    """
    if models.threads is not None and models.threads < 1:
        raise UsageError(f"--threads must be at least 1; got {models.threads}")
    if models.threads is not None:
        found = ThreadChoice(models.threads)
    elif run is not None and (run / RECORD_NAME).is_file():
        found = ThreadChoice(load_record(run).environment.threads, "as before in this folder")
    elif adapt:
        found = free_threads(use_busy=use_busy)
    else:
        found = ThreadChoice(default_threads())
    use_threads(found.threads)
    return found


def resolve_options(
    models: ModelArguments, entries: Iterable[ModelEntry], sharding: ShardingConfig | None = None
) -> list[ResolvedModel]:
    """Finds the weights of `entries` under the options; with a cluster, the device is its own."""
    return resolve_models(
        entries,
        weights_policy(models),
        device=device_of(models, sharding),
        precision=_check_precision(models.precision),
        seed=models.seed,
    )


def select_models(options: ModelArguments) -> tuple[ModelEntry, ...]:
    """The models that the options name, at each of the input sizes, of the wanted licences.

    Raises:
        UsageError: A name or size is invalid, or no model is left.
    """
    entries = select(listed(options.models))
    if options.input_size is not None:
        entries = tuple(_resized(entries, options.input_size))
    if options.licence is None:
        return entries
    kept = tuple(entry for entry in entries if entry.permissive)
    dropped = ", ".join(entry.name for entry in entries if not entry.permissive)
    if not kept:
        raise UsageError(f"--licence permissive leaves none of {dropped}")
    if dropped:
        sys.stderr.write(f"licence: left out {dropped}\n")
    return kept


def _resized(entries: Sequence[ModelEntry], text: str) -> Iterator[ModelEntry]:
    sizes = listed(text)
    if not sizes or not all(size.isdecimal() for size in sizes):
        raise UsageError(f"--input-size takes sizes in pixels, such as 1024,512; got {text!r}")
    if not any(entry.own_size_px for entry in entries):
        names = ", ".join(entry.name for entry in entries)
        raise UsageError(f"--input-size: {names} cannot run at other input sizes")
    for entry in entries:
        if entry.own_size_px is None:
            yield entry
            continue
        for size in map(int, dict.fromkeys(sizes)):
            yield entry if size == entry.own_size_px else entry.resized(size)


def one_trained(
    models: ModelArguments,
    command: str,
    sharding: ShardingConfig | None = None,
    others: Sequence[ModelEntry] = (),
) -> ResolvedModel:
    """Resolves the single model that the options name; it must have trained weights.

    `others` are further models of the command, whose weights the options may give as well.
    """
    entries = select_models(models)
    if len(entries) != 1:
        raise UsageError(f"{command} takes one model; {models.models!r} names {len(entries)}")
    check_weights_are_used(models, (*entries, *others))
    (resolved,) = resolve_options(models, entries, sharding)
    if not resolved.trained:
        # The output of random weights would look like a result.
        raise WeightsError(
            resolved.error or resolved.weights.why or f"{entries[0].name}: no weights"
        )
    return resolved


def listed(text: str) -> list[str]:
    """Splits an option at commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def new_folder(command: str) -> Path:
    """Creates a folder below `bench-runs`, named after the command and the time."""
    return create_folder(DEFAULT_OUT, f"{command}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")


def require_new_folder(out: Path) -> None:
    """Refuses a folder that holds a record, since records are never overwritten."""
    if (out / RECORD_NAME).exists():
        raise UsageError(f"{out} holds the record of another run; choose another --out")
