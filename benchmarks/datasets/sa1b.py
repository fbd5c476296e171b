"""SA-1B: a JSON beside every image, in a folder or inside tar shards that are never unpacked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from benchmarks.datasets.dataset import BadSample, Dataset, Instance, Sample
from benchmarks.datasets.images import check_pixels, files_state, load_image
from benchmarks.datasets.limits import MAX_PIXELS
from benchmarks.datasets.parsing import (
    MALFORMED,
    CoordinatePx,
    Id,
    LengthPx,
    Row,
    Shape,
    Tally,
    check_limit,
    fingerprint,
    parse_json,
    read_row,
)
from benchmarks.datasets.sa1b_index import Pair, find_sources, name_of, roots_of, take
from mobilesam.errors import DataError


class _Image(Row):
    image_id: Id
    height: LengthPx
    width: LengthPx


class _Document(Row):
    image: _Image
    annotations: list[Any]


class _Annotation(Shape):
    point_coords: list[Annotated[list[CoordinatePx], Field(min_length=2, max_length=2)]] | None = (
        None
    )


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
        max_pixels: Images beyond it are bad.

    Raises:
        DataError: A folder or file does not exist, or holds nothing of SA-1B.
        UsageError: The limit is below 1.
    """

    def __init__(
        self,
        root: Path | Sequence[Path],
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_limit(limit)
        roots = roots_of(root)
        sources = [source for each in roots for source in find_sources(each)]
        self._name = name_of(roots)
        self._limit = limit
        self._max_pixels = max_pixels
        self._items = tuple(take(sources, limit))
        self._fingerprint: str | None = None
        self._images_state: str | None = None
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
    def images_state(self) -> str:
        """State of the image files of all pairs taken, or of their tars; computed once."""
        if self._images_state is None:
            self._images_state = files_state(
                (item.image.path.parent, item.image.path.name)
                for item in self._items
                if isinstance(item, Pair)
            )
        return self._images_state

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
        """One line for each of the first malformed annotations that the latest `samples` met."""
        return tuple(self._tally.problems)

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yields all images, each read when it is due, and a `BadSample` for all that is broken."""
        self._tally = new_tally()
        for item in self._items:
            yield (
                item
                if isinstance(item, BadSample)
                else read_pair(item, self._tally, self._max_pixels)
            )

    def _json_parts(self) -> Iterator[bytes]:
        for item in self._items:
            if isinstance(item, Pair):
                try:
                    yield item.annotations.read()
                except DataError:
                    yield b""


def read_pair(pair: Pair, tally: Tally, max_pixels: int) -> Sample | BadSample:
    """Reads one image with its annotations; those that are not used are counted in the tally."""
    n_instances, own = 0, new_tally()
    try:
        name = f"sa_{pair.image_id}.json"
        top = read_row(_Document, parse_json(pair.annotations.read(), name), name)
        if top.image.image_id != pair.image_id:
            raise DataError(
                f"{name} is of image_id {top.image.image_id}; it was renamed or mixed up"
            )
        size_hw = top.image.height, top.image.width
        check_pixels(pair.name, size_hw, max_pixels)
        rows = _rows(name, top.annotations, own)
        found = [_instance(name, row, size_hw, own) for row in rows]
        instances = tuple(instance for instance in found if instance is not None)
        n_instances = len(instances)
        if not instances:
            raise DataError(f"{name} has no usable annotation: {own.why_nothing}")
        image = load_image(pair.image.read(), pair.name, size_hw, max_pixels)
    except DataError as error:
        return BadSample(pair.image_id, pair.name, str(error), n_instances)
    finally:
        tally.add(own)
    return Sample(pair.image_id, pair.name, image, instances)


def _rows(file: str, values: Sequence[object], tally: Tally) -> list[_Annotation]:
    """The annotations of one image by id, of which the malformed ones are left out."""
    rows: dict[int, _Annotation] = {}
    for index, value in enumerate(values):
        where = f"{file}: annotation number {index}"
        try:
            row = read_row(_Annotation, value, where)
            if row.id in rows:
                raise DataError(f"{where}: annotation id {row.id} is given twice")
        except DataError as error:
            tally.malformed(str(error))
        else:
            rows[row.id] = row
    return [rows[row_id] for row_id in sorted(rows)]


def _instance(
    file: str, row: _Annotation, size_hw: tuple[int, int], tally: Tally
) -> Instance | None:
    found = tally.usable(f"{file}: annotation {row.id}", row, size_hw, extra_px=1)
    if found is None:
        return None
    rle, box, area_px = found
    points = np.array(row.point_coords, dtype=np.float32) if row.point_coords else None
    return Instance(row.id, "", area_px, box, rle, points)


def new_tally() -> Tally:
    """Counts of all reasons why an annotation of SA-1B is not used."""
    return Tally("empty", MALFORMED)
