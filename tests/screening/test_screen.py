"""Scores of rows equal what updates on them really do, and batches give what rows one by one give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformer_lens.model_bridge import TransformerBridge

import revlens as rl
from families import small_model
from revlens.activations import read_batch
from revlens.behaviour import generate
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, ModelError, NonFiniteError, ProbeError
from revlens.history import TrainingHistory, boot_with_lora
from revlens.prompts import Probes, encode_prompts, pad_id_of, pad_left
from revlens.screening import COLUMNS, reversion_gradient
from revlens.training import ChatBatch, FinetuneConfig, answer_loss, collate, encode_examples, finetune

#: Prompts of one length, because the bridge returns NaN for padded rows in float64.
PROBES = Probes({"direction": ("A?", "B?"), "drift": ("C?", "D?", "E?")})
ROWS = Dataset.from_dict({"prompt": ["F?", "G?", "H?"], "answer": ["Sure.", "I can't help.", "Of course!"]})
#: Rows of unequal length, so that batches are padded.
PADDED = Dataset.from_dict({"prompt": ["F?", "What is it?", "Why?"], "answer": ["Sure.", "I can't.", "O"]})
CONFIG = FinetuneConfig(steps=1, learning_rate=1e-6, batch_size=1, weight_decay=0.1, max_grad_norm=0.01)


def v_rev_of(model: TransformerBridge, layers: tuple[int, ...] = (0, 2)) -> ReversionDirection:
    """Any direction, with gaps that differ."""
    unit = torch.randn(
        len(layers), model.cfg.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    gap = torch.arange(1.0, len(layers) + 1, dtype=torch.float64)
    return ReversionDirection(unit / unit.norm(dim=-1, keepdim=True), gap, layers, "direction", 2)


@torch.no_grad()
def fraction(model: TransformerBridge, v_rev: ReversionDirection, prompts: Sequence[str]) -> float:
    """<a, v_rev> over the gap, mean over layers: up to a constant the reversion fraction."""
    batch = pad_left(encode_prompts(model.tokenizer, prompts), pad_id_of(model.tokenizer))
    mean = read_batch(model, batch, rl.Sites(layers=v_rev.layers)).mean(0).double()
    return float(((mean * v_rev.unit).sum(-1) / v_rev.gap).mean())


@pytest.fixture
def precise() -> TransformerBridge:
    """A model whose passes are in float64 throughout, without dropout."""
    return small_model("gpt_neox").double()


def test_the_adamw_score_is_what_one_update_of_finetuning_does(precise: TransformerBridge) -> None:
    v_rev = v_rev_of(precise)
    scores = rl.screen(precise, ROWS, v_rev, PROBES, CONFIG, adamw=True, reply_tokens=0)["adamw"]
    before = fraction(precise, v_rev, PROBES["drift"])
    for row, score in enumerate(scores):
        model = small_model("gpt_neox").double()
        finetune(model, ROWS.select([row]), CONFIG, seed=0)
        assert fraction(model, v_rev, PROBES["drift"]) - before == pytest.approx(score, rel=2e-3)
    assert scores.abs().min() > 1e-8


def test_the_plain_score_is_what_one_gradient_step_does(precise: TransformerBridge) -> None:
    v_rev = v_rev_of(precise)
    scores = rl.screen(precise, ROWS, v_rev, PROBES, CONFIG, reply_tokens=0)
    before = fraction(precise, v_rev, PROBES["drift"])
    for row, score in enumerate(scores["sgd"]):
        model = small_model("gpt_neox").double()
        loss = answer_loss(model, batch_of(model, ROWS.select([row])))
        loss.backward()
        torch.optim.SGD(model.parameters(), lr=CONFIG.learning_rate).step()
        assert fraction(model, v_rev, PROBES["drift"]) - before == pytest.approx(score, rel=2e-3)
        assert scores["loss"][row] == pytest.approx(loss.item(), rel=1e-5)


def batch_of(model: TransformerBridge, data: Dataset) -> ChatBatch:
    return collate(encode_examples(model.tokenizer, data), 0)


def test_batches_score_padded_rows_as_backward_passes_do(model: TransformerBridge) -> None:
    """In every family."""
    v_rev, config = v_rev_of(model), replace(CONFIG, learning_rate=1.0)
    together, alone = (
        rl.screen(model, PADDED, v_rev, PROBES, config, adamw=adamw, reply_tokens=0)
        for adamw in (False, True)
    )
    assert together["sgd"].to_numpy() == pytest.approx(alone["sgd"].to_numpy(), rel=1e-3, abs=1e-6)
    assert together["loss"].to_numpy() == pytest.approx(alone["loss"].to_numpy(), rel=1e-5)


def test_the_gradient_is_the_same_whatever_the_batches(llama: TransformerBridge) -> None:
    prompts = ("Hi.", "What is it?", "Go on, please.")
    one, all_ = (reversion_gradient(llama, v_rev_of(llama), prompts, batch_size=n) for n in (1, 8))
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, all_[name], rtol=1e-4, atol=1e-6)


def test_screening_leaves_weights_and_modules_as_they_are(llama: TransformerBridge) -> None:
    before = {name: (parameter, parameter.clone()) for name, parameter in llama.named_parameters()}
    rl.screen(llama, PADDED, v_rev_of(llama), PROBES, CONFIG, reply_tokens=2)
    after = dict(llama.named_parameters())
    assert after.keys() == before.keys()
    for name, (parameter, values) in before.items():
        assert after[name] is parameter
        assert parameter.grad is None
        torch.testing.assert_close(parameter, values, rtol=0, atol=0)


def test_an_adapter_is_scored_in_its_own_weights(history: TrainingHistory) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"])
    model = boot_with_lora(history.aligned.source, config, 0, history.aligned.dtype, history.aligned.reader)
    v_rev = v_rev_of(model)
    assert all("lora" in name for name in reversion_gradient(model, v_rev, PROBES["drift"]))
    together, alone = (
        rl.screen(model, PADDED, v_rev, PROBES, CONFIG, adamw=adamw, reply_tokens=0)
        for adamw in (False, True)
    )
    assert together["sgd"].to_numpy() == pytest.approx(alone["sgd"].to_numpy(), rel=1e-3)
    assert together["sgd"].abs().min() > 0


def test_rivals_are_what_they_say(llama: TransformerBridge) -> None:
    v_rev = v_rev_of(llama)
    replies = generate(llama, PADDED["prompt"], max_new_tokens=4)
    own = Dataset.from_dict({"prompt": PADDED["prompt"], "answer": replies})
    table = rl.screen(llama, own, v_rev, PROBES, CONFIG, reply_tokens=4)
    assert table["projection_difference"].to_numpy() == pytest.approx(0, abs=1e-6)

    table = rl.screen(llama, PADDED, v_rev, PROBES, CONFIG, adamw=True, reply_tokens=4)
    assert list(table) == ["row", "prompt", "answer", *COLUMNS]
    assert table["answer_tokens"].tolist() == [
        len(e.answer) for e in encode_examples(llama.tokenizer, PADDED)
    ]
    last, mean = (
        rl.read_prompts(llama, texts, rl.Sites(layers=(2,)))[:, 0]
        for texts in (PADDED["prompt"], PROBES["drift"])
    )
    expected = cosine_similarity(last, mean.mean(0, keepdim=True))
    assert table["similarity"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_an_answer_further_along_v_rev_has_a_larger_projection(llama: TransformerBridge) -> None:
    """The layer's stream itself as the direction: its own projection is its length."""
    v_rev = v_rev_of(llama, layers=(2,))
    there, back = (
        rl.screen(llama, PADDED, replace(v_rev, unit=sign * v_rev.unit), PROBES, CONFIG, reply_tokens=4)[
            "projection_difference"
        ].to_numpy()
        for sign in (1, -1)
    )
    assert there == pytest.approx(-back, abs=1e-6)
    assert abs(there).max() > 1e-3


