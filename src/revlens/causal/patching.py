"""Activation patching between checkpoints: same prompts, one model's activations put into the other's run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.patching import PatchingResult, make_df_from_ranges

from revlens.activations import Sites
from revlens.causal.patch_passes import CellPatcher
from revlens.causal.patch_sites import Cell, cells_of, site_names
from revlens.causal.patch_sweep import PatchSweep
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, HistoryError, NonFiniteError, ProbeError, SiteError
from revlens.forward import Metric, clean_run, equal_lengths, measure, token_tensor
from revlens.prompts import encode_prompts

#: ``full``: the whole activation; ``along``: its component along v_rev; ``orthogonal``: everything but that component.
Part = Literal["full", "along", "orthogonal"]
PARTS: tuple[str, ...] = get_args(Part)

#: The patched activation from the recipient's and the donor's, at a layer.
_Replace = Callable[[Tensor, Tensor, int], Tensor]


@torch.no_grad()
def patch_between(
    donor: TransformerBridge,
    recipient: TransformerBridge,
    prompts: Sequence[str],
    metric: Metric,
    *,
    sites: Sites | None = None,
    last: int | None = 1,
    part: Part = "full",
    v_rev: ReversionDirection | None = None,
    batch_size: int = 64,
) -> PatchSweep:
    """Run the recipient with one activation taken from the donor, at each layer and each of the last prompt tokens.

    With donor aligned and recipient fine-tuned: where does safety come back? With donor reference: where does it go?

    Args:
        donor: gives activations.
        recipient: is patched; of the same architecture, and reads prompts as the same tokens.
        prompts: user messages (not yet in chat format).
        metric: a number per row from the logits at the last prompt token, e.g. `revlens.causal.RefusalLogitDifference`.
        sites: component and layers; resid_post of every layer if None.
        last: how many prompt tokens, counted from the end; if None, as many as the shortest prompt has.
        part: ``along`` replaces h by h + <d - h, v> v, ``orthogonal`` by d - <d - h, v> v, d being the donor's activation.
        v_rev: v of each layer, for a part.
        batch_size: prompts in an unpatched run; patched runs are no wider than that.

    Raises:
        ProbeError: if there is no prompt.
        ConfigError: if a model is in training mode, the tokenizer has no chat template, the metric does not give one number
            per row, or part and v_rev do not fit each other, the layers or the model.
        HistoryError: if the models differ in architecture or in how they encode a prompt.
        SiteError: on layers that do not exist, or more tokens than the shortest prompt has.
        HookNameError: if the model has no such component.
        NonFiniteError: if the metric is NaN or infinite, naming the prompt.

    Warns:
        FallbackWarning: see `revlens.causal.patch_passes.CellPatcher`.
    """
    sites = sites or Sites()
    layers = sites.resolve(recipient.cfg.n_layers)
    replace = _replacement(part, v_rev, layers, recipient.cfg.d_model)
    return _patch(donor, recipient, prompts, metric, sites.component, layers, last, replace, part, batch_size)


@torch.no_grad()
def patch_heads_between(
    donor: TransformerBridge,
    recipient: TransformerBridge,
    prompts: Sequence[str],
    metric: Metric,
    *,
    layers: tuple[int, ...] | None = None,
    last: int | None = 1,
    batch_size: int = 64,
) -> PatchSweep:
    """`patch_between` for the output of each attention head (``attn.hook_z``, before the output projection).

    Args:
        layers: increasing; all if None.

    Raises:
        SiteError: also if layers differ in their number of heads.
    """
    chosen = Sites(layers=layers).resolve(recipient.cfg.n_layers)
    return _patch(
        donor, recipient, prompts, metric, "z", chosen, last, lambda h, d, layer: d, "full", batch_size
    )


def _patch(
    donor: TransformerBridge,
    recipient: TransformerBridge,
    prompts: Sequence[str],
    metric: Metric,
    component: str,
    layers: tuple[int, ...],
    last: int | None,
    replace: _Replace,
    part: str,
    batch_size: int,
) -> PatchSweep:
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1.")
    _check_models(donor, recipient)
    rows = _encode(donor, recipient, prompts)
    positions = tuple(range(-_tokens_shared(rows, last), 0))

    given, donor_metric = _read(donor, rows, component, layers, len(positions), metric, batch_size)
    heads = _n_heads(given) if component == "z" else None

    def edit(current: Tensor, cell: Cell, batch: Sequence[int]) -> Tensor:
        donated = given[cell.layer][list(batch), cell.position]
        donated = donated if cell.head is None else donated[:, cell.head]
        return replace(current, donated.to(current), cell.layer)

    cells = cells_of(layers, positions, None if heads is None else range(heads))
    swept = CellPatcher(recipient, component, cells, edit, metric, batch_size).run(rows)
    for name, values in (
        ("donor", donor_metric),
        ("recipient", swept.baseline),
        ("patched recipient", swept.values),
    ):
        if not values.isfinite().all():
            prompt = int((~values.isfinite()).nonzero()[0, -1])
            raise NonFiniteError(
                f"The metric of the {name} is not finite on prompt {prompts[prompt]!r}; check the checkpoint."
            )

    shape = [len(layers), len(positions)] + ([] if heads is None else [heads])
    axes = ["layer", "pos", "head"][: len(shape)]
    index = make_df_from_ranges(shape, axes)
    index["layer"] = [layers[i] for i in index["layer"]]
    index["pos"] = [positions[i] for i in index["pos"]]
    result = PatchingResult(
        values=swept.values.view(*shape, len(rows)),
        axis_names=axes,
        index_df=index,
        metric_names=["metric"],
        reduced=False,
        baseline=swept.baseline,
    )
    return PatchSweep(result, donor_metric, layers, positions, component, part, swept.rounding)


def _read(
    donor: TransformerBridge,
    rows: Sequence[Sequence[int]],
    component: str,
    layers: tuple[int, ...],
    last: int,
    metric: Metric,
    batch_size: int,
) -> tuple[dict[int, Float[Tensor, "prompt pos *d"]], Float[Tensor, " prompt"]]:
    """The donor's activations at the last positions, by layer, and its metric, on the CPU."""
    names = site_names(donor, layers, component)
    pieces: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    order: list[int] = []
    metrics = []
    for batch in equal_lengths(rows, batch_size):
        run = clean_run(donor, token_tensor(donor, rows, batch), names.values(), last)
        for layer, name in names.items():
            pieces[layer].append(run.kept[name].cpu())
        metrics.append(measure(metric, run.logits))
        order.extend(batch)
    back = torch.tensor(order).argsort()
    return {layer: torch.cat(pieces[layer])[back] for layer in layers}, torch.cat(metrics)[back]


