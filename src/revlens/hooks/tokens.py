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
        rows: batch rows; all of them if None. All beams and samples that ``generate`` makes of a row count as
            that row.
        prompt_length: how many columns of the batch are prompt, left padding included: one number, or one for
            each row (for answers appended to prompts of several lengths). If None, it is what ``generate``
            was given; outside of it, a forward pass on cached keys and values, or on a recurrent state, sees
            generated tokens, and any other sees a prompt.

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
        """The chosen ones of the last ``n_tokens`` tokens of a forward pass.

        Raises:
            SiteError: if a row lies beyond the batch, the prompt lengths are not one for each row, or the
                tokens of the pass cannot be told apart.
        """
        copies = self._copies(latest, batch)
        chosen = torch.ones(batch, n_tokens, dtype=torch.bool, device=device)
        if latest.real is not None:
            chosen = latest.real[:, -n_tokens:].to(device).expand(batch, n_tokens)
        if self.tokens != "all":
            _check_one_text_a_row(latest, self.tokens)
            start = (latest.n_past or 0) + latest.n_tokens - n_tokens
            column = torch.arange(start, start + n_tokens, device=device).expand(batch, n_tokens)
            end = self._prompt_end(latest, batch, copies, device)
            prompt, generated = chosen & (column < end), chosen & (column >= end)
            # A prompt that goes on in a later chunk does not end here.
            ends_here = end <= start + n_tokens
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
            prompts = batch // copies
            if any(not 0 <= row < prompts for row in self.rows):
                raise SiteError(
                    f"rows={list(self.rows)} must lie between 0 and {prompts - 1}: "
                    f"the batch has {prompts} rows."
                )
            wanted = torch.zeros(prompts, 1, dtype=torch.bool, device=device)
            wanted[list(self.rows)] = True
            chosen = chosen & wanted.repeat_interleave(copies, 0)
        return chosen

    def _copies(self, latest: ForwardPass, batch: int) -> int:
        """How many rows each prompt has: generation runs its beams or samples side by side."""
        generation = latest.generation
        if generation is None or (self.tokens == "all" and self.rows is None):
            return 1
        if generation.mixed or (generation.rows and batch % generation.rows):
            raise SiteError(
                f"In generation, {generation.mixed or f'{batch} rows stand for {generation.rows} prompts'}, "
                "so passes over the prompts and their answers cannot be told apart; edit all tokens of all "
                "rows, or generate without."
            )
        return batch // generation.rows if generation.rows else 1

    def _prompt_end(
        self, latest: ForwardPass, batch: int, copies: int, device: torch.device
    ) -> Int[Tensor, "rows 1"]:
        if self.prompt_length is None:
            generation = latest.generation
            if generation is not None and generation.prompt_length is not None:
                return torch.full((1, 1), generation.prompt_length, device=device)
            return torch.full((1, 1), 0 if latest.goes_on else latest.n_tokens, device=device)
        if latest.n_past is None:
            raise SiteError(
                f"prompt_length={self.prompt_length}, but the model's recurrent state does not say how many "
                "tokens it has read; open the context before the prompt runs, or leave prompt_length out."
            )
        ends = torch.as_tensor(self.prompt_length, device=device).reshape(-1, 1)
        if len(ends) not in (1, batch, batch // copies):
            raise SiteError(
                f"prompt_length has {len(ends)} entries; "
                f"expected one number, or one for each of the {batch // copies} rows."
            )
        return ends.repeat_interleave(copies, 0) if len(ends) == batch // copies else ends


def _check_one_text_a_row(latest: ForwardPass, tokens: str) -> None:
    """Check that positions grow along every row: several texts packed into one start again."""
    positions = latest.position_ids
    if positions is None or positions.ndim != 2 or positions.shape[-1] != latest.n_tokens:
        return
    back = positions[:, 1:] < positions[:, :-1]
    if latest.real is not None:
        back = back & (latest.real[:, 1:] & latest.real[:, :-1]).to(back.device)
    if bool(back.any()):
        raise SiteError(
            f"tokens={tokens!r} means those of one text in each row, but position_ids start again inside a "
            "row: several texts are packed into it. Give each its own row, or edit all tokens."
        )
