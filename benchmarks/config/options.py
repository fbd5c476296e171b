"""Options of the command line that several commands share; attribute docstrings are their help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from baselines import DEFAULT_SELECTION
from benchmarks.datasets import MAX_PIXELS

(
    MODEL_GROUP,
    DATA_GROUP,
    PROMPT_GROUP,
    _SCALE_GROUP,
    _TIMING_GROUP,
    _FIGURE_GROUP,
    _TRAINING_GROUP,
    _VERSION_GROUP,
    OUTPUT_GROUP,
) = (
    Group(title, sort_key=place)
    for place, title in enumerate(
        (
            "Models and weights",
            "Images",
            "Prompts and scores",
            "Many images",
            "Timing",
            "Figures",
            "Training",
            "Versions to compare",
            "Output",
        ),
        start=10,
    )
)
"""Groups of options in the help of a command, below those of the command itself."""
_PROMPTS = Parameter(group=PROMPT_GROUP)

PrintJson = Annotated[bool, Parameter(help="Print one JSON document on standard output.")]
LicenceOption = Annotated[
    Literal["permissive"] | None,
    Parameter(help="permissive: only models whose code and weights have permissive licences."),
]
Quiet = Annotated[bool, Parameter(help="Print only warnings and errors.")]


@Parameter(name="*", group=MODEL_GROUP)
@dataclass(frozen=True)
class ModelArguments:
    """Selection of models, and their weights."""

    models: Annotated[str, Parameter(show_default=False)] = DEFAULT_SELECTION
    """Names, wildcards, hf:ORG/NAME, ./FILE.py:FACTORY, by commas; default: see docs/usage.md."""
    input_size: str | None = None
    """Input sizes in pixels, such as 1024,768,512, of models that allow it; each is a row."""
    licence: LicenceOption = None
    weights: Annotated[tuple[str, ...], Parameter(metavar="NAME=PATH")] = ()
    """Local weights of a model; may be repeated."""
    offline: bool = False
    """Download nothing."""
    trust: bool = False
    """Load pickled checkpoints of unknown hash: they run code."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps, ..."""
    precision: str = "fp32"
    """fp32, fp16 or bf16."""
    threads: int | None = None
    """CPU threads of a model; by default the cores that are free at the start."""
    seed: int = 0
    """Seed of scenes, order and random weights."""


@Parameter(name="*", group=MODEL_GROUP)
@dataclass(frozen=True)
class DemoModelArguments(ModelArguments):
    """Models of the demo, by default some that need no download."""

    models: str = "mobilesam-fast,mobilesam,grabcut"
    """Names, wildcards, NAME@SIZE, hf:ORG/NAME, ./FILE.py:FACTORY, separated by commas."""


@Parameter(name="*", group=DATA_GROUP)
@dataclass(frozen=True)
class DataArguments:
    """Images with reference masks."""

    dataset: Annotated[
        str,
        Parameter(
            help="photos, synthetic, coco, lvis, sa1b, masks, yolo-seg, voc, labelme, grabcut, "
            "berkeley, davis345, sbd, coco-mval, or auto (see --root)."
        ),
    ] = "photos"
    images: Path | None = None
    """COCO, LVIS, masks: folder of the images."""
    annotations: Path | None = None
    """COCO, LVIS: the instances file; masks: folder of the masks."""
    root: tuple[Path, ...] = ()
    """Folder or file of the dataset; SA-1B: a folder, a tar, or several of them."""
    ignore: int | None = None
    """masks, voc: value of pixels that are neither object nor background, such as 128 or 255."""
    ids_16_bit: bool = False
    """masks: pixels of 16-bit files are ids of objects."""
    limit: int | None = None
    """Only the first N images."""
    max_pixels: int = MAX_PIXELS
    """Larger images are refused: a small file can hold a huge one."""


@Parameter(name="*", group=DATA_GROUP)
@dataclass(frozen=True)
class EmbedDataArguments(DataArguments):
    """Images of `distill embed`: synthetic scenes unless a dataset or a folder is given."""

    dataset: str = "synthetic"
    """As of miou."""
    images: Path | None = None
    """Any folder of images; with --dataset that of the dataset."""


@Parameter(name="*", group=DATA_GROUP)
@dataclass(frozen=True)
class AccuracyArguments(DataArguments):
    """Images, prompts and reference masks of an evaluation."""

    protocol: Annotated[
        str | None,
        Parameter(
            group=PROMPT_GROUP,
            help="Accuracy protocols, by commas: box, box-multi (a box; best of 3 masks), center, "
            "center-multi, center-oracle (a click), annotation-point, random-K, clicks-K, "
            "clicks-multi-K (K clicks), noc, noc-multi (clicks until an IoU), two-point-D, "
            "box-jitter-P, point-offset-P, mask, mask-eroded, mask-dilated (robustness), "
            "detector-box, detector-box-multi (COCO AP), everything (AR); "
            "mobilesam-bench protocols explains them. Default: box,center,center-multi.",
        ),
    ] = None
    noc: Annotated[str | None, _PROMPTS] = None
    """IoUs until which clicks are counted; default: 0.8,0.85,0.9,0.95."""
    noc_ceiling: Annotated[int | None, _PROMPTS] = None
    """Clicks of the protocols noc and noc-multi; default: 20."""
    reference: Annotated[str, _PROMPTS] = "ground-truth"
    """ground-truth, teacher:NAME, or several, separated by commas."""
    detections: Annotated[Path | None, _PROMPTS] = None
    """detector-box: COCO results file with the boxes."""
    save_masks: Annotated[bool, _PROMPTS] = False
    """Keep all predicted masks: for miou --rescore and report, and as COCO results."""
    no_boundary: Annotated[bool, _PROMPTS] = False
    """Leave out boundary IoU, which takes most of the scoring time."""
    embeddings: Annotated[Path | None, _PROMPTS] = None
    """Folder where image embeddings are kept between runs."""


