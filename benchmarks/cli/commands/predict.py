"""The command `predict`: masks of one image, for a prompt or for all objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines
from benchmarks.config.options import DataArguments, ModelArguments
from mobilesam.errors import UsageError

DEFAULT_DETECTOR = "fastsam-s"
"""Detector whose boxes are the prompts, as in MobileSAMv2 (arXiv 2312.09579)."""


def predict(
    image: Path,
    /,
    *,
    model: Annotated[str, Parameter(help="Name of one model.")],
    point: Annotated[
        tuple[str, ...],
        Parameter(metavar="X,Y[,0|1]", help="A point in pixels, 0 for background; repeatable."),
    ] = (),
    box: Annotated[str | None, Parameter(metavar="X0,Y0,X1,Y1", help="A box in pixels.")] = None,
    everything: Annotated[bool, Parameter(help="All objects instead, without a prompt.")] = False,
    objects: Annotated[bool, Parameter(help="All objects in the boxes of a detector.")] = False,
    boxes_from: Annotated[
        str | None, Parameter(metavar="MODEL", help="That detector; fastsam-s by default.")
    ] = None,
    out: Annotated[Path, Parameter(help="Image file to write.")] = Path("overlay.png"),
    weights: Annotated[tuple[str, ...], Parameter(metavar="NAME=PATH", help="Local weights.")] = (),
    offline: bool = False,
    trust: bool = False,
    device: str = ModelArguments.device,
    max_pixels: Annotated[int, Parameter(help="Larger images are refused.")] = (
        DataArguments.max_pixels
    ),
    json: bool = False,
) -> int:
    """Segment one object of one image, or all of them, and draw the masks over it."""
    from benchmarks.cli.segment import parse_prompts, segment_all, segment_one
    from benchmarks.config.from_options import check_max_pixels
    from benchmarks.datasets.images import load_image

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
        document, text = segment_all(pixels, models, detector, out)
    else:
        document, text = segment_one(pixels, models, prompts, out, image.name)
    if json:
        print_json(document)
    else:
        print_lines(f"{text}; overlay in {out}")
    return 0
