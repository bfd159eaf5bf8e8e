from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from revlens.cli import main
from revlens.experiment import ExperimentConfig, remaining
from revlens.results import Layout


@pytest.fixture
def copy(layout: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(layout.out, tmp_path / "out")
    return Layout(tmp_path / "out")


def left(config: ExperimentConfig, layout: Layout) -> dict[str, tuple[str, ...]]:
    return {stage.stage: stage.left for stage in remaining(config, layout) if stage.left}


def test_nothing_is_left_of_what_was_run(
    config: ExperimentConfig, layout: Layout, study: ExperimentConfig, studied: Layout
) -> None:
    assert left(config, layout) == left(study, studied) == {}
    assert [stage.n_done for stage in remaining(config, layout)] == [2, 10, 10, 8, 2]


def test_what_was_lost_is_left(config: ExperimentConfig, copy: Layout) -> None:
    copy.behaviour(0, "block").unlink()
    next(copy.activations(1, "push").glob("step-3.*")).unlink()
    shutil.rmtree(copy.causal(1))
    assert left(config, copy) == {
        "capture": ("seed 1, push",),
        "behaviour": ("seed 0, block",),
        "causal": ("seed 1, baseline",),
    }


def test_the_command_names_what_is_left_and_how_to_go_on(
    copy: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    copy.behaviour(0, "block").unlink()
    assert main(["runs", str(copy.out.parent)]) == 0
    said = capsys.readouterr().out
    assert "behaviour   7/8     seed 0, block" in said
    assert f"`revlens reproduce --out {copy.out}` does what is left." in said


def test_a_folder_without_experiments_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 2
    assert f"No experiment at {tmp_path} or in a folder below it: start one" in capsys.readouterr().err
