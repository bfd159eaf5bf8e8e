"""Edits and projections under every way in which a model runs, against plain Hugging Face."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from families import FAMILIES, SIZES, random_model
from revlens import hooks
from revlens.errors import ModelError, SiteError
from revlens.history import wrap
from revlens.hooks.tokens import Tokens
from revlens.organism.model import train_tokenizer

_RECURRENT = {
    name: SIZES[name]
    for name in (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
    )
}
#: Models that keep a recurrent state, alone or beside keys and values.
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": _RECURRENT | {"state_size": 4},
    "mamba2": _RECURRENT
    | {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 2, "expand": 2, "chunk_size": 4},
    "rwkv": _RECURRENT | {"attention_hidden_size": 16, "context_length": 64},
    "recurrent_gemma": SIZES
    | {"lru_width": 16, "head_dim": 8, "attention_window_size": 4, "num_key_value_heads": 1}
    | {"num_attention_heads": 2},
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention", "conv"]},
}
PROMPT = torch.tensor([[5, 6, 7, 8, 9, 5], [0, 0, 7, 6, 5, 9]])
MASK = (PROMPT != 0).long()
V = torch.randn(16, generator=torch.Generator().manual_seed(1))
U = V / V.norm()
ALPHA, NEW = 6.0, 3
Run = Callable[[TransformerBridge, Tensor, Tensor], Tensor]


def plain(family: str) -> PreTrainedModel:
    return random_model((FAMILIES | RECURRENT)[family] | {"model_type": family})


def bridged(family: str) -> TransformerBridge:
    return wrap(plain(family), train_tokenizer(["any text"], 264))


def layers_of(model: Any) -> Any:
    base = model.base_model
    return next(getattr(base, name) for name in ("layers", "h", "blocks") if hasattr(base, name))


@contextmanager
def added(model: PreTrainedModel, chosen: Tensor) -> Iterator[None]:
    """ALPHA along the direction at the chosen tokens of every layer, by torch hooks."""

    def edit(module: object, args: object, output: Any) -> Any:
        step = chosen[..., None] * ALPHA * U
        return output + step if isinstance(output, Tensor) else (output[0] + step, *output[1:])

    handles = [layer.register_forward_hook(edit) for layer in layers_of(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mask_over(mask: Tensor, length: int) -> Tensor:
    return torch.cat([mask, mask.new_ones(len(mask), length - mask.shape[1])], 1)


def arguments(model: PreTrainedModel, mask: Tensor) -> dict[str, Tensor]:
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    takes = "position_ids" in type(model).forward.__code__.co_varnames or "llama" in model.config.model_type
    return {"attention_mask": mask} | ({"position_ids": positions} if takes else {})


@torch.no_grad()
def truth(
    model: PreTrainedModel, tokens: Tokens, ids: Tensor, mask: Tensor, rows: list[int] | None
) -> Tensor:
    """Greedy text from a loop of whole forward passes, edited at the columns that the choice names."""
    end = ids.shape[1]
    for _ in range(NEW):
        column, full = torch.arange(ids.shape[1]), mask_over(mask, ids.shape[1])
        chosen = {
            "all": column >= 0,
            "prompt": column < end,
            "last_prompt": column == end - 1,
            "generated": column >= end,
            "answer": column >= end - 1,
        }[tokens] & full.bool()
        if rows is not None:
            chosen = chosen & torch.tensor([[row in rows] for row in range(len(ids))])
        with added(model, chosen):
            logits = model(ids, use_cache=False, **arguments(model, full)).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids


def by_hugging_face(**settings: Any) -> Run:
    def run(bridge: TransformerBridge, ids: Tensor, mask: Tensor) -> Tensor:
        given = {"attention_mask": mask, "max_new_tokens": NEW, "eos_token_id": None, "pad_token_id": 0}
        hf_model: Any = bridge.original_model
        if settings.get("embeds"):
            new = hf_model.generate(
                inputs_embeds=hf_model.get_input_embeddings()(ids), do_sample=False, **given
            )
            return torch.cat([ids, new], 1)
        return hf_model.generate(ids, **{"do_sample": False} | given | settings)

    return run


def by_own_loop(*, cached: bool) -> Run:
    def run(bridge: TransformerBridge, ids: Tensor, mask: Tensor) -> Tensor:
        output = bridge.generate(
            ids, attention_mask=None if bool(mask.all()) else mask, max_new_tokens=NEW, do_sample=False,
            return_type="tokens", verbose=False, stop_at_eos=False, use_past_kv_cache=cached,
        )  # fmt: skip
        assert isinstance(output, Tensor)
        return output

    return run


def by_stream(bridge: TransformerBridge, ids: Tensor, mask: Tensor) -> Tensor:
    pieces = bridge.generate_stream(
        ids, attention_mask=mask, max_new_tokens=NEW, max_tokens_per_yield=2, do_sample=False,
        return_type="tokens", verbose=False, stop_at_eos=False,
    )  # fmt: skip
    return torch.cat(list(pieces), 1)  # type: ignore[arg-type]


def in_another_thread(bridge: TransformerBridge, ids: Tensor, mask: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(by_hugging_face()(bridge, ids, mask)))
    thread.start()
    thread.join()
    return found[0]


WAYS: dict[str, Run] = {
    "cached": by_hugging_face(),
    "without a cache": by_hugging_face(use_cache=False),
    "static cache": by_hugging_face(cache_implementation="static"),
    "chunked prompt": by_hugging_face(prefill_chunk_size=4),
    "embeddings": by_hugging_face(embeds=True),
    "own loop": by_own_loop(cached=True),
    "own loop without a cache": by_own_loop(cached=False),
    "stream": by_stream,
    "another thread": in_another_thread,
}


def check(
    family: str, way: Run, ids: Tensor = PROMPT, mask: Tensor = MASK, rows: list[int] | None = None
) -> None:
    """Texts under an edit, and projections of what was read, are those of plain Hugging Face."""
    model, bridge = plain(family), bridged(family)
    choices: tuple[Tokens, ...] = ("last_prompt", "generated")  # the others are made of these
    for tokens in choices:
        with hooks.add(bridge, V, ALPHA, tokens=tokens, rows=rows):
            text = way(bridge, ids, mask)
        assert text.tolist() == truth(model, tokens, ids, mask, rows).tolist(), tokens
    with hooks.record_projections(bridge, V) as projections:
        text = way(bridge, ids, mask)
    read, full = text[:, :-1], mask_over(mask, text.shape[1] - 1)
    streams: list[Tensor] = []
    layers_of(model)[1].register_forward_hook(
        lambda module, args, output: streams.append(output if isinstance(output, Tensor) else output[0])
    )
    with torch.no_grad():
        model(read, use_cache=False, **arguments(model, full))
    torch.testing.assert_close(projections[1] * full, streams[0] @ U * full, rtol=1e-4, atol=1e-4)
    assert "generate" not in vars(bridge) | vars(bridge.original_model), "all comes off"


@pytest.mark.parametrize("way", WAYS)
def test_edits_and_projections_are_those_of_plain_hugging_face(way: str) -> None:
    check("llama", WAYS[way], rows=[1])


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "qwen3"])
def test_a_static_cache(family: str) -> None:
    check(family, WAYS["static cache"])


@pytest.mark.parametrize("way", ["cached", "own loop"])
@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_models(family: str, way: str) -> None:
    ids = PROMPT[:1]  # transformers' own cached loop mixes the rows of RWKV
    check(family, WAYS[way], ids, torch.ones_like(ids))


def test_drafts_that_are_discarded(llama: TransformerBridge) -> None:
    ids = torch.tensor([[5, 6, 7, 5, 6, 7]])
    check("llama", by_hugging_face(prompt_lookup_num_tokens=2), ids, torch.ones_like(ids))
    check("gpt2", by_hugging_face(assistant_model=plain("gpt2")), ids, torch.ones_like(ids))


@pytest.mark.parametrize("tokens", ["last_prompt", "generated", "all"])
def test_rows_are_prompts_whatever_beams_or_samples_they_have(tokens: Tokens) -> None:
    """A batch under beams equals its prompts alone, edited or not; samples copy their prompt."""
    bridge = bridged("llama")
    ids, ones = PROMPT[:, 2:], MASK[:, 2:]
    beams = by_hugging_face(num_beams=3, num_return_sequences=3)
    with hooks.add(bridge, V, ALPHA, tokens=tokens, rows=[1]):
        together = beams(bridge, ids, ones)
    with hooks.add(bridge, V, ALPHA, tokens=tokens):
        edited = beams(bridge, ids[1:], ones[1:])
    assert together.tolist() == torch.cat([beams(bridge, ids[:1], ones[:1]), edited]).tolist()
    many = {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
    with hooks.add(bridge, V, ALPHA, tokens=tokens, rows=[1]):
        samples = by_hugging_face(**many)(bridge, ids, ones)
        assert (
            samples[::2].tolist() == samples[1::2].tolist() == by_hugging_face()(bridge, ids, ones).tolist()
        )


@pytest.mark.parametrize("kind", ["one", "by layer"])
def test_masks_of_four_axes_say_what_is_padding(kind: str) -> None:
    bridge, name = bridged("gemma2"), hooks.point_name(0, "resid_post")
    causal = torch.ones(6, 6, dtype=torch.bool).tril() & MASK[:, None, None].bool()
    positions = (MASK.cumsum(-1) - 1).clamp(min=0)
    additive = torch.where(causal, 0.0, torch.finfo(torch.float32).min)
    masks: dict[str, Any] = {
        "one": additive,
        "by layer": {"full_attention": additive, "sliding_attention": additive},
    }

    def run() -> Tensor:
        with torch.no_grad(), hooks.record(bridge, [name]) as kept:
            bridge.original_model(PROMPT, attention_mask=masks[kind], position_ids=positions)
        return kept[name]

    before = run()
    with hooks.add(bridge, V, ALPHA, layers=[0], tokens="last_prompt"):
        assert ((run() - before).norm(dim=-1) > 1).nonzero().tolist() == [[0, 5], [1, 5]]
    with hooks.add(bridge, V, ALPHA, layers=[0]):
        assert ((run() - before).norm(dim=-1) > 1).tolist() == MASK.bool().tolist()


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft's own use
def test_an_adapter_that_comes_after_the_hook(llama: TransformerBridge) -> None:
    """Peft calls the model's forward directly, past the hooks of its module."""
    base: Any = llama.original_model
    with torch.no_grad():
        before = llama(PROMPT, attention_mask=MASK)
        with hooks.add(llama, V, ALPHA, tokens="last_prompt"):
            edited = llama(PROMPT, attention_mask=MASK)
            targets = [
                name for name, _ in base.named_modules() if name.endswith("gate_proj._original_component")
            ]
            adapted = get_peft_model(base, LoraConfig(r=2, target_modules=targets))
            after = adapted(
                PROMPT, attention_mask=MASK, position_ids=(MASK.cumsum(-1) - 1).clamp(min=0)
            ).logits
    torch.testing.assert_close(after[:, -1], edited[:, -1])
    assert (edited - before).abs().max() > 1e-2


