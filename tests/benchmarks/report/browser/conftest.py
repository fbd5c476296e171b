"""Reports opened in headless Chromium, and the browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listed_dataset import ListedDataset

from benchmarks.config.from_options import make_config
from benchmarks.config.options import AccuracyArguments, ModelArguments, OutputArguments
from benchmarks.datasets.dataset import Instance, Sample
from benchmarks.datasets.masks import encode_mask, rle_area_px, rle_box
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_coco
from benchmarks.records.progress import Reporter
from benchmarks.records.record import RunRecord, load_record, save_record
from benchmarks.report.page import write_report
from benchmarks.run import execute

N_IMAGES = 100
EVIL = "<script>alert(1)</script>"


def rolled(n_images: int, drawn: int) -> ListedDataset:
    """Many scenes from few rendered ones, shifted, because rendering is slow."""
    scenes = [SyntheticDataset(1, seed, n_objects=(1, 2)).scene(0) for seed in range(drawn)]

    def samples() -> Iterator[Sample]:
        for index in range(n_images):
            scene = scenes[index % drawn]
            shift = 37 * (index // drawn)
            instances = []
            for number, mask in enumerate(scene.masks):
                rle = encode_mask(np.roll(mask, shift, axis=1))
                area, box = float(rle_area_px(rle)), rle_box(rle)
                instances.append(Instance(10 * index + number + 1, "thing", area, box, rle))
            image = np.ascontiguousarray(np.roll(scene.image, shift, axis=1))
            yield Sample(index, f"{index}.jpg", image, tuple(instances))

    return ListedDataset(samples, n_images)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory, make_record: Callable[..., RunRecord]) -> Path:
    """The report of two models on a hundred scenes, with the times of an example record."""
    folder = tmp_path_factory.mktemp("large")
    write_coco(rolled(N_IMAGES, 4), folder / "data", "jpg")
    data = AccuracyArguments(
        dataset="coco", images=folder / "data" / "images", protocol="box,center",
        annotations=folder / "data" / "instances.json", save_masks=True,
    )  # fmt: skip
    models, output = ModelArguments(models="box,dummy"), OutputArguments(out=folder / "run")
    execute(make_config("miou", models, output, accuracy=data), Reporter(quiet=True))
    record = load_record(folder / "run")
    times = [row for row in make_record(9).latency if row.model in ("box", "dummy")]
    save_record(record.model_copy(update={"latency": tuple(times)}), folder / "run")
    write_report([folder / "run"], folder / "report.html", images=folder / "data" / "images")
    return folder / "report.html"


@pytest.fixture(scope="session")
def many(
    chromium: Any, tmp_path_factory: pytest.TempPathFactory, make_record: Callable[..., RunRecord]
) -> Path:
    """The report of two runs of nine models, one of them with a hostile name."""
    folder = tmp_path_factory.mktemp("many")
    text = make_record(9).model_dump_json().replace("sam-vit-h", EVIL)
    record = RunRecord.model_validate_json(text)
    for name in ("2026-01-01", "2026-01-02"):
        save_record(record.model_copy(update={"id": name, "created_utc": name}), folder / name)
    write_report([folder], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="session")
def draw_charts() -> Callable[[Any], int]:
    """Scrolls to every visible chart of a page until it is drawn; returns their number."""

    def call(page: Any) -> int:
        figures = page.locator(".plot:visible")
        for index in range(figures.count()):
            figures.nth(index).scroll_into_view_if_needed()
            figures.nth(index).locator(".chart svg").wait_for()
        page.wait_for_function(
            "() => [...document.querySelectorAll('.plot')].every((each) => !each.checkVisibility()"
            " || each.dataset.drawn)"
        )
        return int(figures.count())

    return call


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; fails if it writes to the console or sends a request."""
    contexts: list[Any] = []
    troubles: list[str] = []

    def call(path: Path, width: int = 1280, **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: troubles.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))

        def ask(request: Any) -> None:
            if not request.url.startswith((path.as_uri(), "data:", "blob:")):
                troubles.append(f"request: {request.url}")

        page.on("request", ask)
        page.goto(path.as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert troubles == []
