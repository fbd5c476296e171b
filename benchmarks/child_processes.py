"""Starts the child processes of this project, which all end together with their parent.

No other module starts a process, except for git and what a library starts itself; a test checks
this. A child that outlived its parent would disturb the next measurement or write into its folder.
On other systems than Linux a child of `run_python` or `start_python` outlives a parent that is
ended by SIGKILL.

These two run this file itself in the child, as `python -P child_processes.py PARENT_PID -m MODULE
[ARGUMENT ...]`, or with a file in place of `-m MODULE`. It imports the standard library only: the
child may take the packages of this project from the folder of another version.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.pool import Pool

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
WAIT_POLICY, PASSIVE = "OMP_WAIT_POLICY", "PASSIVE"
"""Lets threads of OpenMP sleep while they wait. By default they spin, which takes cores from
whatever else runs. A process follows the policy that it has when it imports torch."""
Variables = Mapping[str, str | None]


def wait_passively() -> None:
    """Sets the policy of this process unless it has one, or has imported torch already."""
    if "torch" not in sys.modules:
        os.environ.setdefault(WAIT_POLICY, PASSIVE)


def run_python(
    arguments: Sequence[str],
    *,
    check: bool = False,
    env: Variables | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Runs a Python program, by `-m` and a module or by its file, as `subprocess.run` does.

    Its threads wait passively unless `env`, by default this process's, has another `WAIT_POLICY`;
    variables that are None there are removed.

    Raises:
        CalledProcessError: With `check`, its exit code is not 0.
        TimeoutExpired: It had not ended after `timeout` seconds, and was killed.
    """
    return subprocess.run(
        _command(arguments), text=True, check=check, env=_environment(env), **options
    )


def start_python(
    arguments: Sequence[str], *, env: Variables | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Starts a Python program as `subprocess.Popen` does; the calling thread must outlive it.

    `env` is as in `run_python`.
    """
    return subprocess.Popen(_command(arguments), env=_environment(env), **options)


def process_executor(workers: int, initializer: Callable[[], None]) -> ProcessPoolExecutor:
    """An executor of spawned processes, each of which calls a function of a module first."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Spawned, since a fork would inherit torch's threads in the middle of their work.
    return ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(initializer,)
    )


def process_pool(workers: int) -> Pool:
    """A pool of spawned processes; leaving its `with` block ends them."""
    from multiprocessing import get_context

    return get_context("spawn").Pool(workers, initializer=_begin)


def _environment(variables: Variables | None) -> dict[str, str]:
    found = dict(os.environ if variables is None else variables)
    found.setdefault(WAIT_POLICY, PASSIVE)
    return {name: value for name, value in found.items() if value is not None}


def _command(arguments: Sequence[str]) -> list[str]:
    # -P: without the folder of this file in the path.
    return [sys.executable, "-P", __file__, str(os.getpid()), *arguments]


def _begin(initializer: Callable[[], None] | None = None) -> None:
    """Lets this process end as soon as its parent has ended."""
    from multiprocessing import parent_process

    def end_with_parent() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM; handled like Ctrl-C, so that finished work is kept."""


@contextmanager
def interrupted_by_term() -> Iterator[None]:
    """Turns SIGTERM into `Terminated`, so that children are ended and finished work is recorded.

    By default, SIGTERM ends Python at once, which leaves child processes running. Has no effect in
    a thread other than the main one, since only the main thread handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_program(main: Callable[[], int]) -> int:
    """Runs the main function of a separate program; returns its exit code.

    Ctrl-C and SIGTERM end it as an error would: children are ended, and temporary folders and
    worktrees are removed.
    """
    try:
        with interrupted_by_term():
            return main()
    except KeyboardInterrupt as error:
        sys.stderr.write("\ninterrupted\n")
        return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED


def _run_child(arguments: Sequence[str]) -> None:
    """Runs a module or a file as the main program, with its own arguments in `sys.argv`."""
    if sys.platform == "linux":
        import ctypes

        # PR_SET_PDEATHSIG: the kernel ends this process when the thread that started it ends.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(arguments[0]):
            sys.exit("the process that started this one has ended")
    if arguments[1] == "-m":
        sys.argv = list(arguments[2:])
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as `python -m` does, a string
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments[1:])
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _run_child(sys.argv[1:])
