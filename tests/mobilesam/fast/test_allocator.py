from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from mobilesam.fast import allocator

glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="counts page faults of glibc's allocator"
)

# Page faults of allocating and filling blocks again and again, as a network does.
_COUNT_FAULTS = """
import resource, sys
import numpy
from mobilesam.fast.allocator import keep_buffers, learn_large_blocks

def use():
    for _ in range(3):
        size = int(sys.argv[3]) * 2**20
        blocks = [numpy.full(size, 1, numpy.uint8) for _ in range(int(sys.argv[2]))]
        del blocks

if sys.argv[1] == "keep":
    assert keep_buffers()
if sys.argv[1] == "learn":
    assert learn_large_blocks()
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, blocks: int, mib: int = 20) -> int:
    """In a process of its own: the settings are the whole process's."""
    command = [sys.executable, "-c", _COUNT_FAULTS, how, str(blocks), str(mib)]
    # Without huge pages of numpy's own, which hide faults.
    environment = {"NUMPY_MADVISE_HUGEPAGE": "0", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@glibc
def test_keep_buffers_ends_page_faults_of_large_blocks() -> None:
    assert faults("keep", blocks=2, mib=70) < 200 < 10_000 < faults("default", blocks=2, mib=70)
    assert faults("keep", blocks=6) < 200


@glibc
def test_one_large_block_teaches_glibc_to_keep_a_small_set() -> None:
    assert faults("learn", blocks=2) < 200


def test_elsewhere_nothing_is_done_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert allocator.keep_buffers() is False
    assert allocator.learn_large_blocks() is False


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert allocator.keep_buffers() is False
