"""The ledger holds every published figure, and a malformed one is refused with file and id."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.paper.claims import (
    Claim,
    Phase,
    Term,
    Tolerance,
    agrees,
    load_claims,
    models_needed,
    models_of,
    same_digits,
)
from mobilesam.errors import DataError

# By hand from the published tables: the figures of each, in order.
TABLES = {
    "mobilesam.table1": ["632", "307", "86", "0.006"],
    "mobilesam.figure1": ["3.87"],
    "mobilesam.readme": ["611", "3.876", "615", "4", "456", "12", "38"],
    "mobilesam.table2": "128 2 128 4 180000 55000 11000000 11000 0.72 0.75".split(),
    "mobilesam.table3": ["5.78", "632", "452", "8", "56.5"],
    "mobilesam.table4": "4 2 50000 0.7057 8 4 50000 0.7286 8 8 100000 0.7447".split(),
    "mobilesam.table6": ["9.66", "68", "7", "64", "12", "5"],
    "mobilesam.table7": "0.27 0.33 0.37 0.41 0.41 0.73 0.71 0.74 0.73 0.73".split(),
    "mobilesam.training": ["8", "1", "1", "100000", "1"],
    "mobilesam-v1": ["2", "10", "4", "0.27"],
    "mobilesam-article": ["10", "8", "2", "4"],
    "fastsam.coco": "37.9 46.5 15.7 47.3 63.7 18.5 49.5 62.5".split(),
    "fastsam.lvis": ["49.7"],
    "mobilesamv2.everything": ["1616", "6464", "97"],
    "mobilesamv2.ar": "59.2 57.2 59.3 58.5 53.6 44.8 51.1 49.6".split(),
    "edgesam.coco-box": ["77.3", "74.4"],
    "efficientvit-sam.coco-box": ["77.4", "72.3", "80.4", "81.8"],
    "efficientsam.coco-box": ["78.4", "74.2"],
    "nanosam.coco-box": ["72.8", "65.8", "75.9", "80.4"],
    "efficientvit-sam.coco-center": ["58.4", "53.4"],
    "edgesam.coco-center": ["53.6", "50.9"],
    "efficientsam.coco-random": ["55.6", "43.7"],
    "edgesam.sa1k-box": ["86.7", "82.0"],
    "edgesam.sa1k-center": "76.5 83.4 85.1 64.6 73.4 76.2".split(),
    "slimsam.sa1b": "78.30 77.67 73.37 62.73 35.41 30.72 72.33 67.40".split(),
    "several.coco-ap": "46.5 46.1 46.6 43.4 41.0 38.7 41.0 37.9".split(),
    "efficientvit-readme.params": "34.8 47.7 61.3 117.0 203.3".split(),
    "survey.params": "10.13 26 9.85".split(),
    "sam2.params": "38.9 46 80.8 224.4".split(),
    "survey.coco-box": "77.4 73.4 73.7 78.5 79.9 74.4 60.5".split(),
    "survey.coco-center": "53.6 48.6".split(),
    "efficientvit-readme.coco-box": "79.927 75.833 82.210 83.748".split(),
    "efficientvit-readme.coco-center": "59.757".split(),
    "sam-fast.coco-center": "0.5842 0.5336".split(),
    "coco128.box": "0.7664 0.7624 0.8019 0.6453 0.5152".split(),
    "coco128.point": "0.5676 0.4552 0.6099 0.5474 0.4464".split(),
    "sam2.sa23": "61.9 83.5 58.1 81.3 55.5 81.7".split(),
    "sam3.sa37": "58.5 77.0 82.1 66.4 80.3 84.3 66.1 81.3 85.1".split(),
    "survey.coco-ap": "46.5 38.7 42.3 45.7 47.8".split(),
    "efficientvit-readme.coco-ap": "45.7 46.2 46.6 47.5 47.8".split(),
    "efficientvit-readme.lvis-ap": "41.8 42.1 42.7 43.9 44.4".split(),
    "edgesam-readme.coco-ap": "46.1 39.4".split(),
    "tinysam-readme.coco-ap": "46.6 46.2 43.4 41.0 42.3".split(),
    "repvit-sam-readme.coco-ap": "46.8 42.5 42.7".split(),
    "light-hq-readme.coco-ap": "44.3".split(),
    "rclicks.noc": "3.42 3.04 2.60 2.66 3.11 3.04 2.87 2.81".split(),
    "counts.sam-vit-h": ["641090608", "637026048"],
    "counts.sam-vit-l": ["312342832", "308278272"],
    "counts.sam-vit-b": ["93735472", "89670912"],
    "counts.sam": ["4058340", "6220", "4064560"],
    "counts.mobilesam": "6065532 5743892 5071124 672768 321640 10130092 9808452".split(),
    "counts.fastsam-x": ["72234149", "71751811"],
    "counts.fastsam-s": ["11790483"],
}
FASTSAM_CELLS = {
    "sam-h": (446, 464, 627, 852, 2099, 6972),
    "sam-b": (110, 125, 230, 432, 1383, 5417),
    "fastsam": (40,) * 6,
}


@pytest.mark.parametrize("prefix", TABLES)
def test_every_figure_of_a_table_is_a_claim(ledger: dict[str, Claim], prefix: str) -> None:
    found = [c.printed for c in ledger.values() if c.id.startswith(f"{prefix}.") or c.id == prefix]
    if prefix == "mobilesam-v1":
        found = [c.printed for c in ledger.values() if c.id.startswith("mobilesam-v1")]
    assert Counter(found) == Counter(TABLES[prefix])


def test_all_18_cells_of_fastsams_times(ledger: dict[str, Claim]) -> None:
    columns = ("1", "10", "100", "e16", "e32", "e64")
    for row, values in FASTSAM_CELLS.items():
        for column, value in zip(columns, values, strict=True):
            claim = ledger[f"fastsam.latency.{row}-{column}"]
            assert (claim.printed, claim.unit) == (str(value), "ms")


def test_no_claim_but_those_of_the_tables(ledger: dict[str, Claim]) -> None:
    known = (*(f"{prefix}." for prefix in TABLES), "fastsam.latency.", "mobilesam-v1.")
    assert [name for name in ledger if not name.startswith(known)] == []


def test_every_claim_has_protocol_conditions_and_tolerance(ledger: dict[str, Claim]) -> None:
    for claim in ledger.values():
        assert claim.protocol, claim.id
        assert claim.conditions, claim.id
        assert claim.tolerance.reason, claim.id


@pytest.mark.parametrize(
    ("printed", "value", "same"),
    [
        ("5.78", Fraction(6_065_532, 2**20), True),
        ("5.78", Fraction(6_065_532, 10**6), False),
        ("68", Fraction(72_234_149, 2**20), False),
        ("86", 85.5, True),
        ("85", 85.5, True),
        ("86", 86.51, False),
    ],
)
def test_rounding_to_the_printed_digits(printed: str, value: Fraction, same: bool) -> None:
    assert same_digits(printed, value) is same


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 10**7), st.integers(0, 4))
def test_a_value_has_the_digits_it_is_printed_with(upper: int, lower: int, decimals: int) -> None:
    value = Fraction(upper, lower)
    scaled = round(value * 10**decimals)
    whole, part = divmod(scaled, 10**decimals)
    printed = f"{whole}.{part:0{decimals}d}" if decimals else str(whole)
    step = Fraction(1, 10**decimals)
    assert same_digits(printed, value)
    assert not same_digits(printed, Fraction(printed) + step)
    assert not same_digits(printed, Fraction(printed) - step)


@settings(derandomize=True, deadline=None)
@given(st.floats(0.01, 1e6), st.floats(0.01, 0.5))
def test_a_relative_tolerance_holds_on_both_sides(value: float, relative: float) -> None:
    printed = f"{value:.2f}"
    claim = Claim.model_construct(
        printed=printed, tolerance=Tolerance(reason="r", relative=relative)
    )
    exact, share = Fraction(printed), Fraction(str(relative))
    assert agrees(claim, exact * (1 + share))
    assert agrees(claim, exact * (1 - share))
    assert not agrees(claim, exact * (1 + share) + Fraction(1, 10**9))
    assert not agrees(claim, exact * (1 - share) - Fraction(1, 10**9))


SHARED = """
[tolerances.printed]
digits = true
reason = "r"
[hardware.gpu]
device = "cuda"
what = "a GPU"
[data.coco]
pattern = "coco:*"
what = "COCO"
arguments = "--dataset coco"
"""
CLAIM = """
[sources.s]
name = "S"
[[group]]
source = "s"
where = "Table 1"
what = "w"
unit = "ms"
protocol = "p"
conditions = "c"
tolerance = "printed"
measure = { kind = "latency", hardware = "gpu" }
claims = [
  { id = "s.one", printed = "8", measure = { model = "mobilesam", phases = ["encode"] } },
  { id = "s.two", printed = "4", measure = { model = "mobilesam", phases = ["decode@1"] } },
]
"""


def write(folder: Path, text: str, shared: str = SHARED) -> Path:
    (folder / "shared.toml").write_text(shared)
    (folder / "some.toml").write_text(text)
    return folder


def test_a_small_ledger_is_read(tmp_path: Path) -> None:
    assert [claim.id for claim in load_claims(write(tmp_path, CLAIM))] == ["s.one", "s.two"]


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ('"mobilesam", phases = ["encode"]', '"mobilsam", phases = ["encode"]', "mobilsam"),
        ("decode@1", "decod@1", "unknown phase 'decod@1'"),
        ("s.two", "s.one", "twice"),
        ('printed = "4"', 'printed = "four"', "printed"),
        ('tolerance = "printed"', 'tolerance = "exact"', "'exact' is not in tolerances"),
        ('hardware = "gpu"', 'hardware = "tpu"', "'tpu' is not in hardware"),
        ('source = "s"', 'source = "t"', "'t' is not in sources"),
        ('unit = "ms"', 'unit = "furlongs"', "unit"),
        ('kind = "latency"', 'kind = "guess"', "measure"),
        ('where = "Table 1"', 'where = "Table 1"\nquotient_of = ["s.one", "s.three"]', "s.three"),
        ('where = "Table 1"', 'where = "Table 1"\nquotient_of = ["s.one", "s.two"]', "quotient"),
        ("[[group]]", "[[groups]]", "groups"),
        ("]\n", "\n", "TOML"),
    ],
)
def test_a_malformed_ledger_is_refused(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    assert old in CLAIM
    with pytest.raises(DataError, match=wanted) as caught:
        load_claims(write(tmp_path, CLAIM.replace(old, new)))
    assert "some.toml" in str(caught.value) or "claim s." in str(caught.value)


TRUTH = 'kind = "miou", model = "mobilesam"'
SUM = 'kind = "params", model = "sam-vit-h", component = "all", readings = [{ name = "r", terms = '


@pytest.mark.parametrize(
    "measure",
    [
        f'{TRUTH}, protocol = "boxes", data = "coco"',
        f'{TRUTH}, protocol = "box", reference = "teacher:x", data = "coco"',
        f'{TRUTH}, protocol = "box", reference = "truth", data = "coco"',
        f'{TRUTH}, protocol = "box", data = "imagenet"',
        f'{SUM} ["sam-vit-x/all/total"] }}]',
        f'{SUM} ["sam-vit-h/all/most"] }}]',
        f'{SUM} ["plain-vit/h99/backbone"] }}]',
        'kind = "derived", times = ["s.one"], plus = ["s.one"]',
        'kind = "derived", times = ["s.lost"]',
    ],
)
def test_unknown_names_in_a_measure_are_refused(tmp_path: Path, measure: str) -> None:
    group = CLAIM[CLAIM.index("[[group]]") : CLAIM.index("measure =")]
    text = f'{group}claims = [{{ id = "s.new", printed = "1", measure = {{ {measure} }} }}]'
    with pytest.raises(DataError, match=r"s\.new"):
        load_claims(write(tmp_path, CLAIM + text))


def test_a_ledger_without_its_shared_file_or_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_text(CLAIM)
    with pytest.raises(DataError, match=r"shared\.toml"):
        load_claims(tmp_path)
    with pytest.raises(DataError, match="cannot read the ledger"):
        load_claims(tmp_path / "absent")


@pytest.mark.parametrize(
    "fields", [{}, {"digits": True, "plus_minus": 1.0}, {"low": 1.0}, {"relative": 0.0}]
)
def test_a_tolerance_has_exactly_one_kind(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Tolerance"):
        Tolerance.model_validate({"reason": "r", **fields})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("encode", ("encode", None, False)),
        ("decode@10", ("decode", 10, False)),
        ("decode*1024", ("decode", 1024, True)),
    ],
)
def test_phases_are_parsed(text: str, wanted: tuple[str, int | None, bool]) -> None:
    phase = Phase.model_validate(text)
    assert (phase.name, phase.n_prompts, phase.scaled) == wanted
    assert Phase.model_validate(phase.model_dump()) == phase


@pytest.mark.parametrize("text", ["encod", "decode@", "decode@0", "decode/10", ""])
def test_malformed_phases_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="unknown phase"):
        Phase.model_validate(text)


def test_terms_are_parsed() -> None:
    term = Term.model_validate("-sam-vit-h/image_encoder/used")
    assert (term.sign, term.owner, term.part, term.column) == (
        -1, "sam-vit-h", "image_encoder", "used",
    )  # fmt: skip
    assert Term.model_validate("plain-vit/h14/with-head").sign == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sam-vit-h/image_encoder", "is not model/component/column"),
        ("sam-vit-x/all/total", "unknown model 'sam-vit-x'"),
        ("sam-vit-h/all/most", "unknown column"),
        ("sam-neck/all/total", "no derived count"),
    ],
)
def test_malformed_terms_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Term.model_validate(text)


@pytest.mark.parametrize(
    ("claim", "models"),
    [
        ("mobilesam.table3.encoder-latency", ("mobilesam",)),
        ("mobilesam.table3.encoder-speedup", ("sam-vit-h", "mobilesam")),
        ("mobilesam.table4.batch8-epochs8-miou", ()),
        ("mobilesam.training.images", ()),
        ("edgesam.coco-box.mobilesam", ("mobilesam",)),
    ],
)
def test_models_of_a_measure(ledger: dict[str, Claim], claim: str, models: tuple[str, ...]) -> None:
    assert models_of(ledger[claim].measure) == models


def test_claims_about_the_models_of_today_are_planned() -> None:
    today = {"sam2.1-t", "sam2.1-l", "edgetam", "slimsam-77", "tinysam", "efficientvit-sam-l0"}
    assert today <= set(models_needed(load_claims()))