def test_gradients_under_gradient_checkpointing_are_those_without() -> None:
    def gradient(*, checkpointing: bool, close_first: bool = False, passes: int = 1) -> Tensor:
        bridge = bridged("llama")
        if checkpointing:
            bridge.original_model.activation_checkpointing_enable()  # type: ignore[operator]
        bridge.train()
        with hooks.add(bridge, V, ALPHA, component="mlp_out", tokens="last_prompt"):
            loss = torch.stack(
                [bridge(PROMPT, attention_mask=MASK).square().mean() for _ in range(passes)]
            ).sum()
            if not close_first:
                loss.backward()
        if close_first:
            loss.backward()
        gradient = bridge.blocks[0].mlp.out.weight.grad
        assert isinstance(gradient, Tensor)
        return gradient

    torch.testing.assert_close(gradient(checkpointing=True), gradient(checkpointing=False))
    gradient(checkpointing=False, close_first=True)
    with pytest.raises(SiteError, match="go backward inside it"):
        gradient(checkpointing=True, close_first=True)
    with pytest.raises(SiteError, match="backward pass of 2 forward passes"):
        gradient(checkpointing=True, passes=2)


def test_what_cannot_be_followed_is_named(llama: TransformerBridge) -> None:
    hf_model: Any = llama.original_model
    guided = by_hugging_face(guidance_scale=2.0)
    with (
        pytest.raises(SiteError, match="guidance_scale runs a second text"),
        hooks.add(llama, V, 1.0, tokens="answer"),
    ):
        guided(llama, PROMPT, MASK)
    with pytest.raises(SiteError, match="beams, which change places"), hooks.record_projections(llama, V):
        by_hugging_face(num_beams=2)(llama, PROMPT, MASK)
    with pytest.raises(SiteError, match="Continuous batching"), hooks.ablate(llama, V):
        hf_model.generate_batch([[5, 6, 7]])
    packed = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with (
        pytest.raises(SiteError, match="several texts are packed"),
        hooks.add(llama, V, 1.0, tokens="last_prompt"),
    ):
        hf_model(PROMPT[:1], position_ids=packed)
    with pytest.raises(SiteError, match="start_at_layer=2 discards"), hooks.ablate(llama, V, layers=[0]):
        llama(torch.ones(1, 3, 16), start_at_layer=2)
    with pytest.raises(SiteError, match=r"did not come through blocks\.0"), hooks.ablate(llama, V):
        llama(PROMPT)
        llama.reset_hooks()
        llama(PROMPT)
    pattern = "blocks.0.attn.hook_pattern"
    with (
        pytest.raises(SiteError, match="batch and pos as first"),
        hooks.patch(llama, {pattern: V}, [pattern]),
    ):
        pass
    with torch.no_grad():
        past = llama(PROMPT, use_cache=True, return_type="logits_and_cache")[1]
        with pytest.raises(SiteError, match="before the prompt runs"), hooks.record_projections(llama, V):
            llama(PROMPT[:, :1], past_key_values=past)


