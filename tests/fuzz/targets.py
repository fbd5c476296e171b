"""Readers of user files: generated inputs, and properties of each result."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mobilesam.errors import BenchError, DataError, WeightsError

from . import samples
from .damage import HOSTILE, damaged, damaged_document

MAX_PIXELS = 1_000_000


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        name: Short name.
        inputs: Makes the strategy of inputs.
        read: Reads an input in an empty folder and asserts properties of the result; returns True
            if the result reports that something was refused.
        errors: Errors that the reader may raise.
        inputs_a_round: Number of inputs in a round of the fuzzer.
    """

    name: str
    inputs: Callable[[], st.SearchStrategy[Any]]
    read: Callable[[Any, Path], bool | None]
    errors: tuple[type[BenchError], ...] = (DataError,)
    inputs_a_round: int = 250

    def refuses(self, data: Any, folder: Path) -> bool:
        """Whether the reader refuses the input; undocumented errors are raised."""
        try:
            return bool(self.read(data, folder))
        except self.errors as error:
            require_one_line(str(error))
            return True


def require_one_line(text: str) -> None:
    """Asserts that an error text is one line that can be encoded."""
    assert text
    assert "\n" not in text
    text.encode()


def texts(document: Any) -> st.SearchStrategy[bytes]:
    """JSON of damaged documents, and some text that is no JSON."""
    good = json.dumps(document).encode()
    return st.one_of(
        damaged_document(document).map(lambda found: json.dumps(found).encode()),
        damaged_document(document).map(lambda found: json.dumps(found).encode()),
        damaged(good),
        st.binary(max_size=40),
        st.just(b"[" * 100_000),
    )


def check_samples(dataset: Any) -> bool:
    """Checks all images and failures of a dataset; returns whether there was a failure."""
    from benchmarks.datasets.dataset import UnreadableImage
    from benchmarks.evaluation.run_model import unreadable_image_failure

    n_bad = 0
    for sample in dataset.samples():
        if isinstance(sample, UnreadableImage):
            n_bad += 1
            require_one_line(sample.reason)
            unreadable_image_failure(sample).model_dump_json().encode()
            continue
        assert sample.image.dtype == np.uint8
        for instance in sample.instances:
            mask = instance.mask()
            assert mask.shape == sample.image.shape[:2]
            assert mask.any()
            assert np.isfinite(instance.box).all()
            assert (instance.box[2:] > instance.box[:2]).all()
            assert np.isfinite(instance.area_px)
            assert instance.points is None or np.isfinite(instance.points).all()
    for line in dataset.problems:
        require_one_line(line)
    assert all(count >= 0 for count in dataset.left_out.values())
    return n_bad > 0 or bool(dataset.problems)


def read_coco(data: bytes, folder: Path) -> bool:
    from benchmarks.datasets.coco import CocoDataset
    from benchmarks.datasets.detections import boxes_from_annotations, read_ground_truth

    path = folder / "instances.json"
    path.write_bytes(data)
    for name in ("1.jpg", "2.jpg"):
        (folder / name).write_bytes(samples.picture())
    dataset = CocoDataset(folder, path, max_pixels=MAX_PIXELS)
    is_bad = check_samples(dataset)
    truth = read_ground_truth(path, dataset)
    assert len(truth.in_dataset) <= dataset.n_images
    json.dumps(boxes_from_annotations(path), allow_nan=False)
    return is_bad


def read_results(data: bytes, folder: Path) -> None:
    from benchmarks.datasets.coco import CocoDataset
    from benchmarks.datasets.detections import read_detections, read_ground_truth

    annotations, path = folder / "instances.json", folder / "boxes.json"
    annotations.write_text(json.dumps(samples.coco()))
    path.write_bytes(data)
    found = read_detections(path, read_ground_truth(annotations, CocoDataset(folder, annotations)))
    for boxes in found.by_image.values():
        for box in boxes:
            assert (box.box[2:] > box.box[:2]).all()
            assert np.isfinite(box.score)
    for line in found.problems:
        require_one_line(line)


def read_sa1b(data: bytes, folder: Path) -> bool:
    from benchmarks.datasets.sa1b import Sa1bDataset

    (folder / "sa_1.jpg").write_bytes(samples.picture())
    (folder / "sa_1.json").write_bytes(data)
    dataset = Sa1bDataset(folder, max_pixels=MAX_PIXELS)
    assert len(dataset.fingerprint) == 64
    return check_samples(dataset)


