"""An adapter that raises an error: one line in every command, a traceback with `--debug`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from failing_adapter import ERROR_VARIABLE, ERRORS, METHOD_VARIABLE, NAME, FailingSegmenter
from messages import check_messages

from baselines import boundary
from baselines.dummy import DummySegmenter
from baselines.interface import Masks, ModelOptions, Prompts
from benchmarks.config.run_config import Profile
from benchmarks.datasets.dataset import Shard
from benchmarks.debugging import debugging, format_error
from benchmarks.evaluation import ray_backend
from benchmarks.evaluation.ray_backend import RemoteWorker
from benchmarks.latency.runner import run_model
from benchmarks.latency.timer import StopRule
from benchmarks.regression import gate as gate_module
from benchmarks.regression.gate import model_facts
from mobilesam.errors import BenchError, DataError

Fail = Callable[[str, str], None]
TRACEBACK = "Traceback (most recent call last)"
BOTH = f"--models={NAME},box"


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fail:
    """Installs the adapter here and in child processes; chooses its failing method and error."""
    installed = tmp_path / "site" / f"{NAME}-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    points = f"[mobilesam_bench.models]\n{NAME} = failing_adapter:build\n"
    (installed / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(installed.parent))
    folders = (str(installed.parent), str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.setattr(gate_module, "N_SCENES", 1)

    def choose(method: str, error: str) -> None:
        monkeypatch.setenv(METHOD_VARIABLE, method)
        monkeypatch.setenv(ERROR_VARIABLE, error)

    return choose


def error_text(method: str, error: str) -> str:
    """The adapter's error as commands report it."""
    where = "modules and probes" if method == "modules" else method
    return f"{error}: no colour for it (in {where})"


@dataclass(frozen=True)
class Command:
    """A command that calls an adapter.

    Attributes:
        arguments: Command line; `PICTURE` and `PICTURES` stand for an image file and its folder.
        methods: Methods of the adapter that the command calls.
        others: Whether the document has the rows of the other model; None if there is none.
    """

    arguments: tuple[str, ...]
    methods: tuple[str, ...]
    others: Callable[[Any], bool] | None = None


def has_row(kind: str) -> Callable[[Any], bool]:
    return lambda document: (
        [row["status"] for row in document[kind] if row["model"] == "box"] == ["ok"]
    )


PROMPTED = ("build", "prepare", "encode", "decode")
DATA = ("--limit=1", "--threads=1", "--json")
COMMANDS = {
    "params": Command(("params", BOTH, "--json"), ("build", "modules"), has_row("rows")),
    "miou": Command(("miou", BOTH, "--protocol=box", *DATA), PROMPTED, has_row("rows")),
    "miou in chunks": Command(
        ("miou", BOTH, "--protocol=box", "--chunk=1", *DATA), PROMPTED, has_row("rows")
    ),
    "everything": Command(
        ("everything", f"--models={NAME},dummy", *DATA),
        ("build", "encode", "everything"),
        lambda document: document["everything"][1]["status"] == "ok",
    ),
    "everything in chunks": Command(
        ("everything", f"--models={NAME},dummy", "--chunk=1", *DATA),
        ("build", "encode", "everything"),
        lambda document: document["everything"][1]["status"] == "ok",
    ),
    "figures": Command(
        ("figures", BOTH, "--image=PICTURE", "--kinds=box", "--json"),
        ("build", "encode", "decode"),
        lambda document: len(document["figures"]) == 1,
    ),
    "figures of everything": Command(
        ("figures", BOTH, "--image=PICTURE", "--kinds=everything", "--json"),
        ("build", "everything"),
        lambda document: len(document["figures"]) == 1,
    ),
    "predict": Command(("predict", "PICTURE", f"--model={NAME}", "--box=1,1,9,9"), PROMPTED),
    "predict everything": Command(
        ("predict", "PICTURE", f"--model={NAME}", "--everything"), ("build", "everything")
    ),
    "predict in boxes": Command(
        ("predict", "PICTURE", f"--model={NAME}", "--boxes-from=dummy"), PROMPTED
    ),
    "predict in its boxes": Command(
        ("predict", "PICTURE", "--model=box", f"--boxes-from={NAME}"), ("build", "everything")
    ),
    "gate": Command(
        ("gate", BOTH, "--baseline=b.json", "--update", "--json"),
        (*PROMPTED, "modules", "embedding_arrays"),
        lambda document: any(fact["subject"] == "box" for fact in document["facts"]),
    ),
    "distill embed": Command(
        ("distill", "embed", f"--models={NAME}", "--images=PICTURES", "--out=s"),
        ("build", "prepare", "encode", "embedding_arrays"),
    ),
    "distill embed in chunks": Command(
        ("distill", "embed", f"--models={NAME}", "--images=PICTURES", "--out=s", "--chunk=1"),
        ("build", "prepare", "encode", "embedding_arrays"),
    ),
    "distill train": Command(
        ("distill", "train", f"--models={NAME}", "--out=t", "--steps=1"), ("build",)
    ),
}
CASES = [
    (name, method, error)
    for name, command in COMMANDS.items()
    for number, method in enumerate(command.methods)
    for error in (ERRORS if name == "miou" else [list(ERRORS)[number % len(ERRORS)]])
]


