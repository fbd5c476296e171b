"""Pictures of a folder as a training set: those whose embedding a store holds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.datasets.images import load_image
from benchmarks.datasets.limits import PIXELS_CEILING
from mobilesam.distillation.samples import TrainingSample
from mobilesam.distillation.store import EmbeddingStore
from mobilesam.distillation.store_format import image_key
from mobilesam.errors import DataError


class StoredPictures:
    """Reads a picture whenever it is due, so that any number of them takes no memory.

    A picture that could not be read when the store was made has no embedding, and is no part of
    this set either.

    Args:
        folder: That the names in the store are relative to.
        store: Of the teacher's embeddings.

    Raises:
        DataError: The store is empty, or its first picture is not in the folder.
    """

    def __init__(self, folder: Path, store: EmbeddingStore) -> None:
        if not len(store):
            raise DataError("the embedding store is empty: there is nothing to learn from")
        self._folder = folder
        self._entries = store.entries
        self.fingerprint = f"store:{len(store)}:{store.entries[0].key}:{store.entries[-1].key}"
        self.sample(0)

    def __len__(self) -> int:
        return len(self._entries)

    def sample(self, index: int) -> TrainingSample:
        """The picture of entry `index` at its own size.

        Raises:
            DataError: It is gone, unreadable, or another one than when its embedding was made.
        """
        entry = self._entries[index]
        # Whoever made the store has let it in, whatever its size.
        image = load_image(self._folder / entry.name, entry.name, None, PIXELS_CEILING)
        if image_key(image) != entry.key:
            raise DataError(
                f"{self._folder / entry.name} is not the picture that its stored embedding was "
                "made of; run distill embed over this folder again"
            )
        return TrainingSample(entry.key, image)
