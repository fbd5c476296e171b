"""The process of the benchmark of cold starts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evidence import cold_start
from mobilesam.weights.checkpoints import shipped_path


def test_all_steps_are_timed_and_the_mask_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = tmp_path / "image.npy", tmp_path / "mask.npy"
    np.save(image, np.zeros((30, 40, 3), np.uint8))
    weights = shipped_path("mobilesam-mini.safetensors")
    assert cold_start.main("fast", str(weights), str(image), str(mask), "1", "2", "30", "20") == 0
    seconds = json.loads(capsys.readouterr().out)
    assert list(seconds) == ["import", "load", "image", "box"]
    assert min(seconds.values()) > 0
    assert np.load(mask).shape == (30, 40)
