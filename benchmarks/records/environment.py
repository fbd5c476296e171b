"""Machine and software of a run, for its record and for `doctor`."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.child_processes import WAIT_POLICY
from benchmarks.records.progress import Reporter
from benchmarks.records.record import Environment

LIBRARIES = (
    "torch torchvision numpy segment-anything ultralytics opencv-python pycocotools scipy pillow "
    "onnx onnxruntime openvino"
).split()
NOISY = "noisy: "
"""Begins the warning of a machine that was busy while times were measured."""
DISTURBED = "times were disturbed"
"""In the warning of times that show by themselves that something else ran meanwhile."""
_ROOT = Path(__file__).resolve().parents[2]
_ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")
_C_LIBRARY = re.compile(r"(libc[.-]|ld-musl|python)")
# Vector extensions that determine how fast a CPU runs a network.
_CPU_FEATURES = (
    "avx2 fma avx512f avx512_bf16 avx512_fp16 avx512_vnni avx_vnni amx_tile amx_bf16 amx_int8 "
    "asimd sve bf16 i8mm"
).split()
_WINDOW_S = 0.25


def collect(
    threads: int, other_load: float | None = None, threads_reason: str | None = None
) -> Environment:
    """Describes machine and software; `other_load`: cores that other processes use."""
    import torch

    commit, dirty = git_state()
    features = set(_cpuinfo("flags", "Features").split())
    return Environment(
        cpu=cpu_name(),
        cpu_physical_cores=psutil.cpu_count(logical=False),
        cpu_logical_cores=psutil.cpu_count() or 1,
        cpu_features=tuple(each for each in _CPU_FEATURES if each in features),
        gpu=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        ram_bytes=psutil.virtual_memory().total,
        os=platform.platform(),
        python=platform.python_version(),
        libraries=library_versions(),
        threads=threads,
        interop_threads=torch.get_num_interop_threads(),
        threads_reason=threads_reason,
        wait_policy=os.environ.get(WAIT_POLICY),
        allocator=allocator(),
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        other_load=other_load,
        git_commit=commit,
        git_dirty=dirty,
    )


def warnings(environment: Environment) -> tuple[str, ...]:
    """Conditions that may disturb measurements, one line each.

    The load average is none: it includes work that ended, such as the installation of this package.
    """
    found = []
    cores = environment.cpu_physical_cores or environment.cpu_logical_cores
    if environment.threads > cores:
        found.append(f"{environment.threads} threads on {cores} cores: they compete")
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    if battery is not None and not battery.power_plugged:
        found.append("on battery: the processor may be throttled")
    return tuple(found)


def default_threads() -> int:
    """Number of physical cores available to this process, divided among processes of torchrun."""
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, int(min(physical, len(_allowed_cores()), quota_cores())) // siblings())


class ThreadChoice(NamedTuple):
    """A number of threads, and why: empty if it is that of all cores, None if it was asked for."""

    threads: int
    reason: str | None = None

    def say(self, reporter: Reporter) -> None:
        """Prints one line unless the number was asked for."""
        if self.reason is not None:
            some = f"{self.threads} thread{'s' * (self.threads != 1)}"
            because = f" ({self.reason})" if self.reason else ""
            reporter.say(f"{some}{because}; --threads N overrides")


def free_threads(*, use_busy: bool = False) -> ThreadChoice:
    """Number of threads for the cores that no other process uses now, or with `use_busy` for all.

    `OMP_NUM_THREADS` has precedence, unless torchrun has set it.
    """
    cores, asked = default_threads(), os.environ.get("OMP_NUM_THREADS", "")
    if siblings() > 1:
        return ThreadChoice(cores, f"{siblings()} processes of torchrun share the cores")
    if asked.isdecimal() and int(asked) > 0:
        return ThreadChoice(int(asked), "OMP_NUM_THREADS" if int(asked) != cores else "")
    if use_busy:
        return ThreadChoice(cores, "")
    allowed = _allowed_cores()
    before, start = busy_seconds(allowed), time.monotonic()
    time.sleep(_WINDOW_S)
    busy = (busy_seconds(allowed) - before) / (time.monotonic() - start)
    threads = max(1, min(cores, round(len(allowed) - busy)))
    reason = f"other processes use {busy:.1f} of {len(allowed)} cores"
    return ThreadChoice(threads, reason if threads < cores else "")


def busy_seconds(cores: Collection[int] | None = None) -> float:
    """Seconds that logical cores, all by default, have been busy since the system started."""
    total = 0.0
    for core, times in enumerate(psutil.cpu_times(percpu=True)):
        if cores is None or core in cores:
            # Guest time is included in user time.
            idle = ("idle", "iowait", "guest", "guest_nice")
            total += sum(times) - sum(getattr(times, name, 0.0) for name in idle)
    return total


def quota_cores(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores that the quotas of the control group (version 2) allow; infinity without any."""
    cores, group = math.inf, Path("/proc/self/cgroup")
    own = root / (group.read_text().rpartition("0::/")[2].strip() if group.is_file() else "")
    for folder in (own, *own.parents):
        file = folder / "cpu.max"
        quota, _, period = file.read_text().partition(" ") if file.is_file() else ("max", "", "")
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return cores


