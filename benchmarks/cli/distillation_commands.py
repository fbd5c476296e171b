"""The group of commands `distill`."""

from __future__ import annotations

from cyclopts import App

from benchmarks.cli.commands import distill

distill_app = App(name="distill", help="Train a student to imitate its teacher.")
for _command in (distill.embed, distill.verify, distill.train, distill.mini, distill.compare):
    distill_app.command(_command)
