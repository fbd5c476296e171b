from __future__ import annotations

import pytest

from benchmarks.report.style import (
    DARK,
    LEAST_GRAPHIC,
    LEAST_TEXT,
    LIGHT,
    PALETTE,
    VERMILLION,
    Theme,
    contrast,
    mark_color,
    mixed,
    model_styles,
    print_styles,
    short_names,
    vega_config,
)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_contrast_on_every_background(theme: Theme) -> None:
    for ground in ("page", "surface", "raised"):
        for text in ("ink", "muted", "accent", "good", "bad"):
            assert contrast(theme[text], theme[ground]) >= LEAST_TEXT, (text, ground)
        assert contrast(theme["edge"], theme[ground]) >= LEAST_GRAPHIC
    # What is pressed has the surface's colour on the accent's.
    assert contrast(theme["surface"], theme["accent"]) >= LEAST_TEXT


def test_contrast_ratio() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_mark_colors_are_visible_and_distinct(theme: Theme) -> None:
    shown = [mark_color(color, theme) for color in PALETTE]
    assert all(contrast(color, theme["surface"]) >= LEAST_GRAPHIC for color in shown)
    assert len(set(shown)) == len(PALETTE)


def test_visible_color_is_unchanged() -> None:
    assert mark_color("#0072B2", LIGHT).lower() == "#0072b2"


def test_model_styles_are_stable_and_distinct() -> None:
    names = [f"model-{index}" for index in range(20)]
    styles = model_styles(["mobilesam", *names, "dummy"])
    assert len(set(styles.values())) == 22
    assert styles["mobilesam"] == model_styles(["mobilesam"])["mobilesam"]
    alone = model_styles(["model-3"])
    assert model_styles(["sam-vit-b", "model-3", "box"])["model-3"] == alone["model-3"]


def test_variants_of_a_model_have_shades_that_are_visible() -> None:
    names = ["mobilesam", "mobilesam-onnx", "mobilesam-openvino", "sam-vit-h"]
    found = [style.color for style in print_styles(names).values()]
    assert len(set(found)) == 4
    assert all(contrast(color, "#ffffff") >= LEAST_GRAPHIC for color in found)
    assert mixed("#804020", -0.5) == "#402010"
    assert mixed("#804020", 1) == "#ffffff"


def test_short_names_are_distinct() -> None:
    names = ["a" * 30 + str(index) + "b" * 30 for index in range(3)]
    short = short_names([*names, "box"])
    assert len(set(short.values())) == 4
    assert max(map(len, short.values())) <= 28
    assert short["box"] == "box"


def test_vega_config_gives_every_model_its_color() -> None:
    models = ["mobilesam", "sam-vit-h"]
    light, dark = (vega_config(theme, models)["range"]["category"] for theme in (LIGHT, DARK))
    assert light == ["#d55e00", "#0072b2"]
    assert dark != light
    assert vega_config(DARK, models)["background"] == DARK["surface"]


def test_input_sizes_of_a_model_share_its_color() -> None:
    sizes = ["mobilesam@512", "mobilesam@768", "other@256", "hf:a/b", "hf:c@512"]
    for names in (sizes, [*sizes, "mobilesam", "other", "mobilesam-onnx"]):
        styles = model_styles(names)
        assert set(styles) == set(names)
        assert styles["mobilesam@512"].color == styles["mobilesam@768"].color == VERMILLION
        assert styles["mobilesam@512"].marker != styles["mobilesam@768"].marker
        assert len(set(styles.values())) == len(names)
    assert styles["other@256"].color == styles["other"].color


def test_input_sizes_differ_beside_every_build_of_the_model() -> None:
    builds = ["", "-onnx", "-openvino", "-mini", "-fast", "-onnx-int8", "-openvino-int8"]
    sizes = ["mobilesam-fast@768", "mobilesam-fast@512"]
    styles = model_styles([*(f"mobilesam{each}" for each in builds), *sizes])
    assert len({(each.color, each.marker) for each in styles.values()}) == len(styles)
