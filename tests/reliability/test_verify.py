"""`revlens verify`: an untouched output passes; it names every changed byte, cell, claim and figure."""

from __future__ import annotations

import importlib
import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from breaking import SMALL, SMALL_STUDY, unbroken_run
from revlens.study import StudyLayout, StudyTables, plan, run_study, tabulate_and_save

from revlens.audit import verify
from revlens.cli import main
from revlens.errors import HistoryError, ResultsError
from revlens.experiment import ExperimentConfig, Layout, Results
from revlens.history import Checkpoint, TrainingHistory, local_source
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
def only_studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, with only those parts of its experiment that it needs."""
    return unbroken_run(tmp_path_factory.getbasetemp(), "study").path


@pytest.fixture(scope="module")
def both(finished: Path, only_studied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole output, with a study."""
    out = tmp_path_factory.mktemp("both") / "out"
    shutil.copytree(finished, out)
    shutil.copytree(StudyLayout(only_studied).root, StudyLayout(out).root)
    return out


@pytest.fixture
def study(only_studied: Path, tmp_path: Path) -> StudyLayout:
    """A copy of a study for tests to change."""
    shutil.copytree(only_studied, tmp_path / "out")
    return StudyLayout(tmp_path / "out")


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
        r"Compared: \d+ files, 2 activation folders, 13 tables, \d+ cells, \d+ claims, \d+ figures, "
        "1 reports",
        said,
    )
    assert "Differences: none." in said
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def falsify(layout: Layout | StudyLayout, *, gone: str, figure: str) -> str:
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


def test_one_flipped_byte_in_every_file_is_found_and_named(both: Path, tmp_path: Path) -> None:
    assert flips_found(both, tmp_path / "out", rounds=1) >= 70


@pytest.mark.slow
def test_many_flipped_bytes_are_found_and_named(both: Path, tmp_path: Path) -> None:
    n = flips_found(both, tmp_path / "out", rounds=12)
    print(f"{n} flipped bytes found and named")
    assert n >= 800


def audited(out: Path) -> str:
    """Every difference that is found in an experiment and its study, a line each."""
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
        importlib.import_module("revlens.experiment.results").analyse(SMALL, Layout(out))


def test_a_damaged_table_is_not_drawn(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(out / "results" / "nulls.parquet", random.Random(0))
    with pytest.raises(ResultsError, match="nulls.parquet is damaged"):
        Results.load(out / "results")
    assert main(["report", "--out", str(out)]) == 2
    assert "nulls.parquet is damaged" in capsys.readouterr().err


def test_of_an_output_of_other_code_only_bytes_are_compared(out: Path) -> None:
    write_text(out / "key", "of other code")
    verification = verify(out)
    assert [difference.place for difference in verification.differences] == ["key"]
    assert verification.counts.keys() == {"files", "activation folders"}


def test_an_untouched_study_passes_beside_its_experiment_and_alone(
    both: Path, only_studied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--out", str(both)]) == 0
    tables = (
        r"19 tables, \d+ cells, \d+ claims, \d+ figures, 2 reports, 6 study records\. Differences: none\."
    )
    assert re.search(rf"Compared: \d+ files, 2 activation folders, {tables}", capsys.readouterr().out)
    assert main(["verify", "--out", str(only_studied)]) == 0
    said = capsys.readouterr().out
    assert "only its study is compared" in said
    assert re.search(
        r"Compared: \d+ files, 6 study records, 6 tables, .* 1 reports. Differences: none.", said
    )


def test_numbers_of_a_study_changed_with_their_checksums_are_found(
    study: StudyLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_parquet(study.results / "readings.parquet")
    table.loc[1, "kl"] = 0.999
    table.to_parquet(study.results / "readings.parquet", index=False)
    key = falsify(study, gone="carried", figure="lasting")

    assert main(["verify", "--out", str(study.out)]) == 2
    found = [
        line.split(": ")[0]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(str(study.root))
    ]
    names = ("part", "seed", "method", "strength", "guarded", "task", "rate", "direction", "step")
    row = ", ".join(f"{name} {table.loc[1, name]}" for name in names)
    assert sorted(found) == sorted(
        [
            str(study.results / "carried.parquet"),
            f"{study.results / 'readings.parquet'}, row 1 ({row}), column kl",
            f"{study.results / 'claims.json'}, {key}.estimate.value",
            f"{study.results / 'claims.json'}, {key}.verdict",
            str(study.figures / "lasting.html"),
            str(study.report),
        ]
    )


def test_a_record_changed_with_its_checksum_changes_the_tables(study: StudyLayout) -> None:
    run = next(run for run in plan(SMALL_STUDY) if run.part == "lasting")
    record = json.loads(study.record(run).read_text())
    record["readings"][-1]["loss"] += 1
    write_listed_json(study.record(run), record)
    found = verify(study.out).differences
    assert [Path(difference.place.split(",")[0]).name for difference in found] == [
        "behaviour.parquet",
        "readings.parquet",
    ]
    assert all("part lasting, seed 0, method baseline" in difference.place for difference in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"long_steps": 6}, "another run"), ({"experiment": SMALL.with_steps(2)}, "not a study of")],
)
def test_another_study_than_that_of_the_records_is_found(
    change: dict[str, object], message: str, study: StudyLayout
) -> None:
    write_listed_json(study.config, to_plain(replace(SMALL_STUDY, **change)))
    (found,) = verify(study.out).differences
    assert "cannot be computed again" in found.what
    assert message in found.what


