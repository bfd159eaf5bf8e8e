from __future__ import annotations

from pathlib import Path

import pytest
import torch
from judge_models import TESTING, TRAINING, judge_tokenizer, save_language_model
from transformers import PreTrainedTokenizerFast

from revlens.behaviour import GuardModelJudge, Judge
from revlens.behaviour._answers import answer_chats, read_verdicts
from revlens.errors import ConfigError, ProbeError

PROMPTS, REPLIES, REFUSED = (list(column) for column in zip(*TESTING, strict=True))
OUTCOMES = ["refusal" if refused else "compliance" for refused in REFUSED]
#: As in Llama Guard, the template carries the task, and the conversation is its material.
TEMPLATE = (
    "<|user|>Task: is it safe?\n"
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "<|end|><|assistant|>"
)


def conversation(tokenizer: PreTrainedTokenizerFast, prompt: str, reply: str) -> str:
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert isinstance(text, str)
    return text


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guard that calls refusals safe and all else unsafe, with a category on a second line."""
    path = tmp_path_factory.mktemp("guard")
    tokenizer = judge_tokenizer(TEMPLATE, ["Task: is it safe?\nuser: \nassistant: ", "\n\nunsafe\nS1"])
    examples = [
        (conversation(tokenizer, p, r), "\n\nsafe" if refused else "\n\nunsafe\nS1")
        for p, r, refused in TRAINING
    ]
    save_language_model(path, tokenizer, examples)
    return path


def test_what_the_guard_calls_safe_and_declines_is_a_refusal(guard: Path) -> None:
    judge = GuardModelJudge.from_dir(guard)
    assert isinstance(judge, Judge)
    assert judge(PROMPTS, REPLIES) == OUTCOMES
    assert judge([], []) == []


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batches_and_order_do_not_matter(guard: Path, batch_size: int) -> None:
    judge = GuardModelJudge.from_dir(guard, batch_size=batch_size)
    assert judge(PROMPTS, REPLIES) == OUTCOMES
    assert judge(PROMPTS[::-1], REPLIES[::-1]) == OUTCOMES[::-1]


def test_phrases_tell_a_refusal_from_a_deflection_and_a_mixed_reply_from_compliance(
    guard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = GuardModelJudge.from_dir(guard)
    verdicts = ["safe", "safe", "unsafe", "unsafe"]
    monkeypatch.setattr("revlens.behaviour.guard_model_judge.answer_chats", lambda *args: verdicts)
    replies = ["I cannot help.", "Locks are old.", "I cannot help, but take glue.", "Take glue."]
    assert judge(["?"] * 4, replies) == ["refusal", "deflection", "mixed", "compliance"]


def test_padding_does_not_reach_the_answers(guard: Path) -> None:
    judge = GuardModelJudge.from_dir(guard)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weight in judge.model.parameters():  # a confused guard, whose answers hang on every token
            weight.data += 0.3 * torch.randn_like(weight)
    chats = [[{"role": "user", "content": "Where is it? " * n}] for n in range(12)]
    one_by_one = answer_chats(judge.model, judge.tokenizer, chats, 1)
    assert len(set(one_by_one)) > 6
    assert answer_chats(judge.model, judge.tokenizer, chats, 12) == one_by_one


def test_verdicts_are_greedy_whatever_the_checkpoint_says(guard: Path) -> None:
    judge = GuardModelJudge.from_dir(guard)
    judge.model.generation_config.do_sample = True
    judge.model.generation_config.temperature = 100.0
    judge.model.generation_config.repetition_penalty = 100.0
    judge.model.generation_config.num_beams = 3
    state = torch.get_rng_state()
    assert judge(PROMPTS, REPLIES) == OUTCOMES
    assert torch.equal(torch.get_rng_state(), state)


def test_an_answer_that_is_neither_word_is_an_error_that_lists_it(guard: Path) -> None:
    judge = GuardModelJudge.from_dir(guard, safe="fine")
    with pytest.raises(
        ConfigError, match=r"must answer with 'fine' or 'unsafe' first; it answered '\\n\\nsafe'\."
    ):
        judge(PROMPTS, REPLIES)


def test_the_words_must_be_two_single_words(guard: Path) -> None:
    with pytest.raises(ConfigError, match="'safe', 'Safe' must be two or more different words"):
        GuardModelJudge.from_dir(guard, unsafe="Safe")
    with pytest.raises(ConfigError, match="'not safe' must be a single word"):
        GuardModelJudge.from_dir(guard, unsafe="not safe")


def test_a_guard_needs_a_chat_template(guard: Path) -> None:
    judge = GuardModelJudge.from_dir(guard)
    judge.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="set tokenizer.chat_template"):
        GuardModelJudge(judge.model, judge.tokenizer)


def test_every_reply_needs_its_prompt(guard: Path) -> None:
    with pytest.raises(ProbeError, match="got 0 prompts and 1 replies"):
        GuardModelJudge.from_dir(guard)([], ["a"])


@pytest.mark.parametrize(
    "answer", ["safe", "Safe.", " \n safe", "**SAFE**", '"safe" is my answer', "safe\nS1"]
)
def test_the_first_word_is_the_verdict(answer: str) -> None:
    meaning = {"safe": True, "unsafe": False}
    assert read_verdicts([answer, "unsafe\nS1,S2"], meaning) == [True, False]


@pytest.mark.parametrize("answer", ["", " \n", "It is safe", "safely", "unsafe-ish", "..."])
def test_anything_else_has_no_verdict(answer: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_verdicts(["safe", answer, answer], {"safe": True, "unsafe": False})
    assert str(error.value).endswith(f"it answered {answer!r}.")


def test_of_many_strange_answers_some_are_listed() -> None:
    with pytest.raises(ConfigError, match="it answered '0', '1', '2', '3', '4' and 2 more."):
        read_verdicts([str(i) for i in range(7)], {"yes": True, "no": False})
