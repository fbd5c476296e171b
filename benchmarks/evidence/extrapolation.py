"""From what was measured here to all of SA-1B: arithmetic on stated assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is not measured here, each with its source.

    Attributes:
        n_images: Of SA-1B, as published (rounded).
        n_masks: Of SA-1B, as published (rounded).
        shard_bytes: All tars, as published (rounded).
        megapixels: Of an image: the shorter side is 1,500 px, 2,250 px the longer one at 3:2.
        encode_s: MobileSAM's encoder on one GPU, as the MobileSAM paper states it.
        decode_s: SAM's decoder for one point prompt, from FastSAM's table on an RTX 3090: 627 ms
            with 100 prompts and 446 ms with one leave 1.83 ms for each of 99.
        cores_per_gpu: Of a machine with eight GPUs and 128 cores.
    """

    n_images: float = 11e6
    n_masks: float = 1.1e9
    shard_bytes: float = 11e12
    megapixels: float = 1.5 * 2.25
    encode_s: float = 0.008
    decode_s: float = (0.627 - 0.446) / 99
    cores_per_gpu: int = 16

    @property
    def masks_per_image(self) -> float:
        """Mean number of prompts of an image."""
        return self.n_masks / self.n_images

    @property
    def gpu_s_per_image(self) -> float:
        """A GPU's time for an image under one protocol."""
        return self.encode_s + self.masks_per_image * self.decode_s


@dataclass(frozen=True, slots=True)
class Measured:
    """What the trial on generated shards gave.

    Attributes:
        cpu_s: A core's time for an image, instant model included.
        megapixels: Of an image.
        n_objects: Of an image.
        row_bytes: Of a finished chunk, for each row.
    """

    cpu_s: float
    megapixels: float
    n_objects: int
    row_bytes: float

    @classmethod
    def of(cls, stream: Mapping[str, Any]) -> Measured:
        """Reads it from the longest run of the document of `trial stream`."""
        run = max(stream["runs"], key=lambda each: int(each["n_images"]))
        width, height = map(int, stream["image_px"].split("x"))
        return cls(
            run["cpu_ms_per_image"] / 1e3,
            width * height / 1e6,
            stream["n_objects"],
            run["out_bytes"] / run["n_instances"],
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """All of SA-1B with so many GPUs.

    Attributes:
        n_gpus: Each with its share of cores.
        gpu_h: Hours if the GPUs alone decided.
        cpu_h: Hours if the cores alone decided.
        disk_bytes_per_s: Reading all shards within the longer of the two.
        out_bytes: Rows of one model and one protocol.
    """

    n_gpus: int
    gpu_h: float
    cpu_h: float
    disk_bytes_per_s: float
    out_bytes: float

    @property
    def hours(self) -> float:
        """The work overlaps, so the slower decides."""
        return max(self.gpu_h, self.cpu_h)

    @property
    def bottleneck(self) -> str:
        """Which of the two that is."""
        return "GPU" if self.gpu_h >= self.cpu_h else "cores"


def estimate(measured: Measured, n_gpus: int, assumed: Assumed) -> Estimate:
    """Extrapolates; for a core's time see `cpu_s_of`."""
    gpu_h = assumed.n_images * assumed.gpu_s_per_image / n_gpus / 3600
    cores = n_gpus * assumed.cores_per_gpu
    cpu_h = assumed.n_images * cpu_s_of(measured, assumed) / cores / 3600
    return Estimate(
        n_gpus,
        gpu_h,
        cpu_h,
        assumed.shard_bytes / (max(gpu_h, cpu_h) * 3600),
        measured.row_bytes * assumed.n_masks,
    )


def cpu_s_of(measured: Measured, assumed: Assumed) -> float:
    """A core's time for an image of SA-1B.

    Each mask is decoded, compared and cut at the image's size, so that the time is taken to grow
    with the number of objects times the pixels. That is an upper bound: a part of it (Python for
    each row, prompts) grows with the objects alone, and reading a JPEG with the pixels alone.
    """
    size = assumed.megapixels / measured.megapixels
    return measured.cpu_s * size * assumed.masks_per_image / measured.n_objects
