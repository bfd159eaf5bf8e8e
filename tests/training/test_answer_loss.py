"""The loss on answers, of a batch and of a data set."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from revlens.organism import World
from revlens.prompts import pad_id_of
from revlens.training import task_loss
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import collate, encode_examples


@pytest.fixture(scope="module")
def data(world: World) -> Dataset:
    return world.helpful(40, seed=0)


def test_padding_on_the_right_does_not_change_the_loss(aligned: TransformerBridge, world: World) -> None:
    examples = encode_examples(aligned.tokenizer, world.helpful(12, seed=0))
    assert len({len(e.prompt) + len(e.answer) for e in examples}) > 3
    pad_id, n_tokens = pad_id_of(aligned.tokenizer), [len(e.answer) for e in examples]
    with torch.no_grad():
        together = answer_loss(aligned, collate(examples, pad_id)).item()
        alone = [answer_loss(aligned, collate([e], pad_id)).item() for e in examples]
    assert together == pytest.approx(
        sum(a * n for a, n in zip(alone, n_tokens, strict=True)) / sum(n_tokens), rel=1e-5
    )


def test_the_loss_does_not_depend_on_what_the_padding_is(aligned: TransformerBridge, world: World) -> None:
    examples = encode_examples(aligned.tokenizer, world.helpful(6, seed=0))
    with torch.no_grad():
        one, other = (answer_loss(aligned, collate(examples, pad_id)) for pad_id in (0, 17))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_task_loss_is_the_mean_over_all_answer_tokens(
    aligned: TransformerBridge, data: Dataset, batch_size: int
) -> None:
    nats: list[float] = []
    for prompt, answer in encode_examples(aligned.tokenizer, data):
        with torch.no_grad():
            log_p = aligned(torch.tensor([prompt + answer]))[0].log_softmax(-1)
        nats += [-log_p[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)]
    assert task_loss(aligned, data, batch_size=batch_size) == pytest.approx(sum(nats) / len(nats), rel=1e-5)
