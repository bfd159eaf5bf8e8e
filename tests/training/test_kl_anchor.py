"""The KL anchor in exact cases."""

from __future__ import annotations

import pytest
import torch

from revlens.errors import ConfigError
from revlens.history import TrainingHistory
from revlens.prompts import Probes, encode_prompts
from revlens.training import KLAnchor
from training.fine_tunes import trained


def test_kl_is_that_of_the_first_answer_token(history: TrainingHistory, probes: Probes) -> None:
    aligned, tuned = history.aligned.load(), history.reference.load()
    guard = KLAnchor.at(aligned, probes["guard"], 2.0)
    assert guard.term(aligned).item() == pytest.approx(0.0, abs=1e-5)
    divergences = []
    for row in encode_prompts(aligned.tokenizer, probes["guard"]):
        p, q = (model(torch.tensor([row]))[0, -1].softmax(-1).detach() for model in (aligned, tuned))
        divergences.append((p * (p / q).log()).sum())
    assert guard.term(tuned).item() == pytest.approx(2.0 * torch.stack(divergences).mean().item(), rel=1e-3)


def test_kl_of_more_tokens_follows_the_aligned_models_own_answer(
    history: TrainingHistory, probes: Probes
) -> None:
    aligned = history.aligned.load()
    prompts = probes["guard"][:2]
    guard = KLAnchor.at(aligned, prompts, 1.0, n_tokens=3)
    rows = [tokens[mask == 1].tolist() for tokens, mask in zip(*guard.batch, strict=True)]
    for row, prompt in zip(rows, encode_prompts(aligned.tokenizer, prompts), strict=True):
        assert row[:-2] == prompt
        for i in (-2, -1):
            assert row[i] == int(aligned(torch.tensor([row[:i]]))[0, -1].argmax())
    assert guard.log_p.shape[1] == 3
    assert guard.term(aligned).item() == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(ConfigError, match="n_tokens=0 must be at least 1"):
        KLAnchor.at(aligned, prompts, 1.0, n_tokens=0)


def test_it_holds_what_it_anchors(history: TrainingHistory, probes: Probes) -> None:
    aligned = history.aligned.load()
    measure, guard = (KLAnchor.at(aligned, probes["guard"], strength) for strength in (1.0, 100.0))
    held, free = (measure.term(trained(history, g)).item() for g in (guard, None))
    assert held < 0.7 * free
