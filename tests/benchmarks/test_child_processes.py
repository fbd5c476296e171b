"""Child processes end with their parent, and one module starts them all."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.child_processes import WAIT_POLICY, run_python, wait_passively

ROOT = Path(__file__).resolve().parents[2]

STARTERS = {
    "subprocess": {
        "run", "Popen", "call", "check_call", "check_output", "getoutput", "getstatusoutput",
    },
    "multiprocessing": {"Process", "Pool", "Manager", "get_context", "set_start_method"},
    "multiprocessing.pool": {"Pool"},
    "concurrent.futures": {"ProcessPoolExecutor"},
    "concurrent.futures.process": {"ProcessPoolExecutor"},
    "torch.multiprocessing": {"Process", "Pool", "get_context", "spawn", "start_processes"},
    "torch.utils.data": {"DataLoader"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
    "pty": {"fork", "spawn"},
    "os": {
        "fork", "forkpty", "system", "popen", "startfile", "posix_spawn", "posix_spawnp",
        *(f"spawn{end}" for end in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
        *(f"exec{end}" for end in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    },
    "ray": {"init"},
    "playwright.sync_api": {"sync_playwright"},
}  # fmt: skip
"""Names of functions and classes that start processes, by module."""
ALLOWED = {
    ("benchmarks/child_processes.py", "subprocess.run"): "starts all others",
    ("benchmarks/child_processes.py", "subprocess.Popen"): "starts all others",
    ("benchmarks/child_processes.py", "multiprocessing.get_context"): "starts all others",
    (
        "benchmarks/child_processes.py",
        "concurrent.futures.ProcessPoolExecutor",
    ): "starts all others",
    ("benchmarks/child_processes.py", "multiprocessing.pool.Pool"): "the type of what it returns",
    ("benchmarks/records/environment.py", "subprocess.run"): "git, for at most ten seconds",
    ("benchmarks/regression/worktrees.py", "subprocess.run"): "git, which ends by itself",
    ("benchmarks/evaluation/ray_backend.py", "ray.init"): "Ray ends its processes with the driver",
    ("benchmarks/report/screenshot.py", "playwright.sync_api.sync_playwright"): (
        "the browser ends when its pipe is closed"
    ),
}


def process_starters(text: str) -> set[str]:
    """Finds full names from `STARTERS` in the source of a module, except in annotations."""
    tree = ast.parse(text)
    types = set(annotated(tree))
    names: dict[str, str] = {}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                names[each.asname or each.name.partition(".")[0]] = (
                    each.name if each.asname else each.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for each in node.names:
                names[each.asname or each.name] = f"{node.module}.{each.name}"
                if each.name in STARTERS.get(node.module, ()):
                    found.add(f"{node.module}.{each.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in types:
            module, _, name = full_name(node, names).rpartition(".")
            if name in STARTERS.get(module, ()):
                found.add(f"{module}.{name}")
    return found


def annotated(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields all nodes of annotations."""
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            found = getattr(node, name, None)
            if found is not None:
                yield from ast.walk(found)


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    """Full name of a dotted expression after imports, or an empty string."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        before = full_name(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    return ""


def test_processes_are_started_by_one_module() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for package in ("mobilesam", "baselines", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        for name in process_starters(path.read_text(encoding="utf-8"))
    }
    others = sorted(found - ALLOWED.keys())
    assert not others, (
        f"start children by benchmarks.child_processes, which ends them with their parent: {others}"
    )
    assert not sorted(ALLOWED.keys() - found), "no longer needed in ALLOWED"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import subprocess\nsubprocess.run(['ls'])", {"subprocess.run"}),
        ("import subprocess as s\nstart = s.Popen", {"subprocess.Popen"}),
        ("def f():\n    from subprocess import check_output as c", {"subprocess.check_output"}),
        ("import os\nos.execv('ls', [])", {"os.execv"}),
        ("import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor()",
         {"concurrent.futures.ProcessPoolExecutor"}),
        ("from concurrent import futures\nfutures.ProcessPoolExecutor()",
         {"concurrent.futures.ProcessPoolExecutor"}),
        ("import subprocess\ntry:\n    f()\nexcept subprocess.TimeoutExpired:\n    pass", set()),
        ("import subprocess\ndef f(a: subprocess.Popen) -> subprocess.Popen: ...", set()),
        ("self.run()\nx.Popen()", set()),
    ],
)  # fmt: skip
def test_names_that_start_processes_are_found(text: str, names: set[str]) -> None:
    assert process_starters(text) == names


SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    from benchmarks import child_processes
    from benchmarks.child_processes import run_program

    def sleep(folder):
        started = Path(folder) / str(os.getpid())
        started.with_suffix(".new").write_text("")
        started.with_suffix(".new").rename(started)
        time.sleep(60)

    def nothing():
        pass

    def main():
        way, folder = sys.argv[1:3]
        if way == "sleep":
            sleep(folder)
        elif way == "start":
            child_processes.start_python([__file__, "sleep", folder])
            sleep(folder)
        elif way == "run":
            child_processes.run_python([__file__, "sleep", folder])
        elif way == "module":
            sys.path.insert(0, str(Path(__file__).parent))
            os.chdir(Path(__file__).parent)
            child_processes.run_python(["-m", Path(__file__).stem, "sleep", folder])
        elif way == "grandchild":
            child_processes.run_python([__file__, "run", folder])
        elif way == "executor":
            with child_processes.process_executor(1, nothing) as executor:
                executor.submit(sleep, folder).result()
        elif way == "pool":
            with child_processes.process_pool(1) as pool:
                pool.apply(sleep, [folder])
        return 0

    if __name__ == "__main__":
        sys.exit(run_program(main) if "--handled" in sys.argv else main())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the children")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    "way", ["start", "run", "module", "grandchild", "executor", "pool", "run --handled"]
)
def test_children_end_when_their_parent_is_killed(
    script: Path, tmp_path: Path, way: str, sent: signal.Signals
) -> None:
    folder = tmp_path / "started"
    folder.mkdir()
    name, *more = way.split()
    parent = subprocess.Popen(
        [sys.executable, str(script), name, str(folder), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    n_processes = 2 if way == "start" else 1
    try:
        wait_until(lambda: len(list(folder.glob("*[0-9]"))) == n_processes)
        started = psutil.Process(parent.pid).children(recursive=True)
        assert {int(path.name) for path in folder.glob("*[0-9]")} - {parent.pid} <= {
            each.pid for each in started
        }
        parent.send_signal(sent)
        handled = sent == signal.SIGTERM and "--handled" in more
        assert parent.wait(30) == (143 if handled else -sent)
        _, alive = psutil.wait_procs(started, timeout=20)
        assert not alive
    finally:
        parent.kill()
        parent.wait()
        for each in started_in(folder):
            each.kill()


def started_in(folder: Path) -> Iterator[psutil.Process]:
    """Yields processes of the test that are still alive."""
    for path in folder.glob("*[0-9]"):
        if psutil.pid_exists(int(path.name)):
            yield psutil.Process(int(path.name))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the processes did not start"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the children")
def test_a_child_exits_if_its_parent_has_already_ended() -> None:
    launcher = ROOT / "benchmarks" / "child_processes.py"
    command = [sys.executable, "-P", str(launcher), "1", "-m", "this"]  # not the parent's id
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the process that started this one has ended" in done.stderr


def test_a_child_receives_arguments_input_and_current_folder(tmp_path: Path) -> None:
    code = "import sys; print(__name__, sys.argv[1:], sys.stdin.read(), sys.path[0])"
    (tmp_path / "printing.py").write_text(code)
    options = {"input": "in", "stdout": subprocess.PIPE, "cwd": tmp_path}
    done = run_python(["-m", "printing", "a", "-m"], **options)
    assert done.stdout == f"__main__ ['a', '-m'] in {tmp_path}\n"
    done = run_python([str(tmp_path / "printing.py"), "b"], **options)
    assert done.stdout.startswith("__main__ ['b'] in ")
    with pytest.raises(subprocess.CalledProcessError):
        run_python(["-m", "no-such-module"], stderr=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize(
    ("given", "seen"),
    [({}, "PASSIVE"), ({WAIT_POLICY: "ACTIVE"}, "ACTIVE"), ({WAIT_POLICY: None}, "")],
)
def test_threads_of_children_wait_passively_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str | None], seen: str
) -> None:
    monkeypatch.delenv(WAIT_POLICY, raising=False)
    program = tmp_path / "program.py"
    program.write_text(f"import os; print(os.environ.get({WAIT_POLICY!r}, ''))")
    env = {**os.environ, **given}
    done = run_python([str(program)], env=env, capture_output=True, check=True)
    assert done.stdout.strip() == seen
    if not given:
        done = run_python([str(program)], capture_output=True, check=True)
        assert done.stdout.strip() == seen


def test_this_process_waits_passively_if_torch_is_not_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(WAIT_POLICY, "before")  # restored afterwards
    monkeypatch.delenv(WAIT_POLICY)
    monkeypatch.setitem(sys.modules, "torch", sys)
    wait_passively()
    assert WAIT_POLICY not in os.environ
    monkeypatch.delitem(sys.modules, "torch")
    wait_passively()
    assert os.environ[WAIT_POLICY] == "PASSIVE"
