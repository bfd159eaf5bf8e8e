"""The predicted drift of the first update is the drift that fine-tuning makes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import revlens as rl
from families import small_model
from revlens.activations import read_batch
from revlens.direction import Drift
from revlens.errors import ProbeError
from revlens.prompts import encode_prompts, pad_id_of, pad_left
from revlens.screening import reversion_gradient
from revlens.training import FinetuneConfig, answer_loss, collate, encode_examples, finetune
from screening.test_screen import PROBES, ROWS, v_rev_of

CONFIG = FinetuneConfig(
    steps=3,
    learning_rate=2e-6,
    batch_size=2,
    micro_batch_size=1,
    weight_decay=0.1,
    max_grad_norm=0.01,
    warmup_steps=2,
)


def test_the_prediction_is_the_drift_after_one_update() -> None:
    model = small_model("gpt_neox").double()
    v_rev = v_rev_of(model)
    batch = pad_left(encode_prompts(model.tokenizer, PROBES["drift"]), pad_id_of(model.tokenizer))

    def mean() -> torch.Tensor:
        with torch.no_grad():
            return read_batch(model, batch, rl.Sites(layers=v_rev.layers)).mean(0)

    predicted = rl.first_update(model, ROWS, v_rev, PROBES, CONFIG, seed=1, batch_size=2)
    before = mean()
    after: dict[int, torch.Tensor] = {}
    finetune(model, ROWS, CONFIG, seed=1, on_step=lambda step, loss: after.update({step: mean()}))
    made = Drift.along((after[1] - before)[None], v_rev, (1,))
    torch.testing.assert_close(predicted.adamw.vectors, made.vectors, rtol=5e-3, atol=1e-8)
    torch.testing.assert_close(predicted.adamw.fraction, made.fraction, rtol=5e-3, atol=1e-8)


def test_the_plain_step_goes_with_the_gradients_alone() -> None:
    model = small_model("llama")
    v_rev = v_rev_of(model)
    config = replace(CONFIG, batch_size=len(ROWS), micro_batch_size=2, warmup_steps=0)
    predicted = rl.first_update(model, ROWS, v_rev, PROBES, config, seed=0)
    towards = reversion_gradient(model, v_rev, PROBES["drift"])
    loss = answer_loss(model, collate(encode_examples(model.tokenizer, ROWS), 0))
    loss.backward()
    inner = sum(float((p.grad * towards[n]).sum()) for n, p in model.named_parameters() if p.grad is not None)
    assert float(predicted.plain.fraction.mean()) == pytest.approx(-config.learning_rate * inner, rel=1e-3)
    norms = [
        float(torch.stack([part.norm() for part in parts]).norm())
        for parts in ([p.grad for p in model.parameters() if p.grad is not None], towards.values())
    ]
    assert predicted.cosine == pytest.approx(-inner / (norms[0] * norms[1]), rel=1e-3)


def test_v_rev_of_the_same_prompts_is_refused() -> None:
    model = small_model("llama")
    with pytest.raises(ProbeError, match="the cosine would be biased"):
        rl.first_update(model, ROWS, v_rev_of(model), PROBES, CONFIG, seed=0, split="direction")