def _replacement(
    part: str, v_rev: ReversionDirection | None, layers: tuple[int, ...], d_model: int
) -> _Replace:
    if part not in PARTS:
        raise ConfigError(f"Unknown part {part!r}; expected one of {', '.join(PARTS)}.")
    if part == "full":
        if v_rev is not None:
            raise ConfigError(
                "part='full' replaces whole activations and uses no v_rev; choose part='along' or 'orthogonal'."
            )
        return lambda h, d, layer: d
    if v_rev is None:
        raise ConfigError(f"part={part!r} needs v_rev; locate it first.")
    missing = sorted(set(layers) - set(v_rev.layers))
    if missing:
        raise ConfigError(
            f"v_rev has layers {v_rev.layers}, but layers {missing} are patched too; choose layers in sites."
        )
    if v_rev.unit.shape[1] != d_model:
        raise ConfigError(f"v_rev has width {v_rev.unit.shape[1]}; the model's is {d_model}.")
    units = dict(zip(v_rev.layers, v_rev.unit, strict=True))

    def replace(h: Tensor, d: Tensor, layer: int) -> Tensor:
        dtype = torch.promote_types(h.dtype, torch.float32)
        v = units[layer].to(h.device, dtype)
        along = ((d.to(dtype) - h.to(dtype)) @ v)[:, None] * v
        return (h + along if part == "along" else d - along).to(h.dtype)

    return replace


def _check_models(donor: TransformerBridge, recipient: TransformerBridge) -> None:
    for name in ("n_layers", "d_model", "d_vocab", "n_heads", "d_head"):
        ours, theirs = getattr(donor.cfg, name), getattr(recipient.cfg, name)
        if ours != theirs:
            raise HistoryError(
                f"The donor has {name}={ours}, the recipient {theirs}; patch between checkpoints of one model."
            )
    for role, model in (("donor", donor), ("recipient", recipient)):
        if any(module.training for module in model.modules()):
            raise ConfigError(
                f"The {role} is in training mode, where dropout would pass for an effect; call its eval() first."
            )


def _encode(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: Sequence[str]
) -> list[list[int]]:
    if not prompts:
        raise ProbeError("No prompts to patch on.")
    rows, theirs = encode_prompts(recipient.tokenizer, prompts), encode_prompts(donor.tokenizer, prompts)
    for prompt, row, other in zip(prompts, rows, theirs, strict=True):
        if row != other:
            raise HistoryError(
                f"Donor and recipient encode {prompt!r} as different tokens ({len(other)} and {len(row)}), so their positions do not "
                "correspond; give both the same tokenizer and chat template."
            )
    return rows


def _tokens_shared(rows: Sequence[Sequence[int]], last: int | None) -> int:
    shortest = min(len(row) for row in rows)
    if last is None:
        return shortest
    if not 1 <= last <= shortest:
        raise SiteError(
            f"last={last} must be between 1 and {shortest}, the number of tokens of the shortest prompt."
        )
    return last


def _n_heads(given: dict[int, Tensor]) -> int:
    counts = {layer: activation.shape[2] for layer, activation in given.items()}
    if len(set(counts.values())) > 1:
        raise SiteError(
            f"Layers differ in their number of heads ({counts}); patch those with equal numbers at a time."
        )
    return next(iter(counts.values()))
