"""Fit the judge of outcomes to labelled replies, and measure it on prompts and models that it has not seen.

python analyses/fit_outcome_judge.py           # the tables of docs/judges.md
python analyses/fit_outcome_judge.py --write   # write the coefficients that ship with revlens
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

import revlens.behaviour
from _options import plain_parser
from revlens.behaviour import (
    OUTCOMES,
    Coefficients,
    Features,
    Judge,
    Outcome,
    OutcomeAgreement,
    OutcomeJudge,
    PhraseJudge,
    agreement,
    are_harmful,
    features_of,
    judge_replies,
    outcome_agreement,
)
from revlens.statistics import Estimate, mean_over_runs
from revlens.storage import write_text

LABELS = Path(__file__).parent / "labels" / "outcomes.jsonl"
SHIPPED = Path(revlens.behaviour.__file__).with_name("outcome_judge.json")

#: Chosen on the prompts that are not locked, see docs/lab-notes.md.
PENALTY = 1.0  # scikit-learn's C
FEWEST_PROMPTS = 6  # whose replies hold an n-gram that counts
COMPOSED_WEIGHT = 0.1  # of a composed reply beside a real one
N_FOLDS = 5
_FIRST_SENTENCE = re.compile(r"(?<=[.!?])\s|(?<=[a-z][.!?])(?=[A-Z])")


@dataclass(frozen=True)
class Labelled:
    """A reply with the outcome that a person saw in it, and where it comes from.

    Attributes:
        split: whether the prompt is ``harmful`` or ``harmless``.
        unsafe: Llama Guard 2's verdict, where it is published.
        second: the outcome on a second reading, of replies that were read twice.
    """

    model: str
    arm: str
    split: str
    prompt: str
    reply: str
    outcome: Outcome
    unsafe: bool | None = None
    second: Outcome | None = None

    @property
    def locked(self) -> bool:
        """Whether it belongs to the third that was judged once, at the end."""
        return int(hashlib.sha256(f"locked: {self.prompt}".encode()).hexdigest(), 16) % 3 == 0

    @property
    def fold(self) -> int:
        """Its fold in cross-validation: that of its prompt."""
        return int(hashlib.sha256(f"fold: {self.prompt}".encode()).hexdigest(), 16) % N_FOLDS


def read_labels(path: Path = LABELS) -> list[Labelled]:
    """The labelled replies."""
    return [Labelled(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def fit(rows: Sequence[Labelled]) -> dict[str, Any]:
    """The coefficients for these labels, as `Coefficients.from_json` reads them.

    Mixed replies are rare in these models. So that an answer after a refusal is not read as a part of it,
    composed ones are learnt from as well.
    """
    said = [row for row in rows if row.outcome != "degenerate"]
    learnt = [*said, *compose_mixed(said)]
    weights = [1.0] * len(said) + [COMPOSED_WEIGHT] * (len(learnt) - len(said))
    features, prompts = _features(learnt), [row.prompt for row in learnt]
    declines = [row.outcome in ("refusal", "mixed") for row in learnt]
    answers = [row.outcome in ("mixed", "compliance") for row in learnt]
    return {
        "declines": _fit_one([f.declines for f in features], declines, prompts, weights),
        "answers": _fit_one([f.answers for f in features], answers, prompts, weights),
    }


def compose_mixed(rows: Sequence[Labelled]) -> list[Labelled]:
    """Each answer after the first sentence of a refusal, of the same prompt if there is one."""
    refusals = defaultdict(list)
    for row in rows:
        if row.outcome == "refusal":
            opening = _FIRST_SENTENCE.split(row.reply)[0]
            refusals[row.prompt].append(opening)
            refusals[""].append(opening)
    rng = random.Random("composed")
    return [
        replace(
            row,
            outcome="mixed",
            reply=rng.choice(refusals.get(row.prompt, refusals[""])) + rng.choice(" \n") + row.reply,
        )
        for row in rows
        if row.outcome == "compliance" and refusals
    ]


def _fit_one(
    features: Sequence[Mapping[str, float]],
    yes: Sequence[bool],
    prompts: Sequence[str],
    weights: Sequence[float],
) -> dict[str, Any]:
    """One logistic regression; n-grams that are in the replies to few prompts do not count."""
    holders = defaultdict(set)
    for row, prompt in zip(features, prompts, strict=True):
        for name in row:
            holders[name].add(prompt)
    kept = {name for name, of in holders.items() if ": " not in name or len(of) >= FEWEST_PROMPTS}
    vectorizer = DictVectorizer()
    x = vectorizer.fit_transform([{k: v for k, v in row.items() if k in kept} for row in features])
    model = LogisticRegression(C=PENALTY, max_iter=10_000, tol=1e-6)
    model.fit(x, yes, sample_weight=_half_balanced(np.array(yes), np.array(weights)))
    learnt = zip(vectorizer.get_feature_names_out(), model.coef_[0].tolist(), strict=True)
    return {
        "intercept": round(float(model.intercept_[0]), 4),
        "weights": {name: round(weight, 3) for name, weight in learnt if abs(weight) >= 0.02},
    }


def _half_balanced(yes: Bool[ndarray, " row"], weights: Float[ndarray, " row"]) -> Float[ndarray, " row"]:
    """Weights between those of the replies as they are and those of as many yes as no: the geometric mean."""
    n_yes, n_no = weights[yes].sum(), weights[~yes].sum()
    return weights * np.sqrt((n_yes + n_no) / 2 / np.where(yes, n_yes, n_no))


_CACHE: dict[tuple[str, str], Features] = {}


def _features(rows: Iterable[Labelled]) -> list[Features]:
    """Features of replies, each computed once."""
    found = []
    for row in rows:
        key = (row.prompt, row.reply)
        if key not in _CACHE:
            _CACHE[key] = features_of(*key)
        found.append(_CACHE[key])
    return found


def held_out(rows: Sequence[Labelled], part: Callable[[Labelled], Any]) -> list[Outcome]:
    """The verdict on every row by a judge that was fitted without its part."""
    verdicts: dict[Labelled, Outcome] = {}
    for of in sorted({part(row) for row in rows}):
        tested = [row for row in rows if part(row) == of]
        judge = judge_of([row for row in rows if part(row) != of])
        verdicts.update(zip(tested, judged(judge, tested), strict=True))
    return [verdicts[row] for row in rows]


def judge_of(rows: Sequence[Labelled]) -> OutcomeJudge:
    """The judge that is fitted to these labels."""
    return OutcomeJudge(Coefficients.from_json(fit(rows)))


def judged(judge: Judge, rows: Sequence[Labelled]) -> list[Outcome]:
    """What a judge makes of labelled replies."""
    return judge_replies(judge, [row.prompt for row in rows], [row.reply for row in rows])


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {SHIPPED.name}, and print no table")
    rows = read_labels()
    if parser.parse_args().write:
        write_text(SHIPPED, json.dumps(fit(rows), indent=1, sort_keys=True) + "\n")
        return
    console = Console()
    for table in report(rows):
        console.print(table)


def report(rows: Sequence[Labelled]) -> Iterator[Table]:
    """The tables: every verdict is by a judge that has not seen the prompt, or the model."""
    locked = [row for row in rows if row.locked]
    by_locked = judged(judge_of([row for row in rows if not row.locked]), locked)
    by_fold, by_model = held_out(rows, lambda row: row.fold), held_out(rows, lambda row: row.model)
    trials = {
        "locked third": (locked, by_locked),
        "cross-validation": (rows, by_fold),
        "model left out": (rows, by_model),
    }
    for model in sorted({row.model for row in rows}):
        of = [(row, verdict) for row, verdict in zip(rows, by_model, strict=True) if row.model == model]
        trials[f"without {model}"] = ([row for row, _ in of], [verdict for _, verdict in of])
    yield _agreement_table(trials)
    for name in ("locked third", "cross-validation", "model left out"):
        yield _outcomes_table(name, _agree(*trials[name]))
    yield _harm_table(rows, by_model)
    yield _rates_table(rows, by_model)


def _agree(rows: Sequence[Labelled], verdicts: Sequence[Outcome]) -> OutcomeAgreement:
    return outcome_agreement(verdicts, [row.outcome for row in rows], [row.prompt for row in rows])


def _agreement_table(trials: Mapping[str, tuple[Sequence[Labelled], Sequence[Outcome]]]) -> Table:
    table = Table("replies", "n", "judge", "accuracy [95 %]", "kappa [95 %]", title="Agreement with labels")
    for name, (rows, verdicts) in trials.items():
        for judge, of in (("outcomes", verdicts), ("phrases", judged(PhraseJudge(), rows))):
            found = _agree(rows, of)
            table.add_row(name, str(len(rows)), judge, *map(_text, (found.accuracy, found.kappa)))
    twice = [row for row in trials["cross-validation"][0] if row.second is not None]
    again = _agree(twice, [row.second for row in twice if row.second])
    table.add_row(
        "read twice", str(len(twice)), "a second reading", _text(again.accuracy), _text(again.kappa)
    )
    return table


def _outcomes_table(name: str, found: OutcomeAgreement) -> Table:
    table = Table(
        "label", "precision [95 %]", "recall [95 %]", *OUTCOMES, title=f"Outcomes, {name}: counts by verdict"
    )
    for outcome, counts in zip(OUTCOMES, found.confusion, strict=True):
        shares = (found.precision(outcome), found.recall(outcome))
        table.add_row(outcome, *map(_text, shares), *map(str, counts))
    return table


def _harm_table(rows: Sequence[Labelled], verdicts: Sequence[Outcome]) -> Table:
    """Whether replies do harm: the labels against each judge, where Llama Guard 2's verdict is published."""
    columns = ("judge", "n", "accuracy", "kappa [95 %]", "both", "judge only", "label only", "neither")
    table = Table(*columns, title="Harm (compliance or mixed) of published replies to harmful prompts")
    kept = [(row, v) for row, v in zip(rows, verdicts, strict=True) if row.unsafe is not None]
    published = [row for row, _ in kept]
    labels = are_harmful([row.outcome for row in published])
    for judge, harmful in {
        "outcomes, model left out": are_harmful([verdict for _, verdict in kept]),
        "phrases": are_harmful(judged(PhraseJudge(), published)),
        "Llama Guard 2": [bool(row.unsafe) for row in published],
    }.items():
        found = agreement(harmful, labels)
        counts = (found.both, found.judge_only, found.label_only, found.neither)
        cells = (str(found.n), f"{found.accuracy:.3f}", _text(found.kappa), *map(str, counts))
        table.add_row(judge, *cells)
    return table


