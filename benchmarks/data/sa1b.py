"""SA-1B: a JSON beside every image, in a folder or inside tar shards that are never unpacked."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from baselines.interface import Float32Array
from benchmarks.data.dataset import BadSample, Dataset, Instance, Sample
from benchmarks.data.images import load_image
from benchmarks.data.parsing import (
    Tally,
    box_of,
    check_limit,
    check_numbers,
    fingerprint,
    is_finite,
    parse_json,
    require_keys,
    whole_number,
)
from mobilesam.errors import DataError

MAX_FILE_BYTES = 256 * 2**20
"""A single image or JSON beyond this is refused rather than read into memory."""

PAIR_NAME = re.compile(r"sa_(\d{1,18})\.(jpg|json)")


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes on disk: a file, or a member of a tar by its place in it."""

    path: Path
    offset_bytes: int
    size_bytes: int

    def read(self) -> bytes:
        """All of them.

        Raises:
            DataError: They cannot be read, or are too many.
        """
        if self.size_bytes > MAX_FILE_BYTES:
            raise DataError(f"{self.size_bytes} bytes are more than {MAX_FILE_BYTES}")
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset_bytes)
                return file.read(self.size_bytes)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its annotations, found but not read."""

    image_id: int
    image: Blob
    annotations: Blob

    @property
    def name(self) -> str:
        """File name of the image."""
        return f"sa_{self.image_id}.jpg"


class SeenIds(Protocol):
    """Image ids of earlier folders and tars; a set is one."""

    def __contains__(self, image_id: object, /) -> bool: ...

    def add(self, image_id: int, /) -> None:
        """Remembers one more."""


@dataclass(slots=True)
class Index:
    """What one folder or tar holds."""

    images: dict[int, Blob] = field(default_factory=dict)
    annotations: dict[int, Blob] = field(default_factory=dict)
    bad: list[BadSample] = field(default_factory=list)

    def add(self, name: str, blob: Blob) -> None:
        """Takes note of a file; one that is neither image nor JSON is passed over."""
        match = PAIR_NAME.fullmatch(name)
        if match is None:
            return
        image_id = int(match[1])
        files = self.images if match[2] == "jpg" else self.annotations
        if image_id in files:
            self.bad.append(BadSample(image_id, name, f"{blob.path.name} holds {name} twice"))
        else:
            files[image_id] = blob

    def items(self, seen: SeenIds) -> Iterator[Pair | BadSample]:
        """Pairs and halves of pairs by ascending image id, then all that is bad besides."""
        for image_id in sorted(self.images.keys() | self.annotations.keys()):
            image, annotations = self.images.get(image_id), self.annotations.get(image_id)
            name = f"sa_{image_id}.jpg"
            if image_id in seen:
                yield BadSample(image_id, name, f"{name} is in an earlier folder or tar already")
            elif image is None:
                yield BadSample(image_id, name, f"sa_{image_id}.json has no {name} beside it")
            elif annotations is None:
                yield BadSample(image_id, name, f"{name} has no sa_{image_id}.json beside it")
            else:
                yield Pair(image_id, image, annotations)
            seen.add(image_id)
        yield from self.bad


def _index_folder(root: Path) -> Index:
    index = Index()
    for path in sorted(root.iterdir()):
        if path.is_file():
            index.add(path.name, Blob(path, 0, path.stat().st_size))
    return index


def index_tar(path: Path) -> Index:
    """Reads only the headers of a tar, seeking past the data; nothing is ever unpacked."""
    index = Index()
    file_bytes = path.stat().st_size
    whole = False
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            try:
                for member in tar:
                    _add_member(index, path, member, file_bytes)
                    # It would keep them all, at a kilobyte each.
                    tar.members.clear()  # type: ignore[attr-defined]  # typeshed lacks it
            except tarfile.TarError:
                pass  # `whole` stays False, since the end of the archive was not reached
            else:
                # tarfile takes a file that stops between two members for a whole one.
                file.seek(tar.offset)
                whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError) as error:
        index.bad.append(BadSample(-1, path.name, f"{path.name} is not a plain tar: {error}"))
        return index
    if not whole:
        why = f"{path.name} is cut off or damaged after {file_bytes} bytes; fetch it again"
        index.bad.append(BadSample(-1, path.name, why))
    return index


def _add_member(index: Index, path: Path, member: tarfile.TarInfo, file_bytes: int) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        why = f"{path.name}: the member {member.name!r} points outside; skipped"
        index.bad.append(BadSample(-1, member.name, why))
    elif member.isreg() and not member.issparse():
        if member.offset_data + member.size <= file_bytes:
            index.add(name.name, Blob(path, member.offset_data, member.size))
    elif not member.isdir():
        why = f"{path.name}: the member {member.name!r} is a link or no plain file; skipped"
        index.bad.append(BadSample(-1, member.name, why))


def find_sources(root: Path) -> list[Path]:
    """A folder of pairs or a tar as it is; a folder of tars as its tars by name."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"{root} does not exist; --root wants a folder or a .tar of SA-1B")
    try:
        names = sorted(path.name for path in root.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror}") from error
    tars = [root / name for name in names if name.endswith(".tar")]
    pairs = [root] if any(PAIR_NAME.fullmatch(name) for name in names) else []
    if not pairs and not tars:
        raise DataError(f"{root} holds neither sa_*.jpg with sa_*.json nor .tar files")
    return pairs + tars


