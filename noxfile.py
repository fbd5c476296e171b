"""Everything a user or the CI runs, by name: `nox -s bench`, `nox -s tests`, ...

All sessions share the one environment `.venv` (torch alone is several gigabytes), which may be the
one that nox itself runs in. Sessions that measure install what the package needs; those that test,
check types or publish also install the extra `dev`. Nothing is installed again unless
pyproject.toml has changed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
VENV = ROOT / ".venv"
PUBLISHED = tuple(
    f"results/runs/{name}"
    for name in ("cpu-2core-standard", "cpu-2core-val2017", "cpu-2core-protocols")
)
"""The runs of the README's table; the report of all committed runs prefers them."""
COMMITTED = (*PUBLISHED, "results/runs", "--out", "bench-runs/report.html")
MICROBENCH = "bench-runs/microbench.json"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

nox.needs_version = ">=2024.3"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"


def python(session: nox.Session, *arguments: str, dev: bool = False) -> None:
    """Runs Python in the shared environment, after installing what is missing.

    Args:
        session: The session.
        arguments: Of the interpreter.
        dev: The extra `dev` is needed, for tests, types, exported backends or a browser.
    """
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = VENV / "mobilesam-bench.installed"
    installed = stamp.read_text().split() if stamp.is_file() else []
    if digest not in installed or (dev and "dev" not in installed):
        if not PYTHON.exists():
            session.run(sys.executable, "-m", "venv", str(VENV), external=True)
        package = ".[dev]" if dev else "."
        session.run(str(PYTHON), "-m", "pip", "install", "--quiet", "-e", package, external=True)
        stamp.write_text(f"{digest} dev" if dev else digest)
    session.run(str(PYTHON), *arguments, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """The main job: MobileSAM and the baselines on the shipped photos. Arguments go to `run`."""
    named = any(each.startswith("--profile") for each in session.posargs)
    profile = () if named else ("--profile", "quick")
    # Complete profiles measure the exported backends, too.
    complete = any(each.endswith(("standard", "full")) for each in session.posargs)
    python(session, "-m", "benchmarks", "run", *profile, *session.posargs, dev=complete)


@nox.session
def paper(session: nox.Session) -> None:
    """Every published claim with a verdict from this machine. Extra arguments go to `paper`."""
    python(session, "-m", "benchmarks", "paper", *session.posargs)


@nox.session
def speed(session: nox.Session) -> None:
    """Our inference path against the plain modules and ultralytics' MobileSAM, in one run."""
    python(session, "-m", "benchmarks.evidence.speed", "inference", *session.posargs, dev=True)


@nox.session
def mini(session: nox.Session) -> None:
    """Trains the mini family, in three hours and more. Extra arguments go to `distill mini`."""
    out = () if "--out" in session.posargs else ("--out", "bench-runs/mini")
    # Two processes with a core each are twice as fast as one with two threads, and as exact.
    n_processes = str(min(2, os.cpu_count() or 1))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", n_processes)
    python(session, *launcher, "-m", "benchmarks", "distill", "mini", *out, *session.posargs)


@nox.session
def distill(session: nox.Session) -> None:
    """Compares the schemes of distillation. Extra arguments go to `distill compare`."""
    named = any(each.startswith("--profile") for each in session.posargs)
    profile = () if named else ("--profile", "mini")
    python(session, "-m", "benchmarks", "distill", "compare", *profile, *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """The HTML report of the committed runs: bench-runs/report.html. Or arguments of `report`."""
    python(session, "-m", "benchmarks", "report", *(session.posargs or COMMITTED))


@nox.session
def picture(session: nox.Session) -> None:
    """Pictures of the report of the committed runs for README and docs; needs Chromium."""
    python(session, "-m", "benchmarks", "report", *COMMITTED)
    python(session, "-m", "benchmarks.report.screenshot", COMMITTED[-1], "docs/report", dev=True)


@nox.session
def gate(session: nox.Session) -> None:
    """What needs no clock, against the committed baseline. Extra arguments go to `gate`."""
    python(session, "-m", "benchmarks", "gate", *session.posargs)


@nox.session
def regress(session: nox.Session) -> None:
    """This tree against another version, in turns: `-- --base REF`."""
    python(session, "-m", "benchmarks", "regress", "run", *session.posargs)


@nox.session
def power(session: nox.Session) -> None:
    """How reliable `regress` is, on a quiet machine: about an hour."""
    python(session, "-m", "benchmarks.evidence.power", *session.posargs, dev=True)


@nox.session
def microbench(session: nox.Session) -> None:
    """The hot paths under pytest-benchmark; JSON in bench-runs/microbench.json."""
    out = ROOT / MICROBENCH
    out.parent.mkdir(exist_ok=True)
    options = ("--benchmark-only", f"--benchmark-json={out}", "--timeout=1800")
    python(
        session,
        "-m",
        "pytest",
        "tests/benchmarks/hot_paths.py",
        *options,
        *session.posargs,
        dev=True,
    )


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, a process with one thread for each core. Extra arguments go to pytest."""
    session.env.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    parallel = ("-n", "logical", "--dist", "worksteal")
    python(session, "-m", "pytest", *parallel, *session.posargs, dev=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Style of the code."""
    python(session, "-m", "ruff", "check", ".", dev=True)
    python(session, "-m", "ruff", "format", "--check", ".", dev=True)


@nox.session
def types(session: nox.Session) -> None:
    """Types of the code, strictly."""
    python(session, "-m", "mypy", dev=True)


@nox.session
def publish(session: nox.Session) -> None:
    """A complete run on an idle machine, half an hour. Extra arguments go to `run`."""
    options = ("--profile", "standard", "--publishable")
    python(session, "-m", "benchmarks", "run", *options, *session.posargs, dev=True)


@nox.session
def results(session: nox.Session) -> None:
    """Makes tables, plots and the README's table from records: `-- results/runs/NAME ...`."""
    python(session, "-m", "benchmarks.evidence.publish", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Bad input, models in threads and runs that race; ten minutes or what `--minutes` says."""
    python(session, "-m", "tests.fuzz", *session.posargs, dev=True)
    session.env["MOBILESAM_RACE_ROUNDS"] = "20"
    python(session, "-m", "pytest", "tests/benchmarks/records/test_run_folder.py", dev=True)
