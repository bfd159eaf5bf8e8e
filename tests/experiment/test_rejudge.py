"""Another judge on stored replies: its outcomes, what follows from them, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from revlens.behaviour import OUTCOMES, Outcome, OutcomeJudge, PhraseJudge, judge_replies
from revlens.cli import main
from revlens.errors import ConfigError
from revlens.experiment import ArmTables, ExperimentConfig, GuardTables, analyse_and_save, read_judge, rejudge
from revlens.results import Layout


def lengths(prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
    """A judge whose outcomes differ from any other's: by the length of a reply."""
    return [OUTCOMES[len(reply) % 4] for reply in replies]


def test_the_experiments_own_judge_changes_nothing(analysed: Path, config: ExperimentConfig) -> None:
    stored = ArmTables.load(Layout(analysed).results)
    again = rejudge(analysed, config.subject.material().judge(), "own")
    for name in ArmTables.described:
        pd.testing.assert_frame_equal(again.tables[name], stored[name], check_dtype=False)
    assert again.refusals.accuracy == 1.0
    assert (Layout(analysed).rejudged("own") / "claims.json").read_bytes() == (
        Layout(analysed).results / "claims.json"
    ).read_bytes()


def test_another_judge_changes_outcomes_and_all_that_follows(analysed: Path) -> None:
    before = {path: path.read_bytes() for path in Layout(analysed).results.iterdir()}
    stored, again = ArmTables.load(Layout(analysed).results), rejudge(analysed, lengths, "lengths").tables
    assert {path: path.read_bytes() for path in Layout(analysed).results.iterdir()} == before
    for measured, kept, about in (
        ("behaviour", "replies", ["seed", "arm", "step"]),
        (
            "intervened",
            "intervened_replies",
            ["seed", "model", "action", "dose", "role", "site", "direction", "draw"],
        ),
    ):
        replies = again[kept]
        expected = judge_replies(lengths, replies["prompt"].tolist(), replies["reply"].tolist())
        assert replies["outcome"].tolist() == expected
        shares = (
            replies[replies["split"] == "behaviour"]
            .groupby(about, dropna=False)["outcome"]
            .apply(lambda outcomes: (outcomes == "refusal").mean())
        )
        table = again[measured].set_index(about)["refusal"].sort_index()
        assert sorted(table.tolist()) == pytest.approx(sorted(shares.tolist()))
        for column in ("task_loss", "exact_match"):
            pd.testing.assert_series_equal(again[measured][column], stored[measured][column])
    assert not again["association"].equals(stored["association"])
    pd.testing.assert_frame_equal(again["alignment"], stored["alignment"])


def test_a_study_is_rejudged_too(studied: Layout, tmp_path: Path) -> None:
    shutil.copytree(studied.out, tmp_path / "study")
    analyse_and_save(tmp_path / "study")
    again = rejudge(tmp_path / "study", lengths, "lengths").tables
    assert isinstance(again, GuardTables)
    rates = again["routes"][list(OUTCOMES)].sum(axis=1)
    assert rates.tolist() == pytest.approx([1.0] * len(rates))
    expected = judge_replies(
        lengths, again["route_replies"]["prompt"].tolist(), again["route_replies"]["reply"].tolist()
    )
    assert again["route_replies"]["outcome"].tolist() == expected


def test_the_command_line_names_a_judge_or_a_file(
    analysed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rejudge", "--out", str(analysed), "--judge", "outcomes"]) == 0
    table = pd.read_parquet(Layout(analysed).rejudged("outcomes") / "replies.parquet")
    assert table["outcome"].tolist() == OutcomeJudge()(table["prompt"].tolist(), table["reply"].tolist())
    capsys.readouterr()
    assert main(["rejudge", "--out", str(analysed), "--judge", "phrases"]) == 0
    assert "The judges agree on what is a refusal" in capsys.readouterr().out
    (tmp_path / "mine.toml").write_text('[judge]\nkind = "phrases"\n')
    assert main(["rejudge", "--out", str(analysed), "--judge", str(tmp_path / "mine.toml")]) == 0
    by_name, by_file = (Layout(analysed).rejudged(name) for name in ("phrases", "mine"))
    assert (by_name / "claims.json").read_bytes() == (by_file / "claims.json").read_bytes()
    assert json.loads((by_file / "provenance.json").read_text())["judge"] == "mine"
    table = pd.read_parquet(by_name / "replies.parquet")
    assert table["outcome"].tolist() == PhraseJudge()(table["prompt"].tolist(), table["reply"].tolist())


def test_what_is_no_judge_is_named(
    analysed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rejudge", "--out", str(analysed), "--judge", "oracle"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "one of outcomes, phrases, classifier, guard, llm; got kind='oracle'" in said
    (tmp_path / "none.toml").write_text("[other]\nkind = 'phrases'\n")
    with pytest.raises(ConfigError, match=r"has no \[judge\] table"):
        read_judge(tmp_path / "none.toml")
