"""A step that is not finite names its update, its layer and its rows."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from revlens.errors import NonFiniteError
from revlens.experiment import ExperimentConfig
from revlens.history import TrainingHistory, boot
from revlens.organism import World
from revlens.subject import BenignRun
from revlens.training import FinetuneConfig, finetune
from revlens.training.chat_data import batches
from revlens.training.nonfinite import describe_nonfinite


@pytest.fixture
def data(world: World) -> Dataset:
    return world.benign(16, 0)


@pytest.mark.parametrize("layer", [0, 2])
def test_the_first_layer_that_is_not_finite_is_named(
    layer: int, history: TrainingHistory, data: Dataset
) -> None:
    model = history.aligned.load()
    with torch.no_grad():
        model.blocks[layer].mlp.out.weight[0, 0] = torch.inf
    config = FinetuneConfig(steps=3, learning_rate=1e-3, batch_size=4)
    with pytest.raises(
        NonFiniteError,
        match=rf"at update 1 of 3; .* not finite from layer {layer} on in 4 of 4 rows of the batch: row 0, '",
    ):
        finetune(model, data, config, seed=0)


def test_the_rows_that_are_not_finite_are_named_by_their_prompts(
    history: TrainingHistory, data: Dataset
) -> None:
    """One token's embedding is broken; the rows without it are well."""
    model = history.aligned.load()
    batch = next(batches(model.tokenizer, data, batch_size=8, seed=0))
    counts = {token: (batch.tokens == token).any(1) for token in batch.tokens.unique().tolist()}
    token, rows = next((token, rows) for token, rows in counts.items() if 1 <= int(rows.sum()) <= 3)
    with torch.no_grad():
        model.embed.weight[token] = torch.nan
    said = describe_nonfinite(model, batch)
    assert f"not finite from layer 0 on in {int(rows.sum())} of 8 rows" in said
    assert [int(row) for row in re.findall(r"row (\d+), ", said)] == rows.nonzero().flatten().tolist()


def test_where_all_activations_are_finite_it_says_so(history: TrainingHistory, data: Dataset) -> None:
    model = history.aligned.load()
    said = describe_nonfinite(model, next(batches(model.tokenizer, data, batch_size=8, seed=0)))
    assert said.startswith("Activations are finite at every layer")
    assert "and 5 more" in said


def test_a_run_that_blows_up_keeps_its_last_good_checkpoint_and_is_not_taken_for_done(
    config: ExperimentConfig,
) -> None:
    wild = replace(config.subject, benign=FinetuneConfig(steps=5, learning_rate=1e12, batch_size=8))
    run = BenignRun(wild, seed=0, steps=(1, 5))
    with pytest.raises(NonFiniteError, match="at update 2 of 5") as raised:
        run.train()
    assert raised.value.__notes__ == [f"The checkpoints saved before that are kept in {run.folder}."]
    assert not run.is_done
    kept = boot(run.folder / "step-1")
    assert all(parameter.isfinite().all() for parameter in kept.parameters())
    with pytest.raises(NonFiniteError, match="at update 2 of 5"):  # the same again, not a partial set
        run.train()
