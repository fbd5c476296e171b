"""State dicts: read from files of any origin without running code in them, and stored in int8."""

from __future__ import annotations

import logging
import re
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilesam.errors import WeightsError, foreign_call
from mobilesam.process_state import ignored_warnings

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)

WRAPPERS = ("model", "state_dict")
"""Keys under which training scripts store a state dict, next to optimiser and epoch."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes of all tensor names with DistributedDataParallel, torch.compile and Lightning."""
SCALE_SUFFIX = ".int8_scale"
"""Suffix of the names of scales of int8 tensors."""

_AGAIN = "fetch or copy the file again"
_TENSORS_ONLY = "save model.state_dict() alone, or use a .safetensors file"
_UNPACK = "is compressed with {}; unpack it, and give the checkpoint inside"
_HEAD_BYTES = 512
_ZIP = b"PK\x03\x04"
_NO_CHECKPOINTS = {  # by their first bytes
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; run git lfs pull",
    b"\x1f\x8b": _UNPACK.format("gzip"),
    b"BZh": _UNPACK.format("bzip2"),
    b"\xfd7zXZ\x00": _UNPACK.format("xz"),
    b"\x28\xb5\x2f\xfd": _UNPACK.format("zstd"),
    b"7z\xbc\xaf\x27\x1c": _UNPACK.format("7z"),
}
_FOREIGN_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")
_LARGEST_INT8 = 127


def load_state_dict_file(path: Path) -> dict[str, Tensor]:
    """Loads a state dict of `torch.save` or a `.safetensors` file on the CPU; runs no code in it.

    A state dict under one of the keys `WRAPPERS` is unwrapped, and `PREFIXES` of all names are
    removed; both are logged as warnings. The detached tensors, in the file's order, may be mapped
    from the file (copy on write): copy them into a module and do not keep them.

    Raises:
        WeightsError: The file is missing, damaged, compressed, no checkpoint, holds anything but
            tensors, is not a flat state dict, or holds NaN or infinity.
    """
    if path.suffix != ".safetensors":
        found = _flat(path, load_torch_file(path))
    else:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        read_head(path)
        try:
            found = unpack(_flat(path, load_file(path, device="cpu")), str(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(
                f"{path} is truncated or no safetensors file ({_one_line(error)}); {_AGAIN}"
            ) from error
    require_finite(found, str(path))
    return found


def require_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raises a WeightsError that names the source and its first tensor with NaN or infinity."""
    name = first_not_finite(tensors)
    if name is not None:
        raise WeightsError(
            f"{source}: {name!r} holds NaN or infinity, so the model cannot be run; "
            "give a checkpoint from before its training diverged"
        )


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; None if all are finite."""
    return next((name for name, value in tensors.items() if not is_finite(value)), None)


def is_finite(values: Tensor) -> bool:
    """Whether all values are finite; integers always are. Needs no memory for dense floats."""
    import torch

    if values.numel() == 0 or not (values.is_floating_point() or values.is_complex()):
        return True
    if values.is_complex():
        values = torch.view_as_real(values)
    if values.element_size() == 1:  # torch has no minimum of eight-bit floats on a CPU
        values = values.float()
    # Minimum and maximum propagate NaN, and an infinite value is one of the two.
    low, high = torch.aminmax(values.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def load_torch_file(path: Path) -> Any:
    """Loads tensors and plain values of `torch.save` on the CPU; no code in the file is run."""
    head = read_head(path)
    import pickle

    import torch

    def convert(error: Exception) -> WeightsError:
        """The error of this project that an error of torch stands for."""
        if not isinstance(error, pickle.UnpicklingError):
            return WeightsError(
                f"{path} is damaged or no PyTorch checkpoint ({_one_line(error)}); {_AGAIN}"
            )
        named = _FOREIGN_GLOBAL.search(str(error))
        if named is None:
            return WeightsError(f"{path} is truncated, damaged or no PyTorch checkpoint; {_AGAIN}")
        return WeightsError(
            f"{path} is a pickle that needs {named[1]} and could run code, so it was not loaded; "
            f"{_TENSORS_ONLY}"
        )

    mmap = head.startswith(_ZIP)  # only the zip format of torch >= 1.6 can be mapped
    with foreign_call(convert), ignored_warnings():
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def read_head(path: Path) -> bytes:
    """The first bytes of a file; raises a WeightsError that says why it is no checkpoint."""
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; give the path of a checkpoint file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if not head:
        raise WeightsError(f"{path} is empty; {_AGAIN}")
    for start, problem in _NO_CHECKPOINTS.items():
        if head.startswith(start):
            raise WeightsError(f"{path} {problem}")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise WeightsError(f"{path} is a web page, not a checkpoint; {_AGAIN}")
    if _TEXT.fullmatch(head):
        raise WeightsError(f"{path} is a text file, not a checkpoint; {_AGAIN}")
    if head.startswith(_ZIP):
        try:
            is_whole = zipfile.is_zipfile(path)  # whether the directory at its end exists
        except zipfile.BadZipFile:
            is_whole = False
        if not is_whole:
            raise WeightsError(f"{path} is truncated ({path.stat().st_size} bytes); {_AGAIN}")
    return head


def _flat(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict by name, without wrapper and prefixes."""
    from torch import Tensor, strided

    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, not a state dict; {_TENSORS_ONLY}"
        )
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    if wrapper is not None:
        content = content[wrapper]
        _LOG.warning("%s: took the state dict under %r", path, wrapper)
    if not content:
        raise WeightsError(f"{path} holds an empty state dict; {_TENSORS_ONLY}")
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path} is not a flat state dict: {reprlib.repr(key)} holds a "
                f"{type(value).__name__}; {_TENSORS_ONLY}"
            )
        if value.layout != strided or value.is_quantized or value.device.type != "cpu":
            raise WeightsError(
                f"{path}: {key!r} is a sparse or quantised tensor, or one without data; "
                "save dense tensors"
            )
        tensors[key] = value.detach()
    removed = ""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), ""):
        removed += prefix
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    if removed:
        _LOG.warning("%s: removed %r before the name of every tensor", path, removed)
    return tensors


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def pack(
    state: Mapping[str, Tensor], channel_dims: Mapping[str, int], full_precision: frozenset[str]
) -> dict[str, Tensor]:
    """Compresses a state dict: `channel_dims` names the dimension of the channels of int8 tensors.

    `weight ~ scale * integer`, with integers in [-127, 127] and `scale = max |weight| / 127` of
    an output channel, which follows its tensor. Others become float16 unless in `full_precision`.
    """
    import torch

    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in channel_dims:
            others = [dim for dim in range(value.ndim) if dim != channel_dims[name]]
            largest = value.abs().amax(others, keepdim=True)
            scale = largest.clamp_min(torch.finfo(torch.float32).tiny) / _LARGEST_INT8
            packed[name] = (value / scale).round().to(torch.int8)
            packed[name + SCALE_SUFFIX] = scale
        elif name in full_precision or not value.is_floating_point():
            packed[name] = value
        else:
            packed[name] = value.half()
    return packed


def unpack(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Restores the float32 tensors of a compressed state dict; other tensors do not change."""
    restored: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(SCALE_SUFFIX):
            stored = state.get(name.removesuffix(SCALE_SUFFIX))
            fits = stored is not None and value.ndim == stored.ndim
            if stored is None or not fits or value.numel() != max(value.shape, default=1):
                raise WeightsError(
                    f"{source} is damaged: {name} does not belong to an int8 tensor; {_AGAIN}"
                )
            continue
        scale = state.get(name + SCALE_SUFFIX)
        restored[name] = value if scale is None else value.float() * scale
    return restored