def _allowed_cores() -> set[int]:
    """Logical cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(psutil.cpu_count() or 1))


def siblings() -> int:
    """Number of processes that torchrun has started on this machine, including this one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def use_threads(threads: int) -> None:
    """Sets the number of threads of torch and OpenCV."""
    import torch

    torch.set_num_threads(threads)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(threads)


@cache
def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that affect results."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cpu_name() -> str:
    """Name of the processor as reported by the system."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(*names: str) -> str:
    """First value of one of the fields of `/proc/cpuinfo`; empty if there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


def machine(device: str) -> tuple[str, ...]:
    """Parts of the machine that determine times: processor, allocator and GPU, if used."""
    found = (cpu_name(), allocator())
    if not device.startswith("cuda"):
        return found
    import torch

    return (*found, torch.cuda.get_device_name(device))


def timed_with(device: str) -> tuple[str, ...]:
    """Conditions of times measured in this process: `machine`, and the number of threads."""
    import torch

    return (*machine(device), f"threads: {torch.get_num_threads()}")


def allocator() -> str:
    """Name of the allocator behind malloc, which can change CPU times by a factor of two.

    On Linux, it is found in the memory map of the process, since `LD_PRELOAD` may name a library
    that could not be loaded, and another one may be linked.
    """
    library = _malloc_library()
    if library is not None and not _C_LIBRARY.match(library):
        known = next((name for name in _ALLOCATORS if name in library), None)
        return library if known is None else f"{known} ({library})"
    tuned = [f"{key}={os.environ[key]}" for key in sorted(os.environ) if key.startswith("MALLOC_")]
    if "GLIBC_TUNABLES" in os.environ:
        tuned.append(f"GLIBC_TUNABLES={os.environ['GLIBC_TUNABLES']}")
    library, version = platform.libc_ver()
    name = f"{library} {version}".strip() or "system"
    return ", ".join([name, *tuned])


def _malloc_library() -> str | None:
    """File name of the library that provides `malloc`; None if the system does not expose it."""
    try:
        maps = Path("/proc/self/maps").read_text()
        address = ctypes.cast(ctypes.CDLL(None).malloc, ctypes.c_void_p).value
    except (OSError, AttributeError, TypeError):  # Windows has neither the file nor the handle
        return None
    return None if address is None else library_at(maps, address)


def library_at(maps: str, address: int) -> str | None:
    """File name of the library mapped at an address, from the text of `/proc/PID/maps`."""
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in fields[0].split("-"))
        if start <= address < end:
            return Path(fields[5]).name if len(fields) == 6 else None
    return None


def peak_rss_bytes() -> int:
    """Peak memory (RSS) of this process, in bytes.

    On Linux, a child inherits `ru_maxrss` of its parent, so the peak of the address space is used.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def git_state() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the git checkout of this package; None outside of one."""
    if not (_ROOT / ".git").exists():
        return None, None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


@cache
def code_version(packages: Sequence[str] = ("mobilesam", "baselines", "benchmarks")) -> str:
    """SHA-256 (hex) of the source files of packages; part of the keys of cached results."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted((_ROOT / package).rglob("*.py")):
            digest.update(str(file.relative_to(_ROOT)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
