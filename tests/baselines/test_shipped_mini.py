"""The models that the package ships: there, small, and those that the committed figures are of."""

from __future__ import annotations

from pathlib import Path

import pytest

from baselines.registry import select
from benchmarks.distillation.family_targets import STUDENT, TEACHER
from benchmarks.evidence.distillation_page import FAMILY
from benchmarks.records.record import load_record
from mobilesam.model.mobile_sam import load_mobile_sam, load_sam_mini
from mobilesam.model.model_files import read_shape
from mobilesam.weights.cache import digest_file
from mobilesam.weights.checkpoints import shipped_path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 10 * 10**6
NAMES = (TEACHER, STUDENT)


def path(name: str) -> Path:
    return shipped_path(f"{name}.safetensors")


def test_both_are_chosen_where_every_model_is() -> None:
    assert set(NAMES) <= {entry.name for entry in select(["*"])}


def test_they_are_small_together() -> None:
    assert sum(path(name).stat().st_size for name in NAMES) <= LIMIT_BYTES


def test_they_load_strictly_in_the_shape_that_they_state() -> None:
    teacher, student = load_sam_mini(path(TEACHER)), load_mobile_sam(path(STUDENT))
    assert teacher.image_encoder.img_size == student.image_encoder.img_size
    own = sum(value.numel() for value in student.image_encoder.parameters())
    assert 4 * own <= sum(value.numel() for value in teacher.image_encoder.parameters())


def test_the_student_says_that_it_is_this_teacher_s() -> None:
    shape = read_shape(path(STUDENT), "mobilesam")
    assert shape is not None
    assert shape.notes["teacher"] == digest_file(path(TEACHER)).sha256


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_figures_are_of_these_files(name: str) -> None:
    record = load_record(ROOT / FAMILY)
    hashes = {row.weights.sha256 for row in record.models if row.model == name}
    assert hashes == {digest_file(path(name)).sha256}
