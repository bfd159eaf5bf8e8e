"""Another judge on the replies that an experiment has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from revlens.behaviour import Agreement, Judge, Outcome, agreement, judge_replies
from revlens.errors import ResultsError
from revlens.experiment.config import ExperimentConfig
from revlens.experiment.evaluation import MEASURES, judged
from revlens.experiment.outputs import assess, load_tables
from revlens.experiment.plans import PLANS
from revlens.experiment.provenance import provenance
from revlens.results import Claim, Layout, Tables, save_results
from revlens.subject import Material


@dataclass(frozen=True)
class Rejudged:
    """What another judge makes of an experiment.

    Attributes:
        tables: those of the experiment, with its outcomes and all that follows from them.
        claims: assessed on these tables.
        counts: replies by the outcome that they had (rows) and the one that they have now (columns).
        refusals: how well the two agree on which replies are refusals.
    """

    tables: Tables
    claims: list[Claim]
    counts: pd.DataFrame
    refusals: Agreement


def rejudge(out: Path, judge: Judge, name: str) -> Rejudged:
    """Apply a judge to every stored reply, and write the results into ``rejudged/NAME`` of the folder.

    The results of the experiment itself stay as they are. No model of the experiment is loaded.

    Args:
        out: folder of an experiment that has been analysed.
        judge: see `revlens.behaviour.Judge`.
        name: of the folder, and of the judge in its provenance.

    Raises:
        ResultsError: if a table is missing or damaged, or replies are not those of the probes.
        ConfigError, ProbeError: see the judge.
    """
    layout = Layout(out)
    config = ExperimentConfig.load(layout.config)
    stored, plan = load_tables(config, layout), PLANS[config.plan.name].tables
    replies = pd.concat([stored[name][["prompt", "reply", "outcome"]] for name in plan.JUDGED.values()])
    verdicts = _verdicts(judge, replies)
    new = dict(stored.tables)
    for measured, kept in plan.JUDGED.items():
        new[measured], new[kept] = _judged_again(
            stored[measured], stored[kept], verdicts, config.subject.material()
        )
    tables = plan.with_derived(type(stored)(new))
    claims = assess(config, tables)
    save_results(layout.rejudged(name), tables, claims, provenance(config) | {"judge": name})
    now = [verdicts[pair] for pair in zip(replies["prompt"], replies["reply"], strict=True)]
    return Rejudged(
        tables,
        claims,
        pd.crosstab(replies["outcome"], pd.Series(now, index=replies.index, name="now")),
        agreement([outcome == "refusal" for outcome in now], (replies["outcome"] == "refusal").tolist()),
    )


def _verdicts(judge: Judge, replies: pd.DataFrame) -> dict[tuple[str, str], Outcome]:
    """The outcome of every distinct exchange; models repeat themselves, and judges may be slow."""
    distinct = replies[["prompt", "reply"]].drop_duplicates()
    prompts, texts = distinct["prompt"].tolist(), distinct["reply"].tolist()
    outcomes = judge_replies(judge, prompts, texts)
    return dict(zip(zip(prompts, texts, strict=True), outcomes, strict=True))


def _judged_again(
    measured: pd.DataFrame,
    kept: pd.DataFrame,
    verdicts: Mapping[tuple[str, str], Outcome],
    material: Material,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of measures and its table of replies, with the outcomes of other verdicts."""

    def look_up(prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
        return [verdicts[pair] for pair in zip(prompts, replies, strict=True)]

    about = [column for column in kept if column not in ("split", "prompt", "reply", "outcome")]
    records = []
    for key, rows in kept.groupby(about, sort=False, dropna=False):
        model, replies = dict(zip(about, key, strict=True)), {}
        for split, own in rows.groupby("split", sort=False):
            if own["prompt"].tolist() != list(material.probes()[str(split)]):
                raise ResultsError(f"Replies of {model} are not to the probes.")
            replies[str(split)] = own["reply"].tolist()
        records.append(model | judged(material, replies, look_up).measures)
    again = pd.DataFrame(records).astype(measured[about].dtypes.to_dict())
    renewed = [name for name in MEASURES if name in again and name in measured]
    joined = measured.drop(columns=renewed).merge(
        again[[*about, *renewed]], on=about, how="left", validate="one_to_one"
    )
    outcomes = look_up(kept["prompt"].tolist(), kept["reply"].tolist())
    return joined[list(measured.columns)], kept.assign(outcome=outcomes)
