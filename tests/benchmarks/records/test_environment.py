"""The description of the machine."""

from __future__ import annotations

import platform

import psutil
import pytest

from benchmarks.records import environment

MAPS = """\
7f00-7f80 r-xp 00000000 08:01 1 /usr/lib/libtcmalloc_minimal.so.4
7f80-7fff rw-p 00000000 00:00 0
"""


def test_the_library_of_an_address_is_found() -> None:
    assert environment.library_at(MAPS, 0x7F10) == "libtcmalloc_minimal.so.4"
    assert environment.library_at(MAPS, 0x7F80) is None
    assert environment.library_at(MAPS, 0x10) is None


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("libtcmalloc_minimal.so.4", "tcmalloc (libtcmalloc_minimal.so.4)"),
        ("libother.so", "libother.so"),
    ],
)
def test_another_allocator_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str, name: str
) -> None:
    monkeypatch.setattr(environment, "_malloc_library", lambda: library)
    assert environment.allocator() == name


def test_settings_of_the_c_library_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_malloc_library", lambda: "libc.so.6")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert environment.allocator().endswith(", MALLOC_ARENA_MAX=1")


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
    noisy, competing = environment.warnings(here)[:2]
    assert noisy == "noisy: load average 9.0 on 2 cores before the run"
    assert competing.startswith("4 threads on 2 cores")
    idle = here.model_copy(update={"other_load": 0.0, "threads": 2})
    assert not any("noisy" in line or "threads" in line for line in environment.warnings(idle))


def test_processes_of_torchrun_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda **_: 8)
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert environment.default_threads() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert environment.default_threads() == 1


def test_peak_memory_is_at_least_the_present_one() -> None:
    assert environment.peak_rss_bytes() >= 0.5 * psutil.Process().memory_info().rss


def test_the_version_of_the_code_depends_on_packages() -> None:
    assert len(environment.code_version()) == 64
    assert environment.code_version(("mobilesam",)) != environment.code_version(("baselines",))
