"""Files of predicted masks."""

from __future__ import annotations

from pathlib import Path

from benchmarks.evaluation.predictions import predictions_path


def test_names_of_models_are_safe_file_names(tmp_path: Path) -> None:
    names = (
        "mobilesam", "sam2.1-b+", "mobilesam@512", "hf:facebook/sam-vit-base",
        "hf:facebook-sam-vit-base", "hf:../../up", "..", "C:\\models\\x", "a\nb", "é",
        *("x" * 300 + end for end in "ab"),
    )  # fmt: skip
    paths = [predictions_path(tmp_path, name) for name in names]
    assert len({path.name.lower() for path in paths}) == len(names)
    for path in paths:
        assert path.parent == tmp_path / "predictions"
        assert not set(path.name) & set('/\\:*?"<>|\n')
        assert len(path.name) <= 255
        path.parent.mkdir(exist_ok=True)
        path.touch()
    # As in earlier versions.
    assert [path.stem for path in paths[:3]] == list(names[:3])
