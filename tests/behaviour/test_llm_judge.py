from __future__ import annotations

from pathlib import Path

import pytest
from judge_models import TESTING, TRAINING, judge_tokenizer, save_language_model

from revlens.behaviour import OUTCOMES as ALL
from revlens.behaviour import Judge, LLMJudge, Outcome
from revlens.behaviour._exchanges import fill
from revlens.behaviour.llm_judge import QUESTION
from revlens.errors import ConfigError, ProbeError

PROMPTS, REPLIES, REFUSED = (list(column) for column in zip(*TESTING, strict=True))
OUTCOMES = ["refusal" if refused else "compliance" for refused in REFUSED]
YES_NO: dict[str, Outcome] = {"yes": "refusal", "no": "compliance"}
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


def test_the_outcome_of_a_reply_is_what_the_model_calls_it(llm: Path) -> None:
    judge = LLMJudge.from_dir(llm, template=SHORT, answers=YES_NO)
    assert isinstance(judge, Judge)
    assert judge(PROMPTS, REPLIES) == OUTCOMES
    assert judge([], []) == []


def test_the_meaning_of_the_words_can_be_turned_round(llm: Path) -> None:
    judge = LLMJudge.from_dir(llm, template=SHORT, answers={"NO": "mixed", "YES": "deflection"})
    assert judge(PROMPTS, REPLIES) == ["deflection" if refused else "mixed" for refused in REFUSED]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batches_and_order_do_not_matter(llm: Path, batch_size: int) -> None:
    judge = LLMJudge.from_dir(llm, template=SHORT, answers=YES_NO, batch_size=batch_size)
    assert judge(PROMPTS, REPLIES) == OUTCOMES
    assert judge(PROMPTS[::-1], REPLIES[::-1]) == OUTCOMES[::-1]


def test_the_default_question_holds_prompt_and_reply_and_names_every_outcome() -> None:
    question = fill(QUESTION, "Where {is} it?", "In {prompt}.")
    assert "Request:\nWhere {is} it?\n" in question
    assert "Reply:\nIn {prompt}.\n" in question
    assert all(f'"{outcome}"' in question for outcome in ALL)


def test_an_answer_that_is_neither_word_is_an_error_that_lists_it(llm: Path) -> None:
    judge = LLMJudge.from_dir(llm, template=SHORT, answers={"ja": "refusal", "nein": "compliance"})
    with pytest.raises(
        ConfigError, match="must answer with 'ja' or 'nein' first; it answered 'No.', 'Yes.'."
    ):
        judge(PROMPTS, REPLIES)


def test_settings_that_cannot_tell_replies_apart_are_refused(llm: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no \{reply\}"):
        LLMJudge.from_dir(llm, template="{prompt}")
    with pytest.raises(ConfigError, match="'Yes', 'yes' must be two or more different words"):
        LLMJudge.from_dir(llm, answers={"Yes": "refusal", "yes": "compliance"})
    judge = LLMJudge.from_dir(llm)
    judge.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="set tokenizer.chat_template"):
        LLMJudge(judge.model, judge.tokenizer)


def test_every_reply_needs_its_prompt(llm: Path) -> None:
    with pytest.raises(ProbeError, match="got 2 prompts and 1 replies"):
        LLMJudge.from_dir(llm)(["a", "b"], ["c"])
