"""Patchscope: put a direction in the place of a token, and see what the model makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from revlens.causal.metric import Metric, measure
from revlens.causal.readout import VocabularyReadout, check_null
from revlens.direction import unit_vectors
from revlens.errors import ConfigError, SiteError
from revlens.forward import last_logits
from revlens.hooks import hooked, point_name, record, the_bridge
from revlens.prompts import encode_prompts

#: Asks to say again what stands in the place of the question mark.
IDENTITY_PROMPT = "cat -> cat; 1135 -> 1135; hello -> hello; ? ->"


@dataclass(frozen=True)
class TargetPrompt:
    """A prompt with a placeholder, at whose end the model is read.

    Attributes:
        tokens: its ids.
        placeholder: index of the token whose activation is replaced.

    Raises:
        ConfigError: if the prompt has no such token.
    """

    tokens: tuple[int, ...]
    placeholder: int

    def __post_init__(self) -> None:
        if not 0 <= self.placeholder < len(self.tokens):
            raise ConfigError(
                f"A prompt of {len(self.tokens)} tokens has no token {self.placeholder} to be replaced."
            )

    @classmethod
    def from_text(
        cls, tokenizer: PreTrainedTokenizerBase, text: str = IDENTITY_PROMPT, placeholder: str = " ?"
    ) -> TargetPrompt:
        """A plain text; the last token of the placeholder's last occurrence in it is replaced.

        Raises:
            ConfigError: if the text does not hold the placeholder, it encodes to no token, or its last token
                is also of the text after it; or if the tokenizer does not say which token is where.
        """
        first = text.rfind(placeholder)
        if first < 0:
            raise ConfigError(f"The prompt {text!r} does not hold the placeholder {placeholder!r}.")
        if not tokenizer.is_fast:
            raise ConfigError(
                f"{type(tokenizer).__name__} does not say which token is where in a text; "
                "give ids and index yourself: TargetPrompt(tokens, placeholder)."
            )
        # Whole, as some tokenizers write a blank before any text: with a BOS where the tokenizer writes one,
        # and without an EOS, after which nothing would be said.
        encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        places, end = encoded["offset_mapping"], first + len(placeholder)
        n_tokens = (
            max((i for i, special in enumerate(encoded["special_tokens_mask"]) if not special), default=-1)
            + 1
        )
        inside = [
            i for i in range(n_tokens) if places[i][0] < min(places[i][1], end) and places[i][1] > first
        ]
        if not inside:
            raise ConfigError(f"The placeholder {placeholder!r} encodes to no token; give another one.")
        if places[inside[-1]][1] > end:
            token = text[slice(*places[inside[-1]])]
            raise ConfigError(
                f"The placeholder {placeholder!r} ends within the token {token!r}; "
                "give another one, or another text after it."
            )
        return cls(tuple(encoded["input_ids"][:n_tokens]), inside[-1])

    @classmethod
    def from_chat(cls, tokenizer: PreTrainedTokenizerBase, message: str) -> TargetPrompt:
        """A user message in the chat format; its last prompt token is replaced, where v_rev is measured.

        What follows is the model's own reading: no other token sees the activation.

        Raises:
            ConfigError: see `revlens.prompts.encode_prompts`.
        """
        (row,) = encode_prompts(tokenizer, [message])
        return cls(tuple(row), len(row) - 1)


def patchscope(
    model: nn.Module,
    directions: Float[Tensor, "layer d_model"],
    metric: Metric,
    target: TargetPrompt,
    *,
    layers: tuple[int, ...],
    null: Float[Tensor, "draw layer d_model"],
    scale: float = 1.0,
    batch_size: int = 128,
) -> VocabularyReadout:
    """Read a direction of each layer in the model's own words: put it at a placeholder and run the model on.

    After a layer, the placeholder's activation is replaced by the direction, scaled to ``scale`` times the
    length of what it replaces; the logits are those at the end of the prompt.

    Args:
        model: any bridge.
        directions: of any length; only their direction counts.
        metric: of logits ``[batch d_vocab]``, such as `RefusalLogitDifference`.
        target: the prompt and its placeholder.
        layers: indices of the layer axis; a direction is put where it was measured.
        null: random directions.
        scale: length in multiples of the activation that is replaced.
        batch_size: directions per forward pass.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ConfigError: if the metric does not give one number per row, or the batch size or the scale is not
            positive; also see `patched_logits`.
        SiteError: see `check_null`; also if the model lacks a layer.

    Source: Ghandeharioun et al. (2024), arXiv 2401.06102.
    """
    model = the_bridge(model)
    check_null(model, directions, layers, null)
    if not scale > 0 or batch_size < 1:
        raise ConfigError(f"scale={scale} must be above 0, and batch_size={batch_size} at least 1.")
    everything = unit_vectors(torch.cat([directions[None].double(), null.double()]))
    vectors = scale * _own_lengths(model, target, layers)[:, None] * everything

    def scores_at(i: int) -> Float[Tensor, " row"]:
        parts = vectors[:, i].split(batch_size)
        return torch.cat([measure(metric, _logits_at(model, part, target, layers[i])) for part in parts])

    scores = torch.stack([scores_at(i) for i in range(len(layers))], dim=1)
    logits = patched_logits(model, vectors[:1], target, layers=layers)[0]
    return VocabularyReadout(logits, scores[0], scores[1:], layers)


@torch.no_grad()
def patched_logits(
    model: nn.Module,
    vectors: Float[Tensor, "row layer d_model"],
    target: TargetPrompt,
    *,
    layers: Sequence[int],
) -> Float[Tensor, "row layer d_vocab"]:
    """Logits at the end of a prompt whose placeholder is replaced by a vector, after each layer alone.

    To learn how far a patchscope can be trusted on this model, put whole activations of other prompts there:
    how often does the model say what they stand for?

    Args:
        model: any bridge.
        vectors: in activation units.
        target: the prompt and its placeholder.
        layers: indices of the layer axis.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ConfigError: if the last layer is among them and the placeholder does not end the prompt: nothing
            reads it there.
        SiteError: if the model lacks a layer.
    """
    model = the_bridge(model)
    _check_layers(model, target, layers)
    at_layer = [_logits_at(model, vectors[:, i], target, layer) for i, layer in enumerate(layers)]
    return torch.stack(at_layer, dim=1)


@torch.no_grad()
def _logits_at(
    model: TransformerBridge, vectors: Float[Tensor, "row d_model"], target: TargetPrompt, layer: int
) -> Float[Tensor, "row d_vocab"]:
    def replace(activation: Tensor, hook: object) -> Tensor:
        edited = activation.clone()
        edited[:, target.placeholder] = vectors.to(activation)
        return edited

    with hooked(model, [(point_name(layer, "resid_post"), replace)]):
        return last_logits(model, _tokens(model, target).expand(len(vectors), -1)).float().cpu()


@torch.no_grad()
def _own_lengths(
    model: TransformerBridge, target: TargetPrompt, layers: Sequence[int]
) -> Float[Tensor, " layer"]:
    """Length of the placeholder's own activation after each layer."""
    _check_layers(model, target, layers)
    names = [point_name(layer, "resid_post") for layer in layers]
    with record(model, names, select=lambda h: h[0, target.placeholder]) as kept:
        last_logits(model, _tokens(model, target))
    return torch.stack([kept[name].double().cpu().norm() for name in names])


def _tokens(model: TransformerBridge, target: TargetPrompt) -> Int[Tensor, "1 pos"]:
    return torch.tensor([target.tokens], device=next(model.parameters()).device)


def _check_layers(model: TransformerBridge, target: TargetPrompt, layers: Sequence[int]) -> None:
    last = model.cfg.n_layers - 1
    if any(not 0 <= layer <= last for layer in layers):
        raise SiteError(f"layers={tuple(layers)} must lie between 0 and {last}: the model has no others.")
    if last in layers and target.placeholder < len(target.tokens) - 1:
        raise ConfigError(
            f"After layer {last}, the model's last, no token reads the placeholder any more; leave that "
            "layer out, or end the prompt with the placeholder."
        )
