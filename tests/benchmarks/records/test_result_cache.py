"""The cache of finished results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.records import result_cache
from benchmarks.records.record import CategoryMean, Failure
from benchmarks.records.result_cache import ResultCache, content_key

ROW = CategoryMean(category="dog", n_instances=3, miou=0.5)
KEY = {"model": "box", "seed": 1}


def test_a_result_is_found_under_its_key_only(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path / "cells")
    assert cache.get(KEY, CategoryMean) is None
    cache.put(KEY, ROW)
    assert ResultCache(tmp_path / "cells").get(KEY, CategoryMean) == ROW
    assert cache.get({**KEY, "seed": 2}, CategoryMean) is None
    assert cache.get(KEY, Failure) is None  # another kind


def test_a_damaged_file_counts_as_missing(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    cache.put(KEY, ROW)
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text()[:-5])
    assert cache.get(KEY, CategoryMean) is None


def test_without_a_folder_nothing_is_kept() -> None:
    cache = ResultCache(None)
    cache.put(KEY, ROW)
    assert cache.get(KEY, CategoryMean) is None


@pytest.mark.parametrize("name", ["code_version", "library_versions"])
def test_the_key_depends_on_code_and_libraries(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = content_key(KEY)
    assert content_key(dict(reversed(KEY.items()))) == before
    monkeypatch.setattr(result_cache, name, lambda: "another")
    assert content_key(KEY) != before