def test_files_of_a_study_that_have_gone_or_come_are_named(study: StudyLayout) -> None:
    shutil.rmtree(study.anchor(0).parent)
    write_text(study.record(plan(SMALL_STUDY)[0]).with_name("note.txt"), "mine")
    write_text(study.out / "key", "of other code")
    gone, come = study.anchor(0), study.record(plan(SMALL_STUDY)[0]).with_name("note.txt")
    key = next(difference for difference in verify(study.out).differences if difference.place == "key")
    assert "do not go together" in key.what
    write_text(study.out / "key", SMALL.key())
    assert [difference.place for difference in verify(study.out).differences] == [str(come), str(gone)]


def test_a_damaged_file_of_a_study_is_an_error_before_it_is_a_number(study: StudyLayout) -> None:
    runs = plan(SMALL_STUDY)
    for path in (study.record(runs[0]), study.direction(0, "other-alignment"), study.config):
        whole = path.read_bytes()
        flip(path, random.Random(0))
        with pytest.raises(
            ResultsError, match=rf"{re.escape(str(path))} is damaged.*Delete .* and run `revlens study`"
        ):
            tabulate_and_save(study.out)
        path.write_bytes(whole)
    flip(study.results / "carried.parquet", random.Random(0))
    with pytest.raises(ResultsError, match=r"carried.parquet is damaged"):
        StudyTables.load(study.results)


def test_a_damaged_anchor_is_an_error_and_a_deleted_one_is_made_again(study: StudyLayout) -> None:
    clamped = next(run for run in plan(SMALL_STUDY) if run.part == "grid" and not run.leaves_anchor)
    anchor, record = study.anchor(0).read_bytes(), study.record(clamped).read_bytes()
    study.record(clamped).unlink()
    flip(study.anchor(0), random.Random(0))
    with pytest.raises(ResultsError, match=r"anchor.safetensors is damaged.*Delete .*: it is made again"):
        run_study(SMALL_STUDY, study.out, on=InThisProcess())
    study.anchor(0).unlink()
    run_study(SMALL_STUDY, study.out, on=InThisProcess())
    assert study.anchor(0).read_bytes() == anchor
    assert study.record(clamped).read_bytes() == record


def test_a_study_without_its_configuration_is_not_passed_over(
    study: StudyLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    study.config.unlink()
    assert main(["verify", "--out", str(study.out)]) == 2
    assert f"{study.config} is missing; run `revlens study` first" in capsys.readouterr().out


def test_of_a_study_of_other_code_only_files_are_compared(study: StudyLayout) -> None:
    write_text(study.out / "key", "of other code")
    verification = verify(study.out)
    assert [difference.place for difference in verification.differences] == ["key"]
    assert verification.counts.keys() == {"files", "study records"}


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
    config: ExperimentConfig, history: TrainingHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = BenignRun(config.subject, seed=0, steps=(1, 3))
    shutil.copytree(Path(run.folder).parents[3], tmp_path / "cache")
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
