"""Every Python snippet of README and docs runs, in order, in a folder with the files that it names."""

from __future__ import annotations

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
    shutil.copytree(ROOT / "docs" / "runs" / "embedded-avx2-world-0", tmp_path / "revlens-out")
    monkeypatch.chdir(tmp_path)
    # A Chromium takes seconds; tests/figures writes with it.
    monkeypatch.setattr("revlens.figures.paper.write", lambda figure, *paths: None)
    # The embedded history takes a minute of training; its slow test runs the README on it.
    monkeypatch.setattr("revlens.organism.embedded_history", lambda seed: (history, probes))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
@pytest.mark.usefixtures("user_folder")
def test_snippets_run(page: Path) -> None:
    run_snippets(page)


@pytest.mark.slow
def test_the_readme_runs_on_the_history_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_snippets(ROOT / "README.md")
    printed = capsys.readouterr().out
    assert len(re.findall(r"step +\d+: cosine 0\.\d\d, \d+\.\d% of the way back", printed)) == 9


def run_snippets(page: Path) -> None:
    """Run the Python of a page, one snippet after the other in one namespace."""
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    assert snippets
    namespace: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, page.name, "exec"), namespace)
