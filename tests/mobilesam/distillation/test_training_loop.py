"""The training loop: learning, resuming, several processes, errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import HEADS, SIDE_PX, STUDENT
from small_training import SHA256, Pictures, scheme, settings, teacher

from mobilesam.distillation.schemes import SCHEMES, Decoupled, OnlineTeacher, Scheme
from mobilesam.distillation.training_loop import (
    CHECKPOINT_NAME,
    METRICS_NAME,
    ProcessGroup,
    StepReport,
    train,
)
from mobilesam.errors import DataError, TrainingError, UsageError, WeightsError
from mobilesam.model.mobile_sam import build_mobile_sam

ROOT = Path(__file__).parents[3]
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
# A machine that others share may be slow.
WAIT_S = 280
ALL = ("supervised", *SCHEMES)


def rows(folder: Path) -> list[dict[str, float]]:
    lines = (folder / METRICS_NAME).read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def test_overfitting_four_images(tmp_path: Path) -> None:
    config = settings(steps=60, batch_size=4, micro_batch=4, learning_rate=1e-2, ema_decay=0.0,
                      warmup_steps=10, checkpoint_every=60, weight_decay=0.0)  # fmt: skip
    train(scheme("decoupled", config), Pictures(4), tmp_path)
    losses = [row["loss"] for row in rows(tmp_path)]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("name", ALL)
def test_scheme_changes_trained_parts_only(name: str, tmp_path: Path) -> None:
    chosen = scheme(name, settings(steps=3, ema_decay=0.0))
    before = {key: value.clone() for key, value in chosen.student.state_dict().items()}
    train(chosen, Pictures(), tmp_path)
    trained = {
        f"{part_name}.{key}"
        for part_name, part in chosen.student.named_children()
        if any(part is each for each in chosen.trained())
        for key in part.state_dict()
    }
    changed = {
        key
        for key, value in chosen.student.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert changed <= trained
    assert len(changed) > 0.5 * len(trained)


def test_decoupled_does_not_run_the_decoder(tmp_path: Path) -> None:
    chosen = scheme("decoupled", settings(steps=2))

    def refuse(*args: object) -> None:
        raise AssertionError("the decoder was run")

    chosen.student.mask_decoder.transformer.register_forward_pre_hook(refuse)
    train(chosen, Pictures(), tmp_path)


@pytest.mark.parametrize("name", ["supervised", "coupled"])
def test_interrupted_and_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    whole = train(scheme(name, settings()), Pictures(), tmp_path / "whole").result()

    class StopError(Exception):
        pass

    def stop(report: StepReport) -> None:
        if report.step == 5:
            raise StopError

    with pytest.raises(StopError):
        train(scheme(name, settings()), Pictures(), tmp_path / "cut", on_step=stop)
    steps: list[int] = []
    resumed = train(
        scheme(name, settings()),
        Pictures(),
        tmp_path / "cut",
        on_step=lambda report: steps.append(report.step),
    ).result()
    assert steps == [5, 6]
    assert equal(whole, resumed)
    assert rows(tmp_path / "whole") == rows(tmp_path / "cut")


def test_finished_run_takes_no_step(tmp_path: Path) -> None:
    first = train(scheme("decoupled", settings()), Pictures(), tmp_path).result()

    def never(report: StepReport) -> None:
        raise AssertionError(f"step {report.step} was done again")

    again = train(scheme("decoupled", settings()), Pictures(), tmp_path, on_step=never).result()
    assert equal(first, again)


def test_accumulation_equals_whole_batches(tmp_path: Path) -> None:
    once = settings(batch_size=8, micro_batch=4, steps=2)
    train(scheme("semi-coupled", once), Pictures(), tmp_path)
    assert len(rows(tmp_path)) == 2


_KILLED = """
    import sys, time
    from pathlib import Path
    import torch
    from mobilesam.distillation.training_loop import train
    from small_training import Pictures, scheme, settings
    torch.set_num_threads(1)
    train(scheme("coupled", settings(steps=8)), Pictures(), Path(sys.argv[1]),
          on_step=lambda report: time.sleep(0.3))
