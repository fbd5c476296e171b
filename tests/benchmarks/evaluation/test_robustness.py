"""Losses under disturbed prompts: paired by instance, with the clean prompts of the same run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluation_doubles import instance_row, instances_table

from benchmarks.evaluation.robustness import robustness_rows
from benchmarks.prompts.protocols import find_protocols
from benchmarks.records.instances import InstanceRow
from benchmarks.records.record import MiouRow, RobustnessRow, WeightsRow
from benchmarks.records.statistics import clustered_mean

PROTOCOLS = find_protocols(["box-jitter-10", "mask-eroded"])


def instances(seed: int = 0, n_images: int = 9) -> list[InstanceRow]:
    """Two models; every seventh disturbed prompt has no answer."""
    rng = np.random.default_rng(seed)
    return [
        instance_row(number, number % n_images, model, protocol, iou=float(rng.random()))
        for model in ("a", "b")
        for number in range(40)
        for protocol in ("box", "box-jitter-10")
        if protocol == "box" or number % 7
    ]


def losses(rows: list[InstanceRow], miou: list[MiouRow]) -> list[RobustnessRow]:
    return list(robustness_rows(miou, [instances_table(rows)], PROTOCOLS))


def miou_row(model: str, protocol: str, **changes: Any) -> MiouRow:
    return MiouRow(
        model=model,
        dataset="d",
        protocol=protocol,
        reference="ground-truth",
        weights=WeightsRow(kind="none"),
        **changes,
    )


def test_losses_are_paired_by_instance() -> None:
    rows = instances()
    protocols = ("box", "box-jitter-10")
    found = losses(rows, [miou_row(model, each) for model in "ab" for each in protocols])
    assert [(row.model, row.protocol, row.clean) for row in found] == [
        ("a", "box-jitter-10", "box"),
        ("b", "box-jitter-10", "box"),
    ]
    for row in found:
        ious = {(r.protocol, r.annotation_id): r.iou for r in rows if r.model == row.model}
        pairs = [number for number in range(40) if ("box-jitter-10", number) in ious]
        clean, disturbed = (np.array([ious[name, n] for n in pairs]) for name in protocols)
        wanted = clustered_mean(clean - disturbed, np.array(pairs) % 9)
        assert (row.n_instances, row.n_images) == (len(pairs), 9)
        assert row.loss == pytest.approx(wanted.mean)
        assert row.ci95 == pytest.approx(wanted.ci95)
        assert (row.miou_clean, row.miou) == pytest.approx((clean.mean(), disturbed.mean()))


def test_the_order_of_rows_and_of_tables_does_not_matter() -> None:
    rows = instances()
    miou = [miou_row("a", "box-jitter-10")]
    by_image = [[r for r in rows if r.image_id % 2 == part] for part in (1, 0)]
    tables = [instances_table(part[::-1]) for part in by_image]
    (parts,), (whole,) = robustness_rows(miou, tables, PROTOCOLS), losses(rows, miou)
    assert parts.ci95 == pytest.approx(whole.ci95)
    assert (parts.loss, parts.n_instances) == pytest.approx((whole.loss, whole.n_instances))


def test_a_model_without_an_accuracy_keeps_its_reason() -> None:
    skipped = miou_row("a", "mask-eroded", status="skipped", why="a takes no masks as prompts")
    clean_lost = miou_row("c", "box-jitter-10")
    found = losses(instances(), [skipped, clean_lost])
    assert [(row.status, row.why) for row in found] == [
        ("skipped", "a takes no masks as prompts"),
        ("skipped", "no instance has both prompts, box-jitter-10 and box"),
    ]
    assert found[0].loss is None


def test_a_run_adds_the_clean_prompt_and_prints_the_loss(run: Any, scenes: Any) -> None:
    done = run(
        "miou", "--models=dummy,box", *scenes.arguments, "--out=o", "--json",
        "--protocol=box-jitter-20,box-jitter-1,point-offset-30,mask-dilated",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {row["protocol"] for row in done.json["rows"]} == {
        "box", "box-jitter-20", "box-jitter-1", "center", "point-offset-30", "mask",
        "mask-dilated",
    }  # fmt: skip
    rows = {(row["model"], row["protocol"]): row for row in done.json["robustness"]}
    assert rows["box", "box-jitter-20"]["loss"] > rows["box", "box-jitter-1"]["loss"] > 0
    assert rows["dummy", "point-offset-30"]["status"] == "ok"
    assert rows["dummy", "mask-dilated"]["why"] == "dummy takes no masks as prompts"
    means = {(row["model"], row["protocol"]): row["miou"] for row in done.json["rows"]}
    for key, row in rows.items():
        if row["status"] == "ok":
            clean = means[key[0], row["clean"]]
            assert row["loss"] == pytest.approx(clean - means[key])
            assert row["miou_clean"] == pytest.approx(clean)


def test_stored_masks_give_the_same_losses(run: Any, scenes: Any) -> None:
    arguments = ("--models=dummy", *scenes.arguments, "--protocol=box-jitter-20", "--save-masks")
    live = run("miou", *arguments, "--out=o", "--json").json["robustness"]
    assert run("miou", "--rescore=o", "--out=p", "--json").json["robustness"] == live
    assert "Robustness to disturbed prompts" in run("miou", "--rescore=o", "--out=q").out


def test_models_that_take_masks_are_given_the_coarse_mask_and_its_box(
    run: Any, scenes: Any
) -> None:
    done = run(
        "miou", "--models=mobilesam-mini", *scenes.arguments, "--limit=2", "--out=o", "--json",
        "--protocol=mask-eroded",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [row["status"] for row in done.json["rows"]] == ["ok", "ok"]
