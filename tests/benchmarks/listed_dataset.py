"""A dataset of given samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from benchmarks.datasets.dataset import Dataset, LoadedImage, Sample, Shard, UnreadableImage


class ListedDataset(Dataset):
    """Yields samples one by one, each in a shard of its own.

    Args:
        samples: Makes the samples; called anew for each pass.
    """

    def __init__(
        self, samples: Callable[[], Iterable[Sample | UnreadableImage]], n_images: int | None = None
    ) -> None:
        super().__init__("listed")
        self._make = samples
        self._n_images = n_images

    @property
    def fingerprint(self) -> str:
        return "0" * 64

    @property
    def n_images(self) -> int | None:
        return self._n_images

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        del images_per_shard
        for index, sample in enumerate(self._make()):
            reader = partial(LoadedImage, sample)
            yield Shard(
                f"{index:05d}",
                self.name,
                str(index),
                (reader,),
                ((sample.image_id, sample.name),),
                0,
            )
