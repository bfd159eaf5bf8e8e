"""Weight orthogonalisation: directional ablation made permanent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedConfig, PreTrainedModel

from revlens.errors import SiteError
from revlens.families import NORMS_OF_WRITES, Linear, outputs_first
from revlens.hooks.bridges import the_bridge
from revlens.hooks.dropout import without_dropout
from revlens.hooks.names import point_name
from revlens.hooks.recording import record
from revlens.hooks.subspaces import Basis, coordinates, orthonormal

_Writer = torch.nn.Embedding | Linear
#: Weights that are numbers, and not the codes of a quantised matrix.
_NUMBERS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
#: The residual stream, all of it.
_STREAM = ("resid_pre", "resid_mid", "resid_post")
_INSTEAD = "use revlens.hooks.ablate"


@torch.no_grad()
def orthogonalise(model: nn.Module, direction: Float[Tensor, "*k d_model"]) -> None:
    """Project a direction, or a span of several, out of all weights that write to the stream, in place.

    Afterwards the model computes what it computes under `ablate` at ``resid_pre``, ``resid_mid`` and
    ``resid_post`` of every layer (Arditi et al., arXiv 2406.11717, section 4.1), which a test pass checks. A
    tied unembedding only reads the stream: it is untied first and keeps its weights.

    Args:
        model: any bridge; copies of the weights that change are kept on the CPU meanwhile.
        direction: a vector, or the rows of a matrix.

    Raises:
        ModelError: see `revlens.hooks.bridges.the_bridge`.
        SiteError: if the model normalises what a block writes, a weight that writes is not found or is
            quantised, or the stream still has a part along the direction. The model is then unchanged.
        NonFiniteError: see `revlens.hooks.subspaces.orthonormal`.
    """
    bridge = the_bridge(model)
    basis = orthonormal(direction)
    if basis.shape[1] != bridge.cfg.d_model:
        raise SiteError(f"The direction has width {basis.shape[1]}; the model's is {bridge.cfg.d_model}.")
    writers = list(_writers(bridge))
    with _all_or_nothing(bridge, writers):
        _untie(bridge)
        for module in writers:
            is_embedding = isinstance(module, torch.nn.Embedding)  # whose rows are what it writes
            weight = module.weight if is_embedding else outputs_first(module, module.weight).T
            weight.copy_(_without(weight, basis))
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                bias.copy_(_without(bias, basis))
        _check_stream(bridge, basis)


def _without(
    rows: Float[Tensor, "*n d_model"], basis: Float[Tensor, "k d_model"]
) -> Float[Tensor, "*n d_model"]:
    wide = rows.to(torch.promote_types(rows.dtype, basis.dtype))
    v = basis.to(wide)
    return (wide - (wide @ v.T) @ v).to(rows.dtype)


def _writers(model: TransformerBridge) -> Iterator[_Writer]:
    """The innermost modules that write to the residual stream."""
    architecture = model.cfg.architecture
    components = [(name, getattr(model, name)) for name in ("embed", "pos_embed") if hasattr(model, name)]
    for layer, block in enumerate(model.blocks):
        for norm in NORMS_OF_WRITES:
            if hasattr(block, norm):
                raise SiteError(
                    f"{architecture} normalises what a block writes (blocks.{layer}.{norm}), so no "
                    f"weights are equal to the ablation; {_INSTEAD}."
                )
        for part, matrix in (("attn", "o"), ("mlp", "out")):
            name = f"blocks.{layer}.{part}.{matrix}"
            if not hasattr(block, part) or not hasattr(getattr(block, part), matrix):
                raise SiteError(f"{architecture} has no {name}; {_INSTEAD}.")
            components.append((name, getattr(getattr(block, part), matrix)))
    for name, component in components:
        module = component.original_component
        if not isinstance(module, _Writer):
            raise SiteError(
                f"{name} is a {type(module).__name__}, which revlens cannot orthogonalise; {_INSTEAD}."
            )
        if module.weight.dtype not in _NUMBERS or module.weight.is_meta:
            kept = "not in memory" if module.weight.is_meta else f"quantised ({module.weight.dtype})"
            raise SiteError(
                f"The weights of {name} ({type(module).__name__}) are {kept}, so nothing can be projected "
                f"out of them; load the model without quantisation or offloading, or {_INSTEAD}."
            )
        yield module


@contextmanager
def _all_or_nothing(model: TransformerBridge, writers: list[_Writer]) -> Iterator[None]:
    """Put every weight back, and the tie of the unembedding, if anything goes wrong."""
    unembed, config = model.unembed.original_component, getattr(model.original_model, "config", None)
    tied, was_tied = unembed.weight, getattr(config, "tie_word_embeddings", None)
    parameters = {id(p): p for module in writers for p in module.parameters(recurse=False)}
    before = {key: parameter.detach().to("cpu", copy=True) for key, parameter in parameters.items()}
    try:
        yield
    except BaseException:
        for key, parameter in parameters.items():
            parameter.copy_(before[key])
        unembed.weight = tied
        if isinstance(config, PreTrainedConfig):
            config.tie_word_embeddings = was_tied
        raise


def _untie(model: TransformerBridge) -> None:
    embed, unembed = model.embed.original_component, model.unembed.original_component
    if embed.weight is unembed.weight:
        unembed.weight = torch.nn.Parameter(unembed.weight.detach().clone())
        assert isinstance(model.original_model, PreTrainedModel)
        model.original_model.config.tie_word_embeddings = False


def _check_stream(model: TransformerBridge, basis: Basis) -> None:
    """Check in a pass over tokens from all of the vocabulary that the stream has no part along the basis."""
    names = [point_name(layer, part) for layer in range(model.cfg.n_layers) for part in _STREAM]
    names = [name for name in names if name in model.hook_dict]
    device = model.embed.original_component.weight.device
    tokens = torch.linspace(0, model.cfg.d_vocab - 1, min(32, model.cfg.n_ctx), device=device).long()[None]
    with without_dropout(model), record(model, names) as kept:
        model(tokens, attention_mask=torch.ones_like(tokens))
    for name in names:
        h = kept[name]
        # Half the digits: far more than rounding, far less than a write that was left.
        left = float((coordinates(h, basis).norm(dim=-1) / h.float().norm(dim=-1)).max())
        if not left <= torch.finfo(h.dtype).eps ** 0.5:
            raise SiteError(
                f"{model.cfg.architecture} still has the direction at {name} ({left:.2g} of its length): "
                "something else than the embeddings, attn.o and mlp.out writes there, such as a norm of "
                "the embeddings or fixed positions, or hooks are on the model. Its weights are as before; "
                f"{_INSTEAD}."
            )
