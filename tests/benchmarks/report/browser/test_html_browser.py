"""The HTML report in headless Chromium: opening, sorting, filters, gallery, charts, downloads."""

from __future__ import annotations

import re
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


def answer(page: Any) -> Any:
    """The table of the first screen."""
    return shown(page, "#summary .pair > .table")


def column(page: Any, index: int) -> list[str]:
    found: list[str] = (
        answer(page)
        .locator("tbody tr:visible")
        .evaluate_all("(rows, index) => rows.map((row) => row.cells[index].textContent)", index)
    )
    return found


def test_columns_sort_by_value_with_the_keyboard(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    head = answer(page).locator("thead th").nth(3)
    assert head.text_content() == "Encode (ms)"
    as_made = column(page, 3)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    # As numbers, which differs from the order of the texts; `< 0.01` is the least.
    up = [float(text.replace("< 0.01", "0").replace(",", "")) for text in column(page, 3)]
    assert up == sorted(up)
    in_order = column(page, 3)
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, 3) == in_order[::-1]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, 3) == as_made


def test_table_filter_finds_claims(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    page.locator("#claims summary", has_text="All claims, a line each").click()
    page.locator("#t-paper-ledger input").fill("needs weights")
    rows = page.locator("#t-paper-ledger tbody tr:visible")
    assert 0 < rows.count() < page.locator("#t-paper-ledger tbody tr").count()
    assert all("needs" in row and "weights" in row for row in rows.all_text_contents())
    # The reason is folded, and part of the row.
    why = rows.first.locator("details.why")
    before = rows.first.bounding_box()["height"]
    why.locator("summary").click()
    assert rows.first.bounding_box()["height"] > before


def test_table_is_copied_as_markdown(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many, permissions=["clipboard-read", "clipboard-write"])
    page.locator("#models summary", has_text="Models and their weights").click()
    page.get_by_role("button", name="Copy as Markdown: Models and their weights").click()
    page.locator("#said", has_text="Copied").wait_for(state="attached")
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0].startswith("| Model | Family | Input (px) |")
    assert lines[1].startswith("| --- | --- | ---: |")
    assert len(lines) == 2 + 9
    assert any(line.startswith("| &lt;script&gt;alert(1)&lt;/script&gt; |") for line in lines)
    widths = {line.replace("\\|", "").count("|") for line in lines}
    assert len(widths) == 1


def test_selection_applies_to_the_whole_page_and_to_the_address(
    many: Path, visit: Callable[..., Any]
) -> None:
    page = visit(many)
    selector = page.locator("#selector")
    title = shown(page, "#summary .plot > figcaption")
    assert str(title.text_content()).startswith("Box: ")
    selector.get_by_label("Prompt").select_option("center")
    assert str(title.text_content()).startswith("One click in the middle: ")
    for section in ("#summary", "#accuracy"):
        scopes = shown(page, f"{section} .plot").evaluate_all(
            "(all) => all.map((f) => f.dataset.scope)"
        )
        assert scopes
        assert all('"protocol": "center"' in scope for scope in scopes)
    rows = page.locator("#accuracy .table[data-protocols] tbody tr")
    kept = rows.evaluate_all("(all) => all.filter((r) => !r.hidden).map((r) => r.textContent)")
    assert 0 < len(kept) < rows.count()
    assert all("center" in text for text in kept)
    assert "protocol=center" in page.url
    # A link to a section keeps the selection, and a reload restores both.
    page.locator(".toc a", has_text="Claims").click()
    page.wait_for_url("**#at=claims&*protocol=center*")
    page.reload()
    assert selector.get_by_label("Prompt").input_value() == "center"
    assert page.locator("#prompt-note").text_content() == "center: One click in the middle."
    page.wait_for_function("() => scrollY > 300")
    page.evaluate("location.hash = 'protocol=box'")
    title.filter(has_text="Box: ").wait_for()


