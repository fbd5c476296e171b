"""Calls a function in several processes. Importing this module is cheap: processes import it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from typing import TypeVar

from benchmarks.child_processes import process_executor
from mobilesam.errors import TrainingError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def map_processes(
    function: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    workers: int,
    on_done: Callable[[_Result], None],
    setup: Callable[[], None],
) -> list[_Result]:
    """Calls a function for each task in processes that end with this process.

    `function` and `setup`, which each process calls first, are functions of a module; a process may
    be ended at any moment. Results are in the order of the tasks; `on_done` gets each as it comes.
    """
    pool = process_executor(workers, setup)
    try:
        futures = [pool.submit(function, task) for task in tasks]
        for done in as_completed(futures):
            on_done(done.result())
        return [done.result() for done in futures]
    except BrokenProcessPool as error:
        raise TrainingError(
            "a training was killed, possibly for lack of memory: run the same command again to "
            f"resume it, with fewer than --threads {workers} if it happens again"
        ) from error
    except BaseException:
        # shutdown() would wait for running tasks and one queued task more.
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
