"""COCO instances, read by our own parser: it names what is wrong, and prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.data.dataset import BadSample, Instance, Sample
from benchmarks.data.images import load_image
from benchmarks.data.parsing import (
    Tally,
    box_of,
    check_limit,
    check_numbers,
    fingerprint,
    parse_json,
    read_file,
    require_keys,
    whole_number,
)
from benchmarks.data.parts import CutDataset, Loaded, Part
from mobilesam.errors import DataError


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image of the annotation file with its usable instances."""

    image_id: int
    file_name: str
    size_hw: tuple[int, int]
    instances: tuple[Instance, ...]


class CocoDataset(CutDataset):
    """Images and instances of a COCO annotation file, by ascending image id.

    Crowd annotations (`iscrowd` 1), annotations whose mask has no pixel, and single malformed
    ones are left out and counted; an image that has no other is not part of the dataset. With a
    limit, only annotations of images up to the last one taken are looked at, and counted.

    Args:
        images: Folder that holds the image files.
        annotations: The instances JSON.
        limit: Take only the first so many images that have a usable instance.

    Raises:
        DataError: The folder or the file is missing or unreadable, or the file as a whole cannot
            be trusted: not JSON, a key missing, an id given twice or pointing nowhere, a box or
            area that is not a number.
        UsageError: The limit is below 1.
    """

    def __init__(self, images: Path, annotations: Path, limit: int | None = None) -> None:
        check_limit(limit)
        if not images.is_dir():
            raise DataError(f"{images} is not a folder; --images wants the folder of image files")
        self._folder = images
        self._name = f"coco:{annotations.stem.removeprefix('instances_')}"
        data = read_file(annotations)
        self._fingerprint = fingerprint("coco", limit, [data])
        self._tally = Tally("crowd", "empty", "malformed")
        raw = _Annotations(annotations.name, parse_json(data, annotations.name))
        self._entries = self._take(raw, limit)

    @property
    def name(self) -> str:
        """`coco:` and the annotation file's name, without `instances_`."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the annotation file's bytes and the limit."""
        return self._fingerprint

    @property
    def n_images(self) -> int:
        """Images with at least one usable instance, after the limit."""
        return len(self._entries)

    @property
    def n_instances(self) -> int:
        """Usable instances of all images."""
        return sum(len(entry.instances) for entry in self._entries)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Annotations left out, by reason; complete from the start."""
        return dict(self._tally.left_out)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each malformed annotation."""
        return tuple(self._tally.problems)

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yields the images by ascending id, each read when it is due."""
        for entry in self._entries:
            yield _read(self._folder, entry)

    def parts(self, n_images: int) -> Iterator[Part]:
        """Parts of consecutive images; what is left out of the file is known from the start."""
        for start in range(0, len(self._entries), n_images):
            entries = self._entries[start : start + n_images]
            readers = tuple(partial(_read_part, self._folder, entry) for entry in entries)
            key = f"{self._fingerprint} {start} {len(entries)}"
            yield Part(
                f"{start:08d}",
                self._name,
                fingerprint("coco-part", None, [key.encode()]),
                readers,
                tuple((entry.image_id, entry.file_name) for entry in entries),
                len(entries) / len(self._entries),
            )

    def _take(self, raw: _Annotations, limit: int | None) -> tuple[_Entry, ...]:
        entries: list[_Entry] = []
        for image_id in sorted(raw.images):
            if limit is not None and len(entries) == limit:
                break
            file_name, size_hw = raw.images[image_id]
            found = [self._instance(raw, row, size_hw) for row in raw.by_image.get(image_id, ())]
            instances = tuple(instance for instance in found if instance is not None)
            if instances:
                entries.append(_Entry(image_id, file_name, size_hw, instances))
        return tuple(entries)

    def _instance(
        self, raw: _Annotations, row: Mapping[str, Any], size_hw: tuple[int, int]
    ) -> Instance | None:
        if row.get("iscrowd"):
            self._tally.left_out["crowd"] += 1
            return None
        mask = self._tally.usable_mask(raw.file, row, size_hw)
        if mask is None:
            return None
        rle, area_px = mask
        return Instance(
            annotation_id=row["id"],
            category=raw.categories[row["category_id"]],
            area_px=float(row.get("area", area_px)),
            box=box_of(row.get("bbox"), rle, extra_px=0),
            rle=rle,
        )


def _read(folder: Path, entry: _Entry) -> Sample | BadSample:
    name = entry.file_name
    path = PurePosixPath(name)
    try:
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"the file name {name!r} leads out of the image folder")
        image = load_image(folder / path, name, entry.size_hw)
    except DataError as error:
        return BadSample(entry.image_id, name, str(error), len(entry.instances))
    return Sample(entry.image_id, name, image, entry.instances)


def _read_part(folder: Path, entry: _Entry) -> Loaded:
    return Loaded(_read(folder, entry))


class _Annotations:
    """An annotation file as a whole: its references checked, its masks not yet looked at.

    Attributes:
        file: Its name, for messages.
        images: File name and (height, width) by image id.
        categories: Name by category id.
        by_image: Annotations of an image in ascending order of their ids.
    """

    def __init__(self, file: str, document: object) -> None:
        self.file = file
        top = require_keys(document, f"{file}: top level", "images", "annotations", "categories")
        for key in ("images", "annotations", "categories"):
            if not isinstance(top[key], list):
                raise DataError(f"{file}: {key} is not a list; is this a COCO instances file?")
        self.images: dict[int, tuple[str, tuple[int, int]]] = {}
        for index, row in enumerate(top["images"]):
            self._add_image(index, row)
        self.categories: dict[int, str] = {}
        for index, row in enumerate(top["categories"]):
            fields = require_keys(row, f"{file}: category number {index}", "id", "name")
            self.categories[self._new_id(fields, "category", self.categories)] = str(fields["name"])
        self.by_image: dict[int, list[dict[str, Any]]] = {}
        seen: set[int] = set()
        for index, row in enumerate(top["annotations"]):
            self._add_annotation(index, row, seen)
        for rows in self.by_image.values():
            rows.sort(key=lambda row: int(row["id"]))

    def _new_id(self, row: Mapping[str, Any], what: str, seen: Mapping[int, Any] | set[int]) -> int:
        value = whole_number(row["id"], f"{self.file}: {what} id")
        if value in seen:
            raise DataError(f"{self.file}: {what} id {value} is given twice; ids must be unique")
        return value

    def _add_image(self, index: int, row: object) -> None:
        where = f"{self.file}: image number {index}"
        fields = require_keys(row, where, "id", "file_name", "height", "width")
        image_id = self._new_id(fields, "image", self.images)
        size = tuple(
            whole_number(fields[key], f"{self.file}: {key} of image {image_id}", low=1)
            for key in ("height", "width")
        )
        if not isinstance(fields["file_name"], str):
            raise DataError(f"{self.file}: file_name of image {image_id} is not text")
        self.images[image_id] = (fields["file_name"], (size[0], size[1]))

    def _add_annotation(self, index: int, row: object, seen: set[int]) -> None:
        fields = require_keys(
            row, f"{self.file}: annotation number {index}",
            "id", "image_id", "category_id", "segmentation",
        )  # fmt: skip
        annotation_id = self._new_id(fields, "annotation", seen)
        seen.add(annotation_id)
        where = f"{self.file}: annotation {annotation_id}"
        for key, known in (("image_id", self.images), ("category_id", self.categories)):
            value = whole_number(fields[key], f"{where}: {key}")
            if value not in known:
                raise DataError(f"{where} has {key} {value}, which the file does not define")
        check_numbers(fields, where)
        self.by_image.setdefault(fields["image_id"], []).append(fields)
