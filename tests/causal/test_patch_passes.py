"""Short passes give the numbers of TransformerLens' whole ones, on every family, or say that they cannot."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.patching import (
    generic_activation_patch,
    layer_pos_head_vector_patch_setter,
    layer_pos_patch_setter,
)
from transformers import AutoConfig, AutoModelForCausalLM

import tiers
from revlens import hooks
from revlens.activations import COMPONENTS
from revlens.causal import FallbackWarning, RefusalLogitDifference
from revlens.causal.patch_passes import Patcher, PatchMetrics
from revlens.causal.patch_sites import PatchSite, patch_sites
from revlens.errors import ConfigError, HookNameError
from revlens.organism.model import train_tokenizer

N_LAYERS, N_HEADS, N_TOKENS = 3, 4, 5
TOKENS = torch.randint(4, 264, (3, N_TOKENS), generator=torch.Generator().manual_seed(0))
METRIC = RefusalLogitDifference((5, 6), (7, 8, 9))

SIZES = {
    "vocab_size": 264, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2}
GPT_SIZES = {
    "vocab_size": 264,
    "n_embd": 16,
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Families on which short passes apply; a sliding window is shorter than the prompts.
SHORT = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 4},
    "gemma2": GROUPED | {"head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 3},
    "mistral": GROUPED | {"sliding_window": 3},
    "olmo2": GROUPED,
    "gpt2": GPT_SIZES,
    "gpt_neox": SIZES,
}
#: Families on which they do not: ALiBi has a bias per row, GPT-J runs Hugging Face's own attention, Mamba has
#: a recurrent state.
WHOLE = {
    "bloom": {
        "vocab_size": 264,
        "hidden_size": 16,
        "n_layer": N_LAYERS,
        "n_head": N_HEADS,
        "pad_token_id": 0,
    },
    "gptj": GPT_SIZES | {"rotary_dim": 4},
    "mamba": {
        "vocab_size": 264,
        "hidden_size": 16,
        "num_hidden_layers": N_LAYERS,
        "state_size": 4,
        "pad_token_id": 0,
    },
}


def small_model(family: str, seed: int) -> TransformerBridge:
    config = AutoConfig.for_model(family, **(SHORT | WHOLE)[family])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf_model = AutoModelForCausalLM.from_config(config)
        for parameter in hf_model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    hf_model.config.name_or_path = family
    hf_model.config.architectures = [type(hf_model).__name__]
    bridge = TransformerBridge.boot_transformers(
        family, hf_model=hf_model, tokenizer=train_tokenizer(["any text"], 264)
    )
    bridge.eval()
    return bridge


def name_of(component: str, layer: int) -> str:
    return f"blocks.{layer}.attn.hook_z" if component == "z" else hooks.point_name(layer, component)


def cached(donor: TransformerBridge) -> ActivationCache:
    with torch.no_grad():
        return donor.run_with_cache(TOKENS)[1]


def ours(
    recipient: TransformerBridge,
    cache: ActivationCache,
    component: str,
    last: int = N_TOKENS,
    batch_size: int = 3,
) -> PatchMetrics:
    """By default in batches no larger than the prompts, so that passes start at every position."""

    def patch(current: Tensor, site: PatchSite, prompts: Sequence[int]) -> Tensor:
        donated = cache[name_of(component, site.layer)][list(prompts), site.position]
        return donated if site.head is None else donated[:, site.head]

    sites = patch_sites(range(N_LAYERS), range(-last, 0), range(N_HEADS) if component == "z" else None)
    return Patcher(recipient, component, sites, patch, METRIC, batch_size).run(TOKENS.tolist())


def assert_equal_to_transformer_lens(
    measured: PatchMetrics, recipient: TransformerBridge, cache: ActivationCache, component: str
) -> None:
    heads = component == "z"
    with torch.no_grad():
        theirs = generic_activation_patch(
            recipient, TOKENS, cache, lambda logits: METRIC(logits[:, -1]),
            layer_pos_head_vector_patch_setter if heads else layer_pos_patch_setter,
            component, ("layer", "pos", "head") if heads else ("layer", "pos"), reduce="none", baseline=True,
        )  # fmt: skip
    torch.testing.assert_close(measured.values.view_as(theirs.values), theirs.values, rtol=0, atol=1e-5)
    torch.testing.assert_close(measured.baseline, theirs.baseline, rtol=0, atol=1e-5)
    assert theirs.effect().abs().max() > 0.1
    assert measured.rounding < 1e-5


@pytest.mark.parametrize("family", tiers.families(SHORT))
def test_short_passes_equal_transformer_lens(family: str) -> None:
    donor, recipient = small_model(family, 0), small_model(family, 1)
    cache = cached(donor)
    # Blocks with parallel attention and MLP have no stream between the two.
    for component in (*(c for c in COMPONENTS if name_of(c, 0) in recipient.hook_dict), "z"):
        assert_equal_to_transformer_lens(ours(recipient, cache, component), recipient, cache, component)


@pytest.mark.parametrize("family", WHOLE)
def test_other_families_say_so_and_equal_transformer_lens(family: str) -> None:
    donor, recipient = small_model(family, 0), small_model(family, 1)
    cache = cached(donor)
    with pytest.warns(FallbackWarning, match="over whole prompts instead"):
        measured = ours(recipient, cache, "resid_post")
    assert_equal_to_transformer_lens(measured, recipient, cache, "resid_post")
    assert measured.rounding == 0


@pytest.mark.parametrize("family", tiers.families(SHORT))
def test_the_stream_of_the_last_token_before_the_last_mlp_or_after_it_decides_alone(family: str) -> None:
    donor, recipient = small_model(family, 0), small_model(family, 1)
    # With the donor's last block and unembedding, what enters them is all that is left of the recipient.
    recipient.blocks[-1].load_state_dict(donor.blocks[-1].state_dict())
    recipient.ln_final.load_state_dict(donor.ln_final.state_dict())
    recipient.unembed.load_state_dict(donor.unembed.state_dict())
    cache, want = cached(donor), METRIC(donor(TOKENS)[:, -1]).detach()
    for component in ("resid_mid", "resid_post"):
        if name_of(component, 0) in recipient.hook_dict:
            measured = ours(recipient, cache, component, last=1)
            torch.testing.assert_close(measured.values[-1], want, rtol=0, atol=1e-5)


def test_an_aliased_model_is_patched_once() -> None:
    donor, recipient = small_model("llama", 0), small_model("llama", 1)
    for model in (donor, recipient):
        model.enable_compatibility_mode()
    cache = cached(donor)
    for component in ("resid_pre", "resid_post", "z"):
        assert_equal_to_transformer_lens(ours(recipient, cache, component), recipient, cache, component)


def test_what_acts_on_whole_prompts_only_is_noticed() -> None:
    donor, recipient = small_model("llama", 0), small_model("llama", 1)
    cache = cached(donor)
    # On cached keys and values, later prompt tokens pass for generated ones, and are not ablated.
    with hooks.ablate(recipient, torch.ones(16), tokens="prompt"):
        with pytest.warns(FallbackWarning, match="a short pass that edits nothing moves the logits"):
            measured = ours(recipient, cache, "resid_post")
        assert_equal_to_transformer_lens(measured, recipient, cache, "resid_post")


def test_hooks_on_every_token_stay_in_force() -> None:
    donor, recipient = small_model("llama", 0), small_model("llama", 1)
    cache = cached(donor)
    with hooks.ablate(recipient, torch.ones(16), tokens="all"):
        assert_equal_to_transformer_lens(ours(recipient, cache, "attn_out"), recipient, cache, "attn_out")


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7])
def test_no_pass_is_wider_than_an_unpatched_run(batch_size: int) -> None:
    donor, recipient = small_model("llama", 0), small_model("llama", 1)
    cache = cached(donor)
    shapes = []
    with recipient.hooks(
        fwd_hooks=[("blocks.2.attn.hook_in", lambda activation, hook: shapes.append(activation.shape))]
    ):
        measured = ours(recipient, cache, "resid_pre", batch_size=batch_size)
    assert max((rows - 1) * tokens for rows, tokens, _ in shapes) <= batch_size * N_TOKENS
    assert max(rows - 1 for rows, _, _ in shapes) <= batch_size * N_LAYERS
    torch.testing.assert_close(
        measured.values, ours(recipient, cache, "resid_pre", batch_size=64).values, rtol=0, atol=1e-5
    )


def test_nothing_stays_on_the_model() -> None:
    donor, recipient = small_model("llama", 0), small_model("llama", 1)
    before = recipient(TOKENS)
    ours(recipient, cached(donor), "resid_mid")
    torch.testing.assert_close(recipient(TOKENS), before, rtol=0, atol=0)
    assert not any(point.fwd_hooks for point in recipient.hook_dict.values())


def test_a_component_that_the_model_lacks_is_an_error() -> None:
    donor, recipient = small_model("gpt_neox", 0), small_model("gpt_neox", 1)
    with pytest.raises(HookNameError, match="'blocks.0.hook_resid_mid'"):
        ours(recipient, cached(donor), "resid_mid")


def test_a_metric_must_give_one_number_per_row() -> None:
    recipient = small_model("llama", 0)
    patcher = Patcher(
        recipient,
        "resid_post",
        [PatchSite(0, -1)],
        lambda h, site, prompts: h,
        lambda logits: logits.mean(),
        64,
    )
    with pytest.raises(ConfigError, match="one number per row, got shape"):
        patcher.run(TOKENS.tolist())
