from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from peft.tuners import lora
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from families import load_hugging_face, save_family
from revlens.errors import ConfigError, GuardError
from revlens.history import Directory, TrainingHistory, boot, boot_with_lora
from revlens.training import AsFT, FinetuneConfig, SafeLoRA, finetune

DATA = Dataset.from_dict({"prompt": ["A?", "B?"], "answer": ["Sure, at once.", "Sure, in a minute."]})
CONFIG = FinetuneConfig(steps=3, learning_rate=1e-2, batch_size=2)
MATRIX = "blocks.1.mlp.out._original_component.weight"


def matrix(model: TransformerBridge) -> Tensor:
    return model.get_parameter(MATRIX).detach().clone()


@pytest.fixture(scope="module")
def v(history: TrainingHistory) -> Tensor:
    return matrix(history.aligned.load()) - matrix(history.reference.load())


def test_a_change_of_weights_becomes_its_projection_on_what_alignment_changed(
    history: TrainingHistory, v: Tensor
) -> None:
    start = matrix(history.aligned.load())
    free, safe = history.aligned.load(), history.aligned.load()
    finetune(free, DATA, CONFIG, seed=0)
    finetune(safe, DATA, CONFIG, seed=0, guard=SafeLoRA.between(history.reference.load(), safe, 1.0))
    c = v @ v.T / torch.linalg.svdvals(v)[0] ** 2
    torch.testing.assert_close(matrix(safe) - start, c @ (matrix(free) - start), rtol=1e-3, atol=1e-6)
    assert torch.equal(safe.W_E, free.W_E), "only matrices of the layers"


def test_a_change_within_what_alignment_changed_stays(history: TrainingHistory, v: Tensor) -> None:
    model = history.aligned.load()
    start = matrix(model)
    guard = SafeLoRA.between(history.reference.load(), model, 1.0)
    u, _, wh = torch.linalg.svd(v)
    change = 0.1 * torch.outer(u[:, 0], wh[0])
    model.get_parameter(MATRIX).data += change
    guard.end(model)
    torch.testing.assert_close(matrix(model), start + change, rtol=0, atol=1e-6)


def test_only_what_lies_off_by_more_than_the_threshold_is_projected(
    history: TrainingHistory, v: Tensor
) -> None:
    u = torch.linalg.svd(v).U
    c = v @ v.T / torch.linalg.svdvals(v)[0] ** 2
    start = matrix(history.aligned.load())
    change = torch.outer(u[:, 0] + u[:, -1], torch.ones(start.shape[1]))
    cosine = float(torch.cosine_similarity((c @ change).flatten(), change.flatten(), dim=0))
    for threshold, expected in ((cosine - 0.01, change), (cosine + 0.01, c @ change)):
        model = history.aligned.load()
        guard = SafeLoRA.between(history.reference.load(), model, threshold)
        model.get_parameter(MATRIX).data += change
        guard.end(model)
        torch.testing.assert_close(matrix(model) - start, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft's own use of transformers
def test_of_an_adapter_the_product_is_projected(history: TrainingHistory) -> None:
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")

    def change_of(model: TransformerBridge) -> Tensor:
        (layer,) = (
            m
            for n, m in model.named_modules()
            if isinstance(m, lora.Linear) and ".1." in n and "down_proj" in n
        )
        return layer.get_delta_weight("default").detach()

    def trained(safe: bool) -> TransformerBridge:
        model = boot_with_lora(history.aligned.source, config, seed=0)
        guard = SafeLoRA.between(history.reference.load(), model, 1.0) if safe else None
        finetune(model, DATA, CONFIG, seed=0, guard=guard)
        return model

    v = matrix(history.aligned.load()) - matrix(history.reference.load())
    c = v @ v.T / torch.linalg.svdvals(v)[0] ** 2
    free, safe = (change_of(trained(s)) for s in (False, True))
    assert free.abs().max() > 1e-4
    torch.testing.assert_close(safe, c @ free, rtol=1e-3, atol=1e-6)


def test_it_fits_weights_that_hugging_face_keeps_transposed(tmp_path: Path) -> None:
    # GPT-2's Conv1D, in the Hugging Face model itself: output features are columns.
    reference, model = (
        load_hugging_face(save_family("gpt2", tmp_path / name)) for name in ("reference", "aligned")
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.linspace(-1.0, 1.0, parameter.numel()).view(parameter.shape).sin())
    name = "transformer.h.1.mlp.c_fc.weight"
    v = (model.get_parameter(name) - reference.get_parameter(name)).detach().T
    start = model.get_parameter(name).detach().clone()
    guard = SafeLoRA.between(reference, model, 1.0)
    change = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    model.get_parameter(name).data += change
    guard.end(model)
    c = v @ v.T / torch.linalg.svdvals(v)[0] ** 2
    torch.testing.assert_close(
        model.get_parameter(name).detach() - start, (c @ change.T).T, rtol=1e-3, atol=1e-5
    )


def test_what_cannot_be_projected_is_an_error(
    history: TrainingHistory, aligned: TransformerBridge, other_width: Path
) -> None:
    with pytest.raises(GuardError, match="Reference and aligned have equal weights at 0.self_attn.q_proj"):
        SafeLoRA.between(history.aligned.load(), aligned, 0.5)
    with pytest.raises(GuardError, match="no 0.self_attn.q_proj of the aligned model's shape"):
        SafeLoRA.between(boot(other_width), aligned, 0.5)
    guard = SafeLoRA.between(history.reference.load(), aligned, 0.5)
    aligned.requires_grad_(False)
    with pytest.raises(GuardError, match="trains no linear module of its layers"):
        SafeLoRA.between(history.reference.load(), aligned, 0.5)
    aligned.blocks = aligned.blocks[:1]
    with pytest.raises(GuardError, match="The model has no 1.mlp"):
        guard.end(aligned)


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.1])
def test_a_threshold_is_a_cosine(threshold: float) -> None:
    with pytest.raises(ConfigError, match=f"threshold={threshold} on a cosine must be above 0 and at most 1"):
        SafeLoRA({}, {}, threshold)


def test_a_dora_adapter_is_refused(history: TrainingHistory) -> None:
    """Its magnitudes change the matrix beside the product B A."""
    dora = boot_with_lora(
        Directory(history.aligned.path), LoraConfig(r=2, use_dora=True, target_modules=["down_proj"]), seed=0
    )
    for guard in (partial(SafeLoRA.between, threshold=0.5), partial(AsFT.between, strength=1.0)):
        with pytest.raises(GuardError, match=r"has a DoRA adapter.*takes plain LoRA \(use_dora=False\)"):
            guard(history.reference.load(), dora)
