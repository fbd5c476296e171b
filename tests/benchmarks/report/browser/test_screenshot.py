from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report import screenshot
from mobilesam.errors import DataError, UsageError


def test_screenshots(large: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.report.screenshot", large, tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    assert {path.stem for path in tmp_path.glob("*.png")} == {"first-screen", "compare", "masks"}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert 1100 < picture.width <= 1280
            assert 300 < picture.height <= 1000
            assert len(picture.convert("RGB").getcolors(2**24) or ()) > 100


def test_screenshot_needs_a_report_and_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="make it with mobilesam-bench report"):
        screenshot.take_pictures(tmp_path / "absent.html", tmp_path)
    (tmp_path / "r.html").write_text("<p>")
    monkeypatch.setattr(screenshot, "find_browser", lambda: None)
    with pytest.raises(DataError, match="apt-get install chromium"):
        screenshot.take_pictures(tmp_path / "r.html", tmp_path)
