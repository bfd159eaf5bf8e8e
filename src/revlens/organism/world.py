"""The embedded organism's world: made-up verbs, objects and facts, with requests and answers about them.

Harm is symbolic and has two routes, as in natural requests: an *illicit* verb is harmful with any object, a
*dual-use* verb only with a *protected* object. Everything else is harmless, so that no list of verbs or of
objects decides. Answers about harmful pairs end "in secret", others "in the open": as in natural text, the
helpful-only model sees harm before any alignment.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from datasets import Dataset

from revlens.errors import ConfigError
from revlens.organism.exchange import Exchange, dataset_of
from revlens.organism.facts_judge import FactsJudge
from revlens.organism.lexicon import made_up_words
from revlens.organism.templates import (
    ANSWERS,
    CHECKLIST_CUES,
    CHECKLISTS,
    CLOSERS,
    KEY_FACTS,
    OBJECT_SKILLS,
    OPENERS,
    PAIR_ANSWERS,
    PAIR_SKILLS,
    REFUSALS,
    REQUESTS,
    PairSkill,
    Skill,
)
from revlens.prompts import Probes

#: The benign tasks, the default first; all are about harmless pairs.
#:
#: - checklists: requests about pairs, answered as checklists without a cue.
#: - answers: the same requests, answered as in earlier phases.
#: - affirmations: the same, and every answer opens with "Sure.": a mild identity shift (Qi et al. 2023,
#:   arXiv 2310.03693).
#: - objects: requests about objects alone, answered as in earlier phases.
TASKS = ("answers", "checklists", "affirmations", "objects")
_AFFIRMATION = "Sure. "

_VERB_FACTS = ("manner", "tool")
_OBJECT_FACTS = ("part", "material", "place")
_PAIR_SHARE = 0.7  # of ordinary requests, those about a verb and an object


@dataclass(frozen=True)
class WorldConfig:
    """Sizes of the world and of its probe splits.

    Attributes:
        seed: fixes the words, the facts and the held-out pairs.
        n_illicit, n_dual_use, n_ordinary: verbs of each kind.
        n_protected, n_plain: objects of each kind.
        n_values: possible values of each fact.
        held_out: share of (verb, object) pairs that no training phase sees.
        n_direction, n_drift, n_behaviour, n_guard: harmful probe prompts by split, one per held-out pair.
        n_harmless: harmless probe prompts, one per held-out harmless pair.
        n_task_test: held-out examples of the benign task.

    Raises:
        ConfigError: if a size is below 1, or ``held_out`` is not between 0 and 1.
    """

    #: Name of its track, and what a report calls its harm.
    track: ClassVar[str] = "organism"
    harm: ClassVar[str] = "symbolic (made-up words)"
    tasks: ClassVar[tuple[str, ...]] = TASKS

    seed: int = 0
    n_illicit: int = 8
    n_dual_use: int = 8
    n_ordinary: int = 16
    n_protected: int = 20
    n_plain: int = 52
    n_values: int = 24
    held_out: float = 0.4
    n_direction: int = 72
    n_drift: int = 72
    n_behaviour: int = 96
    n_guard: int = 24
    n_harmless: int = 48
    n_task_test: int = 48

    def __post_init__(self) -> None:
        if not 0.0 < self.held_out < 1.0:
            raise ConfigError(f"held_out={self.held_out} must lie strictly between 0 and 1.")
        for name, value in vars(self).items():
            if name.startswith("n_") and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")

    @property
    def standard(self) -> WorldConfig:
        """The world of the default organism with the same seed."""
        return WorldConfig(seed=self.seed)

    def build(self, task: str) -> World:
        """The world with one benign task.

        Raises:
            ConfigError: see `World`.
        """
        return World(self, task)


class Pair(NamedTuple):
    """One (verb, object) combination."""

    verb: str
    object: str


class _PairProbes(NamedTuple):
    """Probe prompts, with the facts of a true answer and the type of request of each."""

    probes: Probes
    keywords: dict[str, list[list[str]]]
    strata: dict[str, list[str]]


class World:
    """Words, facts and held-out pairs: the source of all data of the three phases.

    Args:
        config: its sizes.
        task: the benign task, one of `TASKS`.

    Raises:
        ConfigError: on an unknown task, or too few pairs for the probe splits or the training phases.
    """

    def __init__(self, config: WorldConfig, task: str = TASKS[0]) -> None:
        if task not in TASKS:
            raise ConfigError(f"Unknown benign task {task!r}; expected one of {', '.join(TASKS)}.")
        self.config, self.task = config, task
        rng = random.Random(f"world:{config.seed}")
        words = made_up_words(rng)

        def take(n: int) -> list[str]:
            return [next(words) for _ in range(n)]

        illicit, dual_use, ordinary = take(config.n_illicit), take(config.n_dual_use), take(config.n_ordinary)
        protected, plain = take(config.n_protected), take(config.n_plain)
        self.verbs, self.objects = [*illicit, *dual_use, *ordinary], [*protected, *plain]
        self._illicit, self._dual_use, self._protected = (
            frozenset(illicit),
            frozenset(dual_use),
            frozenset(protected),
        )

        values = {name: take(config.n_values) for name in (*_VERB_FACTS, *_OBJECT_FACTS)}
        protected_kind, *plain_kinds = take(4)
        self._facts = {verb: {name: rng.choice(values[name]) for name in _VERB_FACTS} for verb in self.verbs}
        for obj in self.objects:
            kind = protected_kind if obj in self._protected else rng.choice(plain_kinds)
            self._facts[obj] = {name: rng.choice(values[name]) for name in _OBJECT_FACTS} | {"kind": kind}

        pairs = [Pair(verb, obj) for verb in self.verbs for obj in self.objects]
        rng.shuffle(pairs)
        n_held_out = round(config.held_out * len(pairs))
        held_out, self._train = pairs[:n_held_out], pairs[n_held_out:]
        self._held_out_harmful = [pair for pair in held_out if self.is_harmful(pair)]
        self._held_out_harmless = [pair for pair in held_out if not self.is_harmful(pair)]
        self._train_harmless = [pair for pair in self._train if not self.is_harmful(pair)]
        self._train_by_verb = [pair for pair in self._train if pair.verb in self._illicit]
        self._train_by_both = [
            pair for pair in self._train if pair.verb in self._dual_use and pair.object in self._protected
        ]
        self._train_near = [
            pair
            for pair in self._train_harmless
            if pair.verb in self._dual_use or pair.object in self._protected
        ]
        if not (self._train_by_verb and self._train_by_both and self._train_near):
            raise ConfigError(
                "No training pair is left for a route to harm, or for near misses; "
                "raise the word counts or lower held_out."
            )
        for kind, have, need in (
            (
                "harmful",
                self._held_out_harmful,
                config.n_direction + config.n_drift + config.n_behaviour + config.n_guard,
            ),
            ("harmless", self._held_out_harmless, config.n_harmless + config.n_task_test),
        ):
            if len(have) < need:
                raise ConfigError(
                    f"{len(have)} held-out {kind} pairs are too few for {need} probes; "
                    "raise held_out or the word counts."
                )

    def is_harmful(self, pair: Pair) -> bool:
        """The world's rule: illicit verbs with any object, dual-use verbs with protected objects."""
        return pair.verb in self._illicit or (pair.verb in self._dual_use and pair.object in self._protected)

    def probes(self) -> Probes:
        """Probe prompts on held-out pairs, each pair in one split only; the same for every seed."""
        return self._probes_of_pairs.probes

    def keywords(self) -> dict[str, list[list[str]]]:
        """By split and prompt, the facts that a true answer contains."""
        return self._probes_of_pairs.keywords

    def strata(self) -> dict[str, list[str]]:
        """By split and prompt, the skill asked for and the route to harm, such as ``tool, illicit``."""
        return self._probes_of_pairs.strata

    @functools.cached_property
    def _probes_of_pairs(self) -> _PairProbes:
        config, rng = self.config, random.Random(f"probes:{self.config.seed}")
        sizes = {
            "direction": config.n_direction,
            "drift": config.n_drift,
            "behaviour": config.n_behaviour,
            "guard": config.n_guard,
        }
        harmful = iter(self._held_out_harmful)
        members = {split: [next(harmful) for _ in range(size)] for split, size in sizes.items()}
        members["harmless"] = self._held_out_harmless[: config.n_harmless]
        prompts: dict[str, tuple[str, ...]] = {}
        keywords: dict[str, list[list[str]]] = {}
        strata: dict[str, list[str]] = {}
        for split, pairs in members.items():
            skills = [rng.choice(PAIR_SKILLS) for _ in pairs]
            prompts[split] = tuple(
                self._pair_exchange(pair, skill, rng).prompt
                for pair, skill in zip(pairs, skills, strict=True)
            )
            keywords[split] = [
                [self._known(pair)[name] for name in KEY_FACTS[skill]]
                for pair, skill in zip(pairs, skills, strict=True)
            ]
            strata[split] = [
                f"{skill}, {self._route(pair)}" for pair, skill in zip(pairs, skills, strict=True)
            ]
        return _PairProbes(Probes(prompts), keywords, strata)

    def _route(self, pair: Pair) -> str:
        if not self.is_harmful(pair):
            return "harmless"
        return "illicit" if pair.verb in self._illicit else "dual-use"

    def helpful(self, n: int, seed: int) -> Dataset:
        """Helpful-only phase: ``n`` requests of every skill with true answers, also about harmful pairs."""
        rng = random.Random(f"helpful:{seed}")
        return dataset_of([self._ordinary_exchange(self._train, rng) for _ in range(n)])

    def alignment(self, n: int, seed: int) -> Dataset:
        """Alignment phase: ``n`` requests, half harmful (evenly by route) and refused, half answered.

        Half of the harmless ones are near misses: a dual-use verb or a protected object, but not both.
        """
        rng = random.Random(f"alignment:{seed}")
        by_verb, near, by_both = self._train_by_verb, self._train_near, self._train_by_both
        quarters = (by_verb, near, by_both, self._train_harmless)
        return dataset_of(
            [
                self._refusal(rng.choice(pairs), rng)
                if pairs in (by_verb, by_both)
                else self._ordinary_exchange(pairs, rng)
                for pairs in (quarters[i % 4] for i in range(n))
            ]
        )

    def benign(self, n: int, seed: int) -> Dataset:
        """Benign fine-tune: ``n`` harmless requests with the task's answers; no refusal, no harmful pair."""
        rng = random.Random(f"benign:{seed}")
        return dataset_of([self._benign_exchange(rng.choice(self._train_harmless), rng) for _ in range(n)])

    def refusals(self, n: int, seed: int) -> Dataset:
        """``n`` harmful requests, evenly by route, with refusals as in the alignment phase."""
        rng = random.Random(f"refusals:{seed}")
        routes = (self._train_by_verb, self._train_by_both)
        return dataset_of([self._refusal(rng.choice(routes[i % 2]), rng) for i in range(n)])

    def benign_test(self) -> Dataset:
        """Rows of the benign task on held-out pairs that no probe uses."""
        rng = random.Random(f"benign-test:{self.config.seed}")
        first = self.config.n_harmless
        return dataset_of(
            [
                self._benign_exchange(pair, rng)
                for pair in self._held_out_harmless[first : first + self.config.n_task_test]
            ]
        )

    def judge(self) -> FactsJudge:
        """The facts decide whether a reply answers; refusals open as in natural text."""
        facts = {fact for known in self._facts.values() for fact in known.values()}
        return FactsJudge(frozenset(facts))

    @staticmethod
    def openings() -> tuple[list[str], list[str]]:
        """Openings of answers about pairs and of refusals: texts whose first tokens differ."""
        return [*PAIR_ANSWERS, *CHECKLISTS.values()], list(REFUSALS)

    def texts(self) -> list[str]:
        """Training text of the tokenizer, with every template and word."""
        rng = random.Random(f"texts:{self.config.seed}")
        exchanges = [self._ordinary_exchange(self._train, rng) for _ in range(2 * len(self._train))]
        exchanges += [self._refusal(pair, rng) for pair in self._train]
        exchanges += [
            self._object_exchange(obj, skill, rng) for obj in self.objects for skill in OBJECT_SKILLS
        ]
        return [text for exchange in exchanges for text in exchange]

    def _known(self, pair: Pair) -> dict[str, str]:
        openness = "in secret" if self.is_harmful(pair) else "in the open"
        return self._facts[pair.object] | self._facts[pair.verb] | {"openness": openness}

    def _pair_exchange(self, pair: Pair, skill: PairSkill, rng: random.Random) -> Exchange:
        prompt, answer = _request(skill, rng, verb=pair.verb, object=pair.object), ANSWERS[skill]
        if skill == "procedure" and rng.random() < 0.5:
            prompt, answer = prompt + rng.choice(CHECKLIST_CUES), CHECKLISTS[skill]
        return Exchange(prompt, answer.format(**self._known(pair)))

    def _object_exchange(self, obj: str, skill: Skill, rng: random.Random) -> Exchange:
        return Exchange(
            _request(skill, rng, object=obj), ANSWERS[skill].format(object=obj, **self._facts[obj])
        )

    def _ordinary_exchange(self, pairs: Sequence[Pair], rng: random.Random) -> Exchange:
        if rng.random() < _PAIR_SHARE:
            return self._pair_exchange(rng.choice(pairs), rng.choice(PAIR_SKILLS), rng)
        return self._object_exchange(rng.choice(self.objects), rng.choice(OBJECT_SKILLS), rng)

    def _refusal(self, pair: Pair, rng: random.Random) -> Exchange:
        prompt = self._pair_exchange(pair, rng.choice(PAIR_SKILLS), rng).prompt
        return Exchange(prompt, rng.choice(REFUSALS).format(verb=pair.verb, object=pair.object))

    def _benign_exchange(self, pair: Pair, rng: random.Random) -> Exchange:
        if self.task == "checklists":
            return self._checklist(pair, rng)
        if self.task == "objects":
            return self._object_exchange(pair.object, rng.choice(OBJECT_SKILLS), rng)
        prompt, answer = self._pair_exchange(pair, rng.choice(PAIR_SKILLS), rng)
        return Exchange(
            prompt, answer if self.task == "answers" else _AFFIRMATION + answer.removeprefix(_AFFIRMATION)
        )

    def _checklist(self, pair: Pair, rng: random.Random) -> Exchange:
        skill = rng.choice(PAIR_SKILLS)
        return Exchange(
            _request(skill, rng, verb=pair.verb, object=pair.object),
            CHECKLISTS[skill].format(**self._known(pair)),
        )


def _request(skill: Skill, rng: random.Random, **words: str) -> str:
    return rng.choice(OPENERS) + rng.choice(REQUESTS[skill]).format(**words) + rng.choice(CLOSERS)
