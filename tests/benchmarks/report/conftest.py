"""Runs with stored masks, shared by the tests of the page and of the gallery."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.config.from_options import make_config
from benchmarks.config.options import AccuracyArguments, ModelArguments, OutputArguments
from benchmarks.records.progress import Reporter
from benchmarks.report.gallery import Gallery, build_gallery
from benchmarks.run import execute


@pytest.fixture(scope="session")
def masks_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two models on two drawn scenes whose masks are stored."""
    out = tmp_path_factory.mktemp("runs") / "drawn"
    data = AccuracyArguments(dataset="synthetic", limit=2, protocol="box,center", save_masks=True)
    models, output = ModelArguments(models="box,dummy"), OutputArguments(out=out, quiet=True)
    execute(make_config("miou", models, output, accuracy=data), Reporter(quiet=True))
    return out


@pytest.fixture(scope="session")
def photos_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one model on two packaged photos whose masks are stored."""
    out = tmp_path_factory.mktemp("runs") / "photos"
    data = AccuracyArguments(limit=2, protocol="box", save_masks=True, no_boundary=True)
    models, output = ModelArguments(models="box"), OutputArguments(out=out, quiet=True)
    execute(make_config("miou", models, output, accuracy=data), Reporter(quiet=True))
    return out


@pytest.fixture(scope="session")
def gallery(masks_run: Path) -> Gallery:
    """The gallery of that run."""
    return build_gallery([masks_run], ["box", "dummy"], each=3)