def test_models_are_searched_and_hidden(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    chart = drawn_chart(page, "time")
    everything = chart.locator("[aria-roledescription=value]").count()
    summary = page.locator("#models-filter > summary")
    assert summary.text_content() == "All 9 models"
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("grab")
    assert summary.text_content() == "1 of 9 models"
    assert column(page, 0) == ["grabcut"]
    page.wait_for_function(
        "(n) => document.querySelectorAll('#time [aria-roledescription=value]').length < n",
        arg=everything,
    )
    for each in page.locator("figure.table").all():
        marks = [re.match(r"\(\d+\)", str(note.text_content()))
                 for note in each.locator(".notes > li:not([hidden])").all()]  # fmt: skip
        rows = " ".join(each.locator("tbody tr:not([hidden])").all_text_contents())
        assert all(mark[0] in rows for mark in marks if mark)
    labels = page.locator("#summary .plot:visible .role-legend-label text")
    page.wait_for_function(
        "() => document.querySelectorAll('#summary .plot .role-legend-label text').length === 1"
    )
    assert labels.all_text_contents() == ["grabcut"]
    # A legend is not read out: Vega would name all models of the page.
    legend = page.locator("#summary .plot:visible .role-legend")
    assert legend.get_attribute("aria-hidden") == "true"
    assert page.locator("[aria-label*=' legend for ']").count() == 0
    page.get_by_label("Show only models whose names contain").fill("")
    page.locator(".boxes").get_by_label("grabcut").uncheck()
    assert "grabcut" not in column(page, 0)
    assert "without=grabcut" in page.url
    page.keyboard.press("Escape")
    assert not page.locator(".popup").is_visible()
    page.reload()
    assert page.locator("#models-filter > summary").text_content() == "8 of 9 models"
    assert "grabcut" not in column(page, 0)


def test_page_without_any_model_shown(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    drawn_chart(page, "summary")
    page.locator("#models-filter > summary").click()
    page.get_by_label("Show only models whose names contain").fill("none of them")
    page.locator("#summary .plot:visible").get_by_text("none of the models shown").wait_for()
    assert "(0 of 3 rows)" in str(answer(page).locator("figcaption").first.text_content())
    note = page.locator("#filter-note")
    assert note.is_visible()
    assert str(note.text_content()).endswith("Published claims and runs are not filtered.")
    page.get_by_label("Show only models whose names contain").fill("")
    page.locator("#summary .plot:visible svg").wait_for()
    assert "(3 rows)" in str(answer(page).locator("figcaption").first.text_content())
    assert not page.locator("#filter-note").is_visible()


def zoomed(chart: Any) -> list[float]:
    found: list[float] = chart.evaluate("(node) => [...node.view.scale('x').domain()]")
    return found


def test_charts_zoom_by_wheel_and_keyboard(many: Path, visit: Callable[..., Any]) -> None:
    page = visit(many)
    chart = drawn_chart(page, "summary")
    before = zoomed(chart)
    chart.focus()
    page.keyboard.press("+")
    inside = zoomed(chart)
    assert before[0] < inside[0] < inside[1] < before[1]
    page.keyboard.press("Shift+ArrowRight")
    assert zoomed(chart)[0] > inside[0]
    page.keyboard.press("0")
    assert zoomed(chart) == before
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    page.wait_for_function(
        "(low) => document.querySelector('#summary .plot:not([hidden]) .chart').view"
        ".scale('x').domain()[0] > low",
        arg=before[0],
    )


def test_two_models_are_compared_object_by_object(large: Path, visit: Callable[..., Any]) -> None:
    page = visit(large)
    place = page.locator("#compare")
    place.scroll_into_view_if_needed()
    verdict = page.locator("#compare-verdict")
    first = str(verdict.text_content())
    assert re.match(r"box (is better than|and) dummy", first)
    assert " points of mIoU" in first
    place.locator(".chart svg").wait_for()
    about = str(place.locator(".chart").get_attribute("aria-label"))
    assert about.startswith("IoU of box against dummy for ")
    dots = place.locator("[aria-roledescription=value]")
    assert dots.count() > 100
    place.get_by_role("button", name="Swap A and B").click()
    assert str(verdict.text_content()) == first
    assert "compare=dummy&compare=box" in page.url
    # An object opens its masks, from the list and from a dot, by mouse and by keyboard.
    place.locator(".cases-list button").first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    # The lightbox goes through the objects in the order of the list.
    assert str(dialog.get_by_role("status").text_content()).startswith("1 of ")
    title, second = dialog.get_by_role("heading"), place.locator(".cases-list button").nth(1)
    number = re.search(r"(\d+), image", str(second.text_content()))
    assert number is not None
    dialog.get_by_role("button", name="Close").focus()
    page.keyboard.press("ArrowRight")
    assert f"annotation {number[1]}," in str(title.text_content())
    assert "Object: image" in str(page.locator("#compare-detail").text_content())
    shown_a = dialog.get_by_role("combobox", name="A", exact=True).locator("option:checked")
    assert shown_a.text_content() == "dummy"
    page.keyboard.press("Escape")
    assert "compare=dummy&compare=box" in page.url
    page.wait_for_function(
        "document.querySelector('#compare .chart').dataset.drawn === 'dummy|box'"
    )
    for act in (lambda: dots.first.click(force=True), lambda: by_keyboard(page, place)):
        act()
        dialog.wait_for()
        page.keyboard.press("Escape")
        dialog.wait_for(state="hidden")


def by_keyboard(page: Any, place: Any) -> None:
    """Opens the first value of a chart."""
    place.locator(".chart").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")


def n_colours(picture: Image.Image) -> int:
    return len(picture.convert("RGB").getcolors(2**24) or ())


def drawn_chart(page: Any, section: str, key: str = "") -> Any:
    """The chart of the first visible figure of a section and kind, once it is drawn."""
    chart = shown(page, f"#{section} .plot[data-key{f'^={key}' if key else ''}]").first
    chart = chart.locator(".chart")
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
    chart = drawn_chart(page, "summary")
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


def test_legend_highlights_models_by_click_and_keyboard(
    many: Path, visit: Callable[..., Any]
) -> None:
    page = visit(many)
    chart = drawn_chart(page, "time", "decode")
    assert set(opacities(chart)) == {1}
    chart.locator(".role-legend-label text", has_text="grabcut").click()
    page.wait_for_function(
        "() => document.querySelector('[data-key^=decode] [aria-label*=ms][opacity=\"0.1\"]')"
    )
    assert opacities(chart).count(1) == 3
    chart.locator(".role-legend-label text", has_text="grabcut").click()
    page.wait_for_function(
        "() => !document.querySelector('[data-key^=decode] [aria-label*=ms][opacity=\"0.1\"]')"
    )
    chart.focus()
    page.keyboard.press("ArrowLeft")
    assert "Enter to highlight" in str(page.locator("#tip").text_content())
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelector('[data-key^=decode] [aria-label*=ms][opacity=\"0.1\"]')"
    )
    assert opacities(chart).count(1) == 3


def test_figures_are_saved_as_svg_png_and_csv(
    many: Path, visit: Callable[..., Any], tmp_path: Path
) -> None:
    page = visit(many)
    figure = shown(page, "#time .plot[data-key^=decode]")
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
    assert page.locator(".boxes label", has_text=EVIL).count() == 1
    assert page.locator("script").count() == 2
    chart = drawn_chart(page, "time", "decode")
    assert EVIL in chart.locator(".role-legend-label text").all_text_contents()
    chart = drawn_chart(page, "time", "latency")
    chart.locator(f"[aria-roledescription=value][aria-label^='{EVIL}']").first.hover(force=True)
    page.locator("#tip", has_text=EVIL).wait_for()
