"""How a run is cut into chunks, and who works on them, as a value."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_CHUNK_IMAGES = 500
DEFAULT_LANES = 2


@dataclass(frozen=True, slots=True)
class ScaleRequest:
    """How a run is cut into chunks, and who works on them.

    Attributes:
        chunk_images: Most images of a chunk.
        lanes: Threads of each worker that load and score beside the model; 0: nothing overlaps.
        cluster: Address of a Ray cluster, or `local` for one on this machine; None: this process.
        workers: Workers on the cluster; None for as many as it has room for.
        worker_cpus: Cores that each worker is given.
        worker_gpus: GPUs that each worker is given; a share of one lets several workers use it.
        tries: How often a chunk is given to a worker before it is given up.
    """

    chunk_images: int = DEFAULT_CHUNK_IMAGES
    lanes: int = DEFAULT_LANES
    cluster: str | None = None
    workers: int | None = None
    worker_cpus: float = 1.0
    worker_gpus: float = 0.0
    tries: int = 3
