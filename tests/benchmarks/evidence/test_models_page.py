"""The page on models."""

from __future__ import annotations

from baselines.registry import entries
from benchmarks.evidence.models_page import PAGE, page
from benchmarks.evidence.pages import ROOT


def test_the_page_is_that_of_the_registry() -> None:
    text = page()
    assert (ROOT / PAGE).read_text(encoding="utf-8") == text
    for entry in entries().values():
        assert f"| `{entry.name}` |" in text
    assert "EdgeSAM (S-Lab License 1.0, non-commercial)" in text
    assert "| `sam3-tracker` |" in text