@pytest.mark.parametrize(("name", "method", "error"), CASES)
def test_a_failing_adapter_is_one_line_and_a_traceback_with_debug(
    run: Any, fail: Fail, tmp_path: Path, name: str, method: str, error: str
) -> None:
    fail(method, error)
    command = COMMANDS[name]
    picture = write_picture(tmp_path)
    names = {"PICTURES": str(picture.parent), "PICTURE": str(picture)}
    arguments = [
        re.sub("PICTURES|PICTURE", lambda found: names[found[0]], text)
        for text in command.arguments
    ]
    done = run(*arguments)
    assert done.code == 1
    check_messages(done.err)
    lines = [line for line in done.err.splitlines() if error_text(method, error) in line]
    # The gate reports fingerprints and accuracy separately.
    assert 1 <= len(lines) <= (2 if name == "gate" else 1)
    assert len(set(lines)) == len(lines)
    assert all(NAME in line.replace(error_text(method, error), "") for line in lines)
    assert command.others is None or command.others(done.json)
    again = (f"--out={tmp_path / 'again'}",) if command.others and name != "gate" else ()
    alone = [re.sub(f"(--models={NAME}),.*", r"\1", text) for text in arguments]
    debugged = run(*alone, "--debug", *again)
    assert debugged.code == 1
    assert TRACEBACK in debugged.err
    assert "failing_adapter.py" in debugged.err


def write_picture(folder: Path) -> Path:
    from PIL import Image

    path = folder / "pictures" / "a.png"
    path.parent.mkdir()
    Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(path)
    return path


# --- child processes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("prepare", "error"),
        ("decode", "OwnError"),
        ("everything", "error"),
        ("modules", "EOFError"),
    ],
)
def test_a_timing_process_reports_the_failing_method(
    fail: Fail,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    method: str,
    error: str,
) -> None:
    fail(method, error)
    rule = StopRule(min_calls=2, min_seconds=0, cap_seconds=0.1, warmup_seconds=0)
    profile = Profile("test", 1, rule, n_prompts=(1,))
    image = tmp_path / "image.npy"
    np.save(image, np.zeros((48, 64, 3), np.uint8))
    with debugging(wanted=method == "decode"):
        found = run_model(ModelOptions(NAME), profile, 1, image)
    assert found.error == f"{error}: no colour for it (in {method})"
    assert any(line.phase == "load" and line.samples_ms for line in found.phases)
    printed = capfd.readouterr().err
    assert (TRACEBACK in printed) == (method == "decode")
    assert ("failing_adapter.py" in printed) == (method == "decode")


@pytest.mark.usefixtures("short_quick")
@pytest.mark.parametrize(("models", "debug"), [(BOTH, ()), (f"--models={NAME}", ("--debug",))])
def test_latency_times_the_other_models(
    run: Any, fail: Fail, models: str, debug: tuple[str, ...]
) -> None:
    fail("encode", "OwnError")
    done = run("latency", models, "--profile=quick", "--threads=1", "--json", *debug)
    assert done.code == 1
    (failure,) = done.json["failures"]
    assert (failure["culprit"], failure["why"]) == (NAME, error_text("encode", "OwnError"))
    statuses = {row["status"] for row in done.json["rows"] if row["model"] == "box"}
    assert statuses == ({"ok"} if models == BOTH else set())
    assert (TRACEBACK in done.err) == bool(debug)
    assert ("failing_adapter.py" in done.err) == bool(debug)


