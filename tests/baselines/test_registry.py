from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from baselines import registry
from baselines.interface import ModelOptions
from mobilesam.errors import UsageError


def test_an_unknown_name_is_met_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'mobilsam'; did you mean mobilesam"):
        registry.select(["mobilsam"])


def test_a_hopeless_name_is_met_with_the_list() -> None:
    with pytest.raises(UsageError, match=r"known: mobilesam, mobilesam-fast, .*sam-vit-h"):
        registry.select(["qqqq"])


def test_nothing_is_no_choice() -> None:
    with pytest.raises(UsageError, match="no model named"):
        registry.select([])


def test_wildcards_choose_each_model_once_in_order() -> None:
    names = [entry.name for entry in registry.select(["box", "sam-vit-*", "sam-vit-b"])]
    assert names == ["box", "sam-vit-h", "sam-vit-l", "sam-vit-b"]


def test_wildcards_leave_out_what_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default run must not fail for want of an optional runtime; asked by name, it must."""
    monkeypatch.setattr(
        registry, "_absent", lambda names: tuple(name for name in names if name == "openvino")
    )
    monkeypatch.setattr(registry, "shipped_path", lambda file: Path("nowhere") / file)
    names = [entry.name for entry in registry.select(["mobilesam*"])]
    assert names[:3] == ["mobilesam", "mobilesam-fast", "mobilesam-fast-unpadded"]
    assert names[3:] == ["mobilesam-onnx", "mobilesam-onnx-int8"]
    (entry,) = registry.select(["mobilesam-openvino"])
    with pytest.raises(UsageError, match="mobilesam-openvino needs openvino: pip install"):
        registry.build(entry, ModelOptions(entry.name))
    with pytest.raises(UsageError, match=r"'\*openvino' matches nothing that can run: pip install"):
        registry.select(["*openvino"])


def test_wildcards_leave_out_shipped_models_without_their_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "shipped_path", lambda file: tmp_path / file)
    assert "sam-mini" not in [entry.name for entry in registry.select(["sam-*"])]
    assert [entry.name for entry in registry.select(["sam-mini"])] == ["sam-mini"]
    with pytest.raises(UsageError, match=r"'sam-m\*' matches nothing.*has no weights for it yet"):
        registry.select(["sam-m*"])
    (tmp_path / "sam-mini.safetensors").touch()
    assert "sam-mini" in [entry.name for entry in registry.select(["sam-*"])]


def test_what_exporting_takes_is_asked_for_by_wildcards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ready folder of files runs without `onnx`; a default run would have to make them."""
    monkeypatch.setattr(
        registry, "_absent", lambda names: tuple(name for name in names if name == "onnx")
    )
    monkeypatch.setattr(registry, "shipped_path", lambda file: Path("nowhere") / file)
    names = [entry.name for entry in registry.select(["mobilesam*"])]
    assert names == ["mobilesam", "mobilesam-fast", "mobilesam-fast-unpadded"]
    (entry,) = registry.select(["mobilesam-onnx"])
    assert entry.missing() == ()
    assert entry.missing_from_scratch() == ("onnx",)


def test_derived_files_are_made_only_for_models_that_run_them() -> None:
    made: list[ModelOptions] = []
    sys.modules["derive_for_test"] = type(sys)("derive_for_test")
    vars(sys.modules["derive_for_test"])["make"] = made.append
    try:
        for target in ("derive_for_test:make", None):
            entry = registry.ModelEntry("x", "baselines.classical:BoxSegmenter", "", derive=target)
            registry.derive(entry, ModelOptions("x"))
    finally:
        del sys.modules["derive_for_test"]
    assert made == [ModelOptions("x")]


def test_an_entry_point_adds_a_model(third_party: Callable[[str, str], None]) -> None:
    third_party("theirs", "baselines.classical:BoxSegmenter")
    entry = registry.select(["theirs"])[0]
    assert entry.third_party
    assert (entry.licence, entry.commercial, entry.permissive) == ("unknown", "ask", False)
    assert registry.build(entry, ModelOptions("theirs")).info.name == "theirs"


def test_an_entry_point_cannot_take_a_built_in_name(
    third_party: Callable[[str, str], None],
) -> None:
    third_party("box", "elsewhere:build")
    assert registry.entries()["box"].target == "baselines.classical:BoxSegmenter"


@pytest.mark.parametrize("target", ["no_such_module:build", "baselines.classical:no_such_thing"])
def test_a_broken_target_is_named(target: str) -> None:
    entry = registry.ModelEntry("broken", target, "")
    with pytest.raises(UsageError, match=f"broken cannot be loaded from {target}"):
        registry.build(entry, ModelOptions("broken"))


def test_a_size_behind_the_name_selects_an_input_size() -> None:
    small, own, other = registry.select(["mobilesam@512", "mobilesam@1024", "mobilesam-fast@768"])
    assert (small.name, small.input_size_px, small.checkpoint) == (
        "mobilesam@512",
        512,
        "mobilesam",
    )
    assert (own.name, own.input_size_px) == ("mobilesam", None)
    assert other.options().input_size_px == 768
    info = registry.build(small, small.options(device="meta")).info
    assert (info.name, info.input_size_px) == ("mobilesam@512", 512)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sam-vit-b@512", "sam-vit-b has one input size; these have others: mobilesam"),
        ("mobilesam@big", "no input size in pixels, such as mobilesam@512"),
        ("nobody@512", "unknown model 'nobody@512'"),
    ],
)
def test_an_impossible_size_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        registry.select([name])


def test_a_size_that_does_not_fit_the_encoder_is_refused() -> None:
    entry = registry.select_one("mobilesam@1000")
    with pytest.raises(UsageError, match=r"1000 px does not fit .* multiple of 16"):
        registry.build(entry, entry.options(device="meta"))


