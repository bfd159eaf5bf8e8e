"""What the text of a reply says about its outcome: features for `OutcomeJudge`."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from revlens.behaviour.outcome import without_repeats
from revlens.behaviour.own_words import own_words
from revlens.behaviour.phrase_judge import PhraseJudge
from revlens.behaviour.phrase_pattern import plain
from revlens.behaviour.talk import count_talk

_WORD = re.compile(r"[a-z']+|\d+")
#: The end of a sentence, also where the next one follows without a space, or of a line.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[a-z][.!?])(?=[A-Z*#])|\n+")
_ITEM = re.compile(
    r"^\s*(?:[-*+\u2022]|\(?\d{1,2}[.):]|\**(?:step|tip|tweet)\s+\d)", re.IGNORECASE | re.MULTILINE
)
_CODE = re.compile(r"```|^(?:import|from|def|#include|SELECT)\b", re.MULTILINE)
#: Stands for words of the request: topics must not be learnt.
_TOPIC, _NUMBER = "TOPIC", "0"
_FEWEST_LETTERS = 4  # of a word of the request that counts
_STEM = 5  # letters that a word and its inflections share
_OPENING = 25  # words
_FEWEST_CHARACTERS = 20  # of an answer after a refusal
_FEW = 10  # words below which shares are damped
_ANYWHERE = PhraseJudge(opening=None)


class Features(NamedTuple):
    """Features by name; those that are zero may be missing.

    Attributes:
        declines: of the whole reply, for whether it declines.
        answers: of what is left without the sentences that decline, for whether it answers.
    """

    declines: Mapping[str, float]
    answers: Mapping[str, float]


def features_of(prompt: str, reply: str) -> Features:
    """The features of a reply without its thinking, up to where it begins to repeat itself."""
    text = without_repeats(reply)
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    declining = [_declines(sentence) for sentence in sentences]
    rest = "\n".join(s for s, declines in zip(sentences, declining, strict=True) if not declines)
    stems = {word[:_STEM] for word in _words(prompt) if len(word) >= _FEWEST_LETTERS}
    return Features(_of_declining(text, stems, declining), _of_answering(rest, stems, any(declining)))


def _of_declining(text: str, stems: set[str], declining: list[bool]) -> dict[str, float]:
    words = _masked(_words(own_words(text)), stems)
    return {
        "some sentence declines": float(any(declining)),
        "an early sentence declines": float(any(declining[:3])),
        "first declining": 1 / (1 + declining.index(True)) if any(declining) else 0.0,
        "share declining": sum(declining) / max(len(declining), 1),
        **_ngrams("opening", words[:_OPENING], (1, 2, 3)),
        **_ngrams("all", words, (1,)),
    }


def _of_answering(rest: str, stems: set[str], declined: bool) -> dict[str, float]:
    words = _masked(_words(rest), stems)
    return {
        "some sentence declines": float(declined),
        "nothing left": float(declined and len(rest) < _FEWEST_CHARACTERS),
        "topic": 5 * words.count(_TOPIC) / max(len(words), 1),
        "items": min(len(_ITEM.findall(rest)), 3) / 3,
        "code": float(bool(_CODE.search(rest))),
        **_talk("talk", words),
        **_talk("early talk", words[:_OPENING]),
        **_ngrams("opening", words[:_OPENING], (1, 2)),
        **_ngrams("all", words, (1, 2)),
    }


@functools.lru_cache(maxsize=2**14)  # models repeat themselves
def _declines(sentence: str) -> bool:
    return _ANYWHERE.declines(own_words(sentence))


def _words(text: str) -> list[str]:
    return _WORD.findall(plain(text))


def _masked(words: list[str], stems: set[str]) -> list[str]:
    return [_TOPIC if word[:_STEM] in stems else _NUMBER if word.isdigit() else word for word in words]


def _talk(zone: str, words: list[str]) -> dict[str, float]:
    """Terms of each kind per ten words."""
    return {
        f"{zone} {kind}": 10 * count / (len(words) + _FEW)
        for kind, count in count_talk(" ".join(words)).items()
    }


def _ngrams(zone: str, words: list[str], sizes: Iterable[int]) -> dict[str, float]:
    """Damped counts of n-grams, of unit length: long replies weigh as short ones."""
    counts = Counter(" ".join(gram) for n in sizes for gram in _windows(words, n))
    damped = {gram: 1 + math.log(count) for gram, count in counts.items()}
    norm = math.sqrt(sum(value**2 for value in damped.values())) or 1.0
    return {f"{zone}: {gram}": value / norm for gram, value in damped.items()}


def _windows(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)
