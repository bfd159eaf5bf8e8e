"""`revlens verify`: an untouched output passes; it names every changed byte, cell, claim and figure."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from breaking import SMALL, SMALL_STUDY, unbroken_run

from conftest import TINY
from revlens.audit import verify
from revlens.cli import main
from revlens.errors import HistoryError, ResultsError
from revlens.experiment import (
    ArmTables,
    GuardTables,
    analyse_and_save,
    run_experiment,
    tabulate,
)
from revlens.history import Checkpoint, TrainingHistory, local_source
from revlens.results import Layout
from revlens.storage.atomic import write_text
from revlens.storage.checksums import SUMS, damage, damages, listed_file, seal, write_listed_json
from revlens.storage.locks import LOCK
from revlens.subject import BenignRun
from revlens.sweeps import InThisProcess


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole output, with results, figures and report."""
    return unbroken_run(tmp_path_factory.getbasetemp(), "reproduce").path


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy for tests to change."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole output of a study."""
    return unbroken_run(tmp_path_factory.getbasetemp(), "study").path


@pytest.fixture
def study(studied: Path, tmp_path: Path) -> Layout:
    """A copy of it for tests to change."""
    shutil.copytree(studied, tmp_path / "out")
    return Layout(tmp_path / "out")


def flip(path: Path, choice: random.Random) -> None:
    """Flip one bit of one byte."""
    content = bytearray(path.read_bytes())
    content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
    path.write_bytes(content)


def test_an_untouched_output_passes(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert main(["verify", "--out", str(finished)]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"Compared: \d+ files, 3 activation folders, 18 tables, \d+ cells, \d+ claims, \d+ figures, "
        "1 reports",
        said,
    )
    assert "Differences: none." in said
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def falsify(layout: Layout, *, gone: str, figure: str) -> str:
    """Change the first claim, a figure and the report, delete a table, and make all checksums right.

    Returns:
        The key of the claim.
    """
    claims = json.loads((layout.results / "claims.json").read_text())
    claims[0]["estimate"]["value"], claims[0]["verdict"] = 0.43, "supported"
    write_text(layout.results / "claims.json", json.dumps(claims, indent=2) + "\n")
    (layout.results / f"{gone}.parquet").unlink()
    seal(layout.results)
    page = (layout.figures / f"{figure}.html").read_text()
    write_text(layout.figures / f"{figure}.html", page.replace('"mode":"lines', '"mode":"markers', 1))
    seal(layout.figures)
    with listed_file(layout.report) as partial:
        partial.write_text(layout.report.read_text().replace("too few runs", "supported"))
    return str(claims[0]["key"])


def test_numbers_changed_with_their_checksums_are_found_by_computing_them_again(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(out)
    table = pd.read_parquet(layout.results / "alignment.parquet")
    stored = table.loc[5, "alignment"]
    table.loc[5, "alignment"] = 0.999
    table.to_parquet(layout.results / "alignment.parquet", index=False)
    key = falsify(layout, gone="readout", figure="overview")

    assert main(["verify", "--out", str(out)]) == 2
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(out))]
    assert sorted(line.split(": ")[0] for line in found) == sorted(
        [
            str(layout.results / "readout.parquet"),
            f"{layout.results / 'alignment.parquet'}, row 5 ({_row(table, 5)}), column alignment",
            f"{layout.results / 'claims.json'}, {key}.estimate.value",
            f"{layout.results / 'claims.json'}, {key}.verdict",
            str(layout.figures / "overview.html"),
            str(layout.report),
        ]
    )
    assert any(f"stored {0.999!r}" in line and f"{float(stored)!r}" in line for line in found)


def _row(table: pd.DataFrame, row: int) -> str:
    return ", ".join(
        f"{name} {table.loc[row, name]}" for name in ("step", "layer", "estimate", "seed", "arm")
    )


def test_a_stage_file_changed_with_its_checksum_changes_the_tables(out: Path) -> None:
    path = Layout(out).losses(0, "block")
    with listed_file(path) as partial:
        partial.write_text(json.dumps([loss + 1 for loss in json.loads(path.read_text())]))
    *tables, figure, report = (difference.place for difference in verify(out).differences)
    assert len(tables) == len(json.loads(path.read_text()))
    assert all("training.parquet" in place and "seed 0, arm block" in place for place in tables)
    assert figure == str(Layout(out).figures / "training_loss.html")
    assert report == str(Layout(out).report)


