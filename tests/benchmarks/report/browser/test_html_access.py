"""Accessibility of the HTML report: small windows, no scripts, themes, keyboard, contrast."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest


def shown(page: Any, selector: str) -> Any:
    return page.locator(f"{selector}:visible")


CUT_OFF = """
() => [...document.querySelectorAll(".chart svg text")]
  .filter((text) => text.checkVisibility() && text.textContent)
  .filter((text) => {
    const [box, chart] = [text, text.closest("svg")].map((each) => each.getBoundingClientRect());
    return box.top < chart.top - 1 || box.left < chart.left - 1 || box.right > chart.right + 1;
  })
  .map((text) => text.textContent)
"""


@pytest.mark.parametrize("name", ["large", "many"])
@pytest.mark.parametrize("width", [400, 320, 768])
def test_page_fits_a_small_window(
    name: str,
    width: int,
    visit: Callable[..., Any],
    draw_charts: Callable[[Any], int],
    request: pytest.FixtureRequest,
) -> None:
    page = visit(request.getfixturevalue(name), width)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert draw_charts(page) > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widths = page.locator(".chart:visible svg").evaluate_all(
        "(all) => all.map((svg) => svg.getBoundingClientRect().width)"
    )
    assert all(0.6 * width < each <= width for each in widths)
    assert page.evaluate(CUT_OFF) == []


def test_page_is_readable_without_scripts(large: Path, visit: Callable[..., Any]) -> None:
    page = visit(large, java_script_enabled=False)
    assert page.get_by_text("need JavaScript; the tables hold all values").is_visible()
    assert shown(page, ".chart").count() == 0
    assert shown(page, "#summary .answer").count() == 2
    assert shown(page, "#summary .answer").first.locator(".pair > .table tbody tr").count() == 2
    assert page.get_by_text("The pictures need JavaScript").is_visible()
    assert shown(page, "button").count() == 0


def test_theme_follows_the_system_and_the_reader(
    many: Path, visit: Callable[..., Any], draw_charts: Callable[[Any], int]
) -> None:
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
    draw_charts(page)
    text = "() => getComputedStyle(document.querySelector('.chart svg text:not(:empty)')).fill"
    before = page.evaluate(text)
    page.get_by_role("button", name="Light colours").click()
    page.locator(".plot[data-drawn=light]").first.wait_for()
    assert page.evaluate(text) != before
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
    if (node.closest("script, .unseen, option")) continue;
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
def test_text_has_contrast(
    name: str,
    scheme: str,
    visit: Callable[..., Any],
    draw_charts: Callable[[Any], int],
    request: pytest.FixtureRequest,
) -> None:
    page = visit(request.getfixturevalue(name), color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    draw_charts(page)
    assert page.evaluate(READ) == []


NAMES = """
() => [...document.querySelectorAll("button, select, input, a, [tabindex], .chart")]
  .filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim()
    || (node.labels && node.labels.length)))
  .map((node) => node.outerHTML.slice(0, 80))
"""


@pytest.mark.parametrize("name", ["large", "many"])
def test_controls_and_charts_have_names(
    name: str,
    visit: Callable[..., Any],
    draw_charts: Callable[[Any], int],
    request: pytest.FixtureRequest,
) -> None:
    page = visit(request.getfixturevalue(name))
    draw_charts(page)
    assert page.evaluate(NAMES) == []
    heads = page.locator("h1, h2, h3").evaluate_all("(all) => all.map((h) => Number(h.tagName[1]))")
    assert heads[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(heads))


def test_first_tab_stop_skips_to_the_summary(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.text_content() == "Skip to the summary"
    assert focused.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    page.wait_for_url("**#summary")


def test_first_screen_fits(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    page.set_viewport_size({"width": 1280, "height": 800})
    answer = shown(page, "#summary .answer")
    assert answer.count() == 1
    for part in (answer.locator("h2"), *answer.locator(".pair > figure").all()):
        box = part.bounding_box()
        assert box["y"] + box["height"] <= 800
    table = answer.locator(".pair > .table")
    assert table.locator("thead th").count() <= 7
    assert table.evaluate("(node) => !node.classList.contains('wide')")


def test_wide_tables_show_that_they_scroll(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many, 400)
    page.locator("#time details", has=page.locator("#t-latency-cpu-4-threads-float32")).locator(
        "> summary"
    ).click()
    figure = page.locator("#t-latency-cpu-4-threads-float32")
    page.locator("#t-latency-cpu-4-threads-float32.more").wait_for()
    caption = "getComputedStyle(document.querySelector('#t-latency-cpu-4-threads-float32 > "
    caption += "figcaption'), '::after').content"
    assert "Scroll sideways" in page.evaluate(caption)
    figure.locator(".scroll").evaluate("(box) => { box.scrollLeft = box.scrollWidth; }")
    page.locator("#t-latency-cpu-4-threads-float32.wide:not(.more)").wait_for()
