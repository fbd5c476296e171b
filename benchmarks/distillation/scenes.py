"""Synthetic scenes as a training set, rendered once because rendering is slower than a step."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.child_processes import process_pool
from benchmarks.datasets.dataset import LoadedImage, Sample, Shard
from benchmarks.datasets.synthetic import RECIPE, SyntheticDataset
from benchmarks.distillation.folder_images import image_shards
from benchmarks.records.progress import Reporter
from benchmarks.records.record import write_atomic
from mobilesam.distillation.batches import TrainingSample
from mobilesam.distillation.embedding_store import image_key
from mobilesam.errors import DataError, UsageError
from mobilesam.weights.cache import cache_dir

SHARD_SCENES = 250
LABEL_SCALE = 2
"""Resolution of labels relative to the input, so that a logit cell covers many labels."""


@dataclass(frozen=True, slots=True)
class ScenesSpec:
    """Number, seed and size of scenes."""

    n_scenes: int
    seed: int  # of `SyntheticDataset`; evaluations must use another one
    side_px: int  # longest side of the images
    shard_scenes: int = SHARD_SCENES  # scenes a file

    def __post_init__(self) -> None:
        if min(self.n_scenes, self.side_px, self.shard_scenes) < 1 or self.seed < 0:
            raise UsageError(f"cannot render {self}: numbers must be positive")

    @property
    def folder_name(self) -> str:
        """Name that contains all settings except the number of scenes."""
        return f"scenes-recipe{RECIPE}-seed{self.seed}-{self.side_px}px"

    @property
    def n_shards(self) -> int:
        """Number of files of images."""
        return -(-self.n_scenes // self.shard_scenes)

    def path(self, root: Path, kind: str, shard: int) -> Path:
        """File of the `images` or `labels` of a shard."""
        return root / self.folder_name / f"{kind}-{shard:05d}.npy"


class SceneCache:
    """Rendered scenes as a training set and as images to embed; see `render_scenes`."""

    def __init__(self, root: Path, spec: ScenesSpec) -> None:
        self.spec = spec
        self.n_images = spec.n_scenes
        self.name = self.fingerprint = f"{spec.folder_name}-{spec.n_scenes}"
        self._images: list[npt.NDArray[np.uint8]] = []
        self._labels: list[npt.NDArray[np.uint8]] = []
        for shard in range(spec.n_shards):
            for kind, maps in (("images", self._images), ("labels", self._labels)):
                path = spec.path(root, kind, shard)
                try:
                    maps.append(np.load(path, mmap_mode="r"))
                except (OSError, ValueError) as error:
                    raise DataError(
                        f"{path} is missing or cut short; delete it and render again"
                    ) from error
                if len(maps[-1]) != spec.shard_scenes:
                    raise DataError(
                        f"{path} holds {len(maps[-1])} scenes instead of {spec.shard_scenes}; "
                        "delete it and render again"
                    )

    def __len__(self) -> int:
        return self.n_images

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields the scenes in shards without instances, for a teacher's encoder."""
        names = [_scene_name(index) for index in range(self.n_images)]
        return image_shards(
            self.name, names, lambda index: partial(self._load, index), images_per_shard
        )

    def _load(self, index: int) -> LoadedImage:
        return LoadedImage(Sample(index, _scene_name(index), self.sample(index).image, ()))

    def sample(self, index: int) -> TrainingSample:
        """Scene `index`, copied from the cache."""
        shard, row = divmod(index, self.spec.shard_scenes)
        image = np.array(self._images[shard][row])
        return TrainingSample(image_key(image), image, labels=np.array(self._labels[shard][row]))


def _scene_name(index: int) -> str:
    return f"scene_{index:06d}"


def scenes_root() -> Path:
    """Default folder of all rendered scenes; a scene of 256 px takes about 0.3 MB."""
    return cache_dir() / "scenes"


def render_scenes(root: Path, spec: ScenesSpec, workers: int = 1) -> Iterator[int]:
    """Renders missing files of scenes, each written atomically.

    Yields the number of rendered scenes, after each file.
    """
    # The file of images is written last, and marks the pair as complete.
    shards = range(spec.n_shards)
    jobs = [
        (root, spec, shard) for shard in shards if not spec.path(root, "images", shard).is_file()
    ]
    ready = spec.n_shards - len(jobs)
    yield ready * spec.shard_scenes
    if not jobs:
        return
    with ExitStack() as stack:
        if workers == 1:
            done: Iterator[int] = map(_render_shard, jobs)
        else:
            pool = stack.enter_context(process_pool(workers))
            done = pool.imap_unordered(_render_shard, jobs)
        for _ in done:
            ready += 1
            yield ready * spec.shard_scenes


def render_with_progress(root: Path, spec: ScenesSpec, workers: int, reporter: Reporter) -> None:
    """Renders missing scenes behind a progress bar; arguments as in `render_scenes`."""
    with reporter.bar("rendering scenes", spec.n_scenes) as bar:
        for ready in render_scenes(root, spec, workers):
            bar.step(done=min(ready, spec.n_scenes))


def _render_shard(job: tuple[Path, ScenesSpec, int]) -> int:
    root, spec, shard = job
    scenes = SyntheticDataset(1, seed=spec.seed)
    images, labels = [], []
    for index in range(shard * spec.shard_scenes, (shard + 1) * spec.shard_scenes):
        scene = scenes.scene(index)
        height, width = scene.image.shape[:2]
        scale = spec.side_px / max(height, width)
        size_hw = int(height * scale + 0.5), int(width * scale + 0.5)
        resized = Image.fromarray(scene.image).resize(size_hw[::-1], Image.Resampling.BILINEAR)
        images.append(np.asarray(resized))
        numbers = np.arange(1, len(scene.masks) + 1, dtype=np.uint8)[:, None, None]
        label_map = (scene.masks * numbers).max(axis=0).astype(np.uint8)
        large = (size_hw[1] * LABEL_SCALE, size_hw[0] * LABEL_SCALE)
        nearest = Image.fromarray(label_map).resize(large, Image.Resampling.NEAREST)
        labels.append(np.asarray(nearest))
    for kind, arrays in (("labels", labels), ("images", images)):
        buffer = io.BytesIO()
        np.save(buffer, np.stack(arrays))
        write_atomic(spec.path(root, kind, shard), buffer.getvalue())
    return shard
