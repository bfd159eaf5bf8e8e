"""Few, short passes give the activations of each prompt alone, in every family, or whole passes run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM

from families import PROMPTS
from revlens import hooks
from revlens.activations import COMPONENTS, Positions, Sites, read_batch, read_prompts
from revlens.errors import ConfigError, NonFiniteError
from revlens.forward.shared_prefix import shared_prefix
from revlens.hooks import point_name, record
from revlens.organism.model import train_tokenizer
from revlens.prompts import encode_prompts, pad_left

#: Enough prompts that the system message below is worth a pass of its own; two are the same.
MANY = [
    *PROMPTS,
    "Hi.",
    "Now what?",
    "Say something else, please.",
    "Go on.",
    "And then?",
    "So?",
    "Hit me.",
    "W",
    "What is it?",
]
SYSTEM = "{{ '<|system|>Answer briefly.<|end|>' }}"
POLICIES: tuple[Positions, ...] = ("last", "mean")


def with_system_message(model: TransformerBridge) -> TransformerBridge:
    model.tokenizer.chat_template = SYSTEM + model.tokenizer.chat_template
    return model


@torch.no_grad()
def one_by_one(model: TransformerBridge, prompts: list[str], sites: Sites, positions: Positions) -> Tensor:
    """Whole passes over single prompts, by TransformerLens alone."""
    names = sites.hook_names(model.cfg.n_layers)
    found = []
    for row in encode_prompts(model.tokenizer, prompts):
        with record(model, names) as kept:
            model(torch.tensor([row]))
        found.append(
            torch.stack(
                [kept[name][0, -1] if positions == "last" else kept[name][0].mean(0) for name in names]
            )
        )
    return torch.stack(found)


def assert_read(model: TransformerBridge, prompts: list[str], components: Sequence[str]) -> None:
    for component in components:
        for positions in POLICIES:
            read = read_prompts(model, prompts, Sites(component), positions, batch_size=4)
            torch.testing.assert_close(
                read, one_by_one(model, prompts, Sites(component), positions), rtol=1e-4, atol=1e-5
            )


@contextmanager
def count(model: TransformerBridge, block: int) -> Iterator[list[int]]:
    """Tokens, padding included, that enter a block in each pass; by torch's hooks, which revlens ignores."""
    seen: list[int] = []
    handle = model.blocks[block].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[0] * args[0].shape[1])
    )
    try:
        yield seen
    finally:
        handle.remove()


def test_every_family_gives_the_numbers_of_each_prompt_alone(model: TransformerBridge) -> None:
    with_system_message(model)
    assert_read(model, MANY, [c for c in COMPONENTS if point_name(0, c) in model.hook_dict])


def test_every_family_runs_the_system_message_once(model: TransformerBridge) -> None:
    with_system_message(model)
    lengths = [len(row) for row in encode_prompts(model.tokenizer, MANY)]
    shared = (
        len(encode_prompts(model.tokenizer, ["A"])[0]) - 3
    )  # all but the prompt, its end and the assistant's header
    with count(model, 0) as seen:
        read_prompts(model, MANY, batch_size=1)
    assert seen == [
        shared,
        2 * max(lengths),
        2 * (max(lengths) - shared),
        *(length - shared for length in sorted(lengths)),
    ]


def test_one_prompt_few_prompts_and_equal_prompts(llama: TransformerBridge) -> None:
    for prompts in (["Hi."], ["Hi.", "Why?"], ["The very same."] * 12, ["a", "b" * 60] * 6):
        assert_read(llama, prompts, ["resid_post"])


def test_equal_prompts_have_a_last_token_each(llama: TransformerBridge) -> None:
    rows = encode_prompts(llama.tokenizer, ["The very same."] * 12)
    prefix = shared_prefix(llama, rows, ["blocks.0.hook_out"], keep=False)
    assert prefix is not None
    assert prefix.length == len(rows[0]) - 1
    assert prefix.kept == {}


def test_a_prefix_that_saves_less_than_its_check_costs_is_not_run(llama: TransformerBridge) -> None:
    assert (
        shared_prefix(llama, encode_prompts(llama.tokenizer, PROMPTS), ["blocks.0.hook_out"], keep=False)
        is None
    )
    assert shared_prefix(llama, [[5] * 20, *[[6] * 20] * 20], ["blocks.0.hook_out"], keep=False) is None


def test_no_block_after_the_last_site_runs_and_nothing_is_unembedded(llama: TransformerBridge) -> None:
    unembedded: list[object] = []
    head = llama.original_model.get_submodule("lm_head")
    handle = head.register_forward_hook(lambda *_: unembedded.append(1))
    with count(llama, 1) as second, count(llama, 2) as third:
        read_prompts(llama, MANY[:3], Sites(layers=(0, 1)))
        read_batch(llama, pad_left(encode_prompts(llama.tokenizer, MANY[:3]), 0), Sites(layers=(0, 1)))
    handle.remove()
    assert second
    assert not third
    assert not unembedded