"""


def test_killed_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_KILLED), str(tmp_path / "cut")]
    cut = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PATHS}, cwd=ROOT)
    checkpoint = tmp_path / "cut" / CHECKPOINT_NAME
    deadline = time.monotonic() + WAIT_S
    while not checkpoint.exists() and cut.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    assert checkpoint.exists()
    for folder in ("whole", "cut"):
        train(scheme("coupled", settings(steps=8)), Pictures(), tmp_path / folder)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    states = [
        torch.load(tmp_path / folder / CHECKPOINT_NAME, weights_only=True)
        for folder in ("whole", "cut")
    ]
    assert equal(states[0]["student"], states[1]["student"])
    assert equal(states[0]["average"], states[1]["average"])


_RANK = """
    import sys
    from pathlib import Path
    import torch
    from mobilesam.distillation.training_loop import launched_processes, train
    from small_training import Pictures, scheme, settings
    torch.set_num_threads(1)
    with launched_processes(torch.device("cpu")) as processes:
        for name in sys.argv[2:]:
            folder = Path(sys.argv[1]) / name
            train(scheme(name, settings()), Pictures(), folder, processes=processes)
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    names = ("decoupled", "supervised")
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_RANK)]
    processes = [
        subprocess.Popen(
            [*command, str(tmp_path / "two"), *names],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": PATHS,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(_free_port(tmp_path)),
            },
        )
        for rank in (0, 1)
    ]
    assert [process.wait(WAIT_S) for process in processes] == [0, 0]
    for name in names:
        folders = tmp_path / "one" / name, tmp_path / "two" / name
        train(scheme(name, settings()), Pictures(), folders[0])
        for one, two in zip(*map(rows, folders), strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        states = [
            torch.load(folder / CHECKPOINT_NAME, weights_only=True)["student"] for folder in folders
        ]
        # Not the weights: Adam makes a full step of a gradient that is nothing but rounding, such
        # as that of a key's bias, which softmax cancels.
        running = [key for key in states[0] if "running" in key or "num_batches" in key]
        assert bool(running) == (name == "decoupled")
        for key in running:
            torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-2, atol=1e-3)


_PORTS: dict[Path, int] = {}


def _free_port(folder: Path) -> int:
    import socket

    if folder not in _PORTS:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            _PORTS[folder] = found.getsockname()[1]
    return _PORTS[folder]


def test_non_finite_loss_stops_the_run(tmp_path: Path) -> None:
    chosen = scheme("decoupled", settings())

    def spoil(report: StepReport) -> None:
        if report.step == 3:
            with torch.no_grad():
                next(chosen.student.image_encoder.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingError, match="nan at step 4"):
        train(chosen, Pictures(), tmp_path, on_step=spoil)
    kept = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    assert kept["step"] == 2
    assert all(torch.isfinite(value).all() for value in kept["student"].values())


def spoil_gradient(chosen: Scheme, step: int, value: float) -> str:
    """Makes one gradient not finite from a step on, while the loss stays as it is."""
    name, parameter = next(iter(chosen.student.image_encoder.named_parameters()))
    seen: list[int] = []

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        # Two micro-batches a step.
        return gradient * value if len(seen) > 2 * (step - 1) else gradient

    parameter.register_hook(hook)
    return f"image_encoder.{name}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("orthogonal", [0.0, 1.0])
def test_non_finite_gradient_stops_the_run(
    tmp_path: Path, precision: str, value: float, orthogonal: float
) -> None:
    chosen = scheme("coupled", settings(precision=precision, orthogonal=orthogonal))
    name = spoil_gradient(chosen, 3, value)
    with pytest.raises(TrainingError, match=f"gradient of {name} is not finite at step 3") as found:
        train(chosen, Pictures(), tmp_path)
    assert "\n" not in str(found.value)
    assert all(torch.isfinite(each).all() for each in chosen.student.state_dict().values())
    kept = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    assert kept["step"] == 2
    for part in (kept["student"], kept["average"]):
        assert all(torch.isfinite(each).all() for each in part.values())
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


