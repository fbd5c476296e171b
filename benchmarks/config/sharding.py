"""From arguments to how a run is cut into chunks, and who works on them."""

from __future__ import annotations

from typing import Any

from benchmarks.config.options import ModelArguments, ScaleArguments
from benchmarks.config.scale_options import DEFAULT_CHUNK_IMAGES, ScaleRequest
from mobilesam.errors import UsageError


def scale_request(
    scale: ScaleArguments, models: ModelArguments, chunk_images: int = DEFAULT_CHUNK_IMAGES
) -> ScaleRequest | None:
    """How a run is cut into chunks, and who works on them; None if that is not asked for.

    Args:
        scale: The arguments.
        models: A worker with a GPU is given one.
        chunk_images: Most images of a chunk, unless `--chunk` says otherwise.

    Raises:
        UsageError: They cannot be meant.
    """
    if scale == ScaleArguments():
        return None
    if scale.cluster is None and scale != ScaleArguments(chunk=scale.chunk, lanes=scale.lanes):
        raise UsageError("--workers, --worker-cpus and --worker-gpus go with --cluster")
    given: dict[str, Any] = vars(scale) | {
        "chunk_images": chunk_images if scale.chunk is None else scale.chunk
    }
    del given["chunk"]
    if scale.worker_gpus is None and models.device.startswith("cuda"):
        given["worker_gpus"] = 1.0
    request = ScaleRequest(**{name: value for name, value in given.items() if value is not None})
    if request.chunk_images < 1 or request.lanes < 0:
        raise UsageError("--chunk must be at least 1, and --lanes at least 0")
    too_few = request.workers is not None and request.workers < 1
    if too_few or request.worker_cpus <= 0 or request.worker_gpus < 0:
        raise UsageError("--workers and --worker-cpus must be above 0, --worker-gpus at least 0")
    return request
