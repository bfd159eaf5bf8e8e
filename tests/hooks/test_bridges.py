"""Whatever is no bridge is refused at every door, and the advice works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModel

from families import FAMILIES, family_tokenizer, random_model, save_family
from revlens import hooks
from revlens.activations import read_moments, read_prompts
from revlens.behaviour import generate
from revlens.causal import patch_between
from revlens.errors import ModelError
from revlens.history import StateDict, save, wrap

V = torch.ones(16)
TOKENS = torch.tensor([[5, 6, 7]])


def opened(context: Any) -> None:
    with context:
        pass


DOORS: dict[str, Callable[[Any], object]] = {
    "ablate": lambda model: opened(hooks.ablate(model, V)),
    "add": lambda model: opened(hooks.add(model, V, 1.0)),
    "clamp": lambda model: opened(hooks.clamp(model, V, 1.0)),
    "mean_ablate": lambda model: opened(hooks.mean_ablate(model, {0: V})),
    "patch": lambda model: opened(hooks.patch(model, {}, [])),
    "record": lambda model: opened(hooks.record(model, [])),
    "record_projections": lambda model: opened(hooks.record_projections(model, V)),
    "orthogonalise": lambda model: hooks.orthogonalise(model, V),
    "read_prompts": lambda model: read_prompts(model, ["Hi."]),
    "read_moments": lambda model: read_moments(model, ["Hi."]),
    "generate": lambda model: generate(model, ["Hi."]),
    "patch_between": lambda model: patch_between(model, model, ["Hi."], lambda logits: logits[:, 0]),
    "save": lambda model: save(model, Path("nowhere")),
}


def llama_model() -> Any:
    return random_model(FAMILIES["llama"] | {"model_type": "llama"})


@pytest.mark.parametrize("door", DOORS)
def test_a_hugging_face_model_is_told_how_to_be_wrapped(door: str) -> None:
    with pytest.raises(
        ModelError, match=r"got a LlamaForCausalLM.*revlens\.history\.wrap\(model, tokenizer\)"
    ):
        DOORS[door](llama_model())


def test_the_advice_works_and_hooks_act_in_calls_of_either() -> None:
    model = llama_model()
    with torch.no_grad():
        bare = model(TOKENS).logits
        bridge = wrap(model, family_tokenizer("llama"))
        with hooks.add(bridge, V, 3.0):
            ours, theirs = bridge(TOKENS), model(TOKENS).logits
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert (theirs - bare).abs().max() > 0.01
        torch.testing.assert_close(model(TOKENS).logits, bare)
    with pytest.raises(ModelError, match="pass that bridge"), hooks.ablate(model, V):
        pass
    with pytest.raises(ModelError, match="pass that bridge"):
        wrap(model, family_tokenizer("llama"))


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft's own use
def test_what_to_do_with_models_of_other_kinds(llama: TransformerBridge, tmp_path: Path) -> None:
    headless = AutoModel.from_pretrained(save_family("llama", tmp_path / "llama"))
    tokenizer = family_tokenizer("llama")
    adapted = get_peft_model(llama_model(), LoraConfig(r=2, target_modules=["q_proj"]))
    cases: list[tuple[nn.Module, str]] = [
        (nn.DataParallel(llama), r"pass the one inside it: model\.module"),
        (headless, "no language-model head.*AutoModelForCausalLM"),
        (adapted, r"wrap\(model\.get_base_model\(\), tokenizer\)"),
        (nn.Linear(2, 2), "boot_transformers"),
    ]
    for model, message in cases:
        with pytest.raises(ModelError, match=message), hooks.ablate(model, V):
            pass
    with hooks.ablate(wrap(adapted.get_base_model(), tokenizer), V):  # type: ignore[arg-type]
        pass
    with pytest.raises(ModelError, match="no language-model head"):
        wrap(headless, tokenizer)
    weights: dict[str, Tensor] = headless.state_dict()
    with pytest.raises(ModelError, match="no language-model head"):
        StateDict(headless, tokenizer, weights).boot(torch.float32)
