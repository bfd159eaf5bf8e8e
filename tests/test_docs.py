"""Every Python snippet of the docs runs, in order, in a folder that holds what its page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from revlens.history import TrainingHistory

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md") if "```python" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page: str, history: TrainingHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(history.aligned.path, tmp_path / "my-model")
    shutil.copytree(history.reference.path, tmp_path / "my-base")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.S)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), namespace)
