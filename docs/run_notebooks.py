"""Run every notebook of docs/notebooks, each in an empty folder, and keep its outputs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs.

    Raises:
        CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    return notebook


if __name__ == "__main__":
    # Pictures in the page, which then loads no script; and nothing of how long loading took.
    os.environ |= {"PLOTLY_RENDERER": "svg", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore:IProgress"}
    for path in NOTEBOOKS:
        print(path.name)
        nbformat.write(run(path), path)
