"""Phases and terms of the ledger are parsed, and measures name their models."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from benchmarks.paper.claims import Claim
from benchmarks.paper.measures import Phase, Term, models_of


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("encode", ("encode", None, False)),
        ("decode@10", ("decode", 10, False)),
        ("decode*1024", ("decode", 1024, True)),
    ],
)
def test_phases_are_parsed(text: str, wanted: tuple[str, int | None, bool]) -> None:
    phase = Phase.model_validate(text)
    assert (phase.name, phase.n_prompts, phase.scaled) == wanted
    assert Phase.model_validate(phase.model_dump()) == phase


@pytest.mark.parametrize("text", ["encod", "decode@", "decode@0", "decode/10", ""])
def test_malformed_phases_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="unknown phase"):
        Phase.model_validate(text)


def test_terms_are_parsed() -> None:
    term = Term.model_validate("-sam-vit-h/image_encoder/used")
    assert (term.sign, term.owner, term.part, term.column) == (
        -1, "sam-vit-h", "image_encoder", "used",
    )  # fmt: skip
    assert Term.model_validate("plain-vit/h14/with-head").sign == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sam-vit-h/image_encoder", "is not model/component/column"),
        ("sam-vit-x/all/total", "unknown model 'sam-vit-x'"),
        ("sam-vit-h/all/most", "unknown column"),
        ("sam-neck/all/total", "no derived count"),
    ],
)
def test_malformed_terms_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Term.model_validate(text)


@pytest.mark.parametrize(
    ("claim", "models"),
    [
        ("mobilesam.table3.encoder-latency", ("mobilesam",)),
        ("mobilesam.table3.encoder-speedup", ("sam-vit-h", "mobilesam")),
        ("mobilesam.table4.batch8-epochs8-miou", ()),
        ("mobilesam.training.images", ()),
        ("edgesam.coco-box.mobilesam", ("mobilesam",)),
    ],
)
def test_models_of_a_measure(ledger: dict[str, Claim], claim: str, models: tuple[str, ...]) -> None:
    assert models_of(ledger[claim].measure) == models
