"""Rehearsal: the loss is that of the mixture, and the model learns to refuse."""

from __future__ import annotations

import math

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError, GuardError
from revlens.history import TrainingHistory
from revlens.training import Rehearsal
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import collate, encode_examples
from training.fine_tunes import REFUSALS, trained, weights


def test_the_loss_of_rehearsal_is_up_to_a_factor_that_of_the_mixture(aligned: TransformerBridge) -> None:
    task, share = torch.tensor(2.0), 0.2
    guard = Rehearsal(REFUSALS, share, seed=0)
    refusals = answer_loss(
        aligned, collate(encode_examples(aligned.tokenizer, REFUSALS), aligned.tokenizer.pad_token_id)
    )
    torch.testing.assert_close(
        (1 - share) * (task + guard.term(aligned)), (1 - share) * task + share * refusals
    )


def test_rehearsal_learns_to_refuse_and_starts_over_at_every_training(history: TrainingHistory) -> None:
    guard = Rehearsal(REFUSALS, 0.5, seed=0, rows=1)
    first, again = (weights(trained(history, guard)) for _ in range(2))
    assert torch.equal(first, again)
    batch = collate(encode_examples(history.aligned.load().tokenizer, REFUSALS), 0)
    assert answer_loss(trained(history, guard), batch) < 0.9 * answer_loss(trained(history, None), batch)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_a_share_lies_between_zero_and_one(share: float) -> None:
    with pytest.raises(ConfigError, match=f"share={share} of refusals must lie strictly between 0 and 1"):
        Rehearsal(REFUSALS, share, seed=0)
    with pytest.raises(GuardError, match="No refusals to train on"):
        Rehearsal(REFUSALS.select([]), 0.5, seed=0)
