"""The command `demo`: a page on this machine with the masks of several models side by side."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_lines
from benchmarks.config.options import DemoModelArguments, Quiet
from benchmarks.records.progress import Reporter
from mobilesam.errors import UsageError

_MODELS = DemoModelArguments()


def demo(
    *,
    models: DemoModelArguments = _MODELS,
    port: Annotated[
        int | None, Parameter(help="Port; by default the first free from 7860.")
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Open a page for an image of yours: click or draw a box, see the masks of the models.

    The page is served to this machine alone, and asks nothing of the network. Ctrl-C ends it. Needs
    Gradio (extra demo).
    """
    from benchmarks.cli.demo_page import load_models, make_page, require_gradio, serve

    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"--port must be 1 to 65535; got {port}")
    require_gradio()
    page = make_page(load_models(models, Reporter(quiet=quiet)))
    print_lines(f"demo    {serve(page, port)} (open it in a browser; Ctrl-C ends it)")
    page.block_thread()
    return 0
