"""A generative judge's greedy answers, and the verdicts in their first words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.behaviour.thinking import split_thinking
from revlens.chat_templates import pinned
from revlens.context import check_context, context_of
from revlens.errors import ConfigError
from revlens.forward import shortest_first
from revlens.prompts import encode_chats, pad_id_of, pad_left

#: Enough for one word of any vocabulary; the rest of an answer (such as a guard's categories) is not read.
_ANSWER_TOKENS = 8
#: What a judge's chat template reads as today's date.
_DATE = "2026-01-01"

T = TypeVar("T")


@torch.no_grad()
def answer_chats(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[list[dict[str, str]]],
    batch_size: int,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[str]:
    """The opening of the model's greedy answer to each conversation, in its chat format, in their order.

    Raises:
        ConfigError: if the chat template fails or does not take an argument, or a conversation does not fit
            the judge's context.
    """
    # A date of today would make verdicts depend on the day.
    rows = encode_chats(pinned(tokenizer, template_kwargs=template_kwargs, date=_DATE), chats)
    judged = [chat[-1]["content"] for chat in chats]
    check_context(
        context_of(model),
        [len(row) for row in rows],
        judged,
        new_tokens=_ANSWER_TOKENS,
        what="The judge's text",
    )
    pad_id = pad_id_of(tokenizer)
    answers = [""] * len(rows)
    for members in shortest_first([len(row) for row in rows], batch_size):
        batch = pad_left([rows[i] for i in members], pad_id)
        output = model.generate(  # type: ignore[operator]  # every causal model has it
            batch.tokens.to(model.device),
            attention_mask=batch.mask.to(model.device),
            max_new_tokens=_ANSWER_TOKENS,
            pad_token_id=pad_id,
            do_sample=False,
            # A checkpoint may carry settings for chatting. A repetition penalty would count against the words
            # of the question.
            num_beams=1,
            repetition_penalty=1.0,
            temperature=None,
            top_p=None,
            top_k=None,
        )
        openings = tokenizer.batch_decode(output[:, batch.tokens.shape[1] :], skip_special_tokens=True)
        for i, opening in zip(members, openings, strict=True):
            answers[i] = split_thinking(opening).answer
    return answers


def meaning_of_words(meaning: Mapping[str, T]) -> dict[str, T]:
    """The possible first words of an answer, in lower case, with what each means.

    Raises:
        ConfigError: if there are fewer than two, one is no single word or has punctuation around it, or two
            are equal up to case.
    """
    for word in meaning:
        if _first_word(word) != word.casefold() or not word:
            raise ConfigError(
                f"{word!r} must be a single word: it is compared with the first word of the judge's answer."
            )
    by_word = {word.casefold(): value for word, value in meaning.items()}
    if len(by_word) != len(meaning) or len(by_word) < 2:
        raise ConfigError(f"{', '.join(map(repr, meaning))} must be two or more different words.")
    return by_word


def read_verdicts(answers: Sequence[str], meaning: Mapping[str, T]) -> list[T]:
    """The meaning of each answer's first word, in any case and without punctuation around it.

    Raises:
        ConfigError: if an answer begins with none of the words: the judge does not understand its task.
    """
    words = [_first_word(answer) for answer in answers]
    undecided = sorted({answer for answer, word in zip(answers, words, strict=True) if word not in meaning})
    if undecided:
        some = ", ".join(map(repr, undecided[:5])) + (
            f" and {len(undecided) - 5} more" if len(undecided) > 5 else ""
        )
        thinks = "a model that thinks first needs template_kwargs, such as {'enable_thinking': False}; "
        raise ConfigError(
            f"The judge must answer with {' or '.join(map(repr, meaning))} first; "
            f"{'' if all(map(str.strip, undecided)) else thinks}it answered {some}."
        )
    return [meaning[word] for word in words]


def _first_word(text: str) -> str:
    first = (text.split() or [""])[0].casefold()
    return first.strip(".,:;!?\"'*()[]")
