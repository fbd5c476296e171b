"""`regress` on real changes in a repository of its own, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from git_repo import git

from benchmarks.cli.app import main

SMALL = ["--models=dummy", "--n-prompts=1", "--pairs=3", "--turns=3", "--scenes=1", "--quiet"]
DUMMY = Path("baselines") / "dummy.py"


def regress(*arguments: str) -> int:
    return main(["regress", *arguments])


def edit(repo: Path, old: str, new: str) -> None:
    text = (repo / DUMMY).read_text()
    assert old in text
    (repo / DUMMY).write_text(text.replace(old, new))


def test_a_slower_phase_and_worse_masks_fail_and_are_named(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(repo, '"encode": 5.0', '"encode": 40.0')
    edit(repo, "part=0.75", "part=0.6")
    code = regress("run", "--base=HEAD", "--accuracy-models=dummy", "--out=ab", "--json", *SMALL)
    document = json.loads(capsys.readouterr().out)
    assert code == 1
    assert not document["passed"]
    verdicts = {each["what"]: each["verdict"] for each in document["benchmarks"]}
    assert verdicts["encode"] == "worse"
    assert verdicts["mIoU box"] == "worse"
    assert verdicts["preprocess"] == "same"
    assert {path.name for path in (repo / "ab").iterdir()} == {
        "session-1.json", "session-2.json", "verdict.json", "summary.md", "regress.csv",
        "regress.svg", "regress.png", ".run.lock",
    }  # fmt: skip
    summary = (repo / "ab" / "summary.md").read_text()
    assert "dummy encode (worse)" in summary
    # The worktree is removed, and the user's files are unchanged.
    assert git(repo, "worktree", "list").count("\n") == 0
    assert not (repo / "bench-runs").exists()  # a refused request leaves no folder
    assert git(repo, "status", "--porcelain", "--untracked-files=no") == f"M {DUMMY}"

    # Judged again with a threshold that allows the slowdown, without measuring.
    assert regress("judge", "ab", "--threshold=20") == 1  # accuracy has no threshold
    assert "mIoU box (worse)" in capsys.readouterr().out
    assert regress("measure", "--base=HEAD", "--out=ab", *SMALL) == 2  # records are not replaced
    assert "holds a measurement already" in capsys.readouterr().err


def test_a_commit_that_breaks_a_model_fails(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(repo, "size = check_image(image)", "size = check_image(image[0])")
    git(repo, "commit", "--quiet", "--all", "-m", "broken")
    # A failure needs no statistics.
    small = ["--models=dummy", "--n-prompts=1", "--pairs=1", "--turns=1", "--scenes=1", "--quiet"]
    arguments = ["--base=HEAD~1", "--head=HEAD", "--accuracy-models=", "--out=ab", *small]
    assert regress("run", *arguments) == 1
    out = capsys.readouterr().out
    assert "failed" in out
    assert "an image must be" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "broken", "said", "debug"),
    [
        (
            '        wait_until(start_ns, self._delays_ms["encode"])',
            "        raise OwnError('no\\n colour')",
            "OwnError: no colour (in encode)",
            (),
        ),
        (
            "    return DummySegmenter(options.name)\n",
            "    raise EOFError('no\\n colour')\n",
            "EOFError: no colour (in build)",
            ("--debug",),
        ),
    ],
)
def test_a_failing_model_is_one_line_and_has_a_traceback_with_debug(
    repo: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    broken: str,
    said: str,
    debug: tuple[str, ...],
) -> None:
    edit(repo, place, broken)
    edit(repo, "def build(", "class OwnError(Exception):\n    pass\n\n\ndef build(")
    arguments = ["--base=HEAD", "--models=dummy,box", "--accuracy-models=dummy,box", "--pairs=1",
                 "--n-prompts=1", "--turns=1", "--scenes=1", "--out=ab", "--json"]  # fmt: skip
    assert regress("run", *arguments, *debug) == 1
    told = capsys.readouterr()
    document = json.loads(told.out)
    failed = [each for each in document["benchmarks"] if each["verdict"] == "failed"]
    assert {each["model"] for each in failed} == {"dummy"}
    for each in failed:
        assert each["why"] == said
    others = [each for each in document["benchmarks"] if each["model"] == "box"]
    assert {"encode", "mIoU box"} <= {each["what"] for each in others}
    assert ("Traceback (most recent call last)" in told.err) == bool(debug)
    assert ("dummy.py" in told.err) == bool(debug)


def test_invalid_options_give_exit_code_2(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["run", "--base=nowhere"], "'nowhere' is no commit"),
        (["run", "--base=HEAD", "--pairs=0"], "--pairs must be at least 1"),
        (["run", "--base=HEAD", "--n-prompts=x"], "--n-prompts takes numbers"),
        (["run", "--base=HEAD", "--models=dumy"], "did you mean dummy"),
        (["run", "--base=HEAD", "--threshold=0.9"], "above 1"),
        (["judge", "nothing"], "holds no session"),
    ):
        assert regress(*arguments) == 2, arguments
        assert message in capsys.readouterr().err
    assert git(repo, "worktree", "list").count("\n") == 0


def test_outside_of_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert regress("run", "--base=HEAD") == 2
    assert "not a git repository" in capsys.readouterr().err
