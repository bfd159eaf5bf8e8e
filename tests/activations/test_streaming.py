"""Moments gathered in the hooks are those of the activations, which are never kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from families import small_model
from revlens.activations import Positions, Sites, read_moments, read_prompts
from revlens.activations.moments import RunningMoments
from revlens.errors import NonFiniteError, ProbeError, SiteError
from revlens.hooks import record
from revlens.prompts import encode_prompts
from two_processes import in_two_processes
from two_readers import CASES, Reading, read

PROMPTS = [
    f"{question} {thing}?"
    for question in ("What is", "Why do we have", "W")
    for thing in ("bread", "a tree", "rain in May")
]

POLICIES: tuple[Positions, ...] = ("last", "mean")


@pytest.fixture(
    params=["", "{{ '<|system|>Answer briefly.<|end|>' }}"], ids=["few shared tokens", "system message"]
)
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    model = small_model("llama")
    model.tokenizer.chat_template = request.param + model.tokenizer.chat_template
    return model


@torch.no_grad()
def every_token(model: TransformerBridge, layer: int) -> Tensor:
    found = []
    for row in encode_prompts(model.tokenizer, PROMPTS):
        with record(model, [f"blocks.{layer}.hook_out"]) as kept:
            model(torch.tensor([row]))
        found.append(kept[f"blocks.{layer}.hook_out"][0])
    return torch.cat(found).double()


def test_moments_are_those_of_the_activations(model: TransformerBridge) -> None:
    for positions in POLICIES:
        values = read_prompts(model, PROMPTS, Sites("mlp_out"), positions).double()
        found = read_moments(model, PROMPTS, Sites("mlp_out"), positions, covariance=True, batch_size=2)
        assert (found.layers, found.count) == ((0, 1, 2), len(PROMPTS))
        torch.testing.assert_close(found.mean, values.mean(0), rtol=1e-5, atol=1e-6)
        for layer in range(3):
            torch.testing.assert_close(
                found.covariance[layer], values[:, layer].T.cov(), rtol=1e-4, atol=1e-6
            )
        torch.testing.assert_close(
            read_moments(model, PROMPTS, Sites("mlp_out"), positions).variance,
            found.variance,
            rtol=1e-6,
            atol=1e-8,
        )


def test_all_prompt_tokens_count_with_those_that_are_computed_once(model: TransformerBridge) -> None:
    values = every_token(model, 1)
    found = read_moments(model, PROMPTS, Sites(layers=(1,)), "all", covariance=True)
    assert found.count == len(values)
    torch.testing.assert_close(found.mean[0], values.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.covariance[0], values.T.cov(), rtol=1e-4, atol=1e-6)


def test_coordinates_have_the_moments_that_projecting_the_moments_gives(model: TransformerBridge) -> None:
    basis = torch.linalg.qr(torch.randn(16, 2, generator=torch.Generator().manual_seed(0)))[0].T
    whole = read_moments(model, PROMPTS, covariance=True)
    found = read_moments(model, PROMPTS, covariance=True, along=dict.fromkeys(range(3), basis))
    torch.testing.assert_close(found.mean, whole.mean @ basis.double().T, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        found.covariance, basis.double() @ whole.covariance @ basis.double().T, rtol=1e-4, atol=1e-6
    )


def test_what_is_kept_does_not_grow_with_prompts(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[set[int]] = []
    update = RunningMoments.update

    def spying(self: RunningMoments, values: Tensor, times: int = 1) -> None:
        update(self, values, times)
        sizes[-1].add(self.mean.numel() + self.scatter.numel())
        assert len(values) <= 4

    monkeypatch.setattr(RunningMoments, "update", spying)
    for n_prompts in (5, 40):
        sizes.append(set())
        read_moments(llama, [f"Prompt {i}" for i in range(n_prompts)], covariance=True, batch_size=4)
    assert sizes == [{16 + 16 * 16}] * 2


def test_errors_say_what_is_wrong(llama: TransformerBridge) -> None:
    with pytest.raises(ProbeError, match="No prompts"):
        read_moments(llama, [])
    with pytest.raises(SiteError, match=r"differing numbers of directions, \[1, 2\]"):
        read_moments(llama, PROMPTS, Sites(layers=(0, 1)), along={0: torch.eye(16)[0], 1: torch.eye(16)[:2]})
    with torch.no_grad():
        llama.state_dict()["blocks.1.mlp.out.weight"][0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="resid_post at layer 1 is not finite"):
        read_moments(llama, PROMPTS)


@pytest.mark.slow  # two new processes, for one number each
def test_two_processes_have_the_moments_of_one(llama: TransformerBridge, tmp_path: Path) -> None:
    in_two_processes(read, Reading(PROMPTS, tmp_path))
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    for case, (positions, n_prompts) in CASES.items():
        one = read_moments(llama, PROMPTS[:n_prompts], Sites(layers=(0, 1)), positions, covariance=True)
        for weights in ("whole", "sharded"):
            assert first[f"{weights} {case} count"].item() == one.count
            torch.testing.assert_close(first[f"{weights} {case} mean"], one.mean, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(first[f"{weights} {case} scatter"], one.scatter, rtol=1e-4, atol=1e-5)
    assert all(first[name].equal(second[name]) for name in first)
