"""Probe prompts, and how chat prompts become tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from revlens.chat_templates import Chat, render
from revlens.errors import ConfigError, FileError, ProbeError
from revlens.storage import read_json

#: direction: estimate v_rev; drift: measure motion; behaviour: generate and judge replies; guard: the guard's
#: prompts in training; harmless: requests to be answered, for over-refusal and the control direction. An
#: experiment needs them all.
SPLITS = ("direction", "drift", "behaviour", "guard", "harmless")
#: And borderline: safe requests that sound unsafe, such as XSTest's, for over-refusal where it is likely.
ALL_SPLITS = (*SPLITS, "borderline")
#: Splits whose prompts are answered, where there are such probes.
ANSWERED = ("behaviour", "harmless", "borderline")

#: Prompts encoded in one call: on the way, a tokenizer keeps ten times the memory of the ids for each token.
ENCODED_AT_ONCE = 256


@dataclass(frozen=True)
class Probes:
    """Probe prompts by split. Splits are disjoint: a prompt that estimates v_rev never measures motion.

    Attributes:
        splits: user messages (not yet in chat format) by split name; any subset of `ALL_SPLITS`.

    Raises:
        ProbeError: on an unknown name, an empty split, a prompt that is there twice or holds half a
            surrogate pair.
    """

    splits: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        home: dict[str, str] = {}
        for name, prompts in self.splits.items():
            if name not in ALL_SPLITS:
                raise ProbeError(f"Unknown probe split {name!r}; expected one of {', '.join(ALL_SPLITS)}.")
            if not prompts:
                raise ProbeError(
                    f"Probe split {name!r} is empty; give it at least one prompt or leave it out."
                )
            for prompt in prompts:
                if not is_text(prompt):
                    raise ProbeError(
                        f"Prompt {prompt!r} of split {name!r} holds half a surrogate pair, which is no text; "
                        "correct it."
                    )
                if prompt in home:
                    where = (
                        f"twice in {name!r}"
                        if home[prompt] == name
                        else f"in both {home[prompt]!r} and {name!r}"
                    )
                    raise ProbeError(
                        f"Prompt {prompt!r} is {where}; splits must be disjoint and free of repeats."
                    )
                home[prompt] = name

    @classmethod
    def from_json(cls, path: str | Path) -> Probes:
        """Read ``{"direction": ["prompt", ...], "drift": [...], ...}``.

        Raises:
            ProbeError: if the file cannot be read or has another form; also see the class.
        """
        try:
            splits = read_json(Path(path))
        except FileError as error:
            raise ProbeError(f"Cannot read probes from {path}: {error}") from error
        if not isinstance(splits, dict) or not all(
            isinstance(p, list) and all(isinstance(x, str) for x in p) for p in splits.values()
        ):
            raise ProbeError(f"{path} must map split names ({', '.join(ALL_SPLITS)}) to lists of prompts.")
        return cls({name: tuple(prompts) for name, prompts in splits.items()})

    def __getitem__(self, split: str) -> tuple[str, ...]:
        if split not in self.splits:
            raise ProbeError(f"No probe split {split!r}; these probes have {', '.join(self.splits)}.")
        return self.splits[split]

    def fingerprint(self) -> str:
        """SHA-256 (hex) over split names and prompts, in order."""
        digest = hashlib.sha256()
        for name, prompts in self.splits.items():
            digest.update("\x1f".join((name, *prompts, "\x1e")).encode())
        return digest.hexdigest()


def is_text(value: str) -> bool:
    """Whether a string has a UTF-8 form: strings of Python and JSON may hold half a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class Batch(NamedTuple):
    """Token ids with their attention mask (1 = real token)."""

    tokens: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """Token ids of each user message in the tokenizer's own chat format, ending where the answer begins.

    Args:
        tokenizer: has a chat template.
        prompts: user messages.
        template_kwargs: see `revlens.chat_templates.render`.

    Raises:
        ConfigError: if there is no prompt, if the tokenizer has no chat template, or if that fails, writes
            nothing, or does not take an argument.
    """
    if not prompts:
        raise ConfigError("No prompts to encode; give at least one.")
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    rows = encode_chats(tokenizer, chats, template_kwargs=template_kwargs)
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise ConfigError(
                f"The tokenizer's chat template makes no token of {prompt!r}; "
                "correct tokenizer.chat_template."
            )
    return rows


def encode_chats(
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Chat],
    *,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """Token ids of each conversation in the tokenizer's own chat format, ending where the answer begins.

    Raises:
        ConfigError: see `revlens.chat_templates.render`.
    """
    rows: list[list[int]] = []
    for start in range(0, len(chats), ENCODED_AT_ONCE):
        texts = render(tokenizer, chats[start : start + ENCODED_AT_ONCE], template_kwargs=template_kwargs)
        try:
            # The template writes its own special tokens; a tokenizer that adds BOS again would double it.
            rows += tokenizer(texts, add_special_tokens=False)["input_ids"]
        except (TypeError, ValueError) as error:  # half a surrogate pair, say
            raise ConfigError(
                f"What the tokenizer's chat template writes is no text: {type(error).__name__}: {error}"
            ) from error
    return rows


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Pad on the left, so that the last prompt token of every row is at position -1.

    Raises:
        ConfigError: if there are no rows, or one is empty.
    """
    if not rows or not all(rows):
        raise ConfigError(
            f"Prompts must be at least one, of at least one token each; "
            f"got {len(rows)} of lengths {[len(r) for r in rows]}."
        )
    width = max(len(row) for row in rows)
    tokens = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return Batch(tokens, mask)


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokenizer's pad id, or its end-of-sequence id where it has no pad token.

    Raises:
        ConfigError: if it has neither.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    raise ConfigError(
        "The tokenizer has neither a pad nor an end-of-sequence token; set tokenizer.pad_token."
    )
