"""Activation patching between checkpoints: one model's activations replace the other's, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.patching import PatchingResult, make_df_from_ranges

from revlens.activations import Sites
from revlens.causal.metric import Metric, measure
from revlens.causal.patch_part import Part, Replace, replace_all, replacement
from revlens.causal.patch_passes import Patcher
from revlens.causal.patch_sites import PatchSite, patch_sites, patched_points
from revlens.causal.patch_sweep import PatchSweep
from revlens.context import prompt_rows
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, HistoryError, NonFiniteError, ProbeError, SiteError
from revlens.forward import unpadded_batches, unpatched_run
from revlens.hooks import modules_of, the_bridge
from revlens.prompts import encode_prompts


@torch.no_grad()
def patch_between(
    donor: nn.Module,
    recipient: nn.Module,
    prompts: Sequence[str],
    metric: Metric,
    *,
    sites: Sites | None = None,
    last: int | None = 1,
    part: Part = "full",
    v_rev: ReversionDirection | None = None,
    batch_size: int = 64,
) -> PatchSweep:
    """Run the recipient with one activation of the donor, at each layer and each of the last prompt tokens.

    With donor aligned and recipient fine-tuned: where does safety come back? With donor reference: where is
    it lost?

    Args:
        donor: gives activations.
        recipient: is patched; of the same architecture, and reads prompts as the same tokens.
        prompts: user messages (not yet in chat format).
        metric: a number per row from the logits at the last prompt token, e.g. `RefusalLogitDifference`.
        sites: component and layers; resid_post of every layer if None.
        last: how many prompt tokens, counted from the end; if None, as many as the shortest prompt has.
        part: with d the donor's activation, ``full`` replaces h by d, ``along`` by h + <d - h, v> v,
            ``orthogonal`` by d - <d - h, v> v.
        v_rev: v of each layer, for ``along`` and ``orthogonal``.
        batch_size: prompts in an unpatched run; patched runs are no wider than that.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        ProbeError: if there is no prompt.
        ConfigError: if a model is in training mode, the tokenizer has no chat template, the batch size is
            below 1, the metric does not give one number per row, or part and v_rev do not fit each other, the
            layers or the model.
        HistoryError: if the models differ in architecture or in how they encode a prompt.
        SiteError: on layers that do not exist, or more tokens than the shortest prompt has.
        HookNameError: if the model has no such component.
        NonFiniteError: if the metric is NaN or infinite, naming the prompt.

    Warns:
        FallbackWarning: if the recipient does not allow short passes; each patch then runs whole prompts.
    """
    donor, recipient = the_bridge(donor), the_bridge(recipient)
    sites = sites or Sites()
    layers = sites.resolve(recipient.cfg.n_layers)
    replace = replacement(part, v_rev, layers, recipient.cfg.d_model)
    return _patch(donor, recipient, prompts, metric, sites.component, layers, last, replace, part, batch_size)


@torch.no_grad()
def patch_heads_between(
    donor: nn.Module,
    recipient: nn.Module,
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
    donor, recipient = the_bridge(donor), the_bridge(recipient)
    chosen = Sites(layers=layers).resolve(recipient.cfg.n_layers)
    return _patch(donor, recipient, prompts, metric, "z", chosen, last, replace_all, "full", batch_size)


def _patch(
    donor: TransformerBridge,
    recipient: TransformerBridge,
    prompts: Sequence[str],
    metric: Metric,
    component: str,
    layers: tuple[int, ...],
    last: int | None,
    replace: Replace,
    part: str,
    batch_size: int,
) -> PatchSweep:
    _check_models(donor, recipient)
    rows = _encode(donor, recipient, prompts)
    positions = tuple(range(-_tokens_shared(rows, last), 0))

    donated, donor_metric = _read_donor(donor, rows, component, layers, len(positions), metric, batch_size)
    n_heads = _n_heads(donated) if component == "z" else None

    def patch(current: Tensor, site: PatchSite, batch: Sequence[int]) -> Tensor:
        new = donated[site.layer][list(batch), site.position]
        new = new if site.head is None else new[:, site.head]
        return replace(current, new.to(current), site.layer)

    sites = patch_sites(layers, positions, None if n_heads is None else range(n_heads))
    measured = Patcher(recipient, component, sites, patch, metric, batch_size).run(rows)
    for name, values in (
        ("donor", donor_metric),
        ("recipient", measured.baseline),
        ("patched recipient", measured.values),
    ):
        if not values.isfinite().all():
            prompt = int((~values.isfinite()).nonzero()[0, -1])
            raise NonFiniteError(
                f"The metric of the {name} is not finite on prompt {prompts[prompt]!r}; check the checkpoint."
            )

    shape = [len(layers), len(positions)] + ([] if n_heads is None else [n_heads])
    axes = ["layer", "pos", "head"][: len(shape)]
    index = make_df_from_ranges(shape, axes)
    index["layer"] = [layers[i] for i in index["layer"]]
    index["pos"] = [positions[i] for i in index["pos"]]
    result = PatchingResult(
        values=measured.values.view(*shape, len(rows)),
        axis_names=axes,
        index_df=index,
        metric_names=["metric"],
        reduced=False,
        baseline=measured.baseline,
    )
    return PatchSweep(result, donor_metric, layers, positions, component, part, measured.rounding)


def _read_donor(
    donor: TransformerBridge,
    rows: Sequence[Sequence[int]],
    component: str,
    layers: tuple[int, ...],
    last: int,
    metric: Metric,
    batch_size: int,
) -> tuple[dict[int, Float[Tensor, "prompt pos *d"]], Float[Tensor, " prompt"]]:
    """The donor's activations at the last positions, by layer, and its metric, on the CPU."""
    points = patched_points(donor, layers, component)
    pieces: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    order: list[int] = []
    metrics = []
    for batch, tokens in unpadded_batches(donor, rows, batch_size):
        run = unpatched_run(donor, tokens, points.values(), last)
        for layer, name in points.items():
            pieces[layer].append(run.kept[name].cpu())
        metrics.append(measure(metric, run.logits))
        order.extend(batch)
    back = torch.tensor(order).argsort()
    return {layer: torch.cat(pieces[layer])[back] for layer in layers}, torch.cat(metrics)[back]


