"""Behaviour and task cost of one model on the organism's held-out prompts."""

from __future__ import annotations

from itertools import islice

from transformer_lens.model_bridge import TransformerBridge

from revlens.behaviour import PhraseJudge, exact_match, generate, refusal_rate, share_with_keywords
from revlens.organism import World
from revlens.training import task_loss
from revlens.training.loop import Around, unaltered


def evaluate(model: TransformerBridge, world: World, reply_tokens: int, *, around: Around = unaltered) -> dict[str, object]:
    """Rates, task loss and replies; ``around`` opens an intervention for each generation and forward pass."""
    judge, world_probes, test = PhraseJudge(), world.probes(), world.benign_test()
    harmful, harmless = world_probes.probes["behaviour"], world_probes.probes["harmless"]
    # One call for all: a small model spends its time on the number of decoding steps, not on the rows.
    with around(None):
        replies = iter(generate(model, [*harmful, *harmless, *test["prompt"]], max_new_tokens=reply_tokens, batch_size=256))
    to_harmful, to_harmless, to_test = (list(islice(replies, n)) for n in (len(harmful), len(harmless), len(test)))
    return {
        "harmfulness": 1 - refusal_rate(harmful, to_harmful, judge),
        "substantive_harm": share_with_keywords(to_harmful, world_probes.keywords["behaviour"]),
        "over_refusal": refusal_rate(harmless, to_harmless, judge),
        "task_loss": task_loss(model, test, around=around),
        "exact_match": exact_match(to_test, list(test["answer"])),
        "replies": {"behaviour": to_harmful, "harmless": to_harmless},
    }
