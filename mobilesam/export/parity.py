"""Differences between exported graphs and the torch model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam

from mobilesam.export.runtime import (
    Array,
    Graph,
    GraphName,
    ParityRow,
    Target,
    box_points,
    current_threads,
    graph_file,
    open_graph,
)

TOLERANCE = 1e-3
# For outputs beyond 100: float32 has seven digits, and large logits do not change a mask.
RELATIVE_TOLERANCE = 1e-5
_SEED = 20230625


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """Prompts of one kind: points (N, K, 2), labels (N, K), boxes (N, 4), masks (N, 1, g, g)."""

    name: str
    points: Array
    labels: Array
    boxes: Array | None
    masks: Array | None


def compare(sam: Sam, folder: Path, target: Target, *, int8: bool = False) -> list[ParityRow]:
    """Runs torch and the exported files on fixed pseudo-random inputs.

    Args:
        sam: The exported model on the CPU, float32, in evaluation mode.
        folder: Folder of the files.
        target: Kind of the files.
        int8: Compare the quantised files, which have no tolerance.
    """
    rng = np.random.default_rng(_SEED)
    side = int(sam.image_encoder.img_size)

    def graph(name: GraphName) -> Graph:
        path = folder / graph_file(name, target, int8=int8)
        return open_graph(path, target, threads=current_threads())

    mark = ".int8" if int8 else ""
    pixels = _picture(rng, side)
    with torch.inference_mode():
        embedding = sam.image_encoder(torch.from_numpy(pixels))
    reference: Array = embedding.numpy()
    (found,) = graph("encoder")({"pixels": pixels})
    rows = [_row("encoder" + mark, "one image", "embedding", found, reference, judged=not int8)]
    graphs: dict[GraphName, Graph] = {
        "decoder": graph("decoder"),
        "mask_decoder": graph("mask_decoder"),
    }
    for case in _cases(rng, side, int(sam.prompt_encoder.mask_input_size[0])):
        name: GraphName = "decoder" if case.masks is None else "mask_decoder"
        points, labels = box_points(case.points, case.labels, case.boxes)
        inputs = {"embedding": reference, "points": points, "labels": labels}
        if case.masks is not None:
            inputs["masks"] = case.masks
        outputs = zip(
            ("logits", "scores"), graphs[name](inputs), _decode(sam, embedding, case), strict=True
        )
        rows += [
            _row(name + mark, case.name, output, ours, theirs, judged=not int8)
            for output, ours, theirs in outputs
        ]
    return rows


def _picture(rng: np.random.Generator, side: int) -> Array:
    """(1, 3, S, S) float32 normalised pixels of random blobs."""
    coarse = torch.from_numpy(rng.normal(size=(1, 3, 24, 24)).astype(np.float32))
    blobs = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    noise = rng.normal(scale=0.1, size=(1, 3, side, side)).astype(np.float32)
    picture: Array = blobs.numpy() + noise
    return picture


def _cases(rng: np.random.Generator, side: int, mask_side: int) -> Iterator[_Case]:
    kinds = itertools.product((1, 3), (0, 1, 2), (False, True), (False, True))
    for count, n_points, has_box, has_mask in kinds:
        if not n_points and not has_box:
            continue
        points = rng.uniform(0, side, (count, n_points, 2)).astype(np.float32)
        corners = np.sort(rng.uniform(0, side, (count, 2, 2)), axis=1).reshape(count, 4)
        masks = rng.normal(scale=8, size=(count, 1, mask_side, mask_side)).astype(np.float32)
        yield _Case(
            f"N={count} K={n_points}" + " box" * has_box + " mask" * has_mask,
            points,
            np.tile(np.array([1, 0])[:n_points], (count, 1)),
            corners.astype(np.float32) if has_box else None,
            masks if has_mask else None,
        )


@torch.inference_mode()
def _decode(sam: Sam, embedding: torch.Tensor, case: _Case) -> tuple[Array, Array]:
    """Predictions of segment-anything's modules."""
    sparse, dense = sam.prompt_encoder(
        points=(torch.from_numpy(case.points), torch.from_numpy(case.labels))
        if case.points.shape[1]
        else None,
        boxes=None if case.boxes is None else torch.from_numpy(case.boxes),
        masks=None if case.masks is None else torch.from_numpy(case.masks),
    )
    logits, scores = sam.mask_decoder.predict_masks(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )
    return logits.numpy(), scores.numpy()


def _row(
    graph: str, case: str, output: str, ours: Array, theirs: Array, *, judged: bool
) -> ParityRow:
    largest = float(np.abs(theirs).max())
    difference: Any = np.abs(ours - theirs).max() if ours.shape == theirs.shape else np.inf
    tolerance = max(TOLERANCE, RELATIVE_TOLERANCE * largest) if judged else None
    return ParityRow(
        graph=graph,
        case=case,
        output=output,
        max_abs=float(difference),
        largest=largest,
        tolerance=tolerance,
    )
