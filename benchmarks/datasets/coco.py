"""COCO instances, read by our own parser: it names what is wrong, and prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.datasets.coco_file import CocoAnnotation, CocoFile
from benchmarks.datasets.dataset import (
    Dataset,
    Instance,
    LoadedImage,
    Sample,
    Shard,
    UnreadableImage,
)
from benchmarks.datasets.images import files_state, load_from_folder
from benchmarks.datasets.limits import MAX_PIXELS
from benchmarks.datasets.parsing import (
    MALFORMED,
    Tally,
    check_limit,
    fingerprint,
    parse_json,
    read_file,
)
from mobilesam.errors import DataError


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image of the annotation file with its usable instances.

    Attributes:
        image_id: As in the file.
        names: Candidate paths of the image file, relative to the folder; at least one.
        size_hw: Height and width in pixels.
        instances: At least one.
    """

    image_id: int
    names: tuple[str, ...]
    size_hw: tuple[int, int]
    instances: tuple[Instance, ...]

    @property
    def name(self) -> str:
        """The image's file name."""
        return self.names[0]


class CocoDataset(Dataset):
    """Images and instances of a COCO annotation file, by ascending image id.

    Crowd annotations (`iscrowd` 1), annotations whose mask has no pixel, and single malformed
    annotations (for example a box that is not made of numbers, or an id that was used before) are
    left out and counted. An annotation of an unknown category is kept with an empty
    `Instance.category`. An image without usable annotations is not part of the dataset. An image
    whose own entry is unusable is an `UnreadableImage`. With a limit, only masks of images up to
    the last one taken are read and counted.

    Args:
        images: Folder that holds the image files.
        annotations: The instances JSON.
        limit: Take only the first so many images that have a usable instance, or are bad.
        max_pixels: Images beyond it are bad.
        name: Name of the dataset; by default `coco:` and the name of the annotation file.

    Raises:
        DataError: The folder or the file is missing or unreadable, or the file as a whole is
            unusable: it is not JSON, not in COCO's format, or has no usable annotation. The message
            states the reasons.
        UsageError: The limit is below 1.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path,
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
        name: str | None = None,
    ) -> None:
        super().__init__()
        check_limit(limit)
        if not images.is_dir():
            raise DataError(f"{images} is not a folder; --images wants the folder of image files")
        self._folder = images
        self._name = name or f"coco:{annotations.stem.removeprefix('instances_')}"
        self.max_pixels = max_pixels
        data = read_file(annotations)
        self._fingerprint = coco_fingerprint(data, limit)
        self._images_state: str | None = None
        self._tally = Tally("crowd", "empty", MALFORMED)
        document = parse_json(data, annotations.name)
        self._entries = self._take(
            CocoFile(annotations.name, document, max_pixels, self._tally), limit
        )
        if not self._entries:
            raise DataError(
                f"{annotations.name} has no usable annotation: {self._tally.why_nothing}"
            )

    @property
    def name(self) -> str:
        """The given name, or `coco:` and the annotation file's name without `instances_`."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the annotation file's bytes and the limit."""
        return self._fingerprint

    @property
    def images_state(self) -> str:
        """State of the files of all images that `samples` yields; computed on first use."""
        if self._images_state is None:
            self._images_state = self._state_of(self._entries)
        return self._images_state

    @property
    def n_images(self) -> int:
        """Images with at least one usable instance, and bad ones, after the limit."""
        return len(self._entries)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Of all that `samples` yields, ascending."""
        return tuple(entry.image_id for entry in self._entries)

    @property
    def n_instances(self) -> int:
        """Usable instances of all images."""
        return sum(len(each.instances) for each in self._entries if isinstance(each, _Entry))

    @property
    def left_out(self) -> Mapping[str, int]:
        """Annotations left out, by reason; complete from the start."""
        return dict(self._tally.left_out)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each of the first malformed annotations."""
        return tuple(self._tally.problems)

    @property
    def notes(self) -> tuple[str, ...]:
        """Hints about likely mistakes in the file, and about annotations without a category."""
        n_none = sum(
            not instance.category
            for entry in self._entries
            if isinstance(entry, _Entry)
            for instance in entry.instances
        )
        if not n_none:
            return self._tally.hints
        return (
            *self._tally.hints,
            f"{n_none} of {self.n_instances} annotations are of no category that the file names: "
            "they count, but in no category",
        )

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields shards of consecutive images; annotations were counted when the file was read."""
        step = images_per_shard or len(self._entries)
        for start in range(0, len(self._entries), step):
            entries = self._entries[start : start + step]
            key = f"{self._fingerprint} {start} {len(entries)}"
            yield Shard(
                name=f"{start:08d}",
                dataset=self._name,
                fingerprint=fingerprint("coco-shard", None, [key.encode()]),
                readers=tuple(
                    partial(_load, self._folder, self.max_pixels, entry) for entry in entries
                ),
                images=tuple((entry.image_id, entry.name) for entry in entries),
                share=len(entries) / len(self._entries),
                images_state=self._state_of(entries),
            )

    def _state_of(self, entries: Iterable[_Entry | UnreadableImage]) -> str:
        return files_state(
            (self._folder, name)
            for entry in entries
            if isinstance(entry, _Entry)
            for name in entry.names
        )

    def _take(self, raw: CocoFile, limit: int | None) -> tuple[_Entry | UnreadableImage, ...]:
        entries: list[_Entry | UnreadableImage] = []
        by_image = raw.by_image()
        for image_id in sorted(raw.images.keys() | raw.bad_images.keys()):
            if limit is not None and len(entries) == limit:
                break
            rows = by_image.get(image_id, [])
            if image_id in raw.bad_images:
                why = raw.bad_images[image_id]
                entries.append(UnreadableImage(image_id, raw.file, why, len(rows)))
                continue
            image = raw.images[image_id]
            found = [self._instance(raw, row, image.size_hw) for row in rows]
            instances = tuple(instance for instance in found if instance is not None)
            if instances:
                entries.append(_Entry(image_id, image.names, image.size_hw, instances))
        return tuple(entries)

    def _instance(
        self, raw: CocoFile, row: CocoAnnotation, size_hw: tuple[int, int]
    ) -> Instance | None:
        if row.iscrowd:
            self._tally.left_out["crowd"] += 1
            return None
        where = f"{raw.file}: annotation {row.id}"
        found = self._tally.usable(where, row, size_hw, extra_px=0)
        if found is None:
            return None
        rle, box, area_px = found
        category = "" if row.category is None else raw.categories.get(row.category, "")
        return Instance(row.id, category, area_px, box, rle)


def coco_fingerprint(data: bytes, limit: int | None) -> str:
    """SHA-256 (hex) of an annotation file's bytes and the limit on images."""
    return fingerprint("coco", limit, [data])


def _load(folder: Path, max_pixels: int, entry: _Entry | UnreadableImage) -> LoadedImage:
    if isinstance(entry, UnreadableImage):
        return LoadedImage(entry)
    try:
        image = load_from_folder(folder, entry.names, entry.size_hw, max_pixels)
    except DataError as error:
        n_instances = len(entry.instances)
        return LoadedImage(UnreadableImage(entry.image_id, entry.name, str(error), n_instances))
    return LoadedImage(Sample(entry.image_id, entry.name, image, entry.instances))
