from __future__ import annotations

import io
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from baselines.interface import BoolArray, Prompts, UInt8Array
from benchmarks.report.mask_grid import (
    MODELS_PER_LINE,
    YELLOW,
    MaskPanel,
    MaskRow,
    mask_grid,
    outline,
    overlay,
    with_outlines,
    write_grid,
)
from benchmarks.report.style import BLUE, plot_style, rgb
from mobilesam.errors import DataError

GREY = 128


def picture(height: int = 60, width: int = 90) -> UInt8Array:
    return np.full((height, width, 3), GREY, np.uint8)


def square(low: int, high: int, height: int = 60, width: int = 90) -> BoolArray:
    mask = np.zeros((height, width), np.bool_)
    mask[low:high, low:high] = True
    return mask


def row(n_models: int = 1, **changes: Any) -> MaskRow:
    values: dict[str, Any] = {
        "title": "a picture",
        "image": picture(),
        "prompts": Prompts(boxes=np.array([[10, 12, 40, 42]], np.float32)),
        "references": (),
        "panels": tuple(
            MaskPanel(f"model-{i}", "weights custom 0123abcd", "IoU 0.50", (square(10, 40),))
            for i in range(n_models)
        ),
    }
    return MaskRow(**(values | changes))


def draw(*rows: MaskRow, title: str = "A title", notes: tuple[str, ...] = ("A note.",)) -> Any:
    with plot_style():
        figure = mask_grid(title, rows, notes)
        figure.canvas.draw()
    return figure


def texts(figure: Any) -> list[str]:
    inside = [text.get_text() for ax in figure.axes for text in ax.texts]
    return [text.get_text() for text in figure.texts if text.get_text()] + inside


def test_overlay_changes_the_mask_only() -> None:
    image, mask = picture(), square(10, 40)
    drawn = overlay(image, [mask])
    assert (image == GREY).all()
    assert (drawn[~mask] == GREY).all()
    inside = drawn[25, 25].astype(int)
    assert (np.abs(inside - rgb(BLUE)) < np.abs(GREY - np.array(rgb(BLUE)))).all()
    assert (drawn[10, 25] == 255).all()


def test_overlay_without_masks_is_the_image() -> None:
    image = picture()
    assert (overlay(image, []) == image).all()
    assert (overlay(image, [np.zeros(image.shape[:2], np.bool_)]) == image).all()


def test_smaller_masks_are_on_top_in_any_order() -> None:
    masks = [square(0, 50), square(10, 40), square(20, 30)]
    drawn = [overlay(picture(), list(order)) for order in permutations(masks)]
    assert all((each == drawn[0]).all() for each in drawn)
    colours = {tuple(drawn[0][i, i]) for i in (5, 15, 25)}
    assert len(colours) == 3


def test_masks_of_similar_size_differ_in_colour() -> None:
    masks = [square(0, side) for side in range(4, 60, 4)]
    image = overlay(picture(), masks)
    shown = [tuple(image[side - 3, 1]) for side in range(4, 60, 4)]
    assert all(a != b for a, b in pairwise(shown))


def test_outline_is_inside_and_not_at_the_border() -> None:
    mask = square(0, 30)
    edge = outline(mask)
    assert not (edge & ~mask).any()
    assert edge[29, :30].all()
    assert edge[:30, 29].all()
    assert not edge[0, :29].any()
    assert not outline(np.ones((20, 20), np.bool_)).any()


def test_reference_outlines_are_yellow_on_black() -> None:
    image, mask = picture(), square(20, 40)
    drawn = with_outlines(image, [mask])
    assert tuple(drawn[20, 30]) == rgb(YELLOW)
    assert tuple(drawn[19, 30]) == (0, 0, 0)
    assert (drawn[30, 30] == GREY).all()
    assert (image == GREY).all()


def test_grid_shows_names_weights_and_values() -> None:
    figure = draw(row(2, caption="box 10,12,40,42", value="ground truth outlined"))
    assert len(figure.axes) == 3
    shown = texts(figure)
    for text in ("A title", "A note.", "a picture", "box 10,12,40,42", "ground truth outlined",
                 "model-0", "model-1", "weights custom 0123abcd", "IoU 0.50"):  # fmt: skip
        assert text in shown, text


def test_message_replaces_a_picture() -> None:
    figure = draw(row(panels=(MaskPanel("sam-vit-h", message="no weights"),)))
    assert "no weights" in texts(figure)
    assert [len(ax.images) for ax in figure.axes] == [1, 0]
    boxes = [ax.get_window_extent() for ax in figure.axes]
    assert boxes[1].width / boxes[1].height == pytest.approx(90 / 60, rel=0.02)


def test_many_models_continue_below() -> None:
    figure = draw(row(MODELS_PER_LINE + 2))
    assert len(figure.axes) == 1 + MODELS_PER_LINE + 2
    places = [ax.get_position() for ax in figure.axes]
    first_below = places[1 + MODELS_PER_LINE]
    assert first_below.x0 == pytest.approx(places[1].x0)
    assert first_below.y1 < places[1].y0
    assert len({round(place.width, 6) for place in places}) == 1


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (200, 20), (20, 200)])
def test_pictures_keep_their_aspect(height: int, width: int) -> None:
    panel = MaskPanel("a", masks=(square(2, 15, height, width),))
    figure = draw(row(image=picture(height, width), prompts=None, panels=(panel, panel)))
    for ax in figure.axes:
        box = ax.get_window_extent()
        assert box.width / box.height == pytest.approx(width / height, rel=0.02)


def test_long_names_do_not_overlap_or_leave_the_figure() -> None:
    long = "third-party/a-very-long-model-name_$with$-odd|chars"
    panels = tuple(MaskPanel(f"{long}{i}", f"weights {long}", f"{long} masks") for i in range(4))
    tall = row(title=long, caption=long, value=long, panels=panels, image=picture(90, 60))
    wide = row(panels=panels, image=picture(30, 90), prompts=None)
    figure = draw(tall, wide, title=f"{long} " * 4, notes=("A long note. " * 40,))
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    boxes += [ax.get_window_extent() for ax in figure.axes]
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
    for a, b in combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 1 or down <= 1, (a, b)


def test_prompt_is_drawn_into_every_picture() -> None:
    points = Prompts(
        points=np.array([[[30, 20], [5, 6]]], np.float32), labels=np.array([[1, 0]], np.int64)
    )
    figure = draw(row(prompts=points))
    for ax in figure.axes:
        drawn = {(line.get_xdata()[0], line.get_ydata()[0], line.get_marker()) for line in ax.lines}
        assert drawn == {(30, 20, "o"), (5, 6, "X")}
    box = draw(row()).axes[1].patches[0].get_bbox()
    # Half-open edges, where pixel centres are at whole numbers.
    assert box.extents.tolist() == [9.5, 11.5, 39.5, 41.5]


def test_grid_files_are_equal_to_the_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        paths = write_grid("T", [row(references=(square(10, 40),))], [], tmp_path, name, svg=True)
        assert [path.name for path in paths] == [f"{name}.png", f"{name}.svg"]
    for suffix in ("png", "svg"):
        first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
        assert first == second
    pixels = np.asarray(Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())).convert("RGB"))
    assert pixels.shape[1] == 1200
    assert tuple(pixels[-1, -1]) == (255, 255, 255)
    distance = np.abs(pixels.astype(int) - rgb(YELLOW)).sum(axis=2)
    assert distance.min() < 30


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="figure-4"):
        write_grid("T", [row()], [], tmp_path / "file", "figure-4")
