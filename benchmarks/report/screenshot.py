"""Pictures of the HTML report for README and documentation, taken in Chromium.

`python -m benchmarks.report.screenshot report.html docs/report`
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.debugging import one_line_errors
from benchmarks.records.record import write_atomic
from mobilesam.errors import DataError, UsageError

if TYPE_CHECKING:
    from playwright.sync_api import ViewportSize

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
"""Switches that keep Chromium from sending requests of its own."""
SIZE_PX: ViewportSize = {"width": 1280, "height": 800}


def find_browser() -> str | None:
    """Path of an installed Chromium; None without one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def take_pictures(report: Path, folder: Path) -> list[Path]:
    """Writes PNG files of an HTML report: first screen, comparison, and the lightbox with masks."""
    if not report.is_file():
        raise UsageError(f"{report} is not a file; make it with mobilesam-bench report")
    browser = find_browser()
    if browser is None:
        raise DataError("no Chromium here; install it (Debian: apt-get install chromium)")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise DataError('playwright is missing; pip install "mobilesam-bench[dev]"') from error
    pictures: dict[str, bytes] = {}
    try:
        with sync_playwright() as driver:
            opened = driver.chromium.launch(executable_path=browser, args=ARGUMENTS)
            page = opened.new_page(viewport=SIZE_PX, color_scheme="light", reduced_motion="reduce")
            page.goto(report.resolve().as_uri())
            chart = page.locator("#summary .chart:visible svg")
            if page.locator("#summary .chart:visible").count():
                chart.first.wait_for()
            pictures["first-screen"] = page.screenshot()
            compared = page.locator("#compare")
            if compared.count():
                compared.scroll_into_view_if_needed()
                compared.locator(".chart svg").wait_for()
                page.locator(".topbar").evaluate("(bar) => { bar.style.position = 'static'; }")
                pictures["compare"] = compared.screenshot()
            if (other := page.locator("#gallery-scope button")).is_visible():
                other.click()
            order = page.locator("#gallery-tools").get_by_label("Order")
            if order.count():
                order.select_option("worse" if order.locator("[value=worse]").count() else "median")
                page.locator("#cases .case").first.click()
                page.get_by_role("button", name="A and B with a slider").click()
                page.locator(".lightbox canvas[data-drawn]").wait_for()
                pictures["masks"] = page.screenshot()
            opened.close()
    except Error as error:
        raise DataError(f"{report} could not be shown: {str(error).splitlines()[0]}") from error
    written = [folder / f"{name}.png" for name in pictures]
    for path, data in zip(written, pictures.values(), strict=True):
        write_atomic(path, data)
    return written


@one_line_errors
def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="HTML file that mobilesam-bench report wrote")
    parser.add_argument("folder", type=Path, help="folder of the PNG files")
    arguments = parser.parse_args()
    for path in take_pictures(arguments.report, arguments.folder):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