class Sa1bDataset(Dataset):
    """Images of SA-1B with all their masks, by ascending image id within each folder or tar.

    SA-1B states boxes with inclusive maxima: `bbox` of a mask one pixel wide has width 0, so they
    are one pixel smaller than pycocotools' `toBbox`. Here boxes have half-open edges everywhere,
    so 1 is added to width and height. SA-1B's masks were themselves made by a SAM.

    Tars are read in place: first their headers, then each file when it is due, so that the order
    of files in a tar does not matter and nothing is buffered. All that is wrong with a single
    image or tar is a `BadSample`, also a lone half of a pair, a link, or a name that points
    outside. Annotations are counted in `left_out` as they are read.

    Args:
        root: A folder of `sa_N.jpg` and `sa_N.json`, a tar of such, a folder of tars, or several
            of these.
        limit: Take only the first so many pairs of image and JSON.

    Raises:
        DataError: A folder or file does not exist, or holds nothing of SA-1B.
        UsageError: The limit is below 1.
    """

    def __init__(self, root: Path | Sequence[Path], limit: int | None = None) -> None:
        check_limit(limit)
        roots = [root] if isinstance(root, Path) else list(root)
        if not roots:
            raise DataError("no SA-1B folder or tar was given")
        sources = [source for each in roots for source in find_sources(each)]
        self._name = name_of(roots)
        self._limit = limit
        self._items = tuple(_take(sources, limit))
        self._fingerprint: str | None = None
        self._tally = Tally()

    @property
    def name(self) -> str:
        """`sa1b:` and the name of the folder or tar, with how many more there are."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the limit and of the JSON bytes of all pairs taken.

        Reads every JSON when first asked for; one that cannot be read counts as empty.
        """
        if self._fingerprint is None:
            self._fingerprint = fingerprint("sa1b", self._limit, self._json_parts())
        return self._fingerprint

    @property
    def n_images(self) -> int:
        """Values that `samples` will yield, after the limit."""
        return len(self._items)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Annotations left out by the latest `samples`, by reason; complete when it ends."""
        return dict(self._tally.left_out)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each malformed annotation that the latest `samples` met."""
        return tuple(self._tally.problems)

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yields all images, each read when it is due, and a `BadSample` for all that is broken."""
        self._tally = new_tally()
        for item in self._items:
            yield item if isinstance(item, BadSample) else read_pair(item, self._tally)

    def _json_parts(self) -> Iterator[bytes]:
        for item in self._items:
            if isinstance(item, Pair):
                try:
                    yield item.annotations.read()
                except DataError:
                    yield b""


def read_pair(pair: Pair, tally: Tally) -> Sample | BadSample:
    """Reads one image with its annotations; those that are not used are counted in the tally."""
    n_instances = 0
    try:
        name = f"sa_{pair.image_id}.json"
        size_hw, rows = _parse(parse_json(pair.annotations.read(), name), name, pair.image_id)
        found = [_instance(name, row, size_hw, tally) for row in rows]
        instances = tuple(instance for instance in found if instance is not None)
        n_instances = len(instances)
        if not instances:
            raise DataError(f"{name} has no usable annotation")
        image = load_image(pair.image.read(), pair.name, size_hw)
    except DataError as error:
        return BadSample(pair.image_id, pair.name, str(error), n_instances)
    return Sample(pair.image_id, pair.name, image, instances)


def _instance(
    file: str, row: Mapping[str, Any], size_hw: tuple[int, int], tally: Tally
) -> Instance | None:
    mask = tally.usable_mask(file, row, size_hw)
    if mask is None:
        return None
    rle, area_px = mask
    return Instance(
        annotation_id=row["id"],
        category="",
        area_px=float(row.get("area", area_px)),
        box=box_of(row.get("bbox"), rle, extra_px=1),
        rle=rle,
        points=_points(row.get("point_coords"), f"{file}: annotation {row['id']}"),
    )


def new_tally() -> Tally:
    """Counts of all reasons why an annotation of SA-1B is not used."""
    return Tally("empty", "malformed")


def name_of(roots: Sequence[Path]) -> str:
    """`sa1b:` and the name of the first folder or tar, with how many more there are."""
    more = f"+{len(roots) - 1}" if len(roots) > 1 else ""
    return f"sa1b:{roots[0].resolve().name.removesuffix('.tar')}{more}"


def _take(sources: Sequence[Path], limit: int | None) -> Iterator[Pair | BadSample]:
    """Looks into one source after the other until there are enough pairs."""
    seen: set[int] = set()
    n_pairs = 0
    for source in sources:
        index = _index_folder(source) if source.is_dir() else index_tar(source)
        for item in index.items(seen):
            yield item
            n_pairs += isinstance(item, Pair)
            if n_pairs == limit:
                return


def _parse(
    document: object, name: str, image_id: int
) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """Checks one image's JSON and returns (height, width) and its annotations by id."""
    top = require_keys(document, name, "image", "annotations")
    image = require_keys(top["image"], f"{name}: image", "image_id", "height", "width")
    if image["image_id"] != image_id:
        raise DataError(f"{name} is of image_id {image['image_id']!r}; it was renamed or mixed up")
    height, width = (
        whole_number(image[key], f"{name}: {key}", low=1) for key in ("height", "width")
    )
    if not isinstance(top["annotations"], list):
        raise DataError(f"{name}: annotations is not a list")
    rows: dict[int, dict[str, Any]] = {}
    for index, value in enumerate(top["annotations"]):
        row = require_keys(value, f"{name}: annotation number {index}", "id", "segmentation")
        row_id = whole_number(row["id"], f"{name}: annotation id")
        if row_id in rows:
            raise DataError(f"{name}: annotation id {row_id} is given twice")
        check_numbers(row, f"{name}: annotation {row_id}")
        rows[row_id] = row
    return (height, width), [rows[row_id] for row_id in sorted(rows)]


def _points(value: object, where: str) -> Float32Array | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(
        isinstance(point, list) and len(point) == 2 and is_finite(point) for point in value
    ):
        raise DataError(f"{where}: point_coords {value!r} are not pairs of finite numbers")
    return np.array(value, dtype=np.float32)