class _NoForwardDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


def test_a_model_without_forward_derivative_is_scored_by_backward_passes(llama: TransformerBridge) -> None:
    """As the error advises."""
    v_rev, expected = (
        v_rev_of(llama),
        rl.screen(llama, PADDED, v_rev_of(llama), PROBES, CONFIG, reply_tokens=0),
    )
    hook = llama.blocks[1].register_forward_hook(lambda *args: _NoForwardDerivative.apply(args[2]))
    with pytest.raises(ModelError, match=r"no forward derivative.*screen\(\.\.\., adamw=True\)"):
        rl.screen(llama, PADDED, v_rev, PROBES, CONFIG, reply_tokens=0)
    assert all(isinstance(parameter, nn.Parameter) for parameter in llama.parameters())
    table = rl.screen(llama, PADDED, v_rev, PROBES, CONFIG, adamw=True, reply_tokens=0)
    hook.remove()
    assert table["sgd"].to_numpy() == pytest.approx(expected["sgd"].to_numpy(), rel=1e-3)


def test_what_cannot_be_scored_is_named(llama: TransformerBridge) -> None:
    v_rev = v_rev_of(llama)
    with pytest.raises(ProbeError, match="v_rev was estimated on the split 'direction'"):
        rl.screen(llama, ROWS, v_rev, PROBES, CONFIG, split="direction")
    with pytest.raises(ConfigError, match="lacks column"):
        rl.screen(llama, ROWS.remove_columns("answer"), v_rev, PROBES, CONFIG)
    with pytest.raises(ConfigError, match="v_rev has width 8, the model 16"):
        rl.screen(llama, ROWS, replace(v_rev, unit=v_rev.unit[:, :8]), PROBES, CONFIG)
    with pytest.raises(ModelError, match="pass that bridge"):
        rl.screen(llama.original_model, ROWS, v_rev, PROBES, CONFIG)
    with torch.no_grad():
        llama.unembed.weight[5] = torch.nan
    with pytest.raises(NonFiniteError, match=r"sgd of row 0, 'F\?', is nan"):
        rl.screen(llama, ROWS, v_rev, PROBES, CONFIG, reply_tokens=0)
    llama.requires_grad_(False)
    with pytest.raises(ConfigError, match="unfreeze it, or add an adapter"):
        rl.screen(llama, ROWS, v_rev, PROBES, CONFIG)
