"""Options of the command line that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from baselines import DEFAULT_SELECTION
from benchmarks.datasets.limits import MAX_PIXELS


@Parameter(name="*")
@dataclass(frozen=True)
class ModelArguments:
    """Selection of models, and their weights."""

    models: Annotated[
        str,
        Parameter(
            help="Names or wildcards, separated by commas; default: all but models for tests."
        ),
    ] = DEFAULT_SELECTION
    weights: Annotated[
        tuple[str, ...],
        Parameter(metavar="NAME=PATH", help="Local weights of a model; may be repeated."),
    ] = ()
    offline: Annotated[bool, Parameter(help="Download nothing.")] = False
    trust: Annotated[
        bool, Parameter(help="Load pickled checkpoints of unknown hash: they run code.")
    ] = False
    device: Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps, ...")] = "cpu"
    precision: Annotated[str, Parameter(help="fp32, fp16 or bf16.")] = "fp32"
    threads: Annotated[
        int | None, Parameter(help="CPU threads of a model; by default the physical cores.")
    ] = None
    seed: Annotated[int, Parameter(help="Seed of scenes, order and random weights.")] = 0


@Parameter(name="*")
@dataclass(frozen=True)
class DataArguments:
    """Images with reference masks."""

    dataset: Annotated[str, Parameter(help="photos, coco, sa1b or synthetic.")] = "photos"
    images: Annotated[
        Path | None, Parameter(help="COCO: folder of the images; distill embed: any folder.")
    ] = None
    annotations: Annotated[Path | None, Parameter(help="COCO: the instances file.")] = None
    root: Annotated[
        tuple[Path, ...], Parameter(help="SA-1B: a folder, a tar, or several of them.")
    ] = ()
    limit: Annotated[int | None, Parameter(help="Only the first N images.")] = None
    max_pixels: Annotated[
        int, Parameter(help="Larger images are refused: a small file can hold a huge one.")
    ] = MAX_PIXELS


@Parameter(name="*")
@dataclass(frozen=True)
class EmbedDataArguments(DataArguments):
    """Images of `distill embed`: synthetic scenes unless a dataset or a folder is given."""

    dataset: Annotated[str, Parameter(help="photos, coco, sa1b or synthetic.")] = "synthetic"


@Parameter(name="*")
@dataclass(frozen=True)
class AccuracyArguments(DataArguments):
    """Images, prompts and reference masks of an evaluation."""

    protocol: Annotated[str | None, Parameter(help="Accuracy protocols, separated by commas.")] = (
        None
    )
    reference: Annotated[
        str, Parameter(help="ground-truth, teacher:NAME, or several, separated by commas.")
    ] = "ground-truth"
    detections: Annotated[
        Path | None, Parameter(help="detector-box: COCO results file with the boxes.")
    ] = None
    save_masks: Annotated[bool, Parameter(help="Keep all predicted masks for miou --rescore.")] = (
        False
    )
    no_boundary: Annotated[
        bool, Parameter(help="Leave out boundary IoU, which takes most of the scoring time.")
    ] = False
    embeddings: Annotated[
        Path | None, Parameter(help="Folder where image embeddings are kept between runs.")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class ScaleArguments:
    """Chunks of a run over many images, and the workers that evaluate them."""

    chunk: Annotated[
        int | None,
        Parameter(
            help="Stream, and keep each finished chunk of N images (500, or 8 for distill "
            "embed); the same --out resumes."
        ),
    ] = None
    lanes: Annotated[
        int | None, Parameter(help="Threads of a worker that load and score beside the model.")
    ] = None
    cluster: Annotated[
        str | None,
        Parameter(metavar="ADDRESS|local", help="Run on a Ray cluster, or on one started here."),
    ] = None
    workers: Annotated[
        int | None, Parameter(help="Workers on the cluster; by default as many as fit.")
    ] = None
    worker_cpus: Annotated[float | None, Parameter(help="Cores of a worker.")] = None
    worker_gpus: Annotated[
        float | None, Parameter(help="GPUs of a worker, 0.5 for two on one; 1 with --device cuda.")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class OutputArguments:
    """Output of a command."""

    out: Annotated[
        Path | None, Parameter(help="Folder for the record; by default bench-runs/...")
    ] = None
    note: Annotated[
        str | None, Parameter(help="Text for the record, such as the origin of the weights.")
    ] = None
    json: Annotated[bool, Parameter(help="Print one JSON document on standard output.")] = False
    quiet: Annotated[bool, Parameter(help="Print only warnings and errors.")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class TimingArguments:
    """Thoroughness of time measurements."""

    profile: Annotated[str, Parameter(help="quick, standard or full.")] = "standard"
    publishable: Annotated[
        bool,
        Parameter(
            help="Wait until the machine is idle, at most 10 minutes; refuse if it stays busy."
        ),
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class FigureArguments:
    """Images and prompts of the figures."""

    image: Annotated[tuple[Path, ...], Parameter(help="An image file; repeatable.")] = ()
    point: Annotated[
        tuple[str, ...],
        Parameter(metavar="X,Y", help="One for each --image; the centre by default."),
    ] = ()
    box: Annotated[
        tuple[str, ...], Parameter(metavar="X0,Y0,X1,Y1", help="One for each --image.")
    ] = ()
    photo: Annotated[
        tuple[str, ...], Parameter(help="A public-domain photo of scikit-image, such as astronaut.")
    ] = ()
    kinds: Annotated[str, Parameter(help="point, box, everything, by commas.")] = "point,box"
    trained_only: Annotated[bool, Parameter(help="Leave out named models without weights.")] = False
    svg: Annotated[bool, Parameter(help="Write SVG beside PNG.")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class TrainArguments:
    """Training of a student; options override --config."""

    scheme: Annotated[
        str, Parameter(help="decoupled, semi-coupled, coupled or decoder-tuning.")
    ] = "decoupled"
    student: Annotated[
        str, Parameter(help="tinyvit-5m, tinyvit-5m-half, tinyvit-5m-512, mini, or a JSON file.")
    ] = "tinyvit-5m"
    start: Annotated[
        Path | None, Parameter(help="A student to start from, as for decoder-tuning.")
    ] = None
    imagenet: Annotated[
        Path | None, Parameter(help="timm's tiny_vit_5m_224, to initialise the encoder.")
    ] = None
    store: Annotated[Path | None, Parameter(help="Embeddings, from distill embed.")] = None
    images: Annotated[Path | None, Parameter(help="Folder of the images in the store.")] = None
    scenes: Annotated[int, Parameter(help="Number of synthetic scenes without --store.")] = 3500
    scenes_seed: Annotated[int, Parameter(help="Seed of these scenes.")] = 7_306_142
    config: Annotated[Path | None, Parameter(help="JSON file of a TrainConfig.")] = None
    steps: Annotated[int | None, Parameter(help="Steps of the optimiser.")] = None
    batch_size: Annotated[int | None, Parameter(help="Images per step, over all processes.")] = None
    micro_batch: Annotated[int | None, Parameter(help="Images per forward pass.")] = None
    learning_rate: Annotated[float | None, Parameter(help="Maximum learning rate of AdamW.")] = None
    warmup_steps: Annotated[int | None, Parameter(help="Steps of the linear warm-up.")] = None
    precision: Annotated[
        str | None, Parameter(name="--train-precision", help="fp32, bf16 or fp16.")
    ] = None
    checkpoint_every: Annotated[int | None, Parameter(help="Steps between checkpoints.")] = None
    augment: Annotated[
        bool | None, Parameter(help="Mirror and recolour; not with stored embeddings.")
    ] = None
    evaluate: Annotated[
        int | None,
        Parameter(help="Measure mIoU on N images at the start and at each checkpoint."),
    ] = None
    evaluate_images: Annotated[
        Path | None, Parameter(help="COCO: folder of these images; synthetic scenes by default.")
    ] = None
    evaluate_annotations: Annotated[Path | None, Parameter(help="COCO: instances file.")] = None
    evaluate_protocol: Annotated[
        str, Parameter(help="Accuracy protocols, separated by commas.")
    ] = "box,center"


@Parameter(name="*")
@dataclass(frozen=True)
class RegressArguments:
    """Versions to compare, and thoroughness."""

    base: Annotated[str, Parameter(help="The commit, branch or tag to compare with.")]
    head: Annotated[
        str | None, Parameter(help="The version to judge; by default the working tree.")
    ] = None
    models: Annotated[str, Parameter(help="Models whose times and memory are measured.")] = (
        "mobilesam-mini"
    )
    accuracy_models: Annotated[
        str | None,
        Parameter(help="Models for accuracy; shipped ones, or grabcut and dummy; '' for none."),
    ] = None
    n_prompts: Annotated[str, Parameter(help="Numbers of prompts to decode.")] = "1,10"
    pairs: Annotated[int, Parameter(help="Sets of fresh processes per model.")] = 4
    turns: Annotated[int, Parameter(help="Turns of each phase in each set.")] = 8
    scenes: Annotated[int, Parameter(help="Synthetic scenes for accuracy.")] = 12
    threads: Annotated[int, Parameter(help="CPU threads of a model; 1 is least noisy.")] = 1
    out: Annotated[Path | None, Parameter(help="Folder for the records.")] = None
    quiet: Annotated[bool, Parameter(help="Print only warnings and errors.")] = False