def test_a_recurrent_state_that_the_context_has_not_seen_grow() -> None:
    bridge: Any = bridged("mamba")
    hf_model, ids = bridge.original_model, PROMPT[:1]
    with torch.no_grad():
        state = hf_model(ids, use_cache=True).cache_params
        with hooks.add(bridge, V, ALPHA, tokens="generated"):  # it goes on, so its tokens are generated
            hf_model(ids[:, :1], cache_params=state, use_cache=True)
        unknown = hooks.add(bridge, V, ALPHA, tokens="answer", prompt_length=4)
        with pytest.raises(SiteError, match="does not say how many tokens"), unknown:
            hf_model(ids[:, :1], cache_params=state, use_cache=True)


def test_a_bridge_in_compatibility_mode_applies_an_edit_once(llama: TransformerBridge) -> None:
    llama.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    for component in ("resid_pre", "resid_mid", "resid_post"):
        names = [
            hooks.point_name(1, component),
            hooks.point_name(1, "mlp_out"),
            hooks.point_name(1, "resid_post"),
        ]
        kept: list[dict[str, Tensor]] = []
        for alpha in (0.0, 2.0):
            adding = hooks.add(llama, V, alpha, layers=[1], component=component)
            with torch.no_grad(), adding, hooks.record(llama, names) as found:
                llama(PROMPT)
            kept.append(dict(found))
        torch.testing.assert_close(kept[1][names[0]] - kept[0][names[0]], (2 * U).expand(2, 6, 16))
        past_mlp = [k[names[2]] - k[names[1]] for k in kept]  # the stream that goes past the MLP
        if component == "resid_mid":
            torch.testing.assert_close(past_mlp[1] - past_mlp[0], (2 * U).expand(2, 6, 16))
    once = llama.run_with_hooks(PROMPT, fwd_hooks=[("blocks.1.hook_out", hooks.add_direction(V, 2.0))])
    alias = llama.run_with_hooks(
        PROMPT, fwd_hooks=[("blocks.1.hook_resid_post", hooks.add_direction(V, 2.0))]
    )
    torch.testing.assert_close(alias, once)


def test_a_compiled_model_is_refused(llama: TransformerBridge) -> None:
    compiled: Any = torch.compile(llama, backend="eager")
    with (
        pytest.raises(ModelError, match=r"pass the one inside it: model\._orig_mod"),
        hooks.ablate(compiled, V),
    ):
        pass
    llama.original_model.compile(backend="eager")
    with pytest.raises(ModelError, match="is compiled"), hooks.ablate(llama, V):
        pass
