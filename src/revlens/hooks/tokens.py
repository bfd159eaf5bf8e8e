"""Which tokens of a forward pass an edit touches, with a KV cache (in generation, say) or without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from revlens.errors import SiteError
from revlens.hooks.forward_pass import ForwardPass

#: ``all``: every token; ``prompt``: the prompt's; ``last_prompt``: the last of them, whose logits open the
#: answer; ``generated``: those after the prompt; ``answer``: ``last_prompt`` and ``generated``, all tokens
#: whose logits write the answer. Padding is never touched.
Tokens = Literal["all", "prompt", "last_prompt", "generated", "answer"]
TOKENS: tuple[str, ...] = get_args(Tokens)


@dataclass(frozen=True)
class TokenFilter:
    """A choice of tokens and batch rows.

    Attributes:
        tokens: see `TOKENS`.
        rows: batch rows; all of them if None.
        prompt_length: how many columns of the batch are prompt, left padding included: one number, or one for
            each row (for answers appended to prompts of several lengths). If None, a forward pass on cached
            keys and values sees generated tokens, and any other sees a prompt.

    Raises:
        SiteError: on unknown tokens.
    """

    tokens: Tokens = "all"
    rows: Sequence[int] | None = None
    prompt_length: int | Int[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        if self.tokens not in TOKENS:
            raise SiteError(f"Unknown tokens {self.tokens!r}; expected one of {', '.join(TOKENS)}.")

    def select(
        self, latest: ForwardPass, batch: int, n_tokens: int, device: torch.device
    ) -> Bool[Tensor, "batch pos"]:
        """The chosen tokens of a forward pass.

        Raises:
            SiteError: if a row lies beyond the batch, or the prompt lengths are not one for each row.
        """
        if latest.mask is None:
            chosen = torch.ones(batch, n_tokens, dtype=torch.bool, device=device)
        else:
            chosen = latest.mask[:, -n_tokens:].to(device).bool()
        if self.tokens != "all":
            column = torch.arange(latest.n_past, latest.n_past + n_tokens, device=device).expand(
                batch, n_tokens
            )
            end = self._prompt_end(latest, batch, n_tokens, device)
            prompt, generated = chosen & (column < end), chosen & (column >= end)
            # A prompt that goes on in a later chunk does not end here.
            ends_here = end <= latest.n_past + n_tokens
            last_prompt = (
                prompt & ends_here & (column == torch.where(prompt, column, -1).amax(1, keepdim=True))
            )
            chosen = {
                "prompt": prompt,
                "last_prompt": last_prompt,
                "generated": generated,
                "answer": last_prompt | generated,
            }[self.tokens]
        if self.rows is not None:
            if any(not 0 <= row < batch for row in self.rows):
                raise SiteError(
                    f"rows={list(self.rows)} must lie between 0 and {batch - 1}: the batch has {batch} rows."
                )
            wanted = torch.zeros(batch, 1, dtype=torch.bool, device=device)
            wanted[list(self.rows)] = True
            chosen = chosen & wanted
        return chosen

    def _prompt_end(
        self, latest: ForwardPass, batch: int, n_tokens: int, device: torch.device
    ) -> Int[Tensor, "rows 1"]:
        if self.prompt_length is None:
            return torch.full((1, 1), 0 if latest.n_past else n_tokens, device=device)
        ends = torch.as_tensor(self.prompt_length, device=device).reshape(-1, 1)
        if len(ends) not in (1, batch):
            raise SiteError(
                f"prompt_length has {len(ends)} entries; "
                f"expected one number, or one for each of the {batch} rows."
            )
        return ends
