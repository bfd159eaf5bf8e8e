"""The Python of README, docs and notebooks runs, in order, in a folder with the files that it names."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from revlens.history import TrainingHistory
from revlens.prompts import Probes

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```python" in path.read_text(encoding="utf-8")
]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def user_folder(
    history: TrainingHistory, probes: Probes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's folder: checkpoints under the names that the pages use, a file of probes, an output."""
    names = {
        "base": "reference",
        "chat": "aligned",
        "my-base": "reference",
        "my-model": "aligned",
        "ft/step-20": 1,
        "ft/step-100": 3,
    }
    for name, key in names.items():
        shutil.copytree(history[key].path, tmp_path / name)  # type: ignore[index]
    (tmp_path / "probes.json").write_text(
        json.dumps({split: list(prompts) for split, prompts in probes.splits.items()})
    )
    shutil.copytree(ROOT / "docs" / "runs", tmp_path / "docs" / "runs")
    shutil.copytree(ROOT / "docs" / "runs" / "embedded-avx2-world-0", tmp_path / "revlens-out")
    monkeypatch.chdir(tmp_path)
    # A Chromium takes seconds; tests/figures writes with it.
    monkeypatch.setattr("revlens.figures.paper.write", lambda figure, *paths: None)
    # The embedded history takes a minute of training; its slow test runs the README on it.
    monkeypatch.setattr("revlens.organism.embedded_history", lambda seed: (history, probes))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
@pytest.mark.usefixtures("user_folder")
def test_snippets_run(page: Path) -> None:
    run_all(snippets_of(page), page.name)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
@pytest.mark.usefixtures("user_folder")
def test_cells_of_a_notebook_run(notebook: Path) -> None:
    """On the tiny history, with two updates and without a kernel; the slow test below is the whole thing."""
    run_all(
        [source.replace("max_steps=40", "max_steps=2") for source, _ in cells_of(notebook)], notebook.name
    )


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_the_outputs_of_one_run_without_errors(notebook: Path) -> None:
    cells = [cell for _, cell in cells_of(notebook)]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_in_a_kernel(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient", reason="needs the extra `notebooks`")
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.setenv("PLOTLY_RENDERER", "json")  # draws nothing
    importlib.import_module("run_notebooks").run(notebook)


@pytest.mark.slow
def test_the_readme_runs_on_the_history_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_all(snippets_of(ROOT / "README.md"), "README.md")
    printed = capsys.readouterr().out
    assert len(re.findall(r"step +\d+: cosine 0\.\d\d, \d+\.\d% of the way back", printed)) == 9


def snippets_of(page: Path) -> list[str]:
    """The Python of a page, in order."""
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    assert snippets
    return snippets


def cells_of(notebook: Path) -> list[tuple[str, dict[str, Any]]]:
    """The cells of code, in order, each with its source."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [("".join(cell["source"]), cell) for cell in cells if cell["cell_type"] == "code"]


def run_all(snippets: list[str], name: str) -> None:
    """Run one snippet after the other in one namespace."""
    namespace: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, name, "exec"), namespace)