class FailingPlan:
    """A plan whose worker fails at each image and continues."""

    threads = 1
    code = "x"

    def worker(self) -> FailingPlan:
        return self

    def run(self, part: object, poison: object = None) -> str:
        try:
            boundary.encode(FailingSegmenter(NAME), np.zeros((4, 4, 3), np.uint8))
        except BenchError as error:
            return format_error(error)
        return "nothing failed"

    def alone(self) -> FailingPlan:
        return self

    def close(self) -> None:
        return None


@pytest.mark.parametrize("debug", [False, True])
def test_a_cluster_worker_sends_tracebacks_to_the_driver(
    fail: Fail, capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    fail("encode", "OwnError")
    worker = RemoteWorker(FailingPlan(), None, debug=debug)
    part = Shard("00000", "shards", "f", (), (), 1.0)
    made, tracebacks = worker.run(part, {}, careful=False)
    assert made == error_text("encode", "OwnError")
    assert (TRACEBACK in tracebacks) == debug
    assert ("failing_adapter.py" in tracebacks) == debug
    assert TRACEBACK not in capsys.readouterr().err  # nobody would read it there


@pytest.mark.slow
def test_the_tracebacks_of_a_cluster_are_shown_with_debug(
    run: Any, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs use one cluster, since its start takes most of the time."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra cluster)")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    fail("encode", "EOFError")
    shutdown = ray.shutdown
    monkeypatch.setattr(ray_backend, "_connect", cache(ray_backend._connect))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    try:
        for debug in ((), ("--debug",)):
            done = run("miou", BOTH, "--protocol=box", "--chunk=1", "--cluster=local",
                       "--workers=1", *DATA, *debug)  # fmt: skip
            assert done.code == 1, done.err
            assert has_row("rows")(done.json)
            lines = [line for line in done.err.splitlines() if line.startswith("warning: failing:")]
            reason = f"fails at its only image: {error_text('encode', 'EOFError')}"
            assert lines == [f"warning: failing: {reason}"]
            assert (TRACEBACK in done.err) == bool(debug)
            assert ("failing_adapter.py" in done.err) == bool(debug)
    finally:
        shutdown()


def test_a_fingerprint_refuses_an_embedding_that_is_no_array(fail: Fail) -> None:
    fail("nothing", "OwnError")

    class Odd(FailingSegmenter):
        def embedding_arrays(self, embedding: Any) -> Any:
            return {"features": "none"}

    with pytest.raises(DataError, match=r"failing\.embedding_arrays gave a str for features"):
        list(model_facts(Odd(NAME), np.zeros((8, 8, 3), np.uint8), exact=True))


def transposed(options: ModelOptions) -> DummySegmenter:
    """A model that confuses height and width."""

    def answer(prompts: Prompts, size_hw: tuple[int, int], multimask: bool) -> Masks:
        shape = (len(prompts), 1, *size_hw[::-1])
        return Masks(np.zeros(shape, np.bool_), np.ones(shape[:2], np.float32))

    return DummySegmenter(options.name, {}, answer=answer)


def flat(options: ModelOptions) -> DummySegmenter:
    """A model that forgets the axis of candidates."""

    def answer(prompts: Prompts, size_hw: tuple[int, int], multimask: bool) -> Masks:
        shape = (len(prompts), *size_hw)
        return Masks(np.zeros(shape, np.bool_), np.ones(shape[:2], np.float32))

    return DummySegmenter(options.name, {}, answer=answer)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (
            "transposed",
            "wrong.decode gave bool masks of shape (14, 1, 640, 449); "
            "wanted bool masks of shape (14, C, 449, 640)",
        ),
        ("flat", "masks must be bool (N,C,H,W), not bool (14, 449, 640) (in decode)"),
    ],
)
def test_a_wrong_shape_of_a_plugin_names_method_and_shapes(
    run: Any, third_party: Any, factory: str, said: str
) -> None:
    third_party("wrong", f"{__name__}:{factory}")
    done = run("miou", "--models=wrong,box", "--protocol=box", *DATA)
    assert done.code == 1
    assert [said in line and "wrong" in line for line in done.err.splitlines()].count(True) == 1
    assert has_row("rows")(done.json)
