"""The builder of records."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from benchmarks.records.record import Environment, RunRecord
from benchmarks.records.record_builder import RecordBuilder
from benchmarks.records.result_cache import content_key


@pytest.fixture
def builder(record: RunRecord) -> RecordBuilder:
    return RecordBuilder({"seed": 3}, record.environment, "miou", "a note", "quick")


def test_rows_are_added_by_field(builder: RecordBuilder, record: RunRecord) -> None:
    builder.add(miou=record.miou[:1], warnings=["a", "b"])
    builder.add(miou=record.miou[1:3], warnings=["a"])
    builder.instances, builder.complete = "instances.parquet", True
    built = builder.build()
    assert built.miou == record.miou[:3]
    assert built.warnings == ("a", "b")
    assert (built.command, built.note, built.profile) == ("miou", "a note", "quick")
    assert (built.instances, built.complete) == ("instances.parquet", True)
    assert built.resume_key == content_key({"seed": 3})
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
