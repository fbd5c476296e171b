"""Ties a child process to its parent, then runs the module or file that the child is for.

`python -P child_launcher.py PARENT_PID -m MODULE [ARGUMENT ...]`, or a file in place of
`-m MODULE`; started by `benchmarks.children`. It imports the standard library alone, since the
child may take this project's packages from another version's folder.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int) -> None:
    """Asks the kernel to end this process when the thread that started it ends; Linux only.

    Args:
        parent: Process id of the parent. If it has ended already, this process ends at once.
    """
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the process that started this one has ended")


def main(arguments: Sequence[str]) -> None:
    """Runs a module or a file as the main program, with its own arguments in `sys.argv`."""
    end_with_parent(int(arguments[0]))
    if arguments[1] == "-m":
        sys.argv = list(arguments[2:])
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as `python -m` does, a string
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments[1:])
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