def test_an_extra_is_named_by_its_command() -> None:
    entry = registry.ModelEntry(
        "x", "baselines.hugging_face:build_sam2", "", requires=("no_such_pkg",), extra="hf"
    )
    with pytest.raises(
        UsageError, match=r'x needs no_such_pkg: pip install "mobilesam-bench\[hf\]"'
    ):
        registry.build(entry, entry.options())


def test_hugging_face_names_are_models() -> None:
    entry = registry.select_one("hf:facebook/sam-vit-base")
    assert entry.hugging_face
    assert entry.commercial == "ask"
    assert not registry.entries()["mobilesam"].hugging_face


def test_permissive_licences() -> None:
    permissive = {name for name, entry in registry.entries().items() if entry.permissive}
    assert {"mobilesam", "sam2.1-t", "tinysam", "grabcut"} <= permissive
    assert not permissive & {"fastsam-x", "fastsam-s", "sam3-tracker", "sam-hq-vit-b"}


def test_every_checkpoint_has_the_licence_of_its_model() -> None:
    from mobilesam.weights.checkpoint_specs import specs

    for entry in registry.entries().values():
        if entry.checkpoint is not None and entry.shipped is None:
            assert specs()[entry.checkpoint].licence == entry.weights_licence


def test_a_missing_package_is_named_with_its_cure() -> None:
    entry = registry.ModelEntry(
        "x", "baselines.classical:BoxSegmenter", "", requires=("no_such_pkg",)
    )
    with pytest.raises(UsageError, match="pip install no_such_pkg"):
        registry.build(entry, ModelOptions("x"))


def test_listing_models_imports_nothing_heavy() -> None:
    code = (
        "import sys, baselines.registry as r; r.entries(); "
        "print([m for m in ('torch', 'cv2', 'ultralytics', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ultralytics_is_imported_where_the_readme_says() -> None:
    """It is AGPL-3.0: who leaves these adapters out has nothing of it."""
    root = Path(registry.__file__).parents[1]
    importing = {
        path.relative_to(root).as_posix()
        for package in ("mobilesam", "baselines", "benchmarks", "tests")
        for path in (root / package).rglob("*.py")
        if re.search(r"^\s*(from|import) ultralytics", text := path.read_text(), re.MULTILINE)
        # Otherwise, it would change Pillow, OpenCV and torch for the tests that follow.
        and (package != "tests" or "import_ultralytics()" not in text)
    }
    # The test builds models of the adapter before it imports anything else.
    assert importing == {"baselines/fast_sam.py", "tests/baselines/test_fast_sam.py"}
    assert "`baselines/fast_sam.py`" in (root / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mobilesam", ("mobilesam", None)),
        ("mobilesam@512", ("mobilesam", 512)),
        ("my@sam@512", ("my@sam", 512)),
        ("mobilesam@large", ("mobilesam@large", None)),
        ("@512", ("@512", None)),
        ("hf:runs/model@512", ("hf:runs/model@512", None)),
    ],
)
def test_names_are_split_at_their_input_size(name: str, parts: tuple[str, int | None]) -> None:
    assert registry.split_size(name) == parts


ADAPTER = """
from baselines.dummy import DummySegmenter
from beside import DELAYS


def build(options):
    return DummySegmenter(options.name, DELAYS)


def other(options):
    return DummySegmenter(options.name, DELAYS)
"""


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with a model, which imports a module beside it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside.py").write_text("DELAYS = {}\n")
    path = tmp_path / "own.py"
    path.write_text(ADAPTER)
    yield path
    for name in [each for each in sys.modules if each == "beside" or "_file_own_" in each]:
        del sys.modules[name]


def test_a_file_is_a_model(adapter: Path) -> None:
    entries = registry.select([f"{adapter}:build", str(adapter), f"{adapter}:other", "box"])
    assert [entry.name for entry in entries] == ["own", "own-other", "box"]
    built = registry.build(entries[0], entries[0].options())
    assert built.info.name == "own"
    assert entries[0].file_sha256 == hashlib.sha256(adapter.read_bytes()).hexdigest()
    assert registry.select_one(f"{adapter}:build") == entries[0]


def test_a_file_that_changes_during_a_run_is_refused(adapter: Path) -> None:
    (entry,) = registry.select([str(adapter)])
    adapter.write_text(ADAPTER + "# changed\n")
    with pytest.raises(UsageError, match="was changed after the run began"):
        registry.build(entry, entry.options())
    (again,) = registry.select([str(adapter)])
    assert again.file_sha256 != entry.file_sha256
    assert registry.build(again, again.options()).info.name == "own"
    adapter.unlink()
    with pytest.raises(UsageError, match=r"cannot read .*own\.py on "):
        registry.build(again, again.options())


def test_unusable_files_are_named(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*absent\.py on .*: No such file"):
        registry.select([f"{tmp_path / 'absent.py'}:build"])
    with pytest.raises(UsageError, match=r"own\.py has no biuld; did you mean .*own\.py:build\?"):
        registry.select([f"{adapter}:biuld"])
    (tmp_path / "torn.py").write_text("def build(options):\n    return (\n")
    with pytest.raises(UsageError, match=r"torn\.py: .*never closed .*line 2"):
        registry.select([str(tmp_path / "torn.py")])
    (tmp_path / "grabcut.py").write_text(ADAPTER)
    with pytest.raises(UsageError, match=r"grabcut is a registered model; rename the file"):
        registry.select([f"{tmp_path / 'grabcut.py'}:build"])
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin" / "own.py").write_text(ADAPTER)
    with pytest.raises(UsageError, match="two models are named 'own'"):
        registry.select([str(adapter), str(tmp_path / "twin" / "own.py")])
