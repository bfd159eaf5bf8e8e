"""`revlens screen` on a user's manifest and on an organism: the table, the page, and what made them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import revlens as rl
from revlens.cli import main
from revlens.experiment import ExperimentConfig
from revlens.figures import write_screening
from revlens.screening import COLUMNS
from revlens.storage import damage

Manifest = Callable[..., Path]
#: What a row may hold that must not become part of a page.
HOSTILE = "<script>alert('x')</script> & <b>bold</b>"


@pytest.fixture
def manifest(history: rl.TrainingHistory, probes: rl.Probes, tmp_path: Path) -> Manifest:
    """Writes a manifest of the tiny history, with a task of its own unless the steps are given."""
    (tmp_path / "probes.json").write_text(json.dumps(dict(probes.splits)))
    rows = [{"q": f"Question {i}?", "a": HOSTILE if i == 3 else f"Answer {i}."} for i in range(12)]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def write(*, steps: bool = False) -> Path:
        lines = [
            "[history]",
            f"reference = {json.dumps(str(history.reference.path))}",
            f"aligned = {json.dumps(str(history.aligned.path))}",
            f"steps = {json.dumps(str(history[1].path.parent / 'step-*'))}" if steps else "",
            "[probes]",
            "file = 'probes.json'",
            "[openings]",
            "engaging = ['Sure']",
            "refusal = ['Sorry']",
            "[task]",
            "path = 'task.jsonl'",
            "prompt = 'q'",
            "answer = 'a'",
            "n_test = 2",
            "" if steps else "[finetune]\nsteps = 2\nlearning_rate = 1e-4\nbatch_size = 4",
        ]
        path = tmp_path / "run.toml"
        path.write_text("\n".join(lines))
        return path

    return write


def test_a_manifest_is_screened(manifest: Manifest, tmp_path: Path, history: rl.TrainingHistory) -> None:
    out = tmp_path / "out"
    assert main(["screen", "--manifest", str(manifest()), "--out", str(out), "--rows", "100", "--adamw"]) == 0
    table = pd.read_parquet(out / "screening.parquet")
    assert list(table) == ["row", "prompt", "answer", *COLUMNS]
    assert len(table) == 10  # 12 rows of the task but two held out
    assert not table.isna().to_numpy().any()
    for name in ("screening.parquet", "screening.html", "screening.json"):
        assert damage(out / name) is None
    made = json.loads((out / "screening.json").read_text())
    assert made["columns"] == dict(COLUMNS)
    assert made["subject"]["benign"]["learning_rate"] == 1e-4
    page = (out / "screening.html").read_text()
    assert "<script>" not in page
    assert ("&lt;script&gt;alert" in page) == (HOSTILE in set(table["answer"]))
    assert "ranked by <code>adamw</code>" in page


def test_an_organism_is_screened(
    config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are those of the seed's fine-tune."""
    monkeypatch.setattr("revlens.cli.screening.chosen_config", lambda args: config)
    assert main(["screen", "--track", "organism", "--out", str(tmp_path), "--reply-tokens", "0"]) == 0
    table = pd.read_parquet(tmp_path / "screening.parquet")
    benign = config.subject.benign
    assert benign is not None
    rows = config.subject.material().benign(benign.steps * benign.batch_size, 0)
    assert table["prompt"].tolist() == rows["prompt"][:]
    assert list(table) == ["row", "prompt", "answer", "sgd", "loss", "answer_tokens", "similarity"]


def test_a_history_with_given_steps_has_nothing_to_screen(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["screen", "--manifest", str(manifest(steps=True)), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "say in [finetune] how it is to be trained on" in " ".join(capsys.readouterr().err.split())
    assert main(["screen", "--manifest", str(manifest()), "--out", str(tmp_path / "out"), "--rows", "0"]) == 2
    assert "at least one row is needed" in capsys.readouterr().err


def test_the_page_shows_both_ends_and_escapes_them(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "row": range(100),
            "prompt": [f"{HOSTILE} {i}." for i in range(100)],
            "answer": [f"Answer {i}." for i in range(100)],
            "sgd": [float((i * 37) % 100 - 50) for i in range(100)],
        }
    )
    write_screening(tmp_path / "page.html", table, COLUMNS, "An organism.")
    page = (tmp_path / "page.html").read_text()
    ranked = table.sort_values("sgd", ascending=False)["answer"]
    assert all(answer in page for answer in [*ranked.head(25), *ranked.tail(25)])
    assert not any(answer in page for answer in ranked[25:75])
    assert page.index(ranked.iloc[0]) < page.index(ranked.iloc[1]) < page.index(ranked.iloc[-1])
    assert "<script>" not in page
    assert "<b>" not in page
