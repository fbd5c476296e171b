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

from benchmarks.child_processes import process_pool
from benchmarks.datasets.dataset import LoadedImage, Sample, Shard
from benchmarks.datasets.synthetic import RECIPE, SyntheticDataset
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
    """Number, seed and size of scenes.

    Attributes:
        n_scenes: Number of scenes.
        seed: Seed of `SyntheticDataset`; evaluations must use another one.
        side_px: Longest side of the images.
        shard_scenes: Scenes a file.
    """

    n_scenes: int
    seed: int
    side_px: int
    shard_scenes: int = SHARD_SCENES

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


class SceneCache:
    """Rendered scenes as a training set and as images to embed; see `render_scenes`.

    Raises:
        DataError: A file is missing, truncated or has another number of scenes.
    """

    def __init__(self, root: Path, spec: ScenesSpec) -> None:
        self.spec = spec
        self._images: list[npt.NDArray[np.uint8]] = []
        self._labels: list[npt.NDArray[np.uint8]] = []
        for shard in range(spec.n_shards):
            for kind, maps in (("images", self._images), ("labels", self._labels)):
                path = _shard_path(root, spec, kind, shard)
                maps.append(_open(path))
                if len(maps[-1]) != spec.shard_scenes:
                    raise DataError(
                        f"{path} holds {len(maps[-1])} scenes instead of {spec.shard_scenes}; "
                        "delete it and render again"
                    )

    def __len__(self) -> int:
        return self.spec.n_scenes

    @property
    def fingerprint(self) -> str:
        """Recipe, seed, size and number of the scenes."""
        return f"{self.spec.folder_name}-{self.spec.n_scenes}"

    @property
    def name(self) -> str:
        """The fingerprint."""
        return self.fingerprint

    @property
    def n_images(self) -> int:
        """Number of scenes."""
        return self.spec.n_scenes

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields the scenes in shards without instances, for a teacher's encoder."""
        step = images_per_shard or self.n_images
        for start in range(0, self.n_images, step):
            indices = range(start, min(start + step, self.n_images))
            names = [f"scene_{index:06d}" for index in indices]
            yield Shard(
                f"{start:08d}",
                self.name,
                self.fingerprint,
                tuple(partial(self._load, index) for index in indices),
                tuple(zip(indices, names, strict=True)),
                len(names) / self.n_images,
            )

    def _load(self, index: int) -> LoadedImage:
        return LoadedImage(Sample(index, f"scene_{index:06d}", self.sample(index).image, ()))

    def sample(self, index: int) -> TrainingSample:
        """Scene `index`, copied from the cache."""
        shard, row = divmod(index, self.spec.shard_scenes)
        image = np.array(self._images[shard][row])
        return TrainingSample(
            key=image_key(image),
            image=image,
            labels=np.array(self._labels[shard][row]),
        )


def scenes_root() -> Path:
    """Default folder of all rendered scenes; a scene of 256 px takes about 0.3 MB."""
    return cache_dir() / "scenes"


def render_scenes(root: Path, spec: ScenesSpec, workers: int = 1) -> Iterator[int]:
    """Renders missing files of scenes, each written atomically.

    Yields:
        Number of rendered scenes, after each file.

    Raises:
        DataError: The folder cannot be written, or the disk is full.
    """
    todo = [shard for shard in range(spec.n_shards) if not _is_complete(root, spec, shard)]
    ready = spec.n_shards - len(todo)
    yield ready * spec.shard_scenes
    if not todo:
        return
    jobs = [(root, spec, shard) for shard in todo]
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
    from PIL import Image

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
    # Images last: their file marks the pair as complete.
    for kind, arrays in (("labels", labels), ("images", images)):
        buffer = io.BytesIO()
        np.save(buffer, np.stack(arrays))
        write_atomic(_shard_path(root, spec, kind, shard), buffer.getvalue())
    return shard


def _shard_path(root: Path, spec: ScenesSpec, kind: str, shard: int) -> Path:
    return root / spec.folder_name / f"{kind}-{shard:05d}.npy"


def _is_complete(root: Path, spec: ScenesSpec, shard: int) -> bool:
    return _shard_path(root, spec, "images", shard).is_file()


def _open(path: Path) -> npt.NDArray[np.uint8]:
    try:
        mapped: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or cut short; delete it and render again") from error
    return mapped