def read_tar(data: bytes, folder: Path) -> bool:
    from benchmarks.datasets.sa1b import Sa1bDataset

    path = folder / "shard.tar"
    path.write_bytes(data)
    dataset = Sa1bDataset(path, max_pixels=MAX_PIXELS)
    is_bad = check_samples(dataset)
    assert sorted(each.name for each in folder.iterdir()) == ["shard.tar"]
    in_shards = [image_id for shard in dataset.shards(1) for image_id, _ in shard.images]
    assert in_shards == [each.image_id for each in dataset.samples()]
    return is_bad


def read_mask(given: tuple[Any, tuple[int, int]], folder: Path) -> None:
    from baselines.pixels import mask_box
    from benchmarks.datasets.masks import (
        decode_mask,
        rle_area_px,
        rle_box,
        segmentation_to_rle,
    )

    segmentation, size_hw = given
    rle = segmentation_to_rle(segmentation, size_hw)
    mask = decode_mask(rle)
    assert mask.shape == size_hw
    assert mask.dtype == np.bool_
    assert rle_area_px(rle) == mask.sum()
    assert tuple(rle_box(rle)) == (mask_box(mask) or (0, 0, 0, 0))
    json.dumps(rle)


def read_checkpoint(data: bytes, folder: Path) -> None:
    from mobilesam.model.state_dicts import load_state_dict_file

    path = folder / "weights.pt"
    path.write_bytes(data)
    check_tensors(load_state_dict_file(path))


def read_safetensors(data: bytes, folder: Path) -> None:
    from mobilesam.model.model_files import read_shape
    from mobilesam.model.state_dicts import load_state_dict_file

    path = folder / "weights.safetensors"
    path.write_bytes(data)
    for architecture in ("mobilesam", "sam-mini"):
        try:
            shape = read_shape(path, architecture)
        except WeightsError as error:
            require_one_line(str(error))
        else:
            assert shape is None or shape.architecture == architecture
    check_tensors(load_state_dict_file(path))


def read_shard(data: bytes, folder: Path) -> None:
    from mobilesam.distillation import embedding_store

    path = folder / "shard-000000.safetensors"
    path.write_bytes(data)
    check_tensors({entry.name: tensor for entry, tensor in embedding_store.read_shard(path)})


def check_tensors(found: dict[str, Any]) -> None:
    """Asserts that tensors are dense and that all their memory is accessible."""
    import torch

    assert found
    for name, tensor in found.items():
        assert type(name) is str
        assert isinstance(tensor, torch.Tensor)
        if tensor.numel() < 100_000:
            assert tensor.clone().shape == tensor.shape


def read_image(data: bytes, folder: Path) -> None:
    from benchmarks.datasets.images import load_image

    pixels = load_image(data, "image", max_pixels=MAX_PIXELS)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.size <= 3 * MAX_PIXELS


def masks() -> st.SearchStrategy[tuple[Any, tuple[int, int]]]:
    sizes = st.one_of(st.just(samples.SIZE_HW), st.tuples(st.integers(1, 40), st.integers(1, 40)))
    coordinates = st.one_of(st.integers(-50, 90), st.floats(-50, 90), HOSTILE)
    polygons = st.lists(st.lists(coordinates, max_size=12), max_size=3)
    smooth = st.lists(
        st.lists(st.floats(-40, 80), min_size=6, max_size=16).map(lambda row: row[: len(row) & ~1]),
        max_size=3,
    )
    counts = st.one_of(
        st.lists(st.integers(0, 90), max_size=8),
        st.lists(HOSTILE, max_size=4),
        st.text(st.characters(min_codepoint=47, max_codepoint=112), max_size=20),
        st.binary(max_size=20),
        HOSTILE,
    )
    size_of = st.one_of(st.just(list(samples.SIZE_HW)), HOSTILE)
    rles = st.fixed_dictionaries({"size": size_of, "counts": counts})
    given = st.one_of(polygons, smooth, rles, damaged_document({"a": samples.rle()}), HOSTILE)
    return st.tuples(given.map(lambda found: _inner(found)), sizes)


