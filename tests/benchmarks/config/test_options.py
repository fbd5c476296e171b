"""Invalid options of each command: one message, and a traceback with `--debug`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from messages import check_messages, problem_of

from benchmarks.cli.app import app

MODELS = ("--models=", "--models=dumy", "--models=nothing-*", "--weights=x", "--weights=box=",
          "--device=nowhere", "--precision=int3", "--threads=0", "--threads=x",
          "--seed=x")  # fmt: skip
DATA = ("--dataset=x", "--dataset=coco", "--dataset=sa1b", "--limit=0", "--limit=x",
        "--max-pixels=0", "--images=nowhere", "--annotations=nowhere.json", "--root=nowhere",
        "--dataset=coco --images=nowhere --annotations=nowhere.json",
        "--dataset=sa1b --root=nowhere", "--dataset=masks --root=. --ignore=0",
        "--dataset=yolo-seg --root=. --ignore=3", "--dataset=labelme --root=list",
        "--dataset=lvis --root=list", "--dataset=auto", "--dataset=auto --root=list",
        )  # fmt: skip
ACCURACY = (*DATA, "--protocol=x", "--protocol=detector-box", "--reference=x",
            "--noc=x --protocol=noc", "--noc=0.9,1.5 --protocol=noc", "--noc=0.9 --protocol=box",
            "--noc-ceiling=5 --protocol=clicks-5", "--noc-ceiling=0 --protocol=noc",
            "--reference=teacher:dumy", "--detections=nowhere.json")  # fmt: skip
SCALE = ("--chunk=0", "--chunk=x", "--workers=1", "--lanes=-1", "--cluster=local --workers=0")
OUTPUT = ("--out=a-file/below", "--nonsense", "--quiet=x", "--out")
TIMING = ("--profile=x", "--profile")
VERSIONS = ("--base=HEAD --nonsense", "--base=nowhere", "--base=HEAD --models=dumy",
            "--base=HEAD --pairs=0", "--base=HEAD --n-prompts=x", "")  # fmt: skip

TABLE: Mapping[str, Sequence[str]] = {
    "run": (*TIMING, *MODELS, *ACCURACY, *OUTPUT),
    "params": (*MODELS, *OUTPUT),
    "latency": (*TIMING, *MODELS, *OUTPUT),
    "miou": (
        "--models=mobilesam-onnx --weights=mobilesam-onnx=object --limit=1 --protocol=box",
        *MODELS,
        *ACCURACY,
        *SCALE,
        *OUTPUT,
        "--rescore=nowhere",
        "--rescore=. --limit=1",
        "--rescore=list",
        "--rescore=a-file",
    ),
    "everything": (*MODELS, *DATA, *SCALE, *OUTPUT),
    "paper": (
        "--run=list",
        "--run=object",
        *TIMING,
        *MODELS,
        "--run=nowhere",
        "--run=. --limit=1",
        "--teacher=dumy",
        "--models=box",
        "--nonsense",
    ),
    "figures": (
        *MODELS,
        *DATA,
        "--kinds=x",
        "--kinds=",
        "--image=nowhere.png",
        "--point=1,1",
        "--image=a-file --point=x",
        "--photo=x",
        "--box=x",
        "--nonsense",
    ),
    "report": ("nowhere", "a-file", "", ". --cases=x", "--nonsense", "list", "object"),
    "models": ("--nonsense", "--out", "extra"),
    "protocols": ("--no-such-option", "extra"),
    "doctor": ("--nonsense", "--out", "extra"),
    "demo": (
        "--models=dumy",
        "--port=x",
        "--port=0",
        "--weights=x",
        "--nonsense",
        "extra",
        "--models=box --weights=mobilesam=a-file",
    ),
    "predict": (
        "",
        "a-file",
        "nowhere.png --model=box --box=1,1,2,2",
        "a-file --model=box",
        "a-file --model=box --box=1",
        "a-file --model=box --box=1,1,2,2",
        "a-file --model=dumy --box=1,1,2,2",
        "a-file --model=box --everything --box=1",
        "a-file --model=box --box=1,1,2,2 --max-pixels=0",
    ),
    "export": (
        "o --to=onnx --weights=mobilesam=a-file",
        "",
        "o",
        "o --to=x",
        "o --to=onnx --weights=x",
        "o --to=onnx --nonsense",
        "o --to=onnx --weights=mobilesam=nowhere.pt",
    ),
    "weights list": ("--nonsense", "extra"),
    "weights fetch": ("", "nowhere", "--nonsense"),
    "weights verify": ("nowhere", "--nonsense", "mobilesamm"),
    "data make": ("", "o --format=x", "o --n=0", "o --n=x", "a-file/below --n=1", "o --tar"),
    "data boxes": ("", "nowhere", "nowhere o.json", "a-file o.json"),
    "data check": ("", "nowhere", "a-file", "list", ". --dataset=x", ". --ignore=x", ". --limit=0"),
    "distill embed": (
        "",
        *(f"--out=s {each}" for each in (*MODELS, *DATA, *SCALE)),
        "--out=s --shard-size=0",
        "--nonsense",
        "--out=s --models=box",
    ),
    "distill verify": ("", "nowhere", "a-file", "--nonsense", "list", "object"),
    "distill train": (
        "",
        "--out=t --scheme=x",
        "--out=t --student=x",
        "--out=t --config=a-file",
        "--out=t --models=sam-mini --config=list/record.json",
        "--out=t --models=sam-mini --config=object/record.json",
        "--out=t --models=sam-mini --steps=1 --student=list/record.json",
        "--out=t --models=sam-mini --steps=1 --student=object/record.json",
        "--out=t --evaluate=0",
        "--out=t --models=box --steps=1",
        "--out=t --models=dumy",
        "--out=t --models=sam-mini --steps=0",
        "--out=t --models=sam-mini --train-precision=x",
        "--nonsense",
    ),
    "distill mini": ("", "--nonsense", "--out"),
    "distill compare": ("--profile=x", "--nonsense", "--weights=x"),
    "gate": (
        "--models=box --baseline=list/record.json",
        "--models=box --baseline=object/record.json",
        "--models=",
        "--models=dumy",
        "--baseline=nowhere.json",
        "--baseline=a-file",
        "--nonsense",
        "--models=box --baseline=nowhere.json",
    ),
    "compare": (
        "",
        "nowhere",
        "nowhere nowhere",
        "a-file a-file",
        ". . --threshold=x",
        "list list",
        "object object",
    ),
    "regress run": VERSIONS,
    "regress measure": VERSIONS,
    "regress judge": ("", "nowhere", "a-file", ". --threshold=0.5", "list", "object"),
}
CASES = [(command, options) for command, rows in TABLE.items() for options in rows]


def command_names(found: App, before: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the names of all commands; a command of a group has the group's name before it."""
    for name in found:
        if name.startswith("-"):
            continue
        names = (*before, name)
        if list(found[name]) and found[name].default_command is None:
            yield from command_names(found[name], names)
        else:
            yield " ".join(names)


