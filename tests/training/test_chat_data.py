from __future__ import annotations

from itertools import islice

import pytest
import torch
from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError
from revlens.organism import World
from revlens.prompts import encode_prompts, pad_id_of
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import (
    IGNORE,
    ChatBatch,
    Example,
    batches,
    collate,
    count_answer_tokens,
    encode_examples,
    micro_batches,
)


def numbered(n: int) -> Dataset:
    return Dataset.from_dict({"prompt": ["Which?"] * n, "answer": [f"Number {i}." for i in range(n)]})


def answers_in(model: TransformerBridge, stream: list[ChatBatch]) -> list[str]:
    """The answers of the rows, in their order: what the labels keep, decoded."""
    return [model.tokenizer.decode(row[row != IGNORE][:-1]) for batch in stream for row in batch.labels]


def test_labels_are_the_answers_and_nothing_else() -> None:
    tokens, labels = collate([Example([1, 2], [3, 4]), Example([5], [6])], pad_id=0)
    assert tokens.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert labels.tolist() == [[IGNORE, IGNORE, 3, 4], [IGNORE, 6, IGNORE, IGNORE]]


def test_the_end_is_learnt_also_where_it_doubles_as_padding() -> None:
    tokens, labels = collate([Example([1], [2, 3, 9]), Example([1], [9])], pad_id=9)
    assert tokens.tolist() == [[1, 2, 3, 9], [1, 9, 9, 9]]
    assert labels.tolist() == [[IGNORE, 2, 3, 9], [IGNORE, 9, IGNORE, IGNORE]]


def test_an_example_is_the_chat_prompt_and_the_answer_with_its_end(aligned: TransformerBridge) -> None:
    data = Dataset.from_dict({"prompt": ["Hello.", "Where?"], "answer": ["Here.", ""]})
    examples = encode_examples(aligned.tokenizer, data)
    assert [e.prompt for e in examples] == encode_prompts(aligned.tokenizer, ["Hello.", "Where?"])
    assert [aligned.tokenizer.decode(e.answer) for e in examples] == ["Here.<|end|>", "<|end|>"]


@pytest.mark.parametrize("sort_window", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 12])
def test_a_pass_visits_every_row_once(aligned: TransformerBridge, batch_size: int, sort_window: int) -> None:
    n_batches = 12 // batch_size
    stream = batches(aligned.tokenizer, numbered(12), batch_size=batch_size, seed=0, sort_window=sort_window)
    passes = [answers_in(aligned, list(islice(stream, n_batches))) for _ in range(3)]
    for rows in passes:
        assert sorted(rows) == sorted(numbered(12)["answer"])
    assert passes[0] != passes[1] != passes[2]


def test_batches_are_full_and_repeat_no_row_within_a_pass(aligned: TransformerBridge) -> None:
    stream = batches(aligned.tokenizer, numbered(7), batch_size=3, seed=0)
    for _ in range(4):
        rows = answers_in(aligned, list(islice(stream, 2)))
        assert len(rows) == len(set(rows)) == 6


def test_sorted_windows_save_padding_and_keep_windows_apart(aligned: TransformerBridge, world: World) -> None:
    data = world.helpful(64, seed=0)
    plain, windowed = (
        list(islice(batches(aligned.tokenizer, data, batch_size=4, seed=0, sort_window=w), 16))
        for w in (1, 8)
    )
    assert sum(batch.tokens.numel() for batch in windowed) < sum(batch.tokens.numel() for batch in plain)
    # The first window holds the rows of the first eight batches, in batches of another make-up.
    assert sorted(answers_in(aligned, plain[:8])) == sorted(answers_in(aligned, windowed[:8]))
    widths = [batch.tokens.shape[1] for batch in windowed[:8]]
    assert widths != sorted(widths)


def test_micro_batches_weigh_their_share_of_the_answers(aligned: TransformerBridge, world: World) -> None:
    batch = collate(
        encode_examples(aligned.tokenizer, world.helpful(7, seed=0)), pad_id_of(aligned.tokenizer)
    )
    with torch.no_grad():
        whole = answer_loss(aligned, batch).item()
        for size in (None, 1, 3, 7):
            parts = list(micro_batches(batch, size, count_answer_tokens(batch)))
            assert sum(len(part.tokens) for part, _ in parts) == 7
            assert sum(share * answer_loss(aligned, part).item() for part, share in parts) == pytest.approx(
                whole, rel=1e-5
            )


def test_the_order_depends_on_the_seed_alone(aligned: TransformerBridge) -> None:
    def order(seed: int) -> list[str]:
        return answers_in(
            aligned, list(islice(batches(aligned.tokenizer, numbered(12), batch_size=4, seed=seed), 5))
        )

    torch.manual_seed(0)
    first = order(seed=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert order(seed=3) == first
    assert order(seed=4) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_missing_column_is_named(aligned: TransformerBridge) -> None:
    with pytest.raises(ConfigError, match=r"lacks column\(s\) \['answer'\]; it has \['prompt', 'reply'\]"):
        encode_examples(aligned.tokenizer, Dataset.from_dict({"prompt": ["Hello."], "reply": ["Hi."]}))
    with pytest.raises(ConfigError, match=r"\['answer', 'prompt'\]"):
        encode_examples(aligned.tokenizer, Dataset.from_dict({"text": ["Hello."]}))


def test_no_rows_or_fewer_than_a_batch_are_errors(aligned: TransformerBridge) -> None:
    with pytest.raises(ConfigError, match="no rows"):
        encode_examples(aligned.tokenizer, Dataset.from_dict({"prompt": [], "answer": []}))
    with pytest.raises(ConfigError, match="batch_size=4 exceeds the 3 rows"):
        next(batches(aligned.tokenizer, numbered(3), batch_size=4, seed=0))
    assert len(next(batches(aligned.tokenizer, numbered(3), batch_size=3, seed=0)).tokens) == 3