def test_gradients_go_through_a_pass_that_ends_early(llama: TransformerBridge) -> None:
    batch = pad_left(encode_prompts(llama.tokenizer, PROMPTS), 0)
    read_batch(llama, batch, Sites(layers=(1,))).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in llama.named_parameters()}
    llama.zero_grad(set_to_none=True)
    with record(llama, ["blocks.1.hook_out"]) as kept:
        llama(batch.tokens, attention_mask=batch.mask)
    kept["blocks.1.hook_out"][:, -1].square().sum().backward()
    for name, parameter in llama.named_parameters():
        if parameter.grad is None:
            assert gradients[name] is None
        else:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_hooks_on_the_model_act_and_see_prompts_in_order(llama: TransformerBridge) -> None:
    with_system_message(llama)
    direction = torch.eye(16)[3]
    whole = torch.cat([read_prompts(llama, [prompt]) for prompt in MANY])
    with hooks.add(llama, direction, 2.0, layers=[1], tokens="last_prompt", rows=[0]):
        edited = read_prompts(llama, MANY, batch_size=len(MANY))
    assert (edited[0, 1] - whole[0, 1])[3].item() == pytest.approx(2.0, abs=1e-4)
    torch.testing.assert_close(edited[1:], whole[1:], rtol=1e-4, atol=1e-5)
    with record(
        llama, ["blocks.2.hook_out"]
    ) as kept:  # a hook beyond the last site still gets its activation
        read_prompts(llama, MANY[:2], Sites(layers=(0,)))
    assert kept["blocks.2.hook_out"].shape[0] == 2


def test_nothing_stays_on_the_model(llama: TransformerBridge) -> None:
    with_system_message(llama)
    tokens = torch.tensor(encode_prompts(llama.tokenizer, ["Go on."]))
    before = llama(tokens)
    first = read_prompts(llama, MANY)
    assert not any(point.fwd_hooks for point in llama.hook_dict.values())
    torch.testing.assert_close(llama(tokens), before, rtol=0, atol=0)
    torch.testing.assert_close(read_prompts(llama, MANY), first, rtol=0, atol=0)


def other_model(settings: dict[str, Any]) -> TransformerBridge:
    torch.manual_seed(0)
    hf_model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**settings), attn_implementation="eager"
    ).eval()
    hf_model.config.name_or_path, hf_model.config.architectures = (
        settings["model_type"],
        [type(hf_model).__name__],
    )
    bridge = TransformerBridge.boot_transformers(
        settings["model_type"], hf_model=hf_model, tokenizer=train_tokenizer(["any text"], 264)
    )
    bridge.eval()
    return with_system_message(bridge)


OTHERS: dict[str, dict[str, Any]] = {
    "bloom": {"model_type": "bloom", "vocab_size": 264, "hidden_size": 16, "n_layer": 3, "n_head": 4},
    "mamba": {
        "model_type": "mamba", "vocab_size": 264, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 4,
    },
    "mixtral": {
        "model_type": "mixtral", "vocab_size": 264, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", OTHERS)
def test_models_with_other_memories_give_the_same_numbers(family: str) -> None:
    assert_read(other_model(OTHERS[family]), MANY, ["resid_post"])


def test_a_recurrent_state_is_not_taken_for_keys_and_values() -> None:
    model = other_model(OTHERS["mamba"])
    assert (
        shared_prefix(model, encode_prompts(model.tokenizer, MANY), ["blocks.0.hook_out"], keep=False) is None
    )


def test_a_prefix_that_changes_the_numbers_is_not_used(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_system_message(llama)
    rows = encode_prompts(llama.tokenizer, MANY)
    assert shared_prefix(llama, rows, ["blocks.1.hook_out"], keep=False) is not None
    monkeypatch.setattr(
        "revlens.forward.kv_cache._joined",
        lambda past, new: torch.cat([past.expand(len(new), -1, -1, -1) + 0.1, new], dim=2),
    )
    assert shared_prefix(llama, rows, ["blocks.1.hook_out"], keep=False) is None
    torch.testing.assert_close(
        read_prompts(llama, MANY), one_by_one(llama, MANY, Sites(), "last"), rtol=1e-4, atol=1e-5
    )


def test_a_nan_is_named_with_a_shared_prefix_too(llama: TransformerBridge) -> None:
    with_system_message(llama)
    with torch.no_grad():
        llama.state_dict()["blocks.1.mlp.out.weight"][0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="resid_post at layer 1 is not finite on prompt 'Hi.'"):
        read_prompts(llama, MANY)


def test_a_batch_holds_a_prompt(llama: TransformerBridge) -> None:
    with pytest.raises(ConfigError, match="batch_size=0 must be at least 1"):
        read_prompts(llama, MANY, batch_size=0)
    with hooks.ablate(llama, torch.ones(16)), pytest.raises(ConfigError, match="batch_size=-1 must be"):
        read_prompts(llama, MANY, batch_size=-1)
