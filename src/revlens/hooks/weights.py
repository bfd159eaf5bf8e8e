"""Weight orthogonalisation: directional ablation made permanent."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from revlens.errors import SiteError
from revlens.families import NORMS_OF_WRITES, Linear, outputs_first
from revlens.hooks.subspaces import orthonormal

_Writer = torch.nn.Embedding | Linear


@torch.no_grad()
def orthogonalise(model: TransformerBridge, direction: Float[Tensor, "*k d_model"]) -> None:
    """Project a direction, or a span of several, out of all weights that write to the stream, in place.

    Afterwards the model computes what it computes under `ablate` at ``resid_pre``, ``resid_mid`` and
    ``resid_post`` of every layer (Arditi et al., arXiv 2406.11717, section 4.1). A tied unembedding only
    reads the stream: it is untied first and keeps its weights.

    Raises:
        SiteError: if the model normalises what a block writes, or a weight that writes is not found. The
            model is then unchanged.
        NonFiniteError: see `revlens.hooks.subspaces.orthonormal`.
    """
    basis = orthonormal(direction)
    if basis.shape[1] != model.cfg.d_model:
        raise SiteError(f"The direction has width {basis.shape[1]}; the model's is {model.cfg.d_model}.")
    writers = list(_writers(model))
    _untie(model)
    for module in writers:
        is_embedding = isinstance(module, torch.nn.Embedding)  # whose rows are what it writes
        weight = module.weight if is_embedding else outputs_first(module, module.weight).T
        weight.copy_(_without(weight, basis))
        bias = getattr(module, "bias", None)
        if bias is not None:
            bias.copy_(_without(bias, basis))


def _without(
    rows: Float[Tensor, "*n d_model"], basis: Float[Tensor, "k d_model"]
) -> Float[Tensor, "*n d_model"]:
    wide = rows.to(torch.promote_types(rows.dtype, basis.dtype))
    v = basis.to(wide)
    return (wide - (wide @ v.T) @ v).to(rows.dtype)


def _writers(model: TransformerBridge) -> Iterator[_Writer]:
    """The innermost modules that write to the residual stream."""
    components = [(name, getattr(model, name)) for name in ("embed", "pos_embed") if hasattr(model, name)]
    for layer, block in enumerate(model.blocks):
        for norm in NORMS_OF_WRITES:
            if hasattr(block, norm):
                raise SiteError(
                    f"{model.cfg.architecture} normalises what a block writes (blocks.{layer}.{norm}), so no "
                    "weights are equal to the ablation; use revlens.hooks.ablate."
                )
        for part, matrix in (("attn", "o"), ("mlp", "out")):
            name = f"blocks.{layer}.{part}.{matrix}"
            if not hasattr(block, part) or not hasattr(getattr(block, part), matrix):
                raise SiteError(f"{model.cfg.architecture} has no {name}; use revlens.hooks.ablate.")
            components.append((name, getattr(getattr(block, part), matrix)))
    for name, component in components:
        module = component.original_component
        if not isinstance(module, _Writer):
            raise SiteError(
                f"{name} is a {type(module).__name__}, which revlens cannot orthogonalise; "
                "use revlens.hooks.ablate."
            )
        yield module


def _untie(model: TransformerBridge) -> None:
    embed, unembed = model.embed.original_component, model.unembed.original_component
    if embed.weight is unembed.weight:
        unembed.weight = torch.nn.Parameter(unembed.weight.detach().clone())
        assert isinstance(model.original_model, PreTrainedModel)
        model.original_model.config.tie_word_embeddings = False
