"""The HTML report for everybody: small windows, no scripts, either theme, keyboard, contrast."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mobilesam.errors import DataError, UsageError


def shown(page: Any, selector: str) -> Any:
    return page.locator(f"{selector}:visible")


@pytest.mark.parametrize("name", ["large", "many"])
@pytest.mark.parametrize("width", [400, 320, 768])
def test_it_fits_a_small_window(
    name: str, width: int, visit: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    page = visit(request.getfixturevalue(name), width)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    narrow, wide = (shown(page, f".plot > svg.{kind}").count() for kind in ("narrow", "wide"))
    assert (narrow > 0, wide > 0) == ((True, False) if width <= 620 else (False, True))


def test_it_can_be_read_without_scripts(large: Path, visit: Callable[..., Any]) -> None:
    page = visit(large, java_script_enabled=False)
    assert shown(page, "#accuracy-latency svg.wide").count() == 2
    assert page.locator("#accuracy-latency svg.wide .mark title").count() > 0
    assert shown(page, "#cases .case").count() > 100
    assert shown(page, "button").count() == 0
    assert shown(page, "#t-summary tbody tr").count() == 2


def test_the_theme_follows_the_system_and_the_reader(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many, color_scheme="dark", reduced_motion="reduce")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    page.get_by_role("button", name="Light colours").click()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate(ground) == dark
    assert visit(many, color_scheme="light").evaluate(ground) == light


READ = """
() => {
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    if (node.closest("script, .unseen, .pane, option")) continue;
    const style = getComputedStyle(node);
    const drawn = node.namespaceURI.endsWith("svg");
    const [a, b] = [rgba(drawn ? style.fill : style.color), ground(node)].map(light);
    const found = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (found < 4.5) bad.push(`${found.toFixed(2)}: ${walk.currentNode.textContent.trim()}`);
  }
  return bad;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["large", "many"])
def test_every_text_has_contrast(
    name: str, scheme: str, visit: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    page = visit(request.getfixturevalue(name), color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate(READ) == []


NAMES = """
() => [...document.querySelectorAll("button, select, input, a, [tabindex], .pane, .plot > svg")]
  .filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim()
    || (node.labels && node.labels.length)))
  .map((node) => node.outerHTML.slice(0, 80))
"""


@pytest.mark.parametrize("name", ["large", "many"])
def test_everything_that_can_be_operated_or_seen_has_a_name(
    name: str, visit: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    page = visit(request.getfixturevalue(name))
    assert page.evaluate(NAMES) == []
    heads = page.locator("h1, h2, h3").evaluate_all("(all) => all.map((h) => Number(h.tagName[1]))")
    assert heads[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(heads))


def test_the_first_stop_of_the_tab_key_skips_to_the_summary(
    many: Path, visit: Callable[..., Any]
) -> None:
    page = visit(many)
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.text_content() == "Skip to the summary"
    assert focused.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#summary")


def test_the_picture_for_the_readme_is_taken(large: Path, tmp_path: Path) -> None:
    from PIL import Image

    command = [sys.executable, "-m", "benchmarks.report.screenshot", large, tmp_path / "p.png"]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width == 1120
        assert 1000 < picture.height < 4000
        assert len(picture.convert("RGB").getcolors(2**24) or ()) > 500


def test_the_picture_needs_a_report_and_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.report import screenshot as html_picture

    with pytest.raises(UsageError, match="make it with mobilesam-bench report"):
        html_picture.take_picture(tmp_path / "absent.html", tmp_path / "p.png")
    (tmp_path / "r.html").write_text("<p>")
    monkeypatch.setattr(html_picture, "find_browser", lambda: None)
    with pytest.raises(DataError, match="apt-get install chromium"):
        html_picture.take_picture(tmp_path / "r.html", tmp_path / "p.png")
