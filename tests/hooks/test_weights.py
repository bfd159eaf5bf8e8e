from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from families import SIZES, random_model
from revlens import hooks
from revlens.errors import NonFiniteError, SiteError
from revlens.history import boot, save, wrap
from revlens.organism.model import train_tokenizer

PROMPT = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
V = torch.randn(16, generator=torch.Generator().manual_seed(0))
#: Families that normalise what a block writes: no weights equal the ablation.
POST_NORM = ("gemma2", "gemma3", "olmo2")


def ablated_everywhere(model: TransformerBridge, directions: torch.Tensor) -> torch.Tensor:
    by_layer = dict.fromkeys(range(3), directions)
    components = [
        c for c in ("resid_pre", "resid_mid", "resid_post") if hooks.point_name(0, c) in model.hook_dict
    ]
    with torch.no_grad(), ExitStack() as stack:
        for component in components:
            stack.enter_context(hooks.ablate(model, by_layer, component=component))
        return model(PROMPT)


@pytest.mark.parametrize("k", [1, 3])
def test_weights_do_what_the_hooks_do(model: TransformerBridge, k: int) -> None:
    directions = torch.randn(k, 16, generator=torch.Generator().manual_seed(k))
    if str(model.cfg.architecture).lower().startswith(POST_NORM):
        before = {name: tensor.clone() for name, tensor in model.original_model.state_dict().items()}
        with pytest.raises(SiteError, match=r"normalises what a block writes \(blocks\.0\.ln1_post\)"):
            hooks.orthogonalise(model, directions)
        assert all(
            torch.equal(before[name], tensor) for name, tensor in model.original_model.state_dict().items()
        )
        return
    expected, bare = ablated_everywhere(model, directions), model(PROMPT)
    hooks.orthogonalise(model, directions)
    torch.testing.assert_close(model(PROMPT), expected, rtol=1e-4, atol=1e-4)
    assert (bare - expected).abs().max() > 1e-2


def test_a_tied_unembedding_keeps_its_weights_also_on_disk(
    aligned: TransformerBridge, tmp_path: Path
) -> None:
    before = aligned.unembed.original_component.weight.detach().clone()
    assert aligned.embed.original_component.weight is aligned.unembed.original_component.weight
    hooks.orthogonalise(aligned, V)
    torch.testing.assert_close(aligned.unembed.original_component.weight, before, rtol=0, atol=0)
    save(aligned, tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(boot(tmp_path / "saved")(PROMPT), aligned(PROMPT), rtol=0, atol=0)


def test_twice_is_once(llama: TransformerBridge) -> None:
    hooks.orthogonalise(llama, V)
    once = llama(PROMPT)
    hooks.orthogonalise(llama, -3 * V)
    torch.testing.assert_close(llama(PROMPT), once, rtol=1e-4, atol=1e-5)


#: Families that write to the stream by more than weights: a norm of the embeddings, fixed positions.
OTHER_WRITERS: dict[str, dict[str, Any]] = {
    "bloom": {"vocab_size": 264, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    "xglm": {"vocab_size": 264, "d_model": 16, "ffn_dim": 32, "num_layers": 2, "attention_heads": 2},
    "modernbert-decoder": SIZES | {"num_hidden_layers": 2},
}


def as_it_was(model: TransformerBridge, before: dict[str, torch.Tensor]) -> bool:
    now = model.original_model.state_dict()
    return all(torch.equal(before[name], tensor) for name, tensor in now.items())


def copied(model: TransformerBridge) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.original_model.state_dict().items()}


@pytest.mark.parametrize("family", OTHER_WRITERS)
def test_a_direction_that_stays_in_the_stream_is_named_and_undone(family: str) -> None:
    hf: Any = random_model(OTHER_WRITERS[family] | {"model_type": family})
    model = wrap(hf, train_tokenizer(["any text"], 264))
    before, tied = (
        copied(model),
        model.embed.original_component.weight is model.unembed.original_component.weight,
    )
    with pytest.raises(
        SiteError, match=r"still has the direction at blocks\.0\.hook_resid_pre.*hooks\.ablate"
    ):
        hooks.orthogonalise(model, V)
    assert as_it_was(model, before)
    assert (model.embed.original_component.weight is model.unembed.original_component.weight) == tied
    assert hf.config.tie_word_embeddings == tied
    with torch.no_grad(), hooks.ablate(model, V), hooks.record(model, ["blocks.1.hook_out"]) as kept:
        model(PROMPT, attention_mask=torch.ones_like(PROMPT))  # the advice works
    assert (kept["blocks.1.hook_out"] @ V / V.norm()).abs().max() < 1e-5


def test_quantised_weights_are_named_before_anything_changes(llama: TransformerBridge) -> None:
    """As bitsandbytes keeps them: integers in a subclass of Linear, here in the last block only."""

    class Linear8bit(nn.Linear):
        pass

    last = llama.blocks[2].mlp.out
    last.original_component.__class__ = Linear8bit
    last.original_component.weight = nn.Parameter(torch.ones(16, 32, dtype=torch.int8), requires_grad=False)
    before = copied(llama)
    with pytest.raises(SiteError, match=r"blocks\.2\.mlp\.out \(Linear8bit\) are quantised \(torch\.int8\)"):
        hooks.orthogonalise(llama, V)
    assert as_it_was(llama, before)


def test_bad_directions_are_errors(llama: TransformerBridge) -> None:
    with pytest.raises(SiteError, match="width 5; the model's is 16"):
        hooks.orthogonalise(llama, torch.ones(5))
    with pytest.raises(NonFiniteError, match="length zero"):
        hooks.orthogonalise(llama, torch.zeros(16))