def _inner(found: Any) -> Any:
    return found["a"] if isinstance(found, dict) and "a" in found else found


def tars() -> st.SearchStrategy[bytes]:
    kinds = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    good = [samples.tar(kind, long) for kind in kinds for long in (False, True)]
    each = [damaged(data, head_bytes=512) for data in good]
    headers = [_damaged_headers(data) for data in good]
    return st.one_of(*headers, *(found.map(samples.with_checksums) for found in each), *each)


def _damaged_headers(data: bytes) -> st.SearchStrategy[bytes]:
    """Copies of a tar with fields of headers replaced and checksums corrected."""
    starts = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    fields = [(0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155)]
    values = st.one_of(
        st.binary(max_size=16),
        st.sampled_from([b"\xff" * 12, b"\x80" + b"\0" * 10 + b"\x01", b"7" * 11 + b"\0", b"-1\0"]),
        st.sampled_from([b"x", b"g", b"L", b"K", b"S", b"1", b"2", b"3", b"5", b"D", b"\0", b"V"]),
        st.sampled_from([b"../../sa_1.jpg\0", b"/sa_1.json\0", b"sa_1.jpg\0", b"sa_\xff.jpg\0"]),
    )
    edits = st.lists(
        st.tuples(st.sampled_from(starts), st.sampled_from(fields), values), min_size=1, max_size=4
    )

    def apply(found: list[tuple[int, tuple[int, int], bytes]]) -> bytes:
        result = bytearray(data)
        for start, (offset, width), value in found:
            result[start + offset : start + offset + min(width, len(value))] = value[:width]
        return samples.with_checksums(bytes(result))

    return edits.map(apply)


def checkpoints(*, as_zip: bool) -> st.SearchStrategy[bytes]:
    good = [samples.checkpoint(as_zip=as_zip, wrapped=wrapped) for wrapped in (True, False)]
    whole = [damaged(data, head_bytes=800) for data in good]
    if not as_zip:
        return st.one_of(*whole)
    return st.one_of(*whole, *(_damaged_entries(samples.zip_entries(data)) for data in good))


def _damaged_entries(entries: dict[str, bytes]) -> st.SearchStrategy[bytes]:
    """Copies of a zip with one file damaged, mostly the pickle, and a correct checksum."""
    pickle = next(name for name in entries if name.endswith("data.pkl"))
    names = st.one_of(st.just(pickle), st.sampled_from(sorted(entries)))
    return names.flatmap(
        lambda name: damaged(entries[name] or b"0").map(
            lambda data: samples.zip_of({**entries, name: data})
        )
    )


def safetensors(good: bytes) -> st.SearchStrategy[bytes]:
    header, body = samples.safetensors_parts(good)
    inner = json.loads(header["__metadata__"]["mobilesam-bench"])

    def with_inner(found: Any) -> bytes:
        metadata = {"mobilesam-bench": json.dumps(found)}
        return samples.safetensors_of({**header, "__metadata__": metadata}, body)

    return st.one_of(
        damaged(good, head_bytes=400),
        damaged_document(header).map(lambda found: samples.safetensors_of(found, body)),
        damaged_document(inner).map(with_inner),
    )


def pictures() -> st.SearchStrategy[bytes]:
    kinds = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
    return st.one_of(*(damaged(samples.picture(kind), head_bytes=200) for kind in kinds))


TARGETS = (
    Target("coco annotations", lambda: texts(samples.coco()), read_coco),
    Target("coco results", lambda: texts(samples.results()), read_results),
    Target("sa1b annotations", lambda: texts(samples.sa1b()), read_sa1b),
    Target("masks (rle, polygons)", masks, read_mask),
    Target("tar", tars, read_tar),
    Target("checkpoint (zip)", lambda: checkpoints(as_zip=True), read_checkpoint, (WeightsError,)),
    Target(
        "checkpoint (legacy)", lambda: checkpoints(as_zip=False), read_checkpoint, (WeightsError,)
    ),
    Target(
        "safetensors model",
        lambda: safetensors(samples.model_file()),
        read_safetensors,
        (WeightsError,),
    ),
    Target("safetensors shard", lambda: safetensors(samples.shard()), read_shard),
    Target("image", pictures, read_image),
)
