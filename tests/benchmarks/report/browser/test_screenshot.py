from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report import screenshot
from mobilesam.errors import DataError, UsageError


def test_screenshot_for_the_readme(large: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.report.screenshot", large, tmp_path / "p.png"]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width == 1120
        assert 1000 < picture.height < 4000
        assert len(picture.convert("RGB").getcolors(2**24) or ()) > 500


def test_screenshot_needs_a_report_and_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="make it with mobilesam-bench report"):
        screenshot.take_picture(tmp_path / "absent.html", tmp_path / "p.png")
    (tmp_path / "r.html").write_text("<p>")
    monkeypatch.setattr(screenshot, "find_browser", lambda: None)
    with pytest.raises(DataError, match="apt-get install chromium"):
        screenshot.take_picture(tmp_path / "r.html", tmp_path / "p.png")
