"""The command line over a whole tiny experiment: its files, repetition, resumption and refusals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.io as pio
import pytest
import torch
from kaleido.errors import ChromeNotFoundError
from transformers.utils import logging

from conftest import SMALL
from revlens.cli import main
from revlens.experiment import PLANS, ArmTables, ExperimentConfig, engine, prepare, run_experiment
from revlens.figures import REPORTS
from revlens.results import Layout
from revlens.sweeps import InThisProcess, Processes
from revlens.sweeps.worker import prepare_process

STAGES = tuple(stage.name for stage in PLANS["arms"].stages)


@dataclass(frozen=True)
class Place:
    """An output folder and a cache, each by itself."""

    out: Path
    cache: Path

    def revlens(self, *args: str) -> int:
        """Run a verb here, as on a machine without a Chromium."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REVLENS_CACHE", str(self.cache))
            patch.setenv("COLUMNS", "1000")  # no line of a message is broken
            patch.setattr(pio, "write_images", no_chromium)
            return main([args[0], "--out", str(self.out), *args[1:]])

    def tables(self) -> ArmTables:
        return ArmTables.load(Layout(self.out).results)

    def files(self) -> dict[Path, int]:
        """When each file was written."""
        return {
            path.relative_to(self.out): path.stat().st_mtime_ns
            for path in self.out.rglob("*")
            if path.is_file()
        }


def no_chromium(*args: object, **kwargs: object) -> None:
    raise ChromeNotFoundError("no Chromium here")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An output folder that knows its experiment, and an empty cache."""
    prepare(SMALL, tmp_path / "out")
    return Place(tmp_path / "out", tmp_path / "cache")


@contextmanager
def this_process() -> Iterator[None]:
    """This process in place of worker processes, which take seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("revlens.cli.running.where", lambda args, config: {"on": InThisProcess()})
        prepare_process(1)
        yield
        torch.use_deterministic_algorithms(False)
        logging.enable_progress_bar()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """`revlens reproduce`, in this process."""
    folder = tmp_path_factory.mktemp("finished")
    prepare(SMALL, folder / "out")
    place = Place(folder / "out", folder / "cache")
    with this_process():
        assert place.revlens("reproduce") == 0
    return place


@pytest.fixture
def one_process() -> Iterator[None]:
    with this_process():
        yield


def assert_equal_tables(ours: ArmTables, theirs: ArmTables) -> None:
    for name in ArmTables.described:
        pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True)


def test_reproduce_leaves_tables_claims_provenance_figures_and_a_report(finished: Place) -> None:
    layout = Layout(finished.out)
    assert {path.name for path in finished.out.iterdir()} == {
        *("config.json", "key", "runs", "results", "figures", "report.html", "revlens.sha256")
    }
    names = {"claims.json", "provenance.json", "revlens.sha256"} | {
        f"{name}.parquet" for name in ArmTables.described
    }
    assert {path.name for path in layout.results.iterdir()} == names
    assert {path.name for path in layout.figures.iterdir()} == {"plotly.min.js", "revlens.sha256"} | {
        f"{plot.name}.html" for plot in REPORTS["arms"].plots
    }
    assert list(finished.out.rglob(".*")) == []


def test_the_same_command_twice_gives_the_same_numbers(finished: Place, place: Place) -> None:
    assert place.revlens("reproduce", "--workers", "1") == 0  # in a process of its own
    assert_equal_tables(place.tables(), finished.tables())
    for name in ("results/claims.json", "results/provenance.json", "report.html"):
        assert (place.out / name).read_bytes() == (finished.out / name).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
def test_stages_one_by_one_give_the_same_numbers_as_reproduce(finished: Place, place: Place) -> None:
    place = Place(place.out, finished.cache)
    for verb in (*STAGES, "analyse", "report"):
        assert place.revlens(verb) == 0
    assert_equal_tables(place.tables(), finished.tables())
    assert place.files().keys() == finished.files().keys()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("lost", ["activations/step-3.drift.00000.safetensors", "behaviour.json"])
