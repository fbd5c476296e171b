"""Planned runs, tables and plots of the comparison of schemes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.distillation.experiment import (
    SCHEMES,
    DistillationRecord,
    LossPoint,
    StudentRow,
    find_profile,
    load_experiment,
    planned_runs,
    save_experiment,
)
from benchmarks.distillation.scheme_comparison import (
    compute_table,
    over_seeds,
    schemes_table,
    verdicts,
    write_outputs,
)
from benchmarks.records.environment import collect
from mobilesam.errors import DataError, UsageError


@pytest.fixture
def record() -> DistillationRecord:
    profile = find_profile("mini")
    students = []
    for number, run in enumerate(planned_runs(profile)):
        config = run.config
        agreement = {"decoupled": 0.6, "semi-coupled": 0.5, "coupled": 0.4}[run.scheme]
        agreement += 0.01 * config.seed - 0.1 * profile.config.steps / config.steps
        students.append(
            StudentRow(
                name=run.name,
                scheme=run.scheme,
                seed=config.seed,
                batch_size=config.batch_size,
                steps=config.steps,
                train_seconds=100.0 + number,
                weights_sha256="c" * 64,
                agreement=agreement,
                ground_truth={"box": 0.5, "center": 0.4, "center-multi": 0.3},
                curve=(LossPoint(step=1, seconds=1, loss=2), LossPoint(step=9, seconds=9, loss=1)),
            )
        )
    return DistillationRecord(
        created_utc="2026-01-01T00:00:00+00:00",
        profile="mini",
        config=profile.config.model_dump(mode="json"),
        teacher="sam-mini",
        teacher_sha256="d" * 64,
        teacher_ground_truth={"box": 0.8, "center": 0.7, "center-multi": 0.6},
        untrained_agreement=0.1,
        n_training_scenes=10,
        embed_seconds=3.0,
        evaluation="synthetic:seed=11,n=60",
        n_evaluation_instances=300,
        students=tuple(students),
        environment=collect(1),
    )


def test_planned_runs() -> None:
    profile = find_profile("mini")
    runs = list(planned_runs(profile))
    assert len(profile.seeds) >= 3
    assert len({run.name for run in runs}) == len(runs) == 6 * len(profile.seeds)
    steps = profile.config.steps
    for scheme in SCHEMES:
        full = [run for run in runs if run.scheme == scheme and run.config.steps == steps]
        assert {run.config.batch_size for run in full} == {profile.config.batch_size}
        assert [run.config.seed for run in full] == list(profile.seeds)
    with pytest.raises(UsageError, match="unknown profile"):
        find_profile("huge")
    assert profile.evaluation_seed != profile.scenes.seed


def test_over_seeds() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.ci95 == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert over_seeds([1.0]).ci95 is None


def test_intervals_over_seeds_cover_the_mean() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        found = over_seeds(rng.normal(5, 2, 3).tolist())
        assert found.ci95 is not None
        hits += found.ci95[0] <= 5 <= found.ci95[1]
    assert 0.93 <= hits / 1000 <= 0.97


def test_tables(record: DistillationRecord) -> None:
    schemes = schemes_table(record)
    assert [row[0].text for row in schemes.rows] == list(SCHEMES)
    assert schemes.rows[0][1].raw[0] == pytest.approx(0.6 + 0.02 - 0.1)
    assert "[" in schemes.rows[0][1].text
    compute, steps = compute_table(record), int(record.config["steps"])
    assert [row[5].text for row in compute.rows] == ["0.7057", "0.7286", "0.7447", "none"]
    assert [(row[0].raw[0], row[1].raw[0]) for row in compute.rows] == [
        (4, steps // 2),
        (8, steps // 2),
        (8, steps),
        (8, 3 * steps),
    ]


def test_verdicts_at_equal_steps_and_equal_time(record: DistillationRecord) -> None:
    equal, longer = 10.0, 10.0 + 10 * (1 - 1 / 3)
    found = verdicts(record)
    starts = [text.split(",")[0] for text in found]
    steps = 3 * int(record.config["steps"])
    assert starts == [
        "Decoupled against semi-coupled",
        "Decoupled against coupled",
        f"Decoupled of {steps} steps against semi-coupled",
        f"Decoupled of {steps} steps against coupled",
    ]
    for text, gain in zip(found, (equal, equal + 10, longer, longer + 10), strict=True):
        assert f"agreement {gain:+.1f} " in text


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.09, 0.10, 0.11), "+10.0 [+7.5, +12.5] points, so it is the better one"),
        ((-0.09, -0.10, -0.11), "-10.0 [-12.5, -7.5] points, so it is the worse one"),
        ((-0.1, 0.02, 0.11), "+1.0 [-25.2, +27.2] points, which shows no difference"),
        ((0.1,), "+10.0 points, of which one seed shows nothing"),
    ],
)
def test_verdicts_compare_pairs_of_one_seed(
    record: DistillationRecord, gains: tuple[float, ...], verdict: str
) -> None:
    students = []
    for scheme, seconds in (("decoupled", 50.0), ("coupled", 200.0)):
        for seed, gain in enumerate(gains):
            row = next(each for each in record.students if each.scheme == scheme)
            value = 0.1 + 0.3 * seed + (gain if scheme == "decoupled" else 0)
            changes = {"seed": seed, "agreement": value, "train_seconds": seconds}
            students.append(row.model_copy(update=changes))
    (found,) = verdicts(record.model_copy(update={"students": tuple(reversed(students))}))
    assert verdict in found
    assert found.startswith(f"Decoupled against coupled, seed by seed ({len(gains)})")
    assert found.endswith("; 0.25 of the time.")
    assert found in schemes_table(record.model_copy(update={"students": tuple(students)})).notes


def test_write_and_load(record: DistillationRecord, tmp_path: Path) -> None:
    save_experiment(record, tmp_path)
    assert load_experiment(tmp_path) == record
    paths = write_outputs(record, tmp_path)
    assert {path.suffix for path in paths} == {".md", ".csv", ".tex", ".svg", ".png"}
    assert all(path.stat().st_size > 100 for path in paths)
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(DataError):
        load_experiment(tmp_path)