@pytest.mark.parametrize(("plan", "n_files"), [("reproduce", 50), ("study", 30)])
def test_one_flipped_byte_in_every_file_is_found_and_named(
    plan: str, n_files: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = unbroken_run(tmp_path_factory.getbasetemp(), plan).path
    assert flips_found(whole, tmp_path / "out", rounds=1) >= n_files


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "n_files"), [("reproduce", 600), ("study", 360)])
def test_many_flipped_bytes_are_found_and_named(
    plan: str, n_files: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = unbroken_run(tmp_path_factory.getbasetemp(), plan).path
    n = flips_found(whole, tmp_path / "out", rounds=12)
    print(f"{plan}: {n} flipped bytes found and named")
    assert n >= n_files


def audited(out: Path) -> str:
    """Every difference that is found, a line each."""
    return "\n".join(map(str, verify(out).differences))


def flips_found(finished: Path, out: Path, rounds: int) -> int:
    """Flip a bit in every file of an output at once, and see each named.

    Configuration, key and manifests say what the rest must be: their bits are flipped one by one.
    """
    choice, n = random.Random(rounds), 0
    for _ in range(rounds):
        shutil.copytree(finished, out)
        special = [out / "config.json", out / "key", *out.rglob("manifest.json")]
        files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LOCK]
        for path in special:
            whole = path.read_bytes()
            flip(path, choice)
            try:
                found = audited(out)
            except ResultsError as error:
                found = str(error)
            assert str(path) in found
            path.write_bytes(whole)
        flipped = [path for path in files if path not in special and path.name != SUMS]
        for path in flipped:
            flip(path, choice)
        found = audited(out)
        assert [path for path in flipped if str(path) not in found] == []
        n += len(special) + len(flipped)
        shutil.rmtree(out)
    return n


def test_a_damaged_list_is_found_and_named(out: Path) -> None:
    for i, path in enumerate(sorted(out.rglob(SUMS))[:6]):
        whole = path.read_bytes()
        flip(path, random.Random(i))
        problems = [
            problem
            for file in path.parent.iterdir()
            if file.is_file() and file != path and (problem := damage(file))
        ]
        assert any(str(path) in problem or SUMS in problem for problem in problems) or path.parent == out
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("runs/seed-0/v_rev.safetensors", "history"),
        ("runs/seed-0/start.json", "history"),
        ("runs/seed-0/block/behaviour.json", "behaviour"),
        ("runs/seed-0/block/losses.json", "finetune"),
        ("runs/seed-0/causal/patching.parquet", "causal"),
    ],
)
def test_a_damaged_file_is_an_error_before_it_is_a_number(file: str, stage: str, out: Path) -> None:
    path = out / file
    flip(path, random.Random(0))
    with pytest.raises(
        ResultsError, match=rf"{re.escape(str(path))} is damaged.*Delete .* and run `revlens {stage}`"
    ):
        tabulate(SMALL, Layout(out))