def test_all_commands_have_invalid_options_here() -> None:
    assert set(command_names(app)) == set(TABLE)


@pytest.fixture
def unusable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes files with unusable content into the current folder, which is in no repository."""
    (tmp_path / "a-file").write_text("hello")
    for name, text in (("list", "[]"), ("object", '{"facts": [3], "x": 1, "steps": "x"}')):
        for file in ("record.json", "session-1.json", "manifest.json"):
            path = tmp_path / name / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


@pytest.mark.usefixtures("unusable_files")
@pytest.mark.parametrize(("command", "options"), CASES)
def test_an_invalid_option_is_one_message(run: Any, command: str, options: str) -> None:
    done = run(*command.split(), *options.split())
    check_messages(done.err)
    assert done.code in (1, 2), done.out


PARSER_ERRORS_ONLY = ("models", "protocols", "doctor", "weights list")
"""Commands whose errors all come from the parser, whose messages have no traceback."""


@pytest.mark.usefixtures("unusable_files")
@pytest.mark.parametrize("command", [each for each in TABLE if each not in PARSER_ERRORS_ONLY])
def test_debug_shows_the_traceback_of_a_refused_command(run: Any, command: str) -> None:
    for options in TABLE[command]:
        done = run(*command.split(), *options.split())
        if done.err.startswith("error: "):
            break
    else:
        pytest.fail("no invalid option reaches the command itself")
    debugged = run(*command.split(), *options.split(), "--debug")
    assert debugged.code == done.code
    assert debugged.err.startswith("Traceback (most recent call last)")
    assert debugged.err.endswith(done.err)
    assert not run(*command.split(), *options.split()).err.startswith("Traceback")


@pytest.mark.parametrize("command", TABLE)
def test_help_of_each_command_lists_common_options_and_no_empty_defaults(
    run: Any, command: str
) -> None:
    text = run(*command.split(), "--help").out
    for option in ("--debug", "--wide", "--verbose"):
        assert option in text
    for noise in ("[default: ()]", "[default: False]", "[default: ]", "[default: default]"):
        assert noise not in text


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("error: 1 validation error for _Found", "it holds the private name _Found"),
        ("error: benchmarks.run._Found is wrong", "it holds the private name _Found"),
        ("error: error: no file", "it holds error: twice in a row"),
        ("warning: mobilesam: mobilesam: no file", "it holds mobilesam: twice in a row"),
        ("warning: mobilesam: no file a/_private/mobile_sam.pt", None),
        ("error: failing: error: no colour", None),
    ],
)
def test_private_names_and_repeated_prefixes_are_found(line: str, problem: str | None) -> None:
    assert problem_of(line) == problem
