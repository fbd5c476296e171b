"""Everything a user or the CI runs, by name: `nox -s bench`, `nox -s tests`, ...

All sessions share the one environment `.venv` (torch alone is several gigabytes), which may be the
one that nox itself runs in. It is installed into again only after pyproject.toml has changed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
VENV = ROOT / ".venv"
COMMITTED = ("results/runs", "--out", "bench-runs/report.html")
MICROBENCH = "bench-runs/microbench.json"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

nox.needs_version = ">=2024.3"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"


def python(session: nox.Session, *arguments: str) -> None:
    """Runs Python in the shared environment, which is made and installed into where needed."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = VENV / "mobilesam-bench.installed"
    if not stamp.is_file() or stamp.read_text() != digest:
        if not PYTHON.exists():
            session.run(sys.executable, "-m", "venv", str(VENV), external=True)
        session.run(str(PYTHON), "-m", "pip", "install", "--quiet", "-e", ".[dev]", external=True)
        stamp.write_text(digest)
    session.run(str(PYTHON), *arguments, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """The main job: benchmark every model on the embedded default. Extra arguments go to `run`."""
    named = any(each.startswith("--profile") for each in session.posargs)
    profile = () if named else ("--profile", "quick")
    python(session, "-m", "benchmarks", "run", *profile, *session.posargs)


@nox.session
def paper(session: nox.Session) -> None:
    """Every published claim with a verdict from this machine. Extra arguments go to `paper`."""
    python(session, "-m", "benchmarks", "paper", *session.posargs)


@nox.session
def speed(session: nox.Session) -> None:
    """Our inference path against the plain modules and ultralytics' MobileSAM, in one run."""
    python(session, "-m", "benchmarks.speedups.inference", *session.posargs)


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
    """The README's picture of the report of the committed runs; needs Chromium."""
    python(session, "-m", "benchmarks", "report", *COMMITTED)
    python(session, "-m", "benchmarks.report.html_picture", COMMITTED[-1], "results/report.png")


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
    python(session, "-m", "benchmarks.guard.power", *session.posargs)


@nox.session
def microbench(session: nox.Session) -> None:
    """The hot paths under pytest-benchmark; JSON in bench-runs/microbench.json."""
    out = ROOT / MICROBENCH
    out.parent.mkdir(exist_ok=True)
    options = ("--benchmark-only", f"--benchmark-json={out}", "--timeout=1800")
    python(session, "-m", "pytest", "benchmarks/test_hot_paths.py", *options, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests. Extra arguments go to pytest."""
    python(session, "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style of the code."""
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the code, strictly."""
    python(session, "-m", "mypy")


@nox.session
def results(session: nox.Session) -> None:
    """Makes tables, plots and the README's table from a record: `-- results/runs/NAME`."""
    python(session, "-m", "benchmarks.report.publish", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Bad input for every reader, for ten minutes or what `--minutes` says; then runs that race."""
    python(session, "-m", "tests.fuzz", *session.posargs)
    session.env["MOBILESAM_RACE_ROUNDS"] = "20"
    python(session, "-m", "pytest", "tests/benchmarks/test_run_folder.py")
