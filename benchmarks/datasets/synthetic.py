"""A dataset of scenes rendered from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.datasets.dataset import (
    Dataset,
    Instance,
    LoadedImage,
    Sample,
    Shard,
    consecutive_shards,
)
from benchmarks.datasets.masks import encode_mask, rle_area_px, rle_box
from benchmarks.datasets.parsing import fingerprint
from benchmarks.datasets.scene import (
    DEFAULT_OBJECTS,
    DEFAULT_SIZE_HW,
    MAX_OBJECTS,
    RECIPE,
    Scene,
    check_request,
    render_scene,
)
from mobilesam.errors import UsageError


class SyntheticDataset(Dataset):
    """Scenes of `render_scene`; scene i depends only on the seed and on i.

    The name, such as `synthetic:seed=0,n=20`, includes size and number of objects if they are not
    the default.

    Args:
        n_images: Number of scenes.
        seed: Not negative.
        size_hw: Height and width of each scene, in pixels.
        n_objects: Smallest and largest number of objects of a scene, both included.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(
        self,
        n_images: int,
        seed: int,
        size_hw: tuple[int, int] = DEFAULT_SIZE_HW,
        n_objects: tuple[int, int] = DEFAULT_OBJECTS,
    ) -> None:
        if n_images < 1 or seed < 0:
            raise UsageError(f"n_images {n_images} must be 1 or more, and seed {seed} 0 or more")
        check_request(size_hw, n_objects)
        name = f"synthetic:seed={seed},n={n_images}"
        if size_hw != DEFAULT_SIZE_HW:
            name += f",size={size_hw[0]}x{size_hw[1]}"
        if n_objects != DEFAULT_OBJECTS:
            name += f",objects={n_objects[0]}-{n_objects[1]}"
        super().__init__(name)
        self._n_images = n_images
        self._seed = seed
        self._size_hw = size_hw
        self._n_objects = n_objects

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the version of the recipe and all arguments."""
        text = f"recipe={RECIPE} seed={self._seed} size={self._size_hw} objects={self._n_objects}"
        return fingerprint("synthetic", self._n_images, [text.encode()])

    @property
    def n_images(self) -> int:
        """Number of scenes."""
        return self._n_images

    def scene(self, index: int) -> Scene:
        """Renders a scene; the index may be `n_images` or larger."""
        rng = np.random.default_rng([self._seed, index])
        return render_scene(rng, self._size_hw, self._n_objects)

    def sample(self, index: int) -> Sample:
        """Renders a scene with its annotations."""
        scene = self.scene(index)
        instances = []
        for number, (mask, category) in enumerate(zip(scene.masks, scene.categories, strict=True)):
            rle = encode_mask(mask)
            # Ids start at 1, since COCO's evaluation treats an annotation id of 0 as "no match".
            annotation_id = index * MAX_OBJECTS + number + 1
            area_px = float(rle_area_px(rle))
            instances.append(Instance(annotation_id, category, area_px, rle_box(rle), rle))
        return Sample(index, _file_name(index), scene.image, tuple(instances))

    def samples(self) -> Iterator[Sample]:
        """Yields the scenes in order, each rendered when it is due."""
        return map(self.sample, range(self._n_images))

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields shards of consecutive scenes."""
        indices = range(self._n_images)
        readers = [partial(_load, self, index) for index in indices]
        images = [(index, _file_name(index)) for index in indices]
        return consecutive_shards(self, readers, images, images_per_shard)


def _load(dataset: SyntheticDataset, index: int) -> LoadedImage:
    return LoadedImage(dataset.sample(index))


def _file_name(index: int) -> str:
    return f"scene_{index:06d}.png"
