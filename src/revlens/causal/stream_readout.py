"""The logit lens of the stream: what it would answer if the model stopped at a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.tools.analysis import logit_readout

from revlens.causal.refusal_logit_difference import RefusalLogitDifference
from revlens.hooks import the_bridge


@dataclass(frozen=True)
class StreamReadout:
    """How likely each kind of opening is, were the model to stop at a layer.

    Attributes:
        engaging: probability of a token that opens an engaging answer.
        refusal: probability of a token that opens a refusal.
        score: engaging minus refusal log-probability, in nats; that of `RefusalLogitDifference`.
    """

    engaging: Float[Tensor, "prompt layer"]
    refusal: Float[Tensor, "prompt layer"]
    score: Float[Tensor, "prompt layer"]


def stream_readout(
    model: nn.Module, stream: Float[Tensor, "prompt layer d_model"], openings: RefusalLogitDifference
) -> StreamReadout:
    """Read activations through the model's own final norm and unembedding (logit lens, by TransformerLens).

    At the last layer, the last prompt token's stream gives the probabilities of the first answer token. At
    earlier ones it shows what is written already in the form that the unembedding reads, which is not all
    that the stream holds.

    Args:
        model: whose final norm and unembedding are used.
        stream: of the last prompt token, such as `revlens.read_prompts` gives it, with anything added to it.
        openings: of answers and refusals.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.

    Source: nostalgebraist (2020), interpreting GPT: the logit lens.
    """
    tokens = [*openings.engaging, *openings.refusal]
    read = logit_readout(the_bridge(model), stream.float(), vocab=tokens, return_type="log_probs")
    engaging, refusal = (
        torch.logsumexp(part, dim=-1)
        for part in read.values.float().cpu().tensor_split([len(openings.engaging)], dim=-1)
    )
    return StreamReadout(engaging.exp(), refusal.exp(), engaging - refusal)