def test_what_was_lost_is_computed_again_and_nothing_else(lost: str, finished: Place, tmp_path: Path) -> None:
    place = Place(tmp_path / "out", finished.cache)
    shutil.copytree(finished.out, place.out)
    before = place.files()
    path = Layout(place.out).losses(0, "block").parent / lost
    path.unlink()
    assert place.revlens("reproduce") == 0
    written = {name for name, at in place.files().items() if name.parts[0] == "runs" and at != before[name]}
    # Losses, manifests and lists of checksums are written again from what is there.
    assert {
        name for name in written if name.name not in ("losses.json", "manifest.json", "revlens.sha256")
    } == {path.relative_to(place.out)}
    assert_equal_tables(place.tables(), finished.tables())


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    ("verb", "before"),
    [
        ("finetune", "history"),
        ("capture", "finetune"),
        ("behaviour", "finetune"),
        ("causal", "history"),
        ("analyse", "history"),
        ("report", "analyse"),
    ],
)
def test_a_stage_before_its_predecessor_is_refused(
    verb: str, before: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.revlens(verb) == 2
    assert f"run `revlens {before}` first" in capsys.readouterr().err
    assert {path.name for path in place.out.iterdir()} == {"config.json", "key"}


def test_a_folder_with_another_experiment_is_refused(
    finished: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished.files()
    assert finished.revlens("reproduce", "--steps", "2") == 2
    assert "holds an experiment with another configuration; choose another --out" in capsys.readouterr().err
    assert finished.files() == before


def test_a_folder_of_other_versions_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.out / "key").write_text("0123456789abcdef")
    assert place.revlens("reproduce") == 2
    assert "was started with other versions of revlens" in capsys.readouterr().err
    assert {path.name for path in place.out.iterdir()} == {"config.json", "key"}


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
def test_a_crash_in_a_worker_leaves_whole_files_and_the_next_run_completes(
    finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "out", finished.cache)
    shutil.copytree(finished.out, place.out)
    arm = Layout(place.out).behaviour(0, "block").parent
    shutil.rmtree(arm)
    shutil.rmtree(Layout(place.out).results)
    (weights,) = place.cache.glob("finetune/*/seed-0/block-*/step-3/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    try:
        with monkeypatch.context() as patch:
            patch.setattr("revlens.cli.running.where", lambda args, config: {"on": Processes(1)})
            assert place.revlens("reproduce") == 2
    finally:
        weights.write_bytes(whole)
    left = sorted(str(path.relative_to(arm)) for path in arm.rglob("*") if path.is_file())
    splits = ("direction", "drift", "harmless")
    shards = [
        f"activations/{name}.{split}.00000.safetensors"
        for name in ("aligned", "reference", "step-1")
        for split in splits
    ]
    captured = sorted(["activations/manifest.json", *shards])
    assert left == [*captured, "losses.json", "revlens.sha256"]
    assert not Layout(place.out).results.exists()

    assert place.revlens("reproduce") == 0
    assert_equal_tables(place.tables(), finished.tables())


def one_fails_and_one_is_busy(
    stages: tuple[str, ...], config: ExperimentConfig, out: Path, unit: Any, tick: Any
) -> None:
    if unit.seed == config.seeds[0]:
        raise RuntimeError("the first run fails")
    time.sleep(3)
    for _ in range(20_000):  # as many updates as a long fine-tune reports
        tick("history")


@pytest.mark.slow
def test_a_failure_beside_a_busy_run_ends_the_command(config: ExperimentConfig, tmp_path: Path) -> None:
    """In a session of its own, so that all of it can be killed if it hangs."""
    config.save(tmp_path / "config.json")
    command = [sys.executable, __file__, str(tmp_path / "config.json"), str(tmp_path / "out")]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, error = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "the first run fails" in error


if __name__ == "__main__":
    engine.run_unit = one_fails_and_one_is_busy
    run_experiment(ExperimentConfig.load(Path(sys.argv[1])), Path(sys.argv[2]))
