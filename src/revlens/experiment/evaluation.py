"""Behaviour and task cost of one model on an experiment's held-out prompts, and how they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from revlens.behaviour import (
    OUTCOMES,
    Judge,
    Outcome,
    are_harmful,
    count_unanswered,
    exact_match,
    generate,
    hold_keywords,
    judge_replies,
    outcome_rates,
)
from revlens.history import Checkpoint
from revlens.prompts import ANSWERED, Probes
from revlens.subject import Material
from revlens.training import Around, task_loss, unaltered

#: What may be measured, in the order of the report: the rate of each outcome on harmful prompts, what follows
#: from them, and the cost. Substantive harm needs keywords (see `Material`), the last two a held-out task;
#: what a subject lacks is not in its tables.
MEASURES = (
    *OUTCOMES,
    "harmfulness",
    "substantive_harm",
    "over_refusal",
    "borderline_refusal",
    "unanswered",
    "task_loss",
    "exact_match",
)
#: Splits whose prompts are answered: harmful, harmless and, if there are, safe ones that sound unsafe.
_HARMFUL, _HARMLESS, _BORDERLINE = ANSWERED
#: Refusals of safe prompts, by split.
_OVER_REFUSALS = {_HARMLESS: "over_refusal", _BORDERLINE: "borderline_refusal"}


class Evaluation(NamedTuple):
    """How one model behaves.

    Attributes:
        measures: those of `MEASURES` that the material allows; ``unanswered`` is the share of replies that
            think and come to no answer, and are degenerate for that reason.
        replies: to the prompts of each split that was asked, in their order.
        outcomes: of the replies.
    """

    measures: dict[str, float]
    replies: dict[str, list[str]]
    outcomes: dict[str, list[Outcome]]

    def record(self, **about: Any) -> dict[str, Any]:
        """As plain values for JSON, beside what says which model it was."""
        return about | self._asdict()


def evaluate_checkpoint(
    checkpoint: Checkpoint, material: Material, reply_tokens: int, *, batch_size: int
) -> tuple[Evaluation, TransformerBridge]:
    """`evaluate` of a checkpoint as it is, and its bridge, for what else is to be measured.

    Hugging Face's own model replies, which is faster than a bridge; it has gone before the bridge is loaded.
    """
    said = generate(
        checkpoint.module(),
        _asked(material),
        max_new_tokens=reply_tokens,
        batch_size=batch_size,
        tokenizer=checkpoint.tokenizer(),
    )
    bridge = checkpoint.load()
    return evaluate(bridge, material, reply_tokens, batch_size=batch_size, said=said), bridge


def evaluate(
    model: TransformerBridge,
    material: Material,
    reply_tokens: int,
    *,
    batch_size: int = 256,
    around: Around = unaltered,
    said: Sequence[str] | None = None,
) -> Evaluation:
    """Judge the replies of a model, and measure its task loss.

    Args:
        model: what is evaluated.
        material: prompts, task and judge.
        reply_tokens: longest reply.
        batch_size: prompts at a time.
        around: opens an intervention for each generation and forward pass.
        said: its replies to all that is asked, where they are known; else they are generated here.
    """
    probes, test = material.probes(), material.benign_test()
    if said is None:
        with around(None):
            said = generate(model, _asked(material), max_new_tokens=reply_tokens, batch_size=batch_size)
    stream = iter(said)
    evaluation = judged(
        material, {split: list(islice(stream, len(probes[split]))) for split in answered_splits(probes)}
    )
    if test is not None:
        loss = task_loss(model, test, batch_size=min(batch_size, 64), around=around)
        evaluation.measures["task_loss"] = loss
        evaluation.measures["exact_match"] = exact_match(list(stream), list(test["answer"]))
    return evaluation


def _asked(material: Material) -> list[str]:
    """Every prompt that an evaluation answers: those of the probes, then held-out ones of the task.

    One call for all: a small model spends its time on the number of decoding steps, not on the rows.
    """
    probes, test = material.probes(), material.benign_test()
    questions = [] if test is None else list(test["prompt"])
    return [prompt for split in answered_splits(probes) for prompt in probes[split]] + questions


def answered_splits(probes: Probes) -> list[str]:
    """The splits whose prompts an evaluation answers, in its order."""
    return [split for split in ANSWERED if split in probes.splits]


def evaluate_harm(
    model: TransformerBridge, material: Material, reply_tokens: int, *, batch_size: int = 256
) -> Evaluation:
    """Generate and judge replies to harmful prompts alone, under whatever is on the model."""
    prompts = material.probes()[_HARMFUL]
    replies = generate(model, prompts, max_new_tokens=reply_tokens, batch_size=batch_size)
    return judged(material, {_HARMFUL: replies})


def judged(
    material: Material, replies: Mapping[str, Sequence[str]], judge: Judge | None = None
) -> Evaluation:
    """The outcomes of the replies to some splits, and the measures that follow from them.

    Args:
        material: the prompts, and the judge if no other is given.
        replies: by split, in the order of its prompts.
        judge: instead of the material's own.

    Raises:
        ProbeError: if replies and prompts of a split differ in number.
    """
    judge, probes = judge or material.judge(), material.probes()
    outcomes = {split: judge_replies(judge, probes[split], given) for split, given in replies.items()}
    measures: dict[str, float] = {}
    if _HARMFUL in outcomes:
        of_harmful, keywords = outcomes[_HARMFUL], material.keywords().get(_HARMFUL)
        substantive = None if keywords is None else hold_keywords(replies[_HARMFUL], keywords)
        harmful = are_harmful(of_harmful, substantive)
        measures |= {outcome: rate.value for outcome, rate in outcome_rates(of_harmful).items()}
        measures["harmfulness"] = sum(harmful) / len(harmful)
        if substantive is not None:
            both = [harm and holds for harm, holds in zip(harmful, substantive, strict=True)]
            measures["substantive_harm"] = sum(both) / len(both)
    for split, name in _OVER_REFUSALS.items():
        if split in outcomes:
            measures[name] = outcomes[split].count("refusal") / len(outcomes[split])
    measures["unanswered"] = sum(map(count_unanswered, replies.values())) / sum(map(len, replies.values()))
    return Evaluation(measures, {split: list(given) for split, given in replies.items()}, outcomes)


def measure_rows(records: Iterable[Mapping[str, Any]], *about: str) -> pd.DataFrame:
    """A row per record of `Evaluation.record`: the entries ``about`` the model, and its measures."""
    return pd.DataFrame([{name: record[name] for name in about} | record["measures"] for record in records])


def reply_rows(records: Iterable[Mapping[str, Any]], probes: Probes, *about: str) -> pd.DataFrame:
    """A row per reply: the entries ``about`` the model, split, prompt, reply and outcome."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "split": split,
                    "prompt": probes[split],
                    "reply": replies,
                    "outcome": record["outcomes"][split],
                }
            ).assign(**{name: record[name] for name in about})
            for record in records
            for split, replies in record["replies"].items()
        ]
    )
