"""The README's picture of the HTML report: a screenshot of parts of it in Chromium.

`python -m benchmarks.report.screenshot report.html results/report.png`
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks.debugging import one_line_errors
from benchmarks.records.record import write_atomic
from mobilesam.errors import DataError, UsageError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
"""Switches that keep Chromium from sending requests of its own."""
WIDTH_PX, HEIGHT_PX = 1120, 900
_KEEP = Path(__file__).with_name("templates") / "screenshot.js"


def find_browser() -> str | None:
    """Path of an installed Chromium; None without one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def take_picture(report: Path, out: Path) -> None:
    """Writes a PNG of the summary, the trade-off and the gallery of an HTML report."""
    if not report.is_file():
        raise UsageError(f"{report} is not a file; make it with mobilesam-bench report")
    browser = find_browser()
    if browser is None:
        raise DataError("no Chromium here; install it (Debian: apt-get install chromium)")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise DataError('playwright is missing; pip install "mobilesam-bench[dev]"') from error
    try:
        with sync_playwright() as driver:
            opened = driver.chromium.launch(executable_path=browser, args=ARGUMENTS)
            page = opened.new_page(
                viewport={"width": WIDTH_PX, "height": HEIGHT_PX}, color_scheme="light"
            )
            page.goto(report.resolve().as_uri())
            order = page.locator("#gallery-tools").get_by_label("Order")
            if order.count():  # typical cases instead of the worst ones
                order.select_option("median")
            page.evaluate(_KEEP.read_text(encoding="utf-8"))
            for chart in page.locator(".plot:visible .chart").all():
                chart.scroll_into_view_if_needed()
                chart.locator("svg").wait_for()
            page.evaluate("scrollTo(0, 0)")
            data = page.screenshot(full_page=True)
            opened.close()
    except Error as error:
        raise DataError(f"{report} could not be shown: {str(error).splitlines()[0]}") from error
    write_atomic(out, data)


@one_line_errors
def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="HTML file that mobilesam-bench report wrote")
    parser.add_argument("out", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    take_picture(arguments.report, arguments.out)
    sys.stdout.write(f"{arguments.out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
