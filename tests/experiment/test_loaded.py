"""Results as a user loads them: whole and as written, or an error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

import revlens as rl
from revlens.errors import ResultsError
from revlens.experiment import ArmTables, ExperimentConfig, GuardTables, analyse_and_save, assess
from revlens.results import Layout, save_results

#: The results of experiments that the repository holds; analyses leave single tables.
RUNS = sorted(path.parent for path in (Path(__file__).parents[2] / "docs" / "runs").glob("*/provenance.json"))


def test_an_output_and_its_results_folder_load_alike(
    analysed: Path, results: ArmTables, config: ExperimentConfig
) -> None:
    loaded, alone = rl.load_results(str(analysed)), rl.load_results(analysed / "results")
    assert loaded.folder == alone.folder == analysed / "results"
    assert isinstance(loaded.tables, ArmTables)
    assert list(loaded) == list(ArmTables.described)
    for name in loaded:
        pd.testing.assert_frame_equal(loaded[name], alone[name])
        pd.testing.assert_frame_equal(loaded[name], results[name], check_dtype=False)
    assert loaded.provenance["seeds"] == list(config.seeds)
    assert repr(loaded).startswith(f"Results of {analysed / 'results'}: 2 run(s), ")


def test_claims_are_a_tidy_table(analysed: Path, results: ArmTables, config: ExperimentConfig) -> None:
    table, claims = rl.load_results(analysed).claims, assess(config, results)
    assert table["key"].tolist() == [claim.key for claim in claims]
    assert table["value"].tolist() == pytest.approx([claim.estimate.value for claim in claims], nan_ok=True)
    assert table["verdict"].tolist() == [claim.verdict for claim in claims]
    assert table[["value", "low", "high", "paper_value", "p", "above", "below"]].dtypes.eq(float).all()


def test_contents_say_what_a_row_is(analysed: Path) -> None:
    loaded = rl.load_results(analysed)
    contents = loaded.contents().set_index("table")
    assert contents.loc["alignment", "rows"] == len(loaded["alignment"])
    assert contents["a row is"].to_dict() == dict(ArmTables.described)


def test_a_study_loads(study: ExperimentConfig, study_tables: GuardTables, tmp_path: Path) -> None:
    provenance = {"seeds": list(study.seeds), "config": {"plan": {"type": "Guards"}}}
    save_results(tmp_path / "results", study_tables, assess(study, study_tables), provenance)
    loaded = rl.load_results(tmp_path)
    assert isinstance(loaded.tables, GuardTables)
    assert list(loaded) == list(GuardTables.described)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_runs_of_the_documentation_load(run: Path) -> None:
    loaded = rl.load_results(run)
    assert {file.stem for file in run.glob("*.parquet")} == set(loaded)
    assert len(loaded.claims) > 0


def test_a_changed_file_is_found_and_analyse_makes_it_anew(analysed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(analysed, out)
    path = out / "results" / "alignment.parquet"
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + b"x")
    with pytest.raises(ResultsError, match=r"alignment.parquet is damaged.*`revlens analyse --out DIR`"):
        rl.load_results(out)
    path.unlink()
    with pytest.raises(ResultsError, match=r"alignment.parquet is missing"):
        rl.load_results(out)
    path.write_bytes(intact)
    shutil.copy(path, path.with_stem("more"))
    with pytest.raises(ResultsError, match=r"more.parquet is not in revlens.sha256"):
        rl.load_results(out)
    analyse_and_save(out)
    assert "more" not in rl.load_results(out)


def test_a_folder_without_results_says_what_to_do(layout: Layout) -> None:
    with pytest.raises(ResultsError, match=r"no provenance.json.*`revlens analyse --out DIR`"):
        rl.load_results(layout.out)


def test_a_table_that_is_not_there_is_named_with_those_that_are(analysed: Path) -> None:
    with pytest.raises(ResultsError, match=r"No table 'drift' in .*; it has direction, alignment, "):
        rl.load_results(analysed)["drift"]


def test_results_of_an_unknown_plan_are_refused(results: ArmTables, tmp_path: Path) -> None:
    save_results(tmp_path, results, [], {"seeds": [0], "config": {"plan": {"type": "Legs"}}})
    with pytest.raises(ResultsError, match=r"wrote results otherwise \(KeyError\('Legs'\)\)"):
        rl.load_results(tmp_path)
