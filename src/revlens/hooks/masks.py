"""Which tokens of a forward pass are real, by any form of attention mask that transformers takes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from revlens.errors import SiteError


def real_tokens(mask: object, n_past: int | None, n_tokens: int) -> Bool[Tensor, "batch pos"] | None:
    """The tokens of a forward pass that are no padding; None if all are real.

    Args:
        mask: ``[batch pos]`` over all columns so far; ``[batch head pos pos]``, in which a token that does
            not attend to itself is padding; or a table of the latter by kind of layer, as generation with a
            static cache makes them.
        n_past: columns before this pass; None if unknown.
        n_tokens: columns of this pass.

    Raises:
        SiteError: if the mask has another form, or fewer columns than the pass has tokens.
    """
    if isinstance(mask, Mapping):
        # Full attention sees every column; a window's mask may have fewer.
        by_kind = sorted(mask.items(), key=lambda item: item[0] != "full_attention")
        mask = next((value for _, value in by_kind if value is not None), None)
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4) or mask.shape[-1] < n_tokens:
        form = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise SiteError(
            f"An attention mask of the form {form} does not say which of {n_tokens} tokens are padding; "
            "give one of the shape [batch, pos]."
        )
    columns = mask.shape[-1]
    first = columns - n_tokens if n_past is None else min(n_past, columns - n_tokens)
    if mask.ndim == 2:
        return mask[:, first : first + n_tokens].bool()
    to_itself = mask[:, 0, -n_tokens:].diagonal(offset=first, dim1=-2, dim2=-1)
    if to_itself.dtype == torch.bool:
        return to_itself
    return (
        to_itself > torch.finfo(to_itself.dtype).min / 2 if to_itself.is_floating_point() else to_itself > 0
    )
