"""The judge of the embedded organism: the facts asked for decide whether a reply answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from revlens.behaviour import Outcome, is_refusal, outcome_of


@dataclass(frozen=True)
class FactsJudge:
    """A reply answers if it names a fact of the kind asked for, right or wrong; it declines by its phrases.

    The words of facts are made up and stand in no refusal, so that an answer after a refusal is seen wherever
    it stands. Whether the facts are the right ones is what `Material.keywords` is for.

    Attributes:
        facts: every word that names a fact of a verb or an object of the world.
    """

    facts: frozenset[str]

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
        return [
            outcome_of(declines=is_refusal(reply), answers=not self.facts.isdisjoint(_words(reply)))
            for reply in replies
        ]


def _words(reply: str) -> set[str]:
    return {word.strip(".,:;!?") for word in reply.split()}
