"""The command `predict`: masks of one image, for a prompt or for all objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines
from benchmarks.config.options import (
    DATA_GROUP,
    MODEL_GROUP,
    OUTPUT_GROUP,
    PROMPT_GROUP,
    DataArguments,
    ModelArguments,
    PrintJson,
)
from mobilesam.errors import UsageError

DEFAULT_DETECTOR = "fastsam-s"
"""Detector whose boxes are the prompts, as in MobileSAMv2 (arXiv 2312.09579)."""


def predict(
    image: Path,
    /,
    *,
    model: Annotated[
        str, Parameter(group=MODEL_GROUP, help="Name of one model, or ./FILE.py:FACTORY.")
    ],
    point: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="X,Y[,0|1]",
            group=PROMPT_GROUP,
            help="A point in pixels, 0 for background; repeatable.",
        ),
    ] = (),
    box: Annotated[
        str | None, Parameter(metavar="X0,Y0,X1,Y1", group=PROMPT_GROUP, help="A box in pixels.")
    ] = None,
    everything: Annotated[
        bool, Parameter(group=PROMPT_GROUP, help="All objects instead, without a prompt.")
    ] = False,
    objects: Annotated[
        bool, Parameter(group=PROMPT_GROUP, help="All objects in the boxes of a detector.")
    ] = False,
    boxes_from: Annotated[
        str | None,
        Parameter(metavar="MODEL", group=PROMPT_GROUP, help="That detector; fastsam-s by default."),
    ] = None,
    out: Annotated[
        Path, Parameter(group=OUTPUT_GROUP, help="Image with the masks drawn over it.")
    ] = Path("overlay.png"),
    mask: Annotated[
        Path | None,
        Parameter(
            group=OUTPUT_GROUP,
            help="PNG file for the mask, 255 on the object; with several objects for their "
            "numbers, as in --json, 0 for background.",
        ),
    ] = None,
    weights: Annotated[
        tuple[str, ...],
        Parameter(metavar="NAME=PATH", group=MODEL_GROUP, help="Local weights."),
    ] = (),
    offline: Annotated[bool, Parameter(group=MODEL_GROUP, help="Download nothing.")] = False,
    trust: Annotated[
        bool,
        Parameter(group=MODEL_GROUP, help="Load pickled checkpoints of unknown hash."),
    ] = False,
    device: Annotated[str, Parameter(group=MODEL_GROUP, help="cpu, cuda, cuda:1, mps, ...")] = (
        ModelArguments.device
    ),
    max_pixels: Annotated[
        int, Parameter(group=DATA_GROUP, help="Larger images are refused.")
    ] = DataArguments.max_pixels,
    json: Annotated[PrintJson, Parameter(group=OUTPUT_GROUP)] = False,
) -> int:
    """Segment one object of one image, or all of them, and draw the masks over it."""
    from benchmarks.cli.segment import parse_prompts, segment_all, segment_one
    from benchmarks.config.from_options import check_max_pixels
    from benchmarks.datasets.images import load_image

    if mask is not None and mask.suffix.lower() != ".png":
        raise UsageError(f"--mask writes a .png file, which keeps every pixel; got {mask}")
    models = ModelArguments(
        models=model, weights=weights, offline=offline, trust=trust, device=device
    )
    prompts = None
    if everything or objects or boxes_from is not None:
        if point or box is not None or (everything and (objects or boxes_from is not None)):
            raise UsageError("give --point and --box, or --everything, or --objects alone")
    else:
        prompts = parse_prompts(point, box)
    pixels = load_image(image, str(image), None, check_max_pixels(max_pixels))
    if prompts is None:
        detector = None if everything else boxes_from or DEFAULT_DETECTOR
        document, text = segment_all(pixels, models, detector, out, mask)
    else:
        document, text = segment_one(pixels, models, prompts, out, mask, image.name)
    if json:
        print_json(document)
    else:
        files = f"overlay in {out}" + ("" if mask is None else f", mask in {mask}")
        print_lines(f"{text}; {files}")
    return 0
