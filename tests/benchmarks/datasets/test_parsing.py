"""Validation of annotation files, and the log of unusable annotations."""

import bz2
import gzip
import lzma

import numpy as np
import pytest

from benchmarks.datasets import MAX_PROBLEMS
from benchmarks.datasets.parsing import (
    AnnotationLog,
    AnnotationRow,
    check_limit,
    fingerprint,
    parse_json,
    read_file,
    read_row,
)
from mobilesam.errors import DataError, UsageError

SIZE_HW = (10, 12)
SQUARE = [[2, 3, 6, 3, 6, 7, 2, 7]]


def row(**fields):
    return AnnotationRow.model_validate({"id": 5, "segmentation": SQUARE} | fields)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            gzip.compress(b"{}", mtime=0),
            r"a\.json is compressed \(gzip\); unpack it first, with gunzip",
        ),
        (bz2.compress(b"{}"), "bzip2"),
        (lzma.compress(b"{}"), "xz"),
        (b"PK\x03\x04rest", "zip"),
        (b"{", r"a\.json is not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_files_that_are_not_json_are_rejected(data, words):
    with pytest.raises(DataError, match=words):
        parse_json(data, "a.json")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none\.json: No such file"):
        read_file(tmp_path / "none.json")


def test_an_error_of_a_row_has_its_place():
    with pytest.raises(DataError, match=r"^a.json: row 3: id: .*; got 'x'; correct or remove it$"):
        read_row(AnnotationRow, {"id": "x", "segmentation": []}, "a.json: row 3")


def test_rows_are_kept_in_order_without_malformed_and_repeated_ones():
    log = AnnotationLog("a.json", "empty")
    values = [
        {"id": 7, "segmentation": []},
        {"id": 7, "segmentation": []},
        {"segmentation": []},
        {"id": 3, "segmentation": [], "area": "large"},
        {"id": 2, "segmentation": []},
        {"id": 4, "segmentation": []},
    ]
    found = log.read_rows(AnnotationRow, values, lambda row: "is odd" if row.id == 2 else None)
    assert [each.id for each in found] == [7, 4]
    assert log.left_out == {"empty": 0, "malformed": 4}
    starts = (
        "a.json: annotation number 1: annotation id 7 is given twice",
        "a.json: annotation number 2: id: Field required",
        "a.json: annotation 3: area: ",
        "a.json: annotation 2 is odd",
    )
    for problem, start in zip(log.problems, starts, strict=True):
        assert problem.startswith(start)


def test_only_the_first_problems_are_listed():
    log = AnnotationLog("a.json")
    log.read_rows(AnnotationRow, [{}] * (MAX_PROBLEMS + 20))
    assert log.left_out["malformed"] == MAX_PROBLEMS + 20
    assert len(log.problems) == MAX_PROBLEMS


def test_boxes_are_converted_to_half_open_edges():
    log = AnnotationLog("a.json")
    box = [2, 3, 3, 3]
    for inclusive_maxima, wanted in ((False, [2, 3, 5, 6]), (True, [2, 3, 6, 7])):
        found = log.instance(row(bbox=box), SIZE_HW, inclusive_maxima=inclusive_maxima)
        assert found.box.tolist() == wanted
        assert found.box.dtype == np.float32
    assert found.area_px == 16
    assert log.instance(row(area=3.5), SIZE_HW).area_px == 3.5


@pytest.mark.parametrize(
    ("fields", "left_out", "reason"),
    [
        ({"segmentation": []}, "empty", "1 of 1 have no mask: boxes only?"),
        ({"segmentation": [[3, 3, 3, 3, 3, 3]]}, "empty", "1 of 1 have a mask without a pixel"),
        ({"segmentation": [[0, 0, 1, 0, 1, 1]]}, "empty", "1 of 1 have polygons between 0 and 1"),
        ({"segmentation": 3}, "malformed", "1 of 1 are malformed (first: annotation 5: segment"),
        ({"bbox": [40, 3, 2, 2]}, "malformed", "1 of 1 are malformed (first: annotation 5: bbox"),
    ],
)
def test_an_unusable_annotation_is_counted_with_its_reason(fields, left_out, reason):
    log = AnnotationLog("a.json")
    assert log.why_unusable == "there is none"
    assert log.instance(row(**fields), SIZE_HW) is None
    assert log.left_out == {left_out: 1}
    assert log.why_unusable.startswith(reason)


def test_the_limit_must_be_positive():
    check_limit(None)
    check_limit(1)
    with pytest.raises(UsageError, match="a limit of 0 images"):
        check_limit(0)


def test_fingerprints_separate_their_parts():
    prints = {
        fingerprint("coco", None, [b"ab", b"c"]),
        fingerprint("coco", None, [b"a", b"bc"]),
        fingerprint("coco", 1, [b"ab", b"c"]),
        fingerprint("sa1b", None, [b"ab", b"c"]),
    }
    assert len(prints) == 4