@Parameter(name="*", group=_SCALE_GROUP)
@dataclass(frozen=True)
class ScaleArguments:
    """Chunks of a run over many images, and the workers that evaluate them."""

    chunk: Annotated[
        int | None,
        Parameter(
            help="Stream, and keep each finished chunk of N images (500, or 8 for distill embed); "
            "the same --out resumes."
        ),
    ] = None
    lanes: int | None = None
    """Threads of a worker that load and score while the model runs."""
    cluster: Annotated[str | None, Parameter(metavar="ADDRESS|local")] = None
    """Run on a Ray cluster, or on one started here."""
    workers: int | None = None
    """Workers on the cluster; by default as many as fit."""
    worker_cpus: float | None = None
    """Cores of a worker."""
    worker_gpus: float | None = None
    """GPUs of a worker, 0.5 for two on one; 1 with --device cuda."""


@Parameter(name="*", group=OUTPUT_GROUP)
@dataclass(frozen=True)
class OutputArguments:
    """Output of a command."""

    out: Path | None = None
    """Folder for the record; by default bench-runs/..."""
    note: str | None = None
    """Text for the record, such as the origin of the weights."""
    json: PrintJson = False
    quiet: Quiet = False


@Parameter(name="*", group=_TIMING_GROUP)
@dataclass(frozen=True)
class TimingArguments:
    """Thoroughness of time measurements."""

    profile: str = "standard"
    """quick, standard or full."""
    batch: str | None = None
    """Also time encode of batches of images, of such sizes as 1,4,8."""
    publishable: bool = False
    """Wait until the machine is idle, at most 10 minutes; refuse if it stays busy."""


@Parameter(name="*", group=_FIGURE_GROUP)
@dataclass(frozen=True)
class FigureArguments:
    """Images and prompts of the figures."""

    image: tuple[Path, ...] = ()
    """An image file; repeatable."""
    point: Annotated[tuple[str, ...], Parameter(metavar="X,Y")] = ()
    """One for each --image; the centre by default."""
    box: Annotated[tuple[str, ...], Parameter(metavar="X0,Y0,X1,Y1")] = ()
    """One for each --image."""
    photo: tuple[str, ...] = ()
    """A public-domain photo of scikit-image, such as astronaut."""
    kinds: str = "point,box"
    """point, box, everything, by commas."""
    trained_only: bool = False
    """Leave out named models without weights."""
    svg: bool = False
    """Write SVG as well as PNG."""


@Parameter(name="*", group=_TRAINING_GROUP)
@dataclass(frozen=True)
class TrainArguments:
    """Training of a student; options override --config."""

    scheme: str = "decoupled"
    """decoupled, semi-coupled, coupled or decoder-tuning."""
    student: str = "tinyvit-5m"
    """tinyvit-5m, tinyvit-5m-half, tinyvit-5m-512, mini, or a JSON file."""
    start: Path | None = None
    """A student to start from, as for decoder-tuning."""
    imagenet: Path | None = None
    """timm's tiny_vit_5m_224, to initialise the encoder."""
    store: Path | None = None
    """Embeddings, from distill embed."""
    images: Path | None = None
    """Folder of the images in the store."""
    scenes: int = 3500
    """Number of synthetic scenes without --store."""
    scenes_seed: int = 7_306_142
    """Seed of these scenes."""
    config: Path | None = None
    """JSON file of a TrainConfig."""
    steps: int | None = None
    """Steps of the optimiser."""
    batch_size: int | None = None
    """Images per step, over all processes."""
    micro_batch: int | None = None
    """Images per forward pass."""
    learning_rate: float | None = None
    """Maximum learning rate of AdamW."""
    warmup_steps: int | None = None
    """Steps of the linear warm-up."""
    precision: Annotated[str | None, Parameter(name="--train-precision")] = None
    """fp32, bf16 or fp16."""
    checkpoint_every: int | None = None
    """Steps between checkpoints."""
    augment: bool | None = None
    """Mirror and recolour; not with stored embeddings."""
    evaluate: int | None = None
    """Measure mIoU on N images at the start and at each checkpoint."""
    evaluate_images: Path | None = None
    """COCO: folder of these images; synthetic scenes by default."""
    evaluate_annotations: Path | None = None
    """COCO: instances file."""
    evaluate_protocol: str = "box,center"
    """Accuracy protocols, separated by commas."""


@Parameter(name="*", group=_VERSION_GROUP)
@dataclass(frozen=True)
class RegressArguments:
    """Versions to compare, and thoroughness."""

    base: str
    """The commit, branch or tag to compare with."""
    head: str | None = None
    """The version to judge; by default the working tree."""
    models: str = "mobilesam-mini"
    """Models whose times and memory are measured."""
    accuracy_models: str | None = None
    """Models for accuracy; shipped ones, or grabcut and dummy; '' for none."""
    n_prompts: str = "1,10"
    """Numbers of prompts to decode."""
    pairs: int = 4
    """Sets of fresh processes per model."""
    turns: int = 8
    """Turns of each phase in each set."""
    scenes: int = 12
    """Synthetic scenes for accuracy."""
    threads: int = 1
    """CPU threads of a model; 1 is least noisy."""
    out: Path | None = None
    """Folder for the records."""
    quiet: Quiet = False
