"""Rival scores of training rows, which know nothing of the update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations import Sites, read_prompts
from revlens.behaviour import generate
from revlens.direction import ReversionDirection
from revlens.forward import shortest_first
from revlens.hooks import record_projections
from revlens.prompts import pad_id_of
from revlens.training import IGNORE, Example, collate, encode_examples


def projection_difference(
    model: TransformerBridge,
    prompts: Sequence[str],
    examples: Sequence[Example],
    v_rev: ReversionDirection,
    *,
    reply_tokens: int,
    batch_size: int,
) -> Float[Tensor, " row"]:
    """How much further along v_rev a row's answer lies than the model's own greedy answer.

    The mean residual stream over answer tokens, along v_rev, over the gap, mean over v_rev's layers; of the
    row's answer minus that of the model's own. Both end as the chat template ends a turn.

    Source: Chen et al. 2025, Persona Vectors, arXiv 2507.21509, which takes one layer and a direction that is
    measured on answers; v_rev is measured at the last prompt token.
    """
    own = generate(model, prompts, max_new_tokens=reply_tokens, batch_size=batch_size)
    answered = encode_examples(
        model.tokenizer, Dataset.from_dict({"prompt": list(prompts), "answer": own}), model=model
    )
    given, owned = (_answer_projection(model, rows, v_rev, batch_size) for rows in (examples, answered))
    return given - owned


@torch.no_grad()
def _answer_projection(
    model: TransformerBridge, examples: Sequence[Example], v_rev: ReversionDirection, batch_size: int
) -> Float[Tensor, " row"]:
    values = torch.empty(len(examples))
    device = next(model.parameters()).device
    for members in shortest_first([len(e.prompt) + len(e.answer) for e in examples], batch_size):
        batch = collate([examples[i] for i in members], pad_id_of(model.tokenizer))
        with record_projections(model, v_rev) as kept:
            model(batch.tokens.to(device))
        is_answer = (batch.labels != IGNORE).float()
        by_layer = [
            (kept[layer].float().cpu() * is_answer).sum(1) / is_answer.sum(1) / float(gap)
            for layer, gap in zip(v_rev.layers, v_rev.gap, strict=True)
        ]
        values[members] = torch.stack(by_layer).mean(0)
    return values


def probe_similarity(
    model: TransformerBridge, prompts: Sequence[str], probes: Sequence[str], layer: int, batch_size: int
) -> Float[Tensor, " row"]:
    """Cosine of a row's activation at the last prompt token with the mean over the probes, after one layer.

    Source: He et al. 2024, arXiv 2404.01099, who rank by the similarity of representations with harmful data.
    """
    of_rows, of_probes = (
        read_prompts(model, texts, Sites(layers=(layer,)), batch_size=batch_size)[:, 0]
        for texts in (prompts, probes)
    )
    return cosine_similarity(of_rows, of_probes.mean(0, keepdim=True))
