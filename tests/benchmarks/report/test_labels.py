from __future__ import annotations

import pytest

from benchmarks.prompts.protocols import EXPLAINED, find_protocols
from benchmarks.records.record import RunRecord
from benchmarks.report.labels import dataset_label, prompt_label, protocol_title
from benchmarks.tables.record_queries import Protocol


@pytest.mark.parametrize(
    ("dataset", "n_images", "label"),
    [
        ("coco:val2017_dev", 100, "COCO val2017 dev, 100 photos"),
        ("coco:val2017", None, "COCO val2017"),
        ("coco:my_cells", 1, "my_cells, 1 image"),  # the format, not the dataset
        ("photos", 18, "shipped photos, 18 images"),
        ("synthetic:seed=77,n=500", 500, "drawn scenes, 500 images"),
        ("sa1b:sa_000020", 1200, "sa_000020, 1,200 images"),
        ("davis345", 0, "DAVIS-345"),
        ("own", 3, "own, 3 images"),
    ],
)
def test_dataset_labels(dataset: str, n_images: int | None, label: str) -> None:
    assert dataset_label(dataset, n_images) == label


def test_every_protocol_has_a_label_of_its_own() -> None:
    examples = {"K": "3", "D": "100", "P": "10"}
    families = [name for name in EXPLAINED if "detector" not in name and name != "everything"]
    names = [
        f"{name[:-1]}{examples[name[-1]]}" if name[-1] in examples else name for name in families
    ]
    found = {each.name for each in find_protocols([*names, "random-1"])}
    labels = {name: prompt_label(name) for name in found}
    assert len(set(labels.values())) == len(found)
    assert all(label[0].isupper() or label[0].isdigit() for label in labels.values())
    assert labels["clicks-1"] == "1 click"
    assert labels["clicks-multi-3"] == "3 clicks, best scored of three masks"
    assert labels["box-jitter-10"] == "Box, sides moved by up to 10 %"
    assert prompt_label("of-a-plugin") == "of-a-plugin"


def test_title_says_prompt_data_and_reference(record: RunRecord) -> None:
    dataset = "coco:val2017_dev"
    center = Protocol(dataset, "ground-truth", "center")
    assert protocol_title(record, center) == (
        "One click in the middle: COCO val2017 dev, 50 photos"
    )
    teacher = Protocol(dataset, "teacher:sam-vit-h", "box")
    assert protocol_title(record, teacher, "by object size") == (
        "Box, by object size: COCO val2017 dev, agreement with sam-vit-h"
    )
