"""The options that several commands share, each with its default in one place."""

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
    """Which models, and with which weights."""

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
    offline: Annotated[bool, Parameter(help="Fetch nothing.")] = False
    trust: Annotated[
        bool, Parameter(help="Load pickled checkpoints of unknown hash: they run code.")
    ] = False
    device: Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps, ...")] = "cpu"
    precision: Annotated[str, Parameter(help="fp32, fp16 or bf16.")] = "fp32"
    threads: Annotated[
        int | None, Parameter(help="Threads a model is given; physical cores unless told.")
    ] = None
    seed: Annotated[int, Parameter(help="Of scenes, order and random weights.")] = 0


@Parameter(name="*")
@dataclass(frozen=True)
class DataArguments:
    """Which images, and which reference masks."""

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
    """Which images `distill embed` takes: drawn scenes unless a dataset or a folder is named."""

    dataset: Annotated[str, Parameter(help="photos, coco, sa1b or synthetic.")] = "synthetic"


@Parameter(name="*")
@dataclass(frozen=True)
class AccuracyArguments(DataArguments):
    """What is asked about the images, and what the answers are compared with."""

    protocol: Annotated[str | None, Parameter(help="Accuracy protocols, separated by commas.")] = (
        None
    )
    reference: Annotated[
        str, Parameter(help="ground-truth, teacher:NAME, or several, separated by commas.")
    ] = "ground-truth"
    detections: Annotated[
        Path | None, Parameter(help="detector-box: COCO results file with the boxes.")
    ] = None
    save_masks: Annotated[
        bool, Parameter(help="Keep every answer, to be scored again with miou --rescore.")
    ] = False
    no_boundary: Annotated[
        bool, Parameter(help="Leave boundary IoU out: IoU alone is quicker to score.")
    ] = False
    embeddings: Annotated[
        Path | None, Parameter(help="Folder where image embeddings are kept between runs.")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class ScaleArguments:
    """How a run over many images is cut into chunks, and who works on them."""

    chunk: Annotated[
        int | None,
        Parameter(
            help="Stream, and keep each finished chunk of N images (500, or 8 for distill "
            "embed); --out takes it up."
        ),
    ] = None
    lanes: Annotated[
        int | None, Parameter(help="Threads a worker that load and score beside the model.")
    ] = None
    cluster: Annotated[
        str | None,
        Parameter(metavar="ADDRESS|local", help="Work on a Ray cluster, or on one started here."),
    ] = None
    workers: Annotated[
        int | None, Parameter(help="Workers on the cluster; as many as fit unless told.")
    ] = None
    worker_cpus: Annotated[float | None, Parameter(help="Cores of a worker.")] = None
    worker_gpus: Annotated[
        float | None, Parameter(help="GPUs of a worker, 0.5 for two on one; 1 with --device cuda.")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class OutputArguments:
    """Where results go."""

    out: Annotated[
        Path | None, Parameter(help="Folder for the record; bench-runs/... unless told.")
    ] = None
    note: Annotated[
        str | None, Parameter(help="Kept in the record, such as where the weights come from.")
    ] = None
    json: Annotated[bool, Parameter(help="Print one JSON document on standard output.")] = False
    quiet: Annotated[bool, Parameter(help="Say only what is wrong.")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class TimingArguments:
    """How times are measured."""

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
    """How a student is trained; what is not said comes from --config, else from its defaults."""

    scheme: Annotated[
        str, Parameter(help="decoupled, semi-coupled, coupled or decoder-tuning.")
    ] = "decoupled"
    student: Annotated[
        str, Parameter(help="tinyvit-5m, tinyvit-5m-half, tinyvit-5m-512, mini, or a JSON file.")
    ] = "tinyvit-5m"
    start: Annotated[
        Path | None, Parameter(help="A student to go on from, as for decoder-tuning.")
    ] = None
    imagenet: Annotated[
        Path | None, Parameter(help="timm's tiny_vit_5m_224, to initialise the encoder.")
    ] = None
    store: Annotated[Path | None, Parameter(help="Embeddings, from distill embed.")] = None
    images: Annotated[Path | None, Parameter(help="Folder that the store was made of.")] = None
    scenes: Annotated[int, Parameter(help="Synthetic scenes, where no store is given.")] = 3500
    scenes_seed: Annotated[int, Parameter(help="Of those scenes.")] = 7_306_142
    config: Annotated[Path | None, Parameter(help="JSON file of a TrainConfig.")] = None
    steps: Annotated[int | None, Parameter(help="Steps of the optimiser.")] = None
    batch_size: Annotated[int | None, Parameter(help="Images a step, over all processes.")] = None
    micro_batch: Annotated[int | None, Parameter(help="Images that go through at once.")] = None
    learning_rate: Annotated[float | None, Parameter(help="Highest rate of AdamW.")] = None
    warmup_steps: Annotated[int | None, Parameter(help="Steps in which the rate rises.")] = None
    precision: Annotated[
        str | None, Parameter(name="--train-precision", help="fp32, bf16 or fp16.")
    ] = None
    checkpoint_every: Annotated[int | None, Parameter(help="Steps between checkpoints.")] = None
    augment: Annotated[
        bool | None, Parameter(help="Mirror and recolour; not with stored embeddings.")
    ] = None
    evaluate: Annotated[
        int | None,
        Parameter(help="At the start and each checkpoint, mIoU on N images; none unless told."),
    ] = None
    evaluate_images: Annotated[
        Path | None, Parameter(help="COCO folder of those; drawn scenes unless told.")
    ] = None
    evaluate_annotations: Annotated[Path | None, Parameter(help="Their instances file.")] = None
    evaluate_protocol: Annotated[
        str, Parameter(help="Accuracy protocols, separated by commas.")
    ] = "box,center"


@Parameter(name="*")
@dataclass(frozen=True)
class RegressArguments:
    """Which versions are compared, and how thoroughly."""

    base: Annotated[str, Parameter(help="The commit, branch or tag to compare with.")]
    head: Annotated[
        str | None, Parameter(help="The one in question; the working tree unless told.")
    ] = None
    models: Annotated[str, Parameter(help="Whose times and memory are measured.")] = (
        "mobilesam-mini"
    )
    accuracy_models: Annotated[
        str | None,
        Parameter(help="Whose accuracy is; the shipped ones, or grabcut and dummy; '' for none."),
    ] = None
    n_prompts: Annotated[str, Parameter(help="Numbers of prompts to decode.")] = "1,10"
    pairs: Annotated[int, Parameter(help="Sets of fresh processes for each model.")] = 4
    turns: Annotated[int, Parameter(help="Turns of each phase in each of them.")] = 8
    scenes: Annotated[int, Parameter(help="Drawn scenes that accuracy is measured on.")] = 12
    threads: Annotated[int, Parameter(help="Threads a model is given; one is least noisy.")] = 1
    out: Annotated[Path | None, Parameter(help="Folder for the records.")] = None
    quiet: Annotated[bool, Parameter(help="Say only what is wrong.")] = False
