"""The commands `data make` and `data boxes`."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("name", ["coco", "sa1b"])
def test_data_make_writes_what_miou_reads(run: Any, name: str) -> None:
    made = run("data", "make", "scenes", f"--format={name}", "--n=2")
    assert made.code == 0
    use = made.out.split("mobilesam-bench ")[1].split()
    done = run(*use, "--models=box", "--protocol=box", "--json")
    assert done.code == 0
    assert done.json["rows"][0]["n_images"] == 2


def test_data_make_of_an_unknown_format_is_exit_code_2(run: Any) -> None:
    assert run("data", "make", "x", "--format=voc").code == 2
