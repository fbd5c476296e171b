"""The table of published checkpoints, and malformed tables."""

from pathlib import Path

import pytest

from mobilesam.errors import WeightsError
from mobilesam.weights.checkpoint_specs import FileDigest, parse_specs, specs

PAPER = ("mobilesam", "sam-vit-h", "sam-vit-l", "sam-vit-b", "fastsam-x", "fastsam-s")


def test_table_of_checkpoints():
    paper = dict.fromkeys(PAPER)
    for name in PAPER:
        spec = specs()[name]
        paper[name] = (spec.file, spec.n_bytes, spec.format)
    assert paper == {
        "mobilesam": ("mobile_sam.pt", 40_728_226, "state_dict"),
        "sam-vit-h": ("sam_vit_h_4b8939.pth", 2_564_550_879, "state_dict"),
        "sam-vit-l": ("sam_vit_l_0b3195.pth", 1_249_524_607, "state_dict"),
        "sam-vit-b": ("sam_vit_b_01ec64.pth", 375_042_383, "state_dict"),
        "fastsam-x": ("FastSAM-x.pt", 144_943_063, "pickle"),
        "fastsam-s": ("FastSAM-s.pt", 23_851_578, "pickle"),
    }
    digests = [digest.sha256 for spec in specs().values() for digest in spec.digests]
    assert len(digests) == len(set(digests)) == 16
    for name, spec in specs().items():
        assert name == spec.name
        assert spec.url.startswith("https://")
        if name in PAPER:
            assert spec.url.endswith("/" + spec.file)
        if spec.format == "pickle":
            assert spec.licence == "AGPL-3.0-only"
        assert spec.digests or "sha256 not confirmed" in spec.remarks
        assert "\n" not in spec.remarks
    with pytest.raises(TypeError):
        specs()["mobilesam"] = specs()["sam-vit-h"]  # type: ignore[index]


@pytest.mark.shared
def test_table_agrees_with_the_notes_on_the_paper():
    paper = Path(__file__).resolve().parents[3].parent / "shared" / "PAPER.md"
    if not paper.exists():
        pytest.skip(f"{paper} is missing")
    text = paper.read_text(encoding="utf-8")
    for spec in map(specs().__getitem__, PAPER):
        row = next(line for line in text.splitlines() if line.startswith(f"| {spec.file} "))
        assert spec.url in row
        assert f"{spec.n_bytes:,}" in row
        assert spec.sha256 in row


ENTRY = """[[checkpoint]]
name = "a"
file = "a.pt"
url = "https://weights.invalid/a.pt"
bytes = 1
sha256 = "{}"
licence = "MIT"
format = "state_dict"
""".format("0" * 64)


def test_table_of_one_checkpoint():
    (spec,) = parse_specs(ENTRY).values()
    assert spec.digests == (FileDigest(1, "0" * 64),)
    assert spec.note == ""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "bytes = 1",
            "bytes = 0",
            "checkpoint.0.bytes: Input should be greater than 0; got 0",
        ),
        ("bytes = 1", "bytes = true", "bytes: Input should be a valid integer"),
        ("bytes = 1", 'bytes = "1"', "bytes: Input should be a valid integer"),
        ("0" * 64, "0" * 63, "sha256: String should match pattern"),
        ("0" * 64, "A" * 64, "sha256: String should match pattern"),
        ("https://", "ftp://", "url: String should match pattern"),
        ('"a.pt"', '"../a.pt"', "file: String should match pattern"),
        ('"a.pt"', '".digests"', "file: String should match pattern"),
        ('"a.pt"', "3", "file: Input should be a valid string"),
        ('"MIT"', '""', "licence: String should have at least 1 character"),
        ('"state_dict"', '"onnx"', "format: Input should be 'state_dict' or 'pickle'"),
        ('licence = "MIT"\n', "", "licence: Field required"),
        ("bytes = 1", "bytes = 1\nsize = 1", "size: Extra inputs are not permitted"),
        ("bytes = 1", "bytes = 1\nalso = 3", "also: Input should be a valid tuple"),
        ("bytes = 1", "bytes = 1\nalso = [{bytes = 1}]", "also.0.sha256: Field required"),
        ("bytes = 1", "bytes = ", "not TOML"),
        ("[[checkpoint]]", "[[checkpoints]]", "checkpoint: Field required"),
        ("[[checkpoint]]", ENTRY + "[[checkpoint]]", "appears twice"),
        (ENTRY, "checkpoint = [1]", "checkpoint.0: Input should be an object"),
    ],
)
def test_malformed_table_is_refused(old, new, words):
    with pytest.raises(WeightsError, match=words):
        parse_specs(ENTRY.replace(old, new))
