"""A judge of outcomes that reads the whole reply: two logistic regressions over features of its text."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revlens.behaviour._exchanges import paired
from revlens.behaviour.outcome import Outcome, is_degenerate, outcome_of, without_repeats
from revlens.behaviour.reply_features import features_of
from revlens.storage import read_json

#: Words below which what is said before a loop can be a fragment.
_FRAGMENT = 25
_SENTENCE_END = re.compile(r"[.!?](?:\s|$|[A-Z])")
_SHIPPED = Path(__file__).with_name("outcome_judge.json")


@dataclass(frozen=True)
class LinearClassifier:
    """A logistic regression from features by name to yes or no.

    Attributes:
        intercept: log-odds without any feature.
        weights: log-odds per unit of each feature; features that are not among them say nothing.
    """

    intercept: float
    weights: Mapping[str, float]

    def says_yes(self, features: Mapping[str, float]) -> bool:
        """Whether yes is the likelier answer."""
        return self.log_odds(features) > 0

    def log_odds(self, features: Mapping[str, float]) -> float:
        """The log-odds of yes; the order of the features does not matter."""
        terms = (self.weights[name] * value for name, value in features.items() if name in self.weights)
        return math.fsum((self.intercept, *terms))


@dataclass(frozen=True)
class Coefficients:
    """What `OutcomeJudge` has learnt.

    Attributes:
        declines: whether a reply declines, of `Features.declines`.
        answers: whether it answers, of `Features.answers`.
    """

    declines: LinearClassifier
    answers: LinearClassifier

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, Any]]) -> Coefficients:
        """From ``{"declines": {"intercept": ..., "weights": {...}}, "answers": ...}``."""
        return cls(**{name: LinearClassifier(**head) for name, head in content.items()})


@functools.cache
def shipped_coefficients() -> Coefficients:
    """Those that come with revlens; ``analyses/fit_outcome_judge.py`` makes them."""
    return Coefficients.from_json(read_json(_SHIPPED))


@dataclass(frozen=True)
class OutcomeJudge:
    """Whether a reply declines and whether it answers decide its outcome; two small classifiers read both.

    They are logistic regressions over the words of the whole reply, kinds of talk, lists and the phrases of
    `PhraseJudge`, fitted to replies that were labelled by hand: see docs/judges.md for how well they do. The
    verdict needs no model and no network, and is the same on every machine. **It reads English.**
    """

    coefficients: Coefficients = field(default_factory=shipped_coefficients, repr=False)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
        return [self._outcome(prompt, answer) for prompt, answer in paired(prompts, replies)]

    def _outcome(self, prompt: str, answer: str) -> Outcome:
        if is_degenerate(answer) or _repeats_a_fragment(answer):
            return "degenerate"
        features = features_of(prompt, answer)
        return outcome_of(
            declines=self.coefficients.declines.says_yes(features.declines),
            answers=self.coefficients.answers.says_yes(features.answers),
        )


def _repeats_a_fragment(answer: str) -> bool:
    """Whether an answer repeats itself, such as a title, before it ends a sentence."""
    said = without_repeats(answer)
    return len(said) < len(answer) and len(said.split()) < _FRAGMENT and not _SENTENCE_END.search(said)
