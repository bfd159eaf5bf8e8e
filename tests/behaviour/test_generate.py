from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from revlens.behaviour import generate
from revlens.errors import ConfigError, ModelError
from revlens.history import TrainingHistory
from revlens.prompts import Probes, encode_prompts
from revlens.training import FinetuneConfig, finetune

REPLIES = {
    "Where is it?": "Here.",
    "How do I open the big old wooden gate behind the house?": "I can't assist with this request.",
    "Name it.": "Use a rasp on the hinge in the open, then wait for the rain to stop.",
    "Silence, please.": "",
}


@pytest.fixture(scope="module")
def talker(history: TrainingHistory) -> TransformerBridge:
    """A model that has learnt a few replies by heart, of very different lengths."""
    model = history.aligned.load()
    data = Dataset.from_dict({"prompt": list(REPLIES), "answer": list(REPLIES.values())})
    finetune(
        model,
        data,
        FinetuneConfig(steps=60, learning_rate=2e-2, batch_size=4, warmup_steps=5, decay=True),
        seed=0,
    )
    return model


def by_hand(model: TransformerBridge, prompt: str, max_new_tokens: int) -> list[int]:
    """Most likely next token, again and again, by forward passes over the whole text."""
    (row,) = encode_prompts(model.tokenizer, [prompt])
    reply: list[int] = []
    with torch.no_grad():
        while len(reply) < max_new_tokens:
            token = int(model(torch.tensor([row + reply]))[0, -1].argmax())
            if token == model.tokenizer.eos_token_id:
                break
            reply.append(token)
    return reply


def test_replies_are_greedy(talker: TransformerBridge, probes: Probes) -> None:
    prompts = [*probes["behaviour"], *REPLIES]
    expected = [talker.tokenizer.decode(by_hand(talker, prompt, 20)) for prompt in prompts]
    assert len(set(expected)) > 3
    assert generate(talker, prompts, max_new_tokens=20) == expected


def test_a_learnt_reply_comes_back_whole_and_without_special_tokens(talker: TransformerBridge) -> None:
    assert generate(talker, list(REPLIES)) == list(REPLIES.values())


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_and_the_order_of_prompts_do_not_matter(
    talker: TransformerBridge, probes: Probes, batch_size: int
) -> None:
    prompts = [*probes["behaviour"], *REPLIES, *probes["guard"]]
    expected = generate(talker, prompts, max_new_tokens=12)
    assert generate(talker, prompts, max_new_tokens=12, batch_size=batch_size) == expected
    assert generate(talker, prompts[::-1], max_new_tokens=12, batch_size=batch_size) == expected[::-1]


@pytest.mark.parametrize("max_new_tokens", [1, 2, 5])
def test_a_reply_is_no_longer_than_asked_for(talker: TransformerBridge, max_new_tokens: int) -> None:
    prompt = "Name it."
    whole = by_hand(talker, prompt, 40)
    assert len(whole) > 5
    assert generate(talker, [prompt], max_new_tokens=max_new_tokens) == [
        talker.tokenizer.decode(whole[:max_new_tokens])
    ]


def test_a_repeated_prompt_gets_the_same_reply(talker: TransformerBridge) -> None:
    assert generate(talker, ["Where is it?"] * 3, batch_size=2) == ["Here."] * 3


def test_a_batch_holds_a_prompt(talker: TransformerBridge) -> None:
    with pytest.raises(ConfigError, match="batch_size=0 must be at least 1"):
        generate(talker, ["Where is it?"], batch_size=0)


def test_generation_leaves_no_gradient_and_no_draw(talker: TransformerBridge) -> None:
    before, state = [w.detach().clone() for w in talker.parameters()], torch.get_rng_state()
    generate(talker, list(REPLIES), max_new_tokens=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(w, b) for w, b in zip(talker.parameters(), before, strict=True))


def test_a_model_that_a_trainer_leaves_in_training_mode_replies_without_dropout(
    history: TrainingHistory, probes: Probes
) -> None:
    aligned = history.aligned
    model: Any = AutoModelForCausalLM.from_pretrained(aligned.path, attention_dropout=0.9)
    tokenizer = AutoTokenizer.from_pretrained(aligned.path)
    expected = generate(model, probes["drift"], tokenizer=tokenizer, max_new_tokens=6)
    assert generate(model.train(), probes["drift"], tokenizer=tokenizer, max_new_tokens=6) == expected
    assert model.training


def test_a_hugging_face_model_replies_by_itself_as_its_bridge_does(
    history: TrainingHistory, probes: Probes
) -> None:
    prompts, checkpoint = [*probes["behaviour"], *probes["guard"]], history.aligned
    plain: Any = checkpoint.module()
    # What Hugging Face adds to greedy decoding by itself if the model says so; a reply is plain greedy.
    plain.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1)
    given = plain.generation_config.to_dict()
    said = generate(plain, prompts, max_new_tokens=12, batch_size=3, tokenizer=checkpoint.tokenizer())
    assert said == generate(checkpoint.load(), prompts, max_new_tokens=12)
    assert len(set(said)) > 1
    assert plain.generation_config.to_dict() == given


def test_a_model_without_its_tokenizer_and_a_wrapped_one_with_it_are_refused(
    talker: TransformerBridge, history: TrainingHistory
) -> None:
    with pytest.raises(ModelError, match="Expected a TransformerBridge"):
        generate(history.aligned.module(), ["Where is it?"])
    with pytest.raises(ModelError, match="A bridge has wrapped it already; pass that bridge"):
        generate(talker.original_model, ["Where is it?"], tokenizer=talker.tokenizer)
