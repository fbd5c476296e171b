"""Files of predicted masks."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from benchmarks.datasets.dataset import Instance, Sample
from benchmarks.evaluation.predictions import (
    ImageChoice,
    StoredPicture,
    load_pictures,
    predictions_path,
    save_pictures,
)


def test_names_of_models_are_safe_file_names(tmp_path: Path) -> None:
    names = (
        "mobilesam", "sam2.1-b+", "mobilesam@512", "hf:facebook/sam-vit-base",
        "hf:facebook-sam-vit-base", "hf:../../up", "..", "C:\\models\\x", "a\nb", "é",
        *("x" * 300 + end for end in "ab"),
    )  # fmt: skip
    paths = [predictions_path(tmp_path, name) for name in names]
    assert len({path.name.lower() for path in paths}) == len(names)
    for path in paths:
        assert path.parent == tmp_path / "predictions"
        assert not set(path.name) & set('/\\:*?"<>|\n')
        assert len(path.name) <= 255
        path.parent.mkdir(exist_ok=True)
        path.touch()
    # As in earlier versions.
    assert [path.stem for path in paths[:3]] == list(names[:3])


@pytest.mark.parametrize("n", [0, 1, 7, 50])
def test_image_choice_does_not_depend_on_the_order(n: int) -> None:
    found = []
    for seed in range(3):
        ids = list(range(0, 120, 3))
        Random(seed).shuffle(ids)  # noqa: S311 - no secret
        choice, kept = ImageChoice(n), set()
        for image_id in ids:
            if choice.wants(image_id):
                kept.add(image_id)
                kept -= set(choice.add(image_id))
        found.append(kept)
        assert len(kept) == min(n, len(ids))
    assert found[0] == found[1] == found[2]
    # Spread over the dataset, not its first images.
    if n == 7:
        assert max(found[0]) > 60


def test_pictures_are_stored_smaller_and_belong_to_their_data(tmp_path: Path) -> None:
    image = np.full((1500, 3000, 3), (200, 30, 90), np.uint8)
    instance = Instance.from_mask(1, "thing", np.ones((1500, 3000), np.bool_))
    picture = StoredPicture.of(Sample(5, "wide.png", image, (instance,)))
    path = tmp_path / "pictures.parquet"
    save_pictures(path, "data", {5: picture})
    found = load_pictures(path, "data")
    assert found == {5: picture}
    assert found[5].name == "wide.png"
    assert found[5].pixels().shape == (512, 1024, 3)
    assert np.abs(found[5].pixels().mean((0, 1)) - (200, 30, 90)).max() < 3
    assert load_pictures(path, "other data") == {}
    path.write_bytes(b"PAR1")
    assert load_pictures(path, "data") == load_pictures(tmp_path / "none", "data") == {}
