"""Starts the child processes of this project, which all end together with their parent.

No other module starts a process, except git and what a library starts itself; a test checks this.
A child that outlived its parent would take time from the next measurement, or write into a folder
that belongs to another run by then. On Linux a child ends however its parent ends. On other systems
a child that was started by `run_python` or `start_python` outlives a parent that is ended by
SIGKILL.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.pool import Pool
from pathlib import Path
from threading import Thread
from typing import Any

LAUNCHER = Path(__file__).with_name("child_launcher.py")


def run_python(
    arguments: Sequence[str], *, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a Python program and waits until it has ended.

    Args:
        arguments: `-m`, a module and its arguments, or a file and its arguments.
        check: Whether an exit code other than 0 is an error.
        options: As `subprocess.run` takes them; text is read and written as text.

    Raises:
        CalledProcessError: With `check`, its exit code is not 0.
        TimeoutExpired: It had not ended after `timeout` seconds, and was killed.
    """
    return subprocess.run(_command(arguments), text=True, check=check, **options)


def start_python(arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts a Python program, in a thread that lives as long as the program is needed.

    Args:
        arguments: `-m`, a module and its arguments, or a file and its arguments.
        options: As `subprocess.Popen` takes them.
    """
    return subprocess.Popen(_command(arguments), **options)


def process_executor(workers: int, initializer: Callable[[], None]) -> ProcessPoolExecutor:
    """An executor of spawned processes.

    Args:
        workers: Number of processes.
        initializer: Function of a module that each process calls first.
    """
    # Spawned, since a fork would inherit torch's threads in the middle of their work.
    return ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(initializer,)
    )


def process_pool(workers: int) -> Pool:
    """A pool of spawned processes; leaving its `with` block ends them."""
    return get_context("spawn").Pool(workers, initializer=_begin)


def _command(arguments: Sequence[str]) -> list[str]:
    # -P: without the launcher's folder in the path.
    return [sys.executable, "-P", str(LAUNCHER), str(os.getpid()), *arguments]


def _begin(initializer: Callable[[], None] | None = None) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with_parent() -> None:
    """Waits until the parent has ended, then ends this process in the middle of its work."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
