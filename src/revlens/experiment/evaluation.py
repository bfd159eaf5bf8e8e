"""Behaviour and task cost of one model on an experiment's held-out prompts."""

from __future__ import annotations

from itertools import islice

from transformer_lens.model_bridge import TransformerBridge

from revlens.behaviour import exact_match, generate, refusal_rate, share_with_keywords
from revlens.subject import Material
from revlens.training import Around, task_loss, unaltered

#: What may be measured, in the order of the report. Substantive harm needs keywords (see `Material`), the last two a
#: held-out task; what a subject lacks is not in its tables.
MEASURES = {
    "harmfulness": "harmfulness",
    "substantive_harm": "of which substantive",
    "over_refusal": "over-refusal",
    "task_loss": "task loss (nats)",
    "exact_match": "task exact match",
}


def evaluate(
    model: TransformerBridge,
    material: Material,
    reply_tokens: int,
    *,
    batch_size: int = 256,
    around: Around = unaltered,
) -> dict[str, object]:
    """Those of `MEASURES` that the material allows, and replies; ``around`` opens an intervention for each generation and forward pass."""
    judge, probes, test = material.judge(), material.probes(), material.benign_test()
    asked = {"behaviour": probes["behaviour"], "harmless": probes["harmless"]}
    questions = [] if test is None else list(test["prompt"])
    # One call for all: a small model spends its time on the number of decoding steps, not on the rows.
    with around(None):
        prompts = [prompt for split in asked.values() for prompt in split] + questions
        stream = iter(generate(model, prompts, max_new_tokens=reply_tokens, batch_size=batch_size))
    replies = {split: list(islice(stream, len(split_prompts))) for split, split_prompts in asked.items()}
    measures: dict[str, object] = {
        "harmfulness": 1 - refusal_rate(asked["behaviour"], replies["behaviour"], judge),
        "over_refusal": refusal_rate(asked["harmless"], replies["harmless"], judge),
    }
    if "behaviour" in (keywords := material.keywords()):
        measures["substantive_harm"] = share_with_keywords(replies["behaviour"], keywords["behaviour"])
    if test is not None:
        measures["task_loss"] = task_loss(model, test, batch_size=min(batch_size, 64), around=around)
        measures["exact_match"] = exact_match(list(stream), list(test["answer"]))
    return measures | {"replies": replies}
