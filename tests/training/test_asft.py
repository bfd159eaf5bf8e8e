"""AsFT's penalty against its formula: on whole weights, and on an adapter's product."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import MixtralConfig, MixtralForCausalLM

from revlens.errors import GuardError
from revlens.history import TrainingHistory, boot_with_lora
from revlens.training import AsFT, Guard, SafeLoRA
from training.fine_tunes import trained

MATRIX = "blocks.1.mlp.out._original_component.weight"


def matrices(model: TransformerBridge) -> list[Tensor]:
    return [w.detach() for w in model.blocks.parameters() if w.ndim == 2]


def off(v: Tensor, change: Tensor) -> Tensor:
    return change - v @ v.T @ change / torch.linalg.svdvals(v)[0] ** 2


def test_the_term_is_what_lies_off_the_change_that_alignment_made(history: TrainingHistory) -> None:
    reference, aligned, model = history.reference.load(), history.aligned.load(), history[3].load()
    guard = AsFT.between(reference, aligned, 3.0)
    assert guard.term(aligned).item() == 0.0
    expected = 3.0 * sum(
        off(a - r, m - a).square().sum()
        for r, a, m in zip(matrices(reference), matrices(aligned), matrices(model), strict=True)
    )
    torch.testing.assert_close(guard.term(model).detach(), expected, rtol=1e-3, atol=0)


def test_the_leading_direction_of_alignment_is_free(history: TrainingHistory) -> None:
    model = history.aligned.load()
    guard = AsFT.between(history.reference.load(), model, 1.0)
    weight = model.get_parameter(MATRIX)
    u, _, wh = torch.linalg.svd(weight.detach() - history.reference.load().get_parameter(MATRIX).detach())
    for column, expected in ((0, 0.0), (-1, 0.01)):
        with torch.no_grad():
            weight.add_(0.1 * torch.outer(u[:, column], wh[column]))
        assert guard.term(model).item() == pytest.approx(expected, rel=0.2, abs=1e-5)
        with torch.no_grad():
            weight.sub_(0.1 * torch.outer(u[:, column], wh[column]))


# peft's own use of transformers
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_of_an_adapter_the_product_is_penalised(history: TrainingHistory) -> None:
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["down_proj"], task_type="CAUSAL_LM")
    model = boot_with_lora(history.aligned.source, config, seed=0)
    reference, aligned = history.reference.load(), history.aligned.load()
    guard = AsFT.between(reference, model, 2.0)
    assert guard.term(model).item() == 0.0
    adapters = [module for module in model.modules() if isinstance(module, lora.Linear)]
    expected = torch.zeros(())
    for i, adapter in enumerate(adapters):
        torch.nn.init.constant_(adapter.get_parameter("lora_B.default.weight"), 0.1 * (i + 1))
        name = MATRIX.replace("1", str(i), 1)
        v = aligned.get_parameter(name).detach() - reference.get_parameter(name).detach()
        expected += 2.0 * off(v, adapter.get_delta_weight("default").detach()).square().sum()
    assert len(adapters) == 3
    torch.testing.assert_close(guard.term(model).detach(), expected, rtol=1e-4, atol=0)


def test_changes_off_the_alignment_are_held_back(history: TrainingHistory) -> None:
    measure = AsFT.between(history.reference.load(), history.aligned.load(), 1.0)
    free, held = (
        measure.term(trained(history, guard)).item()
        for guard in (None, AsFT.between(history.reference.load(), history.aligned.load(), 1e3))
    )
    assert held < 0.5 * free


def test_a_state_of_another_reference_is_refused(history: TrainingHistory) -> None:
    one, other = (AsFT.between(history[3].load(), history.aligned.load(), 1.0), AsFT.between(
        history.reference.load(), history.aligned.load(), 1.0
    ))  # fmt: skip
    with pytest.raises(GuardError, match="AsFT was prepared from other weights"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("make", [AsFT.between, SafeLoRA.between])
def test_matrices_that_are_no_linear_modules_are_not_left_out_silently(make: Callable[..., Guard]) -> None:
    """Mixtral has its experts in one tensor, which an adapter may target too."""
    reference, aligned = mixtral(seed=0), mixtral(seed=1)
    with pytest.raises(GuardError, match=r"0\.mlp\.gate\.weight of shape \(2, 16\) is trained and is no"):
        make(reference, aligned, 0.5)
    for name, parameter in aligned.named_parameters():
        parameter.requires_grad_("self_attn" in name)
    assert make(reference, aligned, 0.5)
    experts = LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.down_proj"])
    with pytest.raises(GuardError, match=r"0\.mlp\.experts\.lora_A.* is no linear module's matrix"):
        make(reference, get_peft_model(aligned, experts), 0.5)


def mixtral(seed: int) -> MixtralForCausalLM:
    torch.manual_seed(seed)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1,
        )
    )  # fmt: skip
