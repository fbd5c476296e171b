"""Executes docs/quickstart.ipynb; as a program, stores its outputs in the file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "quickstart.ipynb"


def execute(folder: Path, setup: str = "") -> Any:
    """The notebook, executed in a folder after some lines of code, with the outputs it keeps.

    Messages on standard error and warnings of a busy machine are left out.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = notebook.cells
    notebook.cells = [nbformat.v4.new_code_cell(setup), *cells]
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries of Jupyter
        NotebookClient(
            notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    notebook.cells = cells
    for number, cell in enumerate(cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [
                each
                for each in cell.outputs
                if each.output_type == "execute_result" or "image/jpeg" in each.get("data", {})
            ]
            for each in cell.outputs:
                each.pop("execution_count", None)
                if each.output_type == "execute_result":
                    each.execution_count = None
    return notebook


if __name__ == "__main__":
    nbformat.write(execute(Path.cwd()), NOTEBOOK)
