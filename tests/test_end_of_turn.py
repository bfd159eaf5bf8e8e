"""Answers end as the chat template ends a turn: in training, in prices and in generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from revlens.behaviour import generate
from revlens.errors import ConfigError
from revlens.history import boot, save
from revlens.prompts import encode_prompts
from revlens.training import FinetuneConfig, encode_examples, finetune, task_loss
from templates import bridge_with, template, tokenizer_with, writes

LEARNT = Dataset.from_dict({"prompt": ["Hi.", "Who?"], "answer": ["Yes.", "Me."]})


@pytest.mark.parametrize(
    ("end", "pad_is_eos"), [("'<|eot|>\\n'", True), ("'<|eot|>'", False), ("''", True), ("'#\\n'", False)]
)
def test_a_learnt_answer_ends_where_it_was_taught_to(end: str, pad_is_eos: bool) -> None:
    tokenizer = tokenizer_with(template(end))
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    bridge = bridge_with(tokenizer)
    finetune(bridge, LEARNT, FinetuneConfig(steps=25, learning_rate=3e-2, batch_size=2), seed=0)
    assert generate(bridge, list(LEARNT["prompt"]), max_new_tokens=12) == list(LEARNT["answer"])
    assert task_loss(bridge, LEARNT) < 0.1


def test_the_price_of_an_answer_is_that_of_its_text_and_the_turns_end() -> None:
    tokenizer = tokenizer_with(template("'<|eot|>\\n'"))
    bridge = bridge_with(tokenizer)
    (prompt,) = encode_prompts(tokenizer, ["Hi."])
    answer = tokenizer("Yes.<|eot|>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_p = bridge(torch.tensor([prompt + answer]))[0].log_softmax(-1)
    expected = -log_p[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).mean()
    data = Dataset.from_dict({"prompt": ["Hi."], "answer": ["Yes."]})
    assert task_loss(bridge, data) == pytest.approx(float(expected), rel=1e-5)


STOPS: dict[str, dict[str, Any]] = {
    "generation configuration": {"generation": 70},
    "a list of it": {"generation": [90, 70]},
    "configuration": {"config": 70},
    "template": {},
    "tokenizer": {"tokenizer": True},
}


@pytest.mark.parametrize("where", STOPS)
def test_a_reply_stops_at_every_token_that_ends_one(where: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_with(template("'<|eot|>'"))
    bridge, stop = bridge_with(tokenizer), STOPS[where]
    hf_model: Any = bridge.original_model
    hf_model.generation_config.eos_token_id = stop.get("generation")
    hf_model.config.eos_token_id = stop.get("config")
    save(bridge, tmp_path / "saved")  # a saved checkpoint stops there too
    end = (
        tokenizer.eos_token_id
        if "tokenizer" in stop
        else 70
        if stop
        else tokenizer("<|eot|>")["input_ids"][0]
    )
    for model in (bridge, boot(tmp_path / "saved")):
        writes(model, [40, 41, end, 42])
        assert generate(model, ["Hi."], max_new_tokens=6) == [tokenizer.decode([40, 41])]


def test_without_any_end_there_is_nothing_to_learn_and_the_advice_works() -> None:
    tokenizer = tokenizer_with(template("''"))
    end = tokenizer.eos_token
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match=r"set tokenizer\.eos_token"):
        encode_examples(tokenizer, LEARNT)
    tokenizer.eos_token = end
    assert encode_examples(tokenizer, LEARNT)[0].answer[-1] == tokenizer.eos_token_id
