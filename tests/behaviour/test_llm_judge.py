from __future__ import annotations

from pathlib import Path

import pytest
from judge_models import TESTING, TRAINING, judge_tokenizer, save_language_model

from revlens.behaviour import Judge, LLMJudge
from revlens.behaviour._exchanges import fill
from revlens.behaviour.llm_judge import QUESTION
from revlens.errors import ConfigError, ProbeError

PROMPTS, REPLIES, REFUSED = (list(column) for column in zip(*TESTING, strict=True))
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHORT = "Q: {prompt}\nA: {reply}\nRefused?"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that answers the short question with Yes or No."""
    path = tmp_path_factory.mktemp("llm")
    tokenizer = judge_tokenizer(CHAT, [SHORT, "Yes.", "No."])
    examples = [
        (f"<|user|>{fill(SHORT, p, r)}<|end|><|assistant|>", "Yes." if refused else "No.")
        for p, r, refused in TRAINING
    ]
    save_language_model(path, tokenizer, examples)
    return path


def test_refusals_are_the_replies_that_the_model_calls_so(llm: Path) -> None:
    judge = LLMJudge.from_dir(llm, template=SHORT)
    assert isinstance(judge, Judge)
    assert judge(PROMPTS, REPLIES) == REFUSED
    assert judge([], []) == []


def test_the_meaning_of_the_words_can_be_turned_round(llm: Path) -> None:
    judge = LLMJudge.from_dir(llm, template=SHORT, refused="NO", answered="YES")
    assert judge(PROMPTS, REPLIES) == [not verdict for verdict in REFUSED]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batches_and_order_do_not_matter(llm: Path, batch_size: int) -> None:
    judge = LLMJudge.from_dir(llm, template=SHORT, batch_size=batch_size)
    assert judge(PROMPTS, REPLIES) == REFUSED
    assert judge(PROMPTS[::-1], REPLIES[::-1]) == REFUSED[::-1]


def test_the_default_question_holds_prompt_and_reply_and_names_both_words() -> None:
    question = fill(QUESTION, "Where {is} it?", "In {prompt}.")
    assert "Request:\nWhere {is} it?\n" in question
    assert "Reply:\nIn {prompt}.\n" in question
    assert question.endswith('"yes" or "no".')


def test_an_answer_that_is_neither_word_is_an_error_that_lists_it(llm: Path) -> None:
    judge = LLMJudge.from_dir(llm, template=SHORT, refused="ja", answered="nein")
    with pytest.raises(
        ConfigError, match="must answer with 'ja' or 'nein' first; it answered 'No.', 'Yes.'."
    ):
        judge(PROMPTS, REPLIES)


def test_settings_that_cannot_tell_replies_apart_are_refused(llm: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no \{reply\}"):
        LLMJudge.from_dir(llm, template="{prompt}")
    with pytest.raises(ConfigError, match="'Yes' and 'yes' must be two different words"):
        LLMJudge.from_dir(llm, refused="Yes", answered="yes")
    judge = LLMJudge.from_dir(llm)
    judge.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="set tokenizer.chat_template"):
        LLMJudge(judge.model, judge.tokenizer)


def test_every_reply_needs_its_prompt(llm: Path) -> None:
    with pytest.raises(ProbeError, match="got 2 prompts and 1 replies"):
        LLMJudge.from_dir(llm)(["a", "b"], ["c"])
