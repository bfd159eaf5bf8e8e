"""The script that fits the judge of outcomes, on the labels that are committed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from rich.table import Table

import fit_outcome_judge as script
from fit_outcome_judge import Labelled
from revlens.behaviour import OUTCOMES, Judge, Outcome, OutcomeJudge
from revlens.storage import read_json


@pytest.fixture(scope="module")
def labels() -> list[Labelled]:
    return script.read_labels()


def test_the_coefficients_that_ship_are_those_of_the_committed_labels(labels: list[Labelled]) -> None:
    shipped, made = read_json(script.SHIPPED), script.fit(labels)
    for head in ("declines", "answers"):
        assert made[head]["intercept"] == pytest.approx(shipped[head]["intercept"], abs=0.01)
        old, new = shipped[head]["weights"], made[head]["weights"]
        # A weight that rounding or the least one to keep decides may come or go.
        for name in old.keys() | new.keys():
            assert new.get(name, 0.0) == pytest.approx(old.get(name, 0.0), abs=0.025), name


def test_every_prompt_is_wholly_locked_or_not_and_in_one_fold(labels: list[Labelled]) -> None:
    prompts = {row.prompt for row in labels}
    assert len({(row.prompt, row.locked, row.fold) for row in labels}) == len(prompts)
    assert 0.25 < sum(row.locked for row in labels) / len(labels) < 0.42
    assert {row.fold for row in labels} == set(range(script.N_FOLDS))
    assert len({(row.model, row.arm, row.prompt, row.reply) for row in labels}) == len(labels) >= 320


def test_a_composed_reply_declines_first_and_then_gives_the_answer(labels: list[Labelled]) -> None:
    composed = script.compose_mixed(labels)
    answers = {row.reply for row in labels if row.outcome == "compliance"}
    assert len(composed) == sum(row.outcome == "compliance" for row in labels)
    assert all(any(row.reply.endswith(answer) for answer in answers) for row in composed[:20])
    assert {row.outcome for row in composed} == {"mixed"}
    assert script.compose_mixed([row for row in labels if row.outcome != "refusal"]) == []


def test_a_held_out_verdict_is_by_a_judge_that_has_not_seen_its_part(
    labels: list[Labelled], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[set[str]] = []

    def mixed(prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
        return ["mixed"] * len(replies)

    def judge_of(rows: Iterable[Labelled]) -> Judge:
        fitted.append({row.model for row in rows})
        return mixed

    monkeypatch.setattr(script, "judge_of", judge_of)
    rows, models = labels[::9], {row.model for row in labels}
    verdicts = script.held_out(rows, lambda row: row.model)
    assert sorted(map(sorted, fitted)) == sorted(sorted(models - {model}) for model in models)
    assert verdicts == ["mixed"] * len(rows)


def test_the_report_has_every_table(labels: list[Labelled], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "judge_of", lambda rows: OutcomeJudge())
    rows = labels[::6]
    tables = list(script.report(rows))
    assert len(tables) == 6
    trials = 3 + len({row.model for row in rows})
    assert _column(tables[0], "judge") == ["outcomes", "phrases"] * trials + ["a second reading"]
    assert all(_column(table, "label") == list(OUTCOMES) for table in tables[1:4])
    assert _column(tables[4], "judge") == ["outcomes, model left out", "phrases", "Llama Guard 2"]
    rates = list(zip(*(column.cells for column in tables[5].columns), strict=True))
    of = ("gemma-2b-it", "ablation", "harmful")
    outcomes = [row.outcome for row in rows if (row.model, row.arm, row.split) == of]
    cells = next(row for row in rates if row[:3] == of and row[4] == "harmful")
    harmful = sum(outcome in ("compliance", "mixed") for outcome in outcomes)
    assert cells[3] == str(len(outcomes))
    assert cells[5] == f"{100 * harmful / len(outcomes):.0f}"


def _column(table: Table, name: str) -> list[str]:
    return [str(cell) for column in table.columns if column.header == name for cell in column.cells]
