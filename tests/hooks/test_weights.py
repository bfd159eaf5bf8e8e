from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens import hooks
from revlens.errors import NonFiniteError, SiteError
from revlens.history import boot, save

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


def test_bad_directions_are_errors(llama: TransformerBridge) -> None:
    with pytest.raises(SiteError, match="width 5; the model's is 16"):
        hooks.orthogonalise(llama, torch.ones(5))
    with pytest.raises(NonFiniteError, match="length zero"):
        hooks.orthogonalise(llama, torch.zeros(16))
