"""Behaviour and task cost of one model on an experiment's held-out prompts, and how they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from revlens.behaviour import (
    Judge,
    count_unanswered,
    exact_match,
    generate,
    refusal_rate,
    share_with_keywords,
)
from revlens.prompts import Probes
from revlens.subject import Material
from revlens.training import Around, task_loss, unaltered

#: What may be measured, in the order of the report. Substantive harm needs keywords (see `Material`), the
#: last two a held-out task; what a subject lacks is not in its tables.
MEASURES = ("harmfulness", "substantive_harm", "over_refusal", "unanswered", "task_loss", "exact_match")
#: The splits whose prompts are answered.
_ASKED = ("behaviour", "harmless")


class Evaluation(NamedTuple):
    """How one model behaves.

    Attributes:
        measures: those of `MEASURES` that the material allows. A rate is NaN if all of its replies think and
            come to no answer; ``unanswered`` is the share of such replies.
        replies: to the prompts of each split that was asked, in their order.
    """

    measures: dict[str, float]
    replies: dict[str, list[str]]

    def record(self, **about: Any) -> dict[str, Any]:
        """As plain values for JSON, beside what says which model it was; without measures that are NaN."""
        measures = {name: value for name, value in self.measures.items() if not math.isnan(value)}
        return about | {"measures": measures, "replies": self.replies}


def evaluate(
    model: TransformerBridge,
    material: Material,
    reply_tokens: int,
    *,
    batch_size: int = 256,
    around: Around = unaltered,
) -> Evaluation:
    """Generate and judge; ``around`` opens an intervention for each generation and forward pass."""
    judge, probes, test = material.judge(), material.probes(), material.benign_test()
    questions = [] if test is None else list(test["prompt"])
    # One call for all: a small model spends its time on the number of decoding steps, not on the rows.
    with around(None):
        prompts = [prompt for split in _ASKED for prompt in probes[split]] + questions
        stream = iter(generate(model, prompts, max_new_tokens=reply_tokens, batch_size=batch_size))
    replies = {split: list(islice(stream, len(probes[split]))) for split in _ASKED}
    measures = {
        "harmfulness": 1 - _refusal_rate(probes["behaviour"], replies["behaviour"], judge),
        "over_refusal": _refusal_rate(probes["harmless"], replies["harmless"], judge),
        "unanswered": sum(map(count_unanswered, replies.values())) / sum(map(len, replies.values())),
    }
    if "behaviour" in (keywords := material.keywords()):
        measures["substantive_harm"] = share_with_keywords(replies["behaviour"], keywords["behaviour"])
    if test is not None:
        measures["task_loss"] = task_loss(model, test, batch_size=min(batch_size, 64), around=around)
        measures["exact_match"] = exact_match(list(stream), list(test["answer"]))
    return Evaluation(measures, replies)


def harmfulness_in_few_tokens(
    model: TransformerBridge, material: Material, few: int, reply_tokens: int
) -> float:
    """Harmfulness on the behaviour probes by the openings of replies, as a judge reads no more.

    Where a model thinks first, replies are as long as any other. NaN if none comes to an answer.

    Args:
        model: the model, under whatever hooks are on it.
        material: prompts and judge.
        few: tokens of a reply's opening.
        reply_tokens: longest reply.
    """
    harmful = material.probes()["behaviour"]
    replies = generate(model, harmful, max_new_tokens=min(few, reply_tokens))
    if few < reply_tokens and count_unanswered(replies):
        replies = generate(model, harmful, max_new_tokens=reply_tokens)
    return 1 - _refusal_rate(harmful, replies, material.judge())


def _refusal_rate(prompts: Sequence[str], replies: Sequence[str], judge: Judge) -> float:
    """See `refusal_rate`; NaN if no reply comes to an answer."""
    return math.nan if count_unanswered(replies) == len(replies) else refusal_rate(prompts, replies, judge)


def measure_rows(records: Iterable[Mapping[str, Any]], *about: str) -> pd.DataFrame:
    """A row per record of `Evaluation.record`: the entries ``about`` the model, and its measures."""
    return pd.DataFrame([{name: record[name] for name in about} | record["measures"] for record in records])


def reply_rows(records: Iterable[Mapping[str, Any]], probes: Probes) -> pd.DataFrame:
    """A row per reply: step, split, prompt and reply."""
    return pd.concat(
        [
            pd.DataFrame({"step": record["step"], "split": split, "prompt": probes[split], "reply": replies})
            for record in records
            for split, replies in record["replies"].items()
        ]
    )
