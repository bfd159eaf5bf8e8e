from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

import tiers
from families import FAMILIES, save_family
from revlens.errors import ConfigError, HistoryError
from revlens.history import (
    Adapter,
    Directory,
    StateDict,
    TrainingHistory,
    boot,
    boot_with_lora,
    local_source,
    save,
)
from revlens.history.fused import Fused
from revlens.storage.checksums import SUMS

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 7]])
ALL = LoraConfig(r=4, target_modules="all-linear")


@pytest.fixture(params=tiers.families(FAMILIES))
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Directory:
    return Directory(save_family(request.param, tmp_path / "base"))


@pytest.fixture
def llama_base(tmp_path: Path) -> Directory:
    return Directory(save_family("llama", tmp_path / "base"))


def train_a_step(model: TransformerBridge, rate: float = 1e-2) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model(TOKENS).logsumexp(-1).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def factors(model: TransformerBridge, name: str) -> dict[str, Tensor]:
    return {key: p for key, p in model.original_model.named_parameters() if f"lora_{name}" in key}


def peft_logits(base: Directory, adapter: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    plain = AutoModelForCausalLM.from_pretrained(base.path, attn_implementation="eager", dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        model = PeftModel.from_pretrained(plain, str(adapter)).eval()
    return model(TOKENS).logits.detach()


def test_a_fresh_adapter_changes_nothing_and_alone_requires_gradients(base: Directory) -> None:
    model = boot_with_lora(base, ALL, seed=0)
    torch.testing.assert_close(model(TOKENS), boot(base)(TOKENS), rtol=1e-5, atol=1e-6)
    assert all(("lora_" in name) == p.requires_grad for name, p in model.original_model.named_parameters())
    assert all(not b.any() for b in factors(model, "B").values())
    assert all(a.any() for a in factors(model, "A").values())


def test_every_factor_is_live_in_every_family(base: Directory) -> None:
    model = boot_with_lora(base, ALL, seed=0)
    before = model(TOKENS).detach()
    n_linear = len(factors(model, "B"))
    assert n_linear == len(factors(model, "A")) > 0
    model(TOKENS).logsumexp(-1).sum().backward()
    assert all(b.grad is not None and b.grad.any() for b in factors(model, "B").values())
    for name, b in factors(model, "B").items():  # one layer at a time
        with torch.no_grad():
            b.fill_(0.1)
            assert not torch.equal(model(TOKENS), before), name
            b.zero_()


def test_train_save_load(base: Directory, tmp_path: Path) -> None:
    model = boot_with_lora(base, ALL, seed=0)
    start = model(TOKENS).detach()
    train_a_step(model)
    train_a_step(model)  # the first factor has no gradient until the second has moved
    live = model(TOKENS).detach()
    assert (live - start).abs().max() > 1e-3
    save(model, tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    }
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    torch.testing.assert_close(boot(tmp_path / "adapter")(TOKENS).detach(), live, rtol=0, atol=0)
    torch.testing.assert_close(peft_logits(base, tmp_path / "adapter"), live, rtol=1e-5, atol=1e-6)
    tuned = TrainingHistory.from_dirs(
        base.path, base.path, {2: tmp_path / "adapter"}
    )  # the tokenizer saved beside it fits
    torch.testing.assert_close(tuned[2].load()(TOKENS).detach(), live, rtol=0, atol=0)


def test_the_seed_fixes_the_first_factor(llama_base: Directory) -> None:
    before = torch.get_rng_state()
    one, same, other = (factors(boot_with_lora(llama_base, ALL, seed), "A") for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)
    assert ALL.target_modules == "all-linear"  # what is passed in stays as it is


def test_a_small_change_survives_on_a_base_in_half_precision(llama_base: Directory, tmp_path: Path) -> None:
    model = boot_with_lora(llama_base, ALL, 0, torch.bfloat16)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    with torch.no_grad():
        for b in factors(model, "B").values():
            b.fill_(1e-6)
    save(model, tmp_path / "adapter")
    again = boot(tmp_path / "adapter", torch.bfloat16)
    assert all(torch.equal(b, torch.full_like(b, 1e-6)) for b in factors(again, "B").values())
    torch.testing.assert_close(
        peft_logits(llama_base, tmp_path / "adapter", torch.bfloat16), model(TOKENS).detach(), rtol=0, atol=0
    )


def test_adapters_in_a_history_lie_on_aligned(history: TrainingHistory, tmp_path: Path) -> None:
    model = boot_with_lora(history.aligned.source, ALL, seed=0)
    live = {}
    for step in (1, 2):
        train_a_step(model)
        save(model, tmp_path / f"checkpoint-{step}")
        live[step] = model(TOKENS).detach()
    tuned = TrainingHistory.from_dirs(
        history.reference.path, history.aligned.path, str(tmp_path / "checkpoint-*")
    )
    assert [c.name for c in tuned.steps] == ["step-1", "step-2"]
    assert tuned[1].source == Adapter(tmp_path / "checkpoint-1", history.aligned.source)
    assert tuned[1].source.identity().endswith(f" on {history.aligned.path.absolute()}")
    assert tuned[1].fingerprint() != tuned[2].fingerprint()
    for step in (1, 2):
        torch.testing.assert_close(tuned[step].load()(TOKENS).detach(), live[step], rtol=0, atol=0)
    loaded = tuned[2].load()
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.fixture
def adapter(llama_base: Directory, tmp_path: Path) -> Path:
    save(boot_with_lora(llama_base, ALL, seed=0), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "lora_only"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"trainable_token_indices": [5, 6]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_whatever_peft_calls_lora_is_loaded_as_by_peft(
    settings: dict[str, Any], llama_base: Directory, tmp_path: Path
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(llama_base.path, attn_implementation="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everything: dict[str, Any] = {"r": 4, "target_modules": "all-linear"} | settings
        model = get_peft_model(plain, LoraConfig(**everything))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(str(tmp_path / "adapter"))
    difference = boot(tmp_path / "adapter")(TOKENS).detach() - boot(llama_base)(TOKENS).detach()
    assert difference.abs().max() > 1e-3
    torch.testing.assert_close(
        boot(tmp_path / "adapter")(TOKENS).detach(), model.eval()(TOKENS).logits.detach(), rtol=0, atol=0
    )


def test_an_adapter_that_would_be_passed_by_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Directory(save_family("gpt_neox", tmp_path / "base"))
    monkeypatch.setattr(Fused, "reconnect", lambda fused: None)
    with pytest.raises(
        HistoryError, match=r"does not compute with the adapter's layers .*attention\.\*?.*qkv"
    ):
        boot_with_lora(base, ALL, seed=0)


def edit(adapter: Path, **settings: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    (adapter / SUMS).unlink(missing_ok=True)  # it is meant


def test_a_pickled_adapter_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(HistoryError, match="does not read pickled adapters"):
        local_source(adapter)


def test_another_kind_of_adapter_is_refused(adapter: Path) -> None:
    edit(adapter, peft_type="IA3")
    with pytest.raises(HistoryError, match="type 'IA3'; only LORA"):
        local_source(adapter)


def test_an_adapter_finds_its_base_by_name(adapter: Path, llama_base: Directory) -> None:
    found = local_source(adapter)
    assert isinstance(found, Adapter)
    assert found.base == llama_base
    edit(adapter, base_model_name_or_path=None)
    with pytest.raises(HistoryError, match="names no base model"):
        local_source(adapter)


def test_another_base_is_refused_by_name_and_by_shape(
    adapter: Path, other_width: Path, history: TrainingHistory
) -> None:
    with pytest.raises(HistoryError, match="was trained on .*base, not on Directory"):
        Adapter(adapter, Directory(other_width))
    edit(adapter, base_model_name_or_path="somewhere/else")
    with pytest.raises(HistoryError, match="do not fit .*size mismatch"):
        boot(Adapter(adapter, Directory(other_width)))


def test_weights_that_are_missing_or_have_no_place_are_named(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(iter(weights))
    moved = {key: tensor for key, tensor in weights.items() if key != name} | {
        "base_model.model.lora_A.weight": weights[name]
    }
    save_file(moved, adapter / "adapter_model.safetensors")
    (adapter / SUMS).unlink(missing_ok=True)
    with pytest.raises(HistoryError, match="1 weights are missing and 1 have no place there"):
        boot(adapter)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(target_modules="all-linear", bias="all"), "bias='all'"),
        (LoraConfig(target_modules="all-linear", modules_to_save=["lm_head"]), "modules_to_save=.*lm_head"),
        (
            LoraConfig(target_modules="all-linear", trainable_token_indices=[5]),
            r"trainable_token_indices=\[5\]",
        ),
        (LoraConfig(target_modules="all-linear", init_lora_weights=False), "init_lora_weights=False"),
    ],
)
def test_what_would_train_the_base_is_refused(
    config: LoraConfig, message: str, llama_base: Directory
) -> None:
    with pytest.raises(ConfigError, match=message):
        boot_with_lora(llama_base, config, seed=0)


def test_an_adapter_on_weights_in_memory_names_no_base(llama_base: Directory, tmp_path: Path) -> None:
    hf_model = AutoModelForCausalLM.from_pretrained(llama_base.path)
    weights = {name: tensor + 0.01 for name, tensor in hf_model.state_dict().items()}
    source = StateDict(hf_model, llama_base.tokenizer(), weights)
    model = boot_with_lora(source, ALL, seed=0)
    save(model, tmp_path / "adapter")
    with pytest.raises(HistoryError, match="names no base model"):
        local_source(tmp_path / "adapter")
    torch.testing.assert_close(
        boot(Adapter(tmp_path / "adapter", source))(TOKENS), model(TOKENS).detach(), rtol=0, atol=0
    )


def test_no_adapter_on_an_adapter(adapter: Path) -> None:
    with pytest.raises(ConfigError, match="has an adapter already"):
        boot_with_lora(local_source(adapter), ALL, seed=0)


def test_target_modules_that_are_not_there(llama_base: Directory) -> None:
    with pytest.raises(HistoryError, match="No adapter can be put into LlamaForCausalLM.*query_key_value"):
        boot_with_lora(llama_base, LoraConfig(target_modules=["query_key_value"]), seed=0)