@pytest.mark.parametrize("part", ["student", "average", "optimizer"])
def test_non_finite_weights_are_not_saved(tmp_path: Path, part: str) -> None:
    chosen = scheme("decoupled", settings())
    state = train(chosen, Pictures(), tmp_path)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    name, parameter = next(iter(state.parameters.items()))
    assert state.average is not None
    spoilt = {
        "student": parameter.data,
        "average": state.average[name],
        "optimizer": state.optimizer.state[parameter]["exp_avg"],
    }[part]
    spoilt.view(-1)[0] = float("nan")
    with pytest.raises(TrainingError, match=f"{name} holds NaN or infinity after step 6"):
        state.save(tmp_path)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before
    if part == "average":
        with pytest.raises(TrainingError, match=f"{name} holds NaN"):
            state.result()


def test_non_finite_checkpoint_is_refused(tmp_path: Path) -> None:
    train(scheme("decoupled", settings(steps=2)), Pictures(), tmp_path)
    path = tmp_path / CHECKPOINT_NAME
    saved = torch.load(path, weights_only=True)
    name = next(iter(saved["average"]))
    saved["average"][name].view(-1)[0] = float("inf")
    torch.save(saved, path)
    with pytest.raises(DataError, match=f"{name} holds NaN or infinity; delete it"):
        train(scheme("decoupled", settings(steps=2)), Pictures(), tmp_path)


def test_checkpoint_of_another_teacher_is_refused(tmp_path: Path) -> None:
    train(scheme("decoupled", settings(steps=2)), Pictures(), tmp_path)
    with pytest.raises(WeightsError, match="bbbb"):
        train(scheme("decoupled", settings(steps=2), "b" * 64), Pictures(), tmp_path)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(scheme("decoupled", settings(steps=2)), Pictures(), tmp_path)
    for other, data, named in (
        (scheme("decoupled", settings(steps=2, seed=5)), Pictures(), "seed"),
        (scheme("decoupled", settings(steps=2)), Pictures(fingerprint="others"), "data"),
        (scheme("coupled", settings(steps=2)), Pictures(), "scheme"),
    ):
        with pytest.raises(UsageError, match=named):
            train(other, data, tmp_path)


def test_damaged_checkpoint(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(DataError, match="delete it to start anew"):
        train(scheme("decoupled", settings(steps=2)), Pictures(), tmp_path)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mobilesam.files.os.fsync", full)
    with pytest.raises(DataError, match=rf"{CHECKPOINT_NAME}: No space left on device"):
        train(scheme("decoupled", settings(steps=2)), Pictures(), tmp_path)
    assert not list(tmp_path.glob(f".{CHECKPOINT_NAME}*"))


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        train(scheme("decoupled", settings(steps=2)), Pictures(), tmp_path / "file" / "run")


def test_unequal_shares_are_refused() -> None:
    assert [list(ProcessGroup(rank, 2).share(range(4))) for rank in (0, 1)] == [[0, 2], [1, 3]]
    with pytest.raises(UsageError, match="3 micro-batches cannot be shared by 2"):
        ProcessGroup(0, 2).share(range(3))


def test_checkpoint_of_another_student_is_refused(tmp_path: Path) -> None:
    train(scheme("decoupled", settings(steps=2)), Pictures(8), tmp_path)
    other = replace(STUDENT, embed_dims=(8, 8, 16, 24))
    model = teacher()
    another = Decoupled(
        build_mobile_sam(other, HEADS),
        model,
        OnlineTeacher(model, SHA256, SIDE_PX),
        settings(steps=2),
    )
    with pytest.raises(UsageError, match="student of another shape"):
        train(another, Pictures(8), tmp_path)
