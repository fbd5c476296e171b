"""Everything a user or the CI runs, by name: `nox -s bench`, `nox -s tests`, ...

All sessions share the one environment `.venv` (torch alone is several gigabytes), which may be the
one that nox itself runs in. It is installed into again only after pyproject.toml has changed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
VENV = ".venv"
PACKAGES = ("mobilesam", "baselines", "benchmarks")

nox.needs_version = ">=2024.3"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_external_run = True


def shared_session(function):  # type: ignore[no-untyped-def]
    """A session in the shared environment."""
    return nox.session(venv_backend="venv", venv_location=VENV, reuse_venv=True)(function)


def install(session: nox.Session) -> None:
    """Installs the project for development, unless that has been done."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = ROOT / VENV / "mobilesam-bench.installed"
    if stamp.is_file() and stamp.read_text() == digest:
        return
    session.install("-e", ".[dev]")
    stamp.write_text(digest)


@shared_session
def bench(session: nox.Session) -> None:
    """The main job: benchmark every model on the embedded default. Extra arguments go to `run`."""
    install(session)
    named = any(each.startswith("--profile") for each in session.posargs)
    profile = () if named else ("--profile", "quick")
    session.run("mobilesam-bench", "run", *profile, *session.posargs)


@shared_session
def tests(session: nox.Session) -> None:
    """All tests. Extra arguments go to pytest."""
    install(session)
    session.run("python", "-m", "pytest", *session.posargs)


@shared_session
def lint(session: nox.Session) -> None:
    """Style of the code."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@shared_session
def types(session: nox.Session) -> None:
    """Types of the code, strictly."""
    install(session)
    session.run("mypy")


@shared_session
def results(session: nox.Session) -> None:
    """Makes tables, plots and the README's table from a record: `-- results/runs/NAME`."""
    install(session)
    session.run("python", "-m", "benchmarks.report.publish", *session.posargs)
