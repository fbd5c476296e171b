"""The page on models, from the registry and the table of checkpoints.

`python -m benchmarks.evidence.models_page` writes `docs/models.md`; a test fails when it is stale.
"""

from __future__ import annotations

from pathlib import Path

from baselines.registry import PERMISSIVE, entries
from benchmarks.evidence.pages import render, write_page
from mobilesam.weights.checkpoint_specs import specs

PAGE = Path("docs/models.md")


def page() -> str:
    """The Markdown of the page."""
    models = [entry for entry in entries().values() if not entry.third_party]
    return render(
        "models.md",
        "baselines/models.toml",
        models=models,
        checkpoints=specs(),
        permissive=sorted(PERMISSIVE),
        resizable=[entry.name for entry in models if entry.own_size_px is not None],
    )


def main() -> int:
    """Writes the page."""
    return write_page(PAGE, page())


if __name__ == "__main__":
    raise SystemExit(main())
