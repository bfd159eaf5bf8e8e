"""Fit the judge of outcomes to labelled replies, and measure it on prompts and models that it has not seen.

python analyses/fit_outcome_judge.py            # tables of cross-validation and of each model left out
python analyses/fit_outcome_judge.py --locked   # also the locked third of the prompts: to be read once
python analyses/fit_outcome_judge.py --write    # write the coefficients that ship with revlens
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    are_harmful,
    features_of,
    judge_replies,
    outcome_agreement,
)
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
    """

    model: str
    arm: str
    split: str
    prompt: str
    reply: str
    outcome: Outcome
    unsafe: bool | None = None

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
