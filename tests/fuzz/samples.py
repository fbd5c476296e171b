"""Small valid files of all formats, which the fuzz tests damage."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from typing import Any

import numpy as np
from PIL import Image

SIZE_HW = (8, 10)


def picture(kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """An image of `SIZE_HW`."""
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def rle() -> dict[str, Any]:
    """The mask of a rectangle."""
    from benchmarks.datasets.masks import encode_mask

    mask = np.zeros(SIZE_HW, np.bool_)
    mask[2:5, 3:7] = True
    return dict(encode_mask(mask))


def coco() -> dict[str, Any]:
    """An instances file of two images, with masks in all notations."""
    masks = [[[3, 2, 7, 2, 7, 5, 3, 5]], rle(), {"size": list(SIZE_HW), "counts": [3, 5, 72]}]
    images = [
        {"id": n, "file_name": f"{n}.jpg", "height": SIZE_HW[0], "width": SIZE_HW[1]}
        for n in (1, 2)
    ]
    rows = [
        {"id": 10 + n, "image_id": 1 + n % 2, "category_id": 7, "iscrowd": 0, "area": 12.0,
         "bbox": [3, 2.5, 4, 3], "segmentation": mask}
        for n, mask in enumerate(masks * 2)
    ]  # fmt: skip
    return {"images": images, "annotations": rows, "categories": [{"id": 7, "name": "cat"}]}


def results() -> list[dict[str, Any]]:
    """A detector's boxes for `coco`."""
    box = {"image_id": 1, "category_id": 7, "bbox": [1, 1.5, 4, 4], "score": 0.5}
    return [box, {**box, "image_id": 2}, {**box, "score": 1}]


def sa1b(image_id: int = 1) -> dict[str, Any]:
    """The JSON beside an image of SA-1B."""
    row = {"id": 1, "bbox": [3, 2, 3, 2], "area": 12, "segmentation": rle(),
           "point_coords": [[4.5, 3.0]], "predicted_iou": 0.9}  # fmt: skip
    return {
        "image": {"image_id": image_id, "width": SIZE_HW[1], "height": SIZE_HW[0]},
        "annotations": [row, row | {"id": 2}, row | {"id": 3, "bbox": None}],
    }


def tar(kind: int, long: bool) -> bytes:
    """A tar with two pairs; with `long`, long names and headers, a link and a folder."""
    members = [
        (f"{'deep/' * 30 if long else './'}sa_{n}.{suffix}", data)
        for n in (1, 2)
        for suffix, data in (("jpg", picture()), ("json", json.dumps(sa1b(n)).encode()))
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if long and kind == tarfile.PAX_FORMAT:
                member.pax_headers = {"mtime": "1.5", "comment": "é" * 40}
            archive.addfile(member, io.BytesIO(data))
        for name, flag in (("sa_3.jpg", tarfile.SYMTYPE), ("folder", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = flag, "/etc/passwd"
            if long:
                archive.addfile(member)
    return buffer.getvalue()


def with_checksums(data: bytes) -> bytes:
    """The same tar with correct checksums in all blocks that look like headers."""
    result = bytearray(data)
    for start in range(0, len(result) - 511, 512):
        if result[start + 257 : start + 262] == b"ustar":
            block = result[start : start + 512]
            total = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
            result[start + 148 : start + 156] = f"{total:06o}\0 ".encode()
    return bytes(result)


def tensors() -> dict[str, Any]:
    """A state dict."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return {
        "encoder.weight": torch.randn(4, 3, generator=generator),
        "decoder.bias": torch.arange(5),
        "half": torch.ones(2, 2, dtype=torch.float16)[:, :1],
    }


def checkpoint(*, as_zip: bool, wrapped: bool) -> bytes:
    """A file written by `torch.save`."""
    import torch

    buffer = io.BytesIO()
    content = {"model": tensors(), "epoch": 3} if wrapped else tensors()
    torch.save(content, buffer, _use_new_zipfile_serialization=as_zip)
    return buffer.getvalue()


def zip_entries(data: bytes) -> dict[str, bytes]:
    """The files in a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(entries: dict[str, bytes]) -> bytes:
    """A zip of files, all checksums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def model_file() -> bytes:
    """A safetensors file that says in its header how its model is built."""
    from dataclasses import asdict

    from safetensors.torch import save

    from mobilesam.model.sam_heads import HeadsConfig
    from mobilesam.model.tiny_vit import TinyVitConfig

    header = {"architecture": "mobilesam", "encoder": asdict(TinyVitConfig()),
              "heads": asdict(HeadsConfig()), "notes": {"by": "hand"}}  # fmt: skip
    kept = {name: value.contiguous() for name, value in tensors().items()}
    return save(kept, {"mobilesam-bench": json.dumps(header)})


def shard() -> bytes:
    """A shard of an embedding store."""
    import torch

    from mobilesam.distillation.embedding_store import Entry, Teacher, pack_shard

    teacher = Teacher(name="dummy", weights_sha256=None, precision="fp32", input_size_px=64)
    found = [
        (Entry(key=digit * 64, name=f"{digit}.png", size_hw=(8, 10), inner_hw=(51, 64)),
         torch.full((2, 3, 4), float(digit), dtype=torch.float16))
        for digit in "12"
    ]  # fmt: skip
    return pack_shard(teacher, found)


def safetensors_parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a safetensors file."""
    (n_bytes,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + n_bytes])
    return header, data[8 + n_bytes :]


def safetensors_of(header: Any, body: bytes) -> bytes:
    """A safetensors file, its length of the header right."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
