"""The description of the machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.records import environment

MAPS = """
400000-500000 r-xp 00000000 fe:00 1                              /usr/bin/python3.11
7f0000000000-7f0000001000 r-xp 00000000 fe:00 2                  /opt/my libs/libtcmalloc.so.4
7f0000001000-7f0000002000 r-xp 00000000 fe:00 3                  /usr/lib/libc.so.6
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
""".strip()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0x7F0000000000, "libtcmalloc.so.4"),
        (0x7F0000000FFF, "libtcmalloc.so.4"),
        (0x7F0000001000, "libc.so.6"),
        (0x7F0000002000, None),
        (0x1, None),
    ],
)
def test_the_library_of_an_address_is_found(address: int, name: str | None) -> None:
    assert environment.library_at(MAPS, address) == name


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("libtcmalloc_minimal.so.4", "tcmalloc (libtcmalloc_minimal.so.4)"),
        ("libjemalloc.so.2", "jemalloc (libjemalloc.so.2)"),
        ("libhoard.so", "libhoard.so"),
        ("libc-2.31.so", "glibc"),
        (None, "glibc"),
    ],
)
def test_the_allocator_is_named_after_its_library(
    monkeypatch: pytest.MonkeyPatch, library: str | None, name: str
) -> None:
    monkeypatch.setattr(environment, "_malloc_library", lambda: library)
    monkeypatch.setattr(environment.platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert environment.allocator().startswith(name)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert ("MALLOC_ARENA_MAX=1" in environment.allocator()) == (name == "glibc")


def test_a_missing_file_in_ld_preload_is_no_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nowhere/libtcmalloc.so.4")
    assert "tcmalloc" not in environment.allocator()


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs a C compiler")
def test_a_preloaded_allocator_is_named(tmp_path: Path) -> None:
    source, library = tmp_path / "own.c", tmp_path / "libownjemalloc.so"
    source.write_text(
        "#include <stddef.h>\nextern void *__libc_malloc(size_t);\n"
        "void *malloc(size_t n) { return __libc_malloc(n); }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    code = "from benchmarks.records import environment; print(environment.allocator())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert done.stdout.strip() == "jemalloc (libownjemalloc.so)"


def test_the_machine_is_described() -> None:
    here = environment.collect(threads=3, other_load=0.5)
    assert (here.threads, here.other_load) == (3, 0.5)
    assert here.python == platform.python_version()
    assert here.libraries["torch"]
    assert here.ram_bytes == psutil.virtual_memory().total


def test_conditions_that_disturb_are_warned_of() -> None:
    here = environment.collect(threads=1).model_copy(
        update={"load_1min": 9.0, "cpu_physical_cores": 2, "threads": 4}
    )
    assert environment.warnings(here)[0].startswith("4 threads on 2 cores")
    fewer = here.model_copy(update={"threads": 2})
    assert not any("load" in line or "threads" in line for line in environment.warnings(fewer))


def test_processes_of_torchrun_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda **_: 8)
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert environment.default_threads() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert environment.default_threads() == 1


@pytest.mark.parametrize(
    ("busy", "processes", "asked", "threads", "reason"),
    [
        (0.3, "1", "", 6, ""),
        (2.4, "1", "", 4, "other processes use 2.4 of 6 cores"),
        (6.0, "1", "", 1, "other processes use 6.0 of 6 cores"),
        (6.0, "1", "3", 3, "OMP_NUM_THREADS"),
        (6.0, "1", "6", 6, ""),
        (6.0, "2", "1", 3, "2 processes of torchrun share the cores"),
    ],
)
def test_as_many_threads_as_cores_are_free(
    monkeypatch: pytest.MonkeyPatch,
    busy: float,
    processes: str,
    asked: str,
    threads: int,
    reason: str,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(environment.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(environment.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    monkeypatch.setattr(environment, "busy_seconds", lambda _: busy * clock[0])
    monkeypatch.setattr(psutil, "cpu_count", lambda **_: 8)
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert environment.free_threads() == (threads, reason)
    if not asked:
        assert environment.free_threads(use_busy=True) == (6, "")


def test_quotas_of_control_groups_limit_the_threads(tmp_path: Path) -> None:
    assert environment.quota_cores(tmp_path) == float("inf")
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert environment.quota_cores(tmp_path) == 2.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert environment.quota_cores(tmp_path) == float("inf")


def test_busy_seconds_of_some_cores_are_part_of_those_of_all() -> None:
    assert 0 <= environment.busy_seconds({0}) <= environment.busy_seconds()


def test_peak_memory_is_that_of_this_process() -> None:
    before = environment.peak_rss_bytes()
    assert before >= 0.5 * psutil.Process().memory_info().rss
    block = bytearray(150 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert environment.peak_rss_bytes() >= before
    assert environment.peak_rss_bytes() > 150 * 2**20


def test_the_version_of_the_code_depends_on_packages() -> None:
    assert len(environment.code_version()) == 64
    assert environment.code_version(("mobilesam",)) != environment.code_version(("baselines",))