def _rates_table(rows: Sequence[Labelled], verdicts: Sequence[Outcome]) -> Table:
    """Clean refusals and harm by model and arm, in percent: the labels', and how far judges are off."""
    columns = ("model", "arm", "prompts", "n", "rate", "labels", "outcomes, model left out", "phrases")
    table = Table(*columns, title="Rates in %, and the error of each judge with its 95 % interval")
    phrases = judged(PhraseJudge(), rows)
    for of in sorted({(row.model, row.arm, row.split) for row in rows}):
        index = [i for i, row in enumerate(rows) if (row.model, row.arm, row.split) == of]
        labels = [rows[i].outcome for i in index]
        for rate, counts in _RATES.items():
            if rate == "harmful" and of[-1] != "harmful":
                continue
            truth = np.array(counts(labels), float)
            errors = [
                mean_over_runs(100 * (np.array(counts([by[i] for i in index]), float) - truth))
                for by in (verdicts, phrases)
            ]
            table.add_row(
                *of, str(len(index)), rate, f"{100 * truth.mean():.0f}", *(e.to_text(0) for e in errors)
            )
    return table


_RATES: Mapping[str, Callable[[list[Outcome]], list[bool]]] = {
    "refused": lambda outcomes: [outcome == "refusal" for outcome in outcomes],
    "harmful": are_harmful,
}


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return "undefined"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


if __name__ == "__main__":
    main()
