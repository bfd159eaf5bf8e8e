"""The metric of a patch: how much the first answer token favours engaging over refusing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from revlens.errors import ConfigError


@dataclass(frozen=True)
class RefusalLogitDifference:
    """Engaging minus refusal, in nats: logsumexp over first tokens of engaging openings minus the refusals'.

    It is the log-odds of opening with an engaging token rather than a refusing one; the normaliser of the
    softmax cancels.

    Attributes:
        engaging: token ids that open an engaging answer.
        refusal: token ids that open a refusal; none of them engaging.
    """

    engaging: tuple[int, ...]
    refusal: tuple[int, ...]

    @classmethod
    def from_texts(
        cls, tokenizer: PreTrainedTokenizerBase, engaging: Sequence[str], refusal: Sequence[str]
    ) -> RefusalLogitDifference:
        """Take the first token of each text as it follows the generation prompt, without special tokens.

        Raises:
            ConfigError: if a list is empty, a text encodes to no token, or an engaging text and a refusal
                open with the same token.
        """
        first = _first_tokens(tokenizer, engaging, "engaging"), _first_tokens(tokenizer, refusal, "refusal")
        for token in first[0]:
            if token in first[1]:
                raise ConfigError(
                    f"{first[0][token]!r} (engaging) and "
                    f"{first[1][token]!r} (refusal) open with the same token "
                    f"{token} ({tokenizer.decode([token])!r}), so it says nothing of either; "
                    "give openings that differ in their first token."
                )
        return cls(tuple(first[0]), tuple(first[1]))

    def __call__(self, logits: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch"]:
        """The metric in nats, in float32, from the logits at the last prompt token."""
        wide = logits.float()
        return torch.logsumexp(wide[..., list(self.engaging)], dim=-1) - torch.logsumexp(
            wide[..., list(self.refusal)], dim=-1
        )


def _first_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], kind: str) -> dict[int, str]:
    """First token ids in order, each with the first text that opens with it."""
    if not texts:
        raise ConfigError(f"No {kind} openings; give at least one text.")
    first: dict[int, str] = {}
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConfigError(f"The {kind} opening {text!r} encodes to no token; give a text that does.")
        first.setdefault(ids[0], text)
    return first