def test_a_damaged_table_is_not_drawn(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(out / "results" / "nulls.parquet", random.Random(0))
    with pytest.raises(ResultsError, match="nulls.parquet is damaged"):
        ArmTables.load(out / "results")
    assert main(["report", "--out", str(out)]) == 2
    assert "nulls.parquet is damaged" in capsys.readouterr().err


def test_of_an_output_of_other_code_only_bytes_are_compared(out: Path) -> None:
    write_text(out / "key", "of other code")
    verification = verify(out)
    assert [difference.place for difference in verification.differences] == ["key"]
    assert verification.counts.keys() == {"files", "activation folders"}


def test_an_untouched_study_passes(studied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--out", str(studied)]) == 0
    counts = r"0 activation folders, 9 tables, \d+ cells, \d+ claims, \d+ figures, 1 reports"
    said = rf"Compared: \d+ files, {counts}\. Differences: none\."
    assert re.search(said, capsys.readouterr().out)


def test_numbers_of_a_study_changed_with_their_checksums_are_found(
    study: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_parquet(study.results / "readings.parquet")
    table.loc[1, "kl"] = 0.999
    table.to_parquet(study.results / "readings.parquet", index=False)
    key = falsify(study, gone="routes", figure="lasting")

    assert main(["verify", "--out", str(study.out)]) == 2
    found = [
        line.split(": ")[0]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(str(study.out))
    ]
    names = ("part", "seed", "method", "strength", "until", "task", "rate", "direction", "step")
    row = ", ".join(f"{name} {table.loc[1, name]}" for name in names)
    assert sorted(found) == sorted(
        [
            str(study.results / "routes.parquet"),
            f"{study.results / 'readings.parquet'}, row 1 ({row}), column kl",
            f"{study.results / 'claims.json'}, {key}.estimate.value",
            f"{study.results / 'claims.json'}, {key}.verdict",
            str(study.figures / "lasting.html"),
            str(study.report),
        ]
    )


def test_a_record_changed_with_its_checksum_changes_the_tables(study: Layout) -> None:
    lasting = next(f for f in SMALL_STUDY.fine_tunes() if f.part == "lasting")
    path = study.record(lasting.seed, lasting.label)
    record = json.loads(path.read_text())
    record["readings"][-1]["loss"] += 1
    write_listed_json(path, record)
    found = verify(study.out).differences
    names = [Path(difference.place.split(",")[0]).name for difference in found]
    assert names == ["behaviour.parquet", "readings.parquet"]
    assert all("part lasting, seed 0, method baseline" in difference.place for difference in found)


def test_another_study_than_that_of_the_records_is_found(study: Layout) -> None:
    other = SMALL_STUDY.with_plan(replace(SMALL_STUDY.plan, long_steps=6))
    other.save(study.config)
    write_text(study.key, other.key())
    (found,) = verify(study.out).differences
    assert "cannot be computed again" in found.what
    assert "another fine-tune" in found.what


def test_files_of_a_study_that_have_gone_or_come_are_named(study: Layout) -> None:
    first = SMALL_STUDY.fine_tunes()[0]
    assert first.leaves_clamp_mean
    gone = study.clamp_mean(first.seed, first.label)
    come = gone.with_name("note.txt")
    gone.unlink()
    write_text(come, "mine")
    places = "\n".join(map(str, verify(study.out).differences))
    assert str(gone) in places
    assert str(come) in places


def test_a_damaged_file_of_a_study_is_an_error_before_it_is_a_number(study: Layout) -> None:
    first = SMALL_STUDY.fine_tunes()[0]
    for path, stage in (
        (study.record(first.seed, first.label), "finetune"),
        (study.clamp_mean(first.seed, first.label), "finetune"),
        (study.other_v_rev(0, "other-alignment"), "directions"),
    ):
        whole = path.read_bytes()
        flip(path, random.Random(0))
        what = rf"{re.escape(str(path))} is damaged.*Delete .* and run `revlens {stage}`"
        with pytest.raises(ResultsError, match=what):
            analyse_and_save(study.out)
        path.write_bytes(whole)
    flip(study.results / "routes.parquet", random.Random(0))
    with pytest.raises(ResultsError, match=r"routes.parquet is damaged"):
        GuardTables.load(study.results)


def test_a_damaged_clamp_mean_is_an_error_and_a_deleted_one_is_made_again(study: Layout) -> None:
    fine_tunes = SMALL_STUDY.fine_tunes()
    baseline = next(f for f in fine_tunes if f.leaves_clamp_mean)
    clamped = next(f for f in fine_tunes if f.route and not f.leaves_clamp_mean)
    mean, record = (study.clamp_mean(0, baseline.label), study.record(0, clamped.label))
    whole, recorded = mean.read_bytes(), record.read_bytes()
    record.unlink()
    flip(mean, random.Random(0))
    with pytest.raises(ResultsError, match=r"clamp_mean.safetensors is damaged.*Delete .*: it is made again"):
        run_experiment(SMALL_STUDY, study.out, on=InThisProcess())
    mean.unlink()
    run_experiment(SMALL_STUDY, study.out, on=InThisProcess())
    assert mean.read_bytes() == whole
    assert record.read_bytes() == recorded


@pytest.mark.parametrize("name", ["../key", "/etc/hostname", "runs/seed-0/start.json", ".."])
def test_a_list_that_leads_out_of_its_folder_is_damaged(name: str, tmp_path: Path) -> None:
    write_listed_json(tmp_path / "record.json", {})
    with (tmp_path / SUMS).open("a") as listed:
        listed.write(f"{'0' * 64}  {name}\n")
    assert damages(tmp_path) == [f"{tmp_path / SUMS} lists {name!r}, which is no file of its folder."]


@pytest.fixture
def saved(history: TrainingHistory, tmp_path: Path) -> Path:
    """A copy of a cached checkpoint."""
    shutil.copytree(history.aligned.path, tmp_path / "aligned")
    return tmp_path / "aligned"


def test_a_flipped_byte_in_any_file_of_a_cached_checkpoint_is_named(saved: Path) -> None:
    choice = random.Random(0)
    files = [path for path in sorted(saved.iterdir()) if path.name != SUMS]
    assert "model.safetensors" in {path.name for path in files}
    for path in files:
        whole = path.read_bytes()
        flip(path, choice)
        with pytest.raises(HistoryError, match=rf"{re.escape(str(path))} is damaged"):
            Checkpoint(local_source(saved), "aligned").load()
        path.write_bytes(whole)
    Checkpoint(local_source(saved), "aligned").load()


def test_losses_that_changed_in_the_cache_are_an_error_and_a_lost_step_is_trained_again(
    history: TrainingHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = BenignRun(TINY, seed=0, steps=(1, 3))
    # Not the whole cache, in which other test processes are writing.
    cache = Path(run.folder).parents[3]
    for folder in (Path(run.folder), history.reference.path.parent):
        copy = tmp_path / "cache" / folder.relative_to(cache)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(LOCK))
    monkeypatch.setenv("REVLENS_CACHE", str(tmp_path / "cache"))
    assert run.is_done
    flip(run.folder / "losses.json", random.Random(0))
    with pytest.raises(HistoryError, match=r"losses.json is damaged.* Delete .*: it is trained again"):
        run.losses()
    weights = (run.folder / "step-3" / "model.safetensors").read_bytes()
    shutil.rmtree(run.folder / "step-3")
    assert not run.is_done
    run.train()
    assert (run.folder / "step-3" / "model.safetensors").read_bytes() == weights
    assert len(run.losses()) == 3
