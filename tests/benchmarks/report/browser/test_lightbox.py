"""Masks in the HTML report: small pictures, filters, and the lightbox with its links."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def cards(page: Any) -> Any:
    return page.locator("#cases .case")


def ious(page: Any) -> list[float]:
    texts = cards(page).evaluate_all("(nodes) => nodes.map((node) => node.dataset.iou)")
    return [float(text) for text in texts]


def test_order_and_filters(large: Path, visit: Callable[..., Any]) -> None:
    page = visit(large)
    tools, count = page.locator("#gallery-tools"), page.locator("#gallery-count")
    assert cards(page).count() == 24
    worst = ious(page)
    assert worst == sorted(worst)
    tools.get_by_label("Order").select_option("best")
    assert ious(page) == sorted(ious(page), reverse=True)
    assert ious(page)[0] > worst[0]
    tools.get_by_role("spinbutton", name="IoU of A from").fill("0.3")
    tools.get_by_role("spinbutton", name="to").fill("0.5")
    assert ious(page)
    assert all(0.3 <= iou <= 0.5 for iou in ious(page))
    tools.get_by_role("spinbutton", name="IoU of A from").fill("")
    tools.get_by_role("spinbutton", name="to").fill("")
    before = str(count.text_content())
    shown = re.match(r"24 of (\d+) objects are shown; \w+ fails in \d+ of (\d+) ", before)
    assert shown is not None
    assert shown[1] == shown[2]
    tools.get_by_label("Size").select_option("medium")
    assert str(count.text_content()) != before
    labels = cards(page).evaluate_all("(all) => all.map((each) => each.ariaLabel)")
    assert all("(medium)" in label for label in labels)
    tools.get_by_label("Size").select_option("")
    page.locator("#selector").get_by_label("Prompt").select_option("center")
    tools.get_by_label("Model A").select_option("box")
    assert cards(page).count() == 0  # the model box takes no points
    assert str(count.text_content()).startswith("box has no masks for prompts of center")
    tools.get_by_label("Model A").select_option("dummy")
    assert cards(page).first.get_by_text("box: not measured").count() == 1
    for order in ("better", "worse"):
        tools.get_by_label("Order").select_option(order)
        assert count.text_content() == "box has no masks for prompts of center here."
    tools.get_by_label("Order").select_option("failures")
    failed = [iou < 0.5 for iou in ious(page)]
    assert failed == sorted(failed, reverse=True)
    page.get_by_role("button", name="Show more").click()
    assert cards(page).count() > 24
    assert str(cards(page).count()) in str(count.text_content())
    tools.get_by_role("spinbutton", name="IoU of A from").fill("0.9")
    tools.get_by_role("spinbutton", name="to").fill("0.2")
    assert count.text_content() == "No object fits."


def test_hidden_models_have_no_masks_and_one_alone_has_no_other(
    large: Path, visit: Callable[..., Any]
) -> None:
    page = visit(large)
    tools, count = page.locator("#gallery-tools"), page.locator("#gallery-count")
    tools.get_by_label("Order").select_option("better")
    page.locator("#models-filter > summary").click()
    search = page.get_by_label("Show only models whose names contain")
    search.fill("none of them")
    assert count.text_content() == "None of the models shown has stored masks."
    assert cards(page).count() == 0
    assert not tools.is_visible()
    search.fill("dummy")
    assert tools.get_by_label("Model A").locator("option:checked").text_content() == "dummy"
    assert not tools.get_by_label("Model B").is_visible()
    assert tools.get_by_label("Order").input_value() == "worst"
    page.keyboard.press("Escape")
    cards(page).first.click()
    box = page.get_by_role("dialog")
    box.locator("canvas[data-drawn]").wait_for()
    assert box.locator(".scores p").count() == 1
    assert not box.get_by_role("button", name="Mask of B").is_visible()
    page.keyboard.press("Escape")
    search.evaluate("(all) => { all.value = ''; all.dispatchEvent(new Event('input')); }")
    assert tools.get_by_label("Model B").is_visible()


def test_second_model_is_one_that_was_measured(large: Path, visit: Callable[..., Any]) -> None:
    page = visit(large)
    # The model box takes no points; a third model has other masks.
    page.evaluate(
        "masks.models.push('third'); const [, ofB] = document.querySelectorAll("
        "'#gallery-tools select'); ofB.append(new Option('third', 2)); "
        "masks.cases.forEach(({ masks: all }) => all.push(all[1] && [all[1][0] / 2, null]))"
    )
    page.locator("#selector").get_by_label("Prompt").select_option("center")
    first = str(cards(page).first.text_content())
    assert "dummy: IoU" in first
    assert "third: IoU" in first
    assert "box" not in first


# How many pixels of a picture the errors of a model change; the outline of the truth is among them.
CHANGED = """
async (model) => {
  const each = masks.cases.find((one) => one.protocol === "center");
  each.masks = [null, null];
  const drawn = async (mode) => {
    const canvas = document.createElement("canvas");
    await masks.draw(canvas, each, [model, model], { width: 300, mode, whole: false });
    return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  };
  const [errors, picture] = [await drawn("errors"), await drawn("picture")];
  return errors.filter((value, index) => value !== picture[index]).length;
}
"""


def test_what_was_not_measured_is_not_painted_as_missed(
    large: Path, visit: Callable[..., Any]
) -> None:
    page = visit(large)
    # Neither has a mask: box was not asked, dummy had no answer.
    outline, missed = page.evaluate(CHANGED, 0), page.evaluate(CHANGED, 1)
    assert 0 < outline < 0.7 * missed


def test_shares_of_an_object_are_not_rounded_to_all_or_nothing(
    large: Path, visit: Callable[..., Any]
) -> None:
    page = visit(large)
    page.evaluate("shares => { masks.errors = () => shares }", {"missed": 0.998, "extra": 0.0002})
    cards(page).first.click()
    text = page.get_by_role("dialog").locator(".scores p").first
    assert str(text.text_content()).endswith("of the object > 99 % missed, < 0.1 % too much")
    page.evaluate("masks.errors = () => ({ missed: 1, extra: 0 })")
    page.keyboard.press("ArrowRight")
    assert str(text.text_content()).endswith("of the object 100 % missed, 0 % too much")


def test_masks_follow_the_answer_and_say_what_they_are_of(
    large: Path, visit: Callable[..., Any]
) -> None:
    page = visit(large)
    recommended = page.locator(".answer:visible").first.get_attribute("data-order")
    first = page.locator("#gallery-tools").get_by_label("Model A").locator("option:checked")
    assert str(recommended).startswith(f'["{first.text_content()}"')
    scope = page.locator("#gallery-scope")
    assert not scope.is_visible()
    hidden = str(first.text_content())
    page.locator("#models-filter > summary").click()
    page.locator(".boxes").get_by_label(hidden, exact=True).uncheck()
    assert first.text_content() != hidden
    assert hidden not in str(page.locator("#gallery-count").text_content())
    page.locator(".boxes").get_by_label(hidden, exact=True).check()
    page.keyboard.press("Escape")
    assert first.text_content() == hidden
    page.evaluate(
        "page.data.masked = 'other'; document.documentElement.dispatchEvent("
        "new Event('selectionchange'))"
    )
    assert str(scope.text_content()).startswith(
        "Masks are stored for other, prompts of box, center"
    )


# Decodes the masks that a lightbox shows, and compares them with the IoU in the record.
AGREES = """
() => masks.cases.slice(0, 40).every((each) => each.masks.every((found, model) => {
  if (!found) return true;
  const { missed, extra } = masks.errors(each, model);
  return Math.abs((1 - missed) / (1 + extra) - found[0]) < 1e-9;
}))
"""


def test_keyboard_alone_opens_walks_and_closes(large: Path, visit: Callable[..., Any]) -> None:
    page = visit(large)
    assert page.evaluate(AGREES)
    card = cards(page).nth(2)
    card.focus()
    page.keyboard.press("Enter")
    box = page.get_by_role("dialog")
    box.wait_for()
    canvas = box.get_by_role("img")
    box.locator("canvas[data-drawn]").wait_for()
    title, link = box.get_by_role("heading").text_content(), page.url
    assert "3 of " in str(box.get_by_role("status").text_content())
    label = str(canvas.get_attribute("aria-label"))
    assert label.startswith(str(title))
    assert f"IoU {float(str(card.get_attribute('data-iou'))):.3f}" in label
    # The tab key stays inside.
    for _ in range(20):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('dialog, body').tagName") in (
            "DIALOG", "BODY",
        )  # fmt: skip
        assert not page.evaluate("document.activeElement.matches('main *, header *')")
    box.get_by_role("button", name="Close").focus()
    page.keyboard.press("ArrowRight")
    assert box.get_by_role("heading").text_content() != title
    assert "4 of " in str(box.get_by_role("status").text_content())
    page.keyboard.press("ArrowLeft")
    assert page.url == link
    page.keyboard.press("Escape")
    box.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.ariaLabel") == card.get_attribute("aria-label")
    assert "case" not in page.url


def test_link_opens_its_case_again(large: Path, visit: Callable[..., Any]) -> None:
    page = visit(large)
    page.evaluate("location.hash = 'protocol=box'")
    cards(page).nth(5).click()
    page.get_by_role("dialog").get_by_role("combobox", name="A", exact=True).select_option("dummy")
    link, title = page.url, page.get_by_role("heading", level=2).last.text_content()
    assert "protocol=box" in link  # other parts of the page keep their state there
    other = visit(large)
    other.goto(link)
    other.reload()
    box = other.get_by_role("dialog")
    box.locator("canvas[data-drawn]").wait_for()
    assert box.get_by_role("heading").text_content() == title
    assert box.get_by_role("combobox", name="A", exact=True).evaluate("(all) => all.value") == "1"
    other.go_back()
    box.wait_for(state="hidden")


def colours(page: Any) -> set[tuple[int, ...]]:
    shot = Image.open(BytesIO(page.locator(".lightbox canvas").screenshot())).convert("RGB")
    return {colour for _, colour in shot.getcolors(2**24) or ()}


def test_views_show_different_masks(large: Path, visit: Callable[..., Any]) -> None:
    page = visit(large)
    case = page.evaluate(
        "masks.cases.find((each) => each.masks[0] && each.masks[1] && each.masks[1][0] > 0.2)"
    )
    opened = (
        f"openCase({case['image']}, {case['annotation']}, 'box', 'dummy', '{case['protocol']}')"
    )
    assert page.evaluate(opened)
    box = page.get_by_role("dialog")
    box.locator("canvas[data-drawn]").wait_for()
    pictures = set()

    def keep() -> None:
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")
        pictures.add(box.locator("canvas").screenshot())

    keep()
    slider = box.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")  # arrow keys are the slider's own here
    page.keyboard.press("ArrowRight")
    keep()
    for name in ("Mask of A", "Mask of B"):
        box.get_by_role("button", name=name).click()
        assert slider.count() == 0
        keep()
    for mode in ("mask", "truth", "picture"):
        box.get_by_label("Show").select_option(mode)
        keep()
    box.get_by_role("button", name="Whole image").click()
    keep()
    assert len(pictures) == 8
    page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lightbox_fits_a_small_window(scheme: str, large: Path, visit: Callable[..., Any]) -> None:
    page = visit(large, 400, color_scheme=scheme)
    cards(page).first.click()
    box = page.get_by_role("dialog")
    box.get_by_role("button", name="A and B with a slider").click()
    box.locator("canvas[data-drawn]").wait_for()
    assert box.evaluate("(each) => each.scrollWidth <= innerWidth")
    assert box.evaluate("(each) => each.scrollHeight <= innerHeight")
    places = box.locator("button, select, canvas, input").evaluate_all(
        "(all) => all.map((each) => each.getBoundingClientRect()).map((r) => [r.left, r.right])"
    )
    assert all(left >= 0 and right <= 400 for left, right in places)


def test_case_without_a_picture_opens_nothing(
    large: Path, many: Path, visit: Callable[..., Any]
) -> None:
    page = visit(large)
    assert page.evaluate("openCase(99999, 1, 'box', 'dummy')") is False
    known = "masks.cases[0].image, masks.cases[0].annotation, 'box', 'dummy'"
    assert page.evaluate(f"openCase({known}, 'noc')") is False
    # Masks of other models are no substitute.
    assert page.evaluate(f"openCase({known.replace('box', 'mobilesam')})") is False
    case = page.evaluate(
        "[masks.cases[0].image, masks.cases[0].annotation, masks.cases[0].protocol]"
    )
    page.evaluate(f"location.hash = 'case={','.join(map(str, case))}&a=mobilesam&b=dummy'")
    page.wait_for_timeout(50)
    page.evaluate("location.hash = 'case=99999,1,box'")
    assert page.get_by_role("dialog").count() == 0
    assert visit(many).evaluate("openCase(1, 1, 'mobilesam', 'box')") is False