def _check_models(donor: TransformerBridge, recipient: TransformerBridge) -> None:
    for name in ("n_layers", "d_model", "d_vocab", "n_heads", "d_head"):
        ours, theirs = getattr(donor.cfg, name), getattr(recipient.cfg, name)
        if ours != theirs:
            raise HistoryError(
                f"The donor has {name}={ours}, the recipient {theirs}; "
                "patch between checkpoints of one model."
            )
    for role, model in (("donor", donor), ("recipient", recipient)):
        if any(module.training for module in modules_of(model)):
            raise ConfigError(
                f"The {role} is in training mode, where dropout would pass for an effect; "
                "call its eval() first."
            )


def _encode(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: Sequence[str]
) -> list[list[int]]:
    if not prompts:
        raise ProbeError("No prompts to patch on.")
    rows, theirs = prompt_rows(recipient, prompts), encode_prompts(donor.tokenizer, prompts)
    for prompt, row, other in zip(prompts, rows, theirs, strict=True):
        if row != other:
            raise HistoryError(
                f"Donor and recipient encode {prompt!r} as different tokens ({len(other)} and {len(row)}), "
                "so their positions do not correspond; give both the same tokenizer and chat template."
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


def _n_heads(activations: dict[int, Tensor]) -> int:
    counts = {layer: activation.shape[2] for layer, activation in activations.items()}
    if len(set(counts.values())) > 1:
        raise SiteError(
            f"Layers differ in their number of heads ({counts}); patch those with equal numbers at a time."
        )
    return next(iter(counts.values()))
