"""The shapes of the papers' own tables: which claim stands in which cell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """A table of a paper.

    Attributes:
        name: Stem of its files.
        title: One line.
        corner: Header of the first column.
        heads: Headers of the others.
        rows: What a row is about, and the claim in each of its cells; None leaves one empty.
    """

    name: str
    title: str
    corner: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str | None, ...]], ...]


_DISTANCES_PX = (100, 200, 300, 400, 500)
_PROMPTS = ("1", "10", "100", "e16", "e32", "e64")

LAYOUTS = (
    Layout(
        "table1",
        "Table 1 of MobileSAM: parameters of SAM's parts (mask decoder: Figure 1)",
        "Parameters",
        ("ViT-H", "ViT-L", "ViT-B", "Prompt encoder", "Mask decoder"),
        (
            (
                "M",
                (
                    "mobilesam.table1.encoder-h",
                    "mobilesam.table1.encoder-l",
                    "mobilesam.table1.encoder-b",
                    "mobilesam.table1.prompt-encoder",
                    "mobilesam.figure1.mask-decoder",
                ),
            ),
        ),
    ),
    Layout(
        "table2",
        "Table 2 of MobileSAM: coupled and decoupled distillation of ViT-B",
        "ViT-B",
        ("SAM (coupled)", "Decoupled"),
        tuple(
            (label, (f"mobilesam.table2.coupled-{key}", f"mobilesam.table2.decoupled-{key}"))
            for label, key in (
                ("mIoU", "miou"),
                ("GPUs", "gpus"),
                ("Batch", "batch"),
                ("Iterations", "iterations"),
                ("Images", "images"),
            )
        ),
    ),
    Layout(
        "table3",
        "Table 3 of MobileSAM, and its README: SAM ViT-H against MobileSAM",
        "",
        ("SAM ViT-H", "MobileSAM", "Ratio"),
        (
            (
                "Encoder, M",
                ("mobilesam.table3.sam-encoder-params", "mobilesam.table3.encoder-params", None),
            ),
            (
                "Encoder, ms",
                (
                    "mobilesam.table3.sam-encoder-latency",
                    "mobilesam.table3.encoder-latency",
                    "mobilesam.table3.encoder-speedup",
                ),
            ),
            ("Decoder, ms", (None, "mobilesam.readme.decoder-latency", None)),
            ("Decoder in v1, ms", (None, "mobilesam-v1.decoder-latency", None)),
            (
                "Pipeline, ms",
                (
                    "mobilesam.readme.sam-pipeline-latency",
                    "mobilesam.readme.pipeline-latency",
                    "mobilesam.readme.pipeline-speedup",
                ),
            ),
        ),
    ),
    Layout(
        "table4",
        "Table 4 of MobileSAM: batch, epochs and iterations of distillation",
        "Training",
        ("Batch", "Epochs", "Iterations", "mIoU"),
        tuple(
            (
                label,
                tuple(
                    f"mobilesam.table4.{key}-{each}"
                    for each in ("batch", "epochs", "iterations", "miou")
                ),
            )
            for label, key in (
                ("first", "batch4-epochs2"),
                ("second", "batch8-epochs4"),
                ("third", "batch8-epochs8"),
            )
        ),
    ),
    Layout(
        "table6",
        "Table 6 of MobileSAM: FastSAM against MobileSAM",
        "",
        ("FastSAM", "MobileSAM", "Ratio"),
        (
            (
                "Size, M",
                (
                    "mobilesam.table6.fastsam-params",
                    "mobilesam.table6.params",
                    "mobilesam.table6.size-ratio",
                ),
            ),
            (
                "Speed, ms",
                (
                    "mobilesam.table6.fastsam-latency",
                    "mobilesam.table6.latency",
                    "mobilesam.table6.speedup",
                ),
            ),
            ("Speed in v1, ms", (None, "mobilesam-v1.latency", "mobilesam-v1.table6.speedup")),
        ),
    ),
    Layout(
        "table7",
        "Table 7 of MobileSAM: mIoU for two points at a distance",
        "mIoU",
        tuple(f"{distance} px" for distance in _DISTANCES_PX),
        (
            ("FastSAM", tuple(f"mobilesam.table7.fastsam-{d}" for d in _DISTANCES_PX)),
            ("MobileSAM", tuple(f"mobilesam.table7.mobilesam-{d}" for d in _DISTANCES_PX)),
            ("MobileSAM, v1", ("mobilesam-v1.table7.mobilesam-100", None, None, None, None)),
        ),
    ),
    Layout(
        "fastsam-latency",
        "FastSAM's table of times by number of point prompts (E: segment everything)",
        "ms",
        ("1", "10", "100", "E 16^2", "E 32^2", "E 64^2"),
        tuple(
            (label, tuple(f"fastsam.latency.{key}-{n}" for n in _PROMPTS))
            for label, key in (("SAM-H", "sam-h"), ("SAM-B", "sam-b"), ("FastSAM", "fastsam"))
        ),
    ),
)
