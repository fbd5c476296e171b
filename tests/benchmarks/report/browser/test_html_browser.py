"""The HTML report in headless Chromium: opening, sorting, filters, gallery, charts, downloads."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from PIL import Image

EVIL = "<script>alert(1)</script>"
N_IMAGES = 100


def shown(page: Any, selector: str) -> Any:
    return page.locator(f"{selector}:visible")


def test_page_is_small_and_opens_quickly(large: Path, visit: Callable[..., Any]) -> None:
    assert large.stat().st_size <= 15_000_000
    took_s = []
    for _ in range(3):
        start = time.perf_counter()
        page = visit(large)
        page.locator("#cases .case:visible").first.wait_for()
        took_s.append(time.perf_counter() - start)
        if took_s[-1] < 5:
            break
    # The best of three, since the machine may be busy; on an idle one it takes half a second.
    assert min(took_s) < 5, took_s
    assert page.evaluate("Object.keys(masks.images).length") == N_IMAGES
    print(f"{large.stat().st_size / 1e6:.2f} MB, open in {min(took_s):.2f} s")  # noqa: T201


def column(page: Any, table: str, index: int) -> list[str]:
    found: list[str] = page.locator(f"#t-{table} tbody tr").evaluate_all(
        "(rows, index) => rows.map((row) => row.cells[index].textContent)", index
    )
    return found


def test_columns_sort_by_value_with_the_keyboard(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    head = page.locator("#t-summary thead th").nth(3)
    assert head.text_content() == "Encode (ms)"
    as_made = column(page, "summary", 3)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    # As numbers, which differs from the order of the texts: 28000 is not below 250.
    up = [float(text.split()[0]) for text in column(page, "summary", 3)]
    assert up == sorted(up)
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    down = [float(text.split()[0]) for text in column(page, "summary", 3)]
    assert down == up[::-1]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, "summary", 3) == as_made


def test_cells_without_a_number_sort_last(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    button = page.locator("#t-summary thead th button", has_text="mIoU box")
    for _ in range(2):
        button.click()
        texts = column(page, "summary", 8)
        numbers = [text[0].isdigit() for text in texts]
        assert numbers == sorted(numbers, reverse=True)
        assert True in numbers
        assert False in numbers
    assert page.locator("#t-summary th[aria-sort=descending]").count() == 1


def test_table_filter(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    page.locator("#t-paper-ledger input").fill("needs weights")
    rows = page.locator("#t-paper-ledger tbody tr:visible")
    assert 0 < rows.count() < page.locator("#t-paper-ledger tbody tr").count()
    assert all("needs" in row and "weights" in row for row in rows.all_text_contents())


def test_table_is_copied_as_markdown(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many, permissions=["clipboard-read", "clipboard-write"])
    page.locator("#t-summary thead th button", has_text="Encode").click()
    page.get_by_role("button", name="Copy as Markdown: Summary").click()
    page.locator("#said", has_text="Copied").wait_for(state="attached")
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0].startswith("| Model | Weights | Parameters used (10⁶) |")
    assert lines[1].startswith("| --- | --- | ---: |")
    assert len(lines) == 2 + len(column(page, "summary", 0))
    # In the order that is shown, with what Markdown would read as markup escaped.
    assert lines[2].startswith("| box |")
    assert any(line.startswith("| &lt;script&gt;alert(1)&lt;/script&gt; |") for line in lines)
    widths = {line.replace("\\|", "").count("|") for line in lines}
    assert len(widths) == 1


def n_colours(picture: Image.Image) -> int:
    return len(picture.convert("RGB").getcolors(2**24) or ())


def drawn_chart(page: Any, section: str) -> Any:
    """The chart of the visible figure of a section, once it is drawn."""
    chart = shown(page, f"#{section} .plot").locator(".chart")
    chart.scroll_into_view_if_needed()
    chart.locator("svg").wait_for()
    return chart


def opacities(chart: Any) -> list[float]:
    found: list[float] = chart.locator("[aria-roledescription=value]").evaluate_all(
        "(marks) => marks.map((each) => Number(each.getAttribute('opacity') ?? 1))"
    )
    return found


def test_values_are_shown_on_hover_and_by_keyboard(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    chart = drawn_chart(page, "accuracy-latency")
    tip = page.locator("#tip")
    chart.locator("[aria-roledescription=value]").last.hover(force=True)
    tip.wait_for()
    assert "mIoU" in str(tip.text_content())
    page.mouse.move(1, 1)
    tip.wait_for(state="hidden")
    # One stop of the tab key per chart; arrow keys go on from there.
    assert chart.get_attribute("tabindex") == "0"
    assert chart.locator("[tabindex]").count() == 0
    chart.focus()
    page.keyboard.press("ArrowRight")
    first = tip.text_content()
    assert "mIoU" in str(first)
    page.keyboard.press("ArrowRight")
    assert tip.is_visible()
    assert tip.text_content() != first
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_figures_switch(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    drawn_chart(page, "accuracy-latency")
    before = shown(page, "#accuracy-latency .plot > figcaption").text_content()
    page.locator("#accuracy-latency").get_by_label("Protocol").select_option(index=1)
    assert shown(page, "#accuracy-latency .plot").count() == 1
    assert shown(page, "#accuracy-latency .plot > figcaption").text_content() != before
    drawn_chart(page, "accuracy-latency")


def test_legend_highlights_models_by_click_and_keyboard(
    many: Path, visit: Callable[..., Any]
) -> None:
    page = visit(many)
    chart = drawn_chart(page, "decode")
    assert set(opacities(chart)) == {1}
    chart.locator(".role-legend-label text", has_text="grabcut").click()
    page.wait_for_function(
        "() => document.querySelectorAll('#decode [aria-roledescription=value][opacity=\"0.1\"]')"
        ".length > 0"
    )
    assert opacities(chart).count(1) == 3
    chart.locator(".role-legend-label text", has_text="grabcut").click()
    page.wait_for_function(
        "() => !document.querySelector('#decode [aria-roledescription=value][opacity=\"0.1\"]')"
    )
    chart.focus()
    page.keyboard.press("ArrowLeft")
    assert "Enter to highlight" in str(page.locator("#tip").text_content())
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelectorAll('#decode [aria-roledescription=value][opacity=\"0.1\"]')"
        ".length > 0"
    )
    assert opacities(chart).count(1) == 3


def test_figures_are_saved_as_svg_png_and_csv(
    many: Path, visit: Callable[..., Any], tmp_path: Path
) -> None:
    page = visit(many)
    figure = shown(page, "#decode .plot")
    files = {}
    for kind in ("SVG", "PNG", "CSV"):
        with page.expect_download() as waiting:
            figure.locator("> .tools").get_by_text(kind, exact=True).click()
        files[kind] = tmp_path / f"file.{kind.lower()}"
        assert waiting.value.suggested_filename.endswith(files[kind].suffix)
        waiting.value.save_as(files[kind])
    texts = "".join(ET.parse(files["SVG"]).getroot().itertext())  # noqa: S314 - our own
    assert "Decode time by number of prompts" in texts
    assert "Prompts in one call" in texts
    assert EVIL in texts
    with Image.open(files["PNG"]) as picture:
        assert picture.width > 1520
        assert n_colours(picture) > 50
    rows = files["CSV"].read_text().splitlines()
    assert rows[0] == (
        "model,decode_kind,n_prompts,median_ms,ci95_low_ms,ci95_high_ms,range_low_ms,range_high_ms"
    )
    assert any(row.startswith("mobilesam,decoder,1,55.0,") for row in rows)


def test_hostile_name_is_text(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    assert page.locator("#t-summary tbody th", has_text=EVIL).count() == 1
    assert page.locator("script").count() == 2
    chart = drawn_chart(page, "latency")
    assert EVIL in chart.locator(".role-legend-label text").all_text_contents()
    chart.locator(f"[aria-roledescription=value][aria-label^='{EVIL}']").first.hover(force=True)
    page.locator("#tip", has_text=EVIL).wait_for()
