"""The schema of records, and their files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.records.record import (
    RECORD_NAME,
    AccuracyTimeRow,
    Environment,
    RecordBuilder,
    RunRecord,
    WeightsRow,
    load_record,
    save_record,
    schema,
    write_atomic,
)
from mobilesam.errors import DataError
from mobilesam.weights.checkpoints import OWN_LABEL, shipped_checkpoint


def test_the_committed_schema_is_that_of_the_code() -> None:
    path = Path(__file__).resolve().parents[3] / "results" / "schema.json"
    assert json.loads(path.read_text()) == schema()


def test_a_record_is_read_as_it_was_written(record: RunRecord, tmp_path: Path) -> None:
    path = save_record(record, tmp_path / "run")
    assert path == tmp_path / "run" / RECORD_NAME
    assert load_record(path) == load_record(tmp_path / "run") == record


def test_weights_of_this_package_are_known_by_their_content() -> None:
    sha256 = shipped_checkpoint("mobilesam-mini.safetensors").sha256
    assert WeightsRow(kind="file", sha256=sha256).shipped == OWN_LABEL
    assert WeightsRow(kind="file", sha256="ab" * 32).shipped is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_written(
    record: RunRecord, tmp_path: Path, value: float
) -> None:
    row = record.miou[0].model_copy(update={"ci95": (0.1, value)})
    with pytest.raises(DataError, match=rf"not written: miou\.0\.ci95\.1 is {value}"):
        save_record(record.model_copy(update={"miou": (row,)}), tmp_path)
    config = {"a": {"b": [1.0, value]}}
    with pytest.raises(DataError, match=r"config\.a\.b\.1"):
        save_record(record.model_copy(update={"config": config}), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the record"),
        ("{}", "is not a record of this version"),
        ("x", "JSON"),
        ("", r"record\.json is not a record"),
        ("{", r"record\.json is not a record"),
        ("[]", r"record\.json is not a record"),
        ('{"id": 3}', r"record\.json is not a record"),
    ],
)
def test_files_that_are_no_records_are_refused_in_one_line(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / RECORD_NAME).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_record(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_records_of_another_version_are_refused(
    record: RunRecord, tmp_path: Path, version: object
) -> None:
    path = save_record(record, tmp_path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "schema_version": version}))
    with pytest.raises(DataError, match="not a record of this version: schema_version"):
        load_record(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        write_atomic(tmp_path / "taken", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_times_of_two_shards_are_added() -> None:
    row = AccuracyTimeRow(
        model="a", dataset="d", wall_s=2, model_s=1.5, data_s=0.1, prompts_s=0.1, scoring_s=0.2,
        writing_s=0.1, cached_embeddings=3,
    )  # fmt: skip
    total = row.plus(row)
    assert (total.wall_s, total.model_s, total.cached_embeddings) == (4, 3, 6)
    assert total.overhead == row.overhead == 0.25


@pytest.fixture
def builder(record: RunRecord) -> RecordBuilder:
    return RecordBuilder({"seed": 3}, "0123456789", record.environment, "miou", "a note", "quick")


def test_rows_are_added_by_field(builder: RecordBuilder, record: RunRecord) -> None:
    builder.add(miou=record.miou[:1], warnings=["a", "b"])
    builder.add(miou=record.miou[1:3], warnings=["a"])
    builder.instances, builder.complete = "instances.parquet", True
    built = builder.build()
    assert built.miou == record.miou[:3]
    assert built.warnings == ("a", "b")
    assert (built.command, built.note, built.profile) == ("miou", "a note", "quick")
    assert (built.instances, built.complete) == ("instances.parquet", True)
    assert built.resume_key == "0123456789"
    assert built.id.endswith(built.resume_key[:8])
    assert built.duration_s >= 0
    assert isinstance(built.environment, Environment)


def test_a_repeated_failure_is_recorded_once(builder: RecordBuilder) -> None:
    for stage in ("build", "data", "build"):
        builder.add_failure(stage, "box", "no")
    assert [failure.stage for failure in builder.failures] == ["build", "data"]
    assert [failure.culprit for failure in builder.build().failures] == ["box", "box"]
    assert not builder.build().complete


def test_unknown_fields_are_refused(builder: RecordBuilder) -> None:
    builder.add(mious=[])
    with pytest.raises(ValidationError, match="mious"):
        builder.build()
