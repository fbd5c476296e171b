"""The page on scale, from the committed results of the trials, with an extrapolation to SA-1B.

`python -m benchmarks.evidence.scale_page` writes `docs/scale.md`; a test fails when it is stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence.pages import ROOT, render, write_page
from benchmarks.records.documents import read_document

RESULTS, PAGE = Path("results/scale"), Path("docs/scale.md")
TRIALS = ("stream", "aggregate", "kills", "simulation")
GPUS = (1, 8, 64)
TARGETS = {
    "throughput": 1000,
    "cost_growth": 0.10,
    "memory_growth": 0.05,
    "memory_bytes": 2 * 2**30,
}


def page(results: Path) -> str:
    """The Markdown of the page, which states the trials whose JSON files are missing."""
    found = {name: read_document(results / f"{name}.json", "trial") for name in TRIALS}
    return render(
        "scale.md",
        f"{results} holds what is no result of a trial",
        **found,
        targets=TARGETS,
        assumed=Assumed(),
        measured=Measured.of,
        estimates=lambda measured, assumed: [estimate(measured, n, assumed) for n in GPUS],
    )


@dataclass(frozen=True, slots=True)
class Assumed:
    """Assumptions of the extrapolation, each with its source."""

    n_images: float = 11e6  # of SA-1B, as published (rounded)
    n_masks: float = 1.1e9  # of SA-1B, as published (rounded)
    shard_bytes: float = 11e12  # of all tars, as published (rounded)
    megapixels: float = 1.5 * 2.25  # the shorter side is 1,500 px, at 3:2 the longer 2,250 px
    encode_s: float = 0.008  # MobileSAM's encoder on one GPU, as the MobileSAM paper states it
    # SAM's decoder for one point prompt, from FastSAM's table on an RTX 3090: 627 ms with 100
    # prompts and 446 ms with one leave 1.83 ms for each of 99.
    decode_s: float = (0.627 - 0.446) / 99
    cores_per_gpu: int = 16  # of a machine with eight GPUs and 128 cores

    @property
    def masks_per_image(self) -> float:
        """Mean number of prompts of an image."""
        return self.n_masks / self.n_images

    @property
    def gpu_s_per_image(self) -> float:
        """Time of a GPU for an image under one protocol."""
        return self.encode_s + self.masks_per_image * self.decode_s


@dataclass(frozen=True, slots=True)
class Measured:
    """Results of the trial on generated shards."""

    cpu_s: float  # of a core for an image, with an instant model
    megapixels: float
    n_objects: int  # of an image
    row_bytes: float  # of a row of a finished shard

    @classmethod
    def of(cls, stream: Mapping[str, Any]) -> Measured:
        """Reads the longest run of the document of the trial `stream`."""
        run = max(stream["runs"], key=lambda each: int(each["n_images"]))
        width, height = map(int, stream["image_px"].split("x"))
        row_bytes = run["out_bytes"] / run["n_instances"]
        cpu_s = run["cpu_ms_per_image"] / 1e3
        return cls(cpu_s, width * height / 1e6, stream["n_objects"], row_bytes)

    def cpu_s_of(self, assumed: Assumed) -> float:
        """Time of a core for an image of SA-1B.

        Each mask is decoded, compared and cropped at the size of the image, so the time is taken to
        grow with the number of objects times the pixels. That is an upper bound: a part of it grows
        with the objects only (Python for each row, prompts), or with the pixels only (JPEG).
        """
        size = assumed.megapixels / self.megapixels
        return self.cpu_s * size * assumed.masks_per_image / self.n_objects


@dataclass(frozen=True, slots=True)
class Estimate:
    """All of SA-1B with a number of GPUs, each with its share of cores."""

    n_gpus: int
    gpu_h: float
    cpu_h: float
    disk_bytes_per_s: float  # of reading all shards within the longer of the two
    out_bytes: float  # of the rows of one model and one protocol

    @property
    def hours(self) -> float:
        """Hours of the slower of the two, since the work overlaps."""
        return max(self.gpu_h, self.cpu_h)

    @property
    def bottleneck(self) -> str:
        """The slower of the two."""
        return "GPU" if self.gpu_h >= self.cpu_h else "cores"


def estimate(measured: Measured, n_gpus: int, assumed: Assumed) -> Estimate:
    """Extrapolates to all of SA-1B."""
    gpu_h = assumed.n_images * assumed.gpu_s_per_image / n_gpus / 3600
    cores = n_gpus * assumed.cores_per_gpu
    cpu_h = assumed.n_images * measured.cpu_s_of(assumed) / cores / 3600
    disk_bytes_per_s = assumed.shard_bytes / (max(gpu_h, cpu_h) * 3600)
    return Estimate(n_gpus, gpu_h, cpu_h, disk_bytes_per_s, measured.row_bytes * assumed.n_masks)


if __name__ == "__main__":
    raise SystemExit(write_page(PAGE, page(ROOT / RESULTS)))
