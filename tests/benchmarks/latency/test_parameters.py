from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from baselines.interface import ModelOptions
from baselines.registry import build, select
from benchmarks.latency.parameters import count, count_flops, count_used
from benchmarks.records.record import ParamsRow

# PAPER: exact counts behind the published figures: component -> (total, used in forward).
PUBLISHED = {
    "mobilesam": {
        "image_encoder": (6_065_532, 5_743_892),
        "prompt_encoder": (6_220, 6_220),
        "mask_decoder": (4_058_340, 4_058_340),
        "all": (10_130_092, 9_808_452),
    },
    "sam-vit-h": {"image_encoder": (637_026_048,) * 2, "all": (641_090_608,) * 2},
    "sam-vit-l": {"image_encoder": (308_278_272,) * 2, "all": (312_342_832,) * 2},
    "sam-vit-b": {"image_encoder": (89_670_912,) * 2, "all": (93_735_472,) * 2},
    "fastsam-x": {"all": (72_234_149,) * 2},
    "fastsam-s": {"all": (11_790_483,) * 2},
}


def rows_of(name: str) -> dict[str, ParamsRow]:
    model = build(select([name])[0], ModelOptions(name, device="meta"))
    return {row.component: row for row in count(model)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_exact(name: str) -> None:
    rows = rows_of(name)
    for component, (total, used) in PUBLISHED[name].items():
        row = rows[component]
        assert (row.total, row.used) == (total, used)
        assert row.total_1e6 == total / 10**6
        assert row.total_2_20 == total / 2**20
        assert row.flops is not None
        assert row.flops > 0
    assert list(rows)[-1] == "all"


def test_flops_of_mobilesam_are_those_of_its_arithmetic() -> None:
    rows = rows_of("mobilesam")
    encoder, decoder = rows["image_encoder"].flops, rows["mask_decoder"].flops
    assert encoder is not None
    assert decoder is not None
    assert 70e9 < encoder < 90e9
    assert 3e9 < decoder < 4e9
    assert "gelu" in rows["image_encoder"].flops_not_counted


def test_a_model_without_networks_counts_nothing() -> None:
    rows = rows_of("box")
    assert (rows["all"].total, rows["all"].flops) == (0, None)


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 4)
        self.sometimes = nn.Linear(3, 4)
        self.never = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor, *, both: bool = False) -> torch.Tensor:
        return self.used(x) + (self.sometimes(x) if both else 0)


def test_what_no_call_touches_is_not_used() -> None:
    module = Layered()
    x = torch.zeros(1, 3)
    assert count_used(module, [lambda: module(x)]) == 16
    assert count_used(module, [lambda: module(x), lambda: module(x, both=True)]) == 32


def test_a_multiply_add_is_two_flops() -> None:
    linear = nn.Linear(3, 4, bias=False)
    linear.requires_grad_(False)
    flops, skipped = count_flops(lambda: torch.relu(linear(torch.zeros(5, 3))))
    assert flops == 2 * 5 * 3 * 4
    assert skipped == ["relu"]


def test_the_record_has_licences_and_notes(run: Any) -> None:
    done = run("params", "--models=fastsam-s,box,mobilesam@512", "--json")
    assert done.code == 0
    rows = {row["model"]: row for row in done.json["models"]}
    assert (rows["fastsam-s"]["licence"], rows["fastsam-s"]["commercial_use"]) == (
        "AGPL-3.0-only",
        "ask",
    )
    assert rows["mobilesam@512"]["input_size_px"] == 512
    assert rows["mobilesam@512"]["weights_licence"] == "Apache-2.0"
    assert rows["box"]["weights_licence"] is None


def test_parameters_of_sam_2_name_what_the_checkpoint_holds_besides(run: Any) -> None:
    pytest.importorskip("transformers")
    done = run("params", "--models=sam2.1-t", "--json")
    (row,) = (row for row in done.json["rows"] if row["component"] == "all")
    assert row["total"] == 31_440_721
    (model,) = done.json["models"]
    assert "38,962,754 parameters, of which 7,521,760 are for video" in model["weights_note"]
    assert "best of three" in model["note"]
