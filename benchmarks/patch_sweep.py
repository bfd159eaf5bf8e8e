"""Patching every site: revlens' short passes beside TransformerLens' `generic_activation_patch`, in one run.

Both get the same models (random weights), tokens and donor activations, and the script compares every number
that they return. Runs take turns, so that other load of the machine falls on both.

    python benchmarks/patch_sweep.py [--quick] [--threads N] [--repeats N]
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.patching import (
    generic_activation_patch,
    layer_pos_head_vector_patch_setter,
    layer_pos_patch_setter,
)

from revlens.causal import FallbackWarning, RefusalLogitDifference
from revlens.causal.patch_passes import Patcher
from revlens.causal.patch_sites import PatchSite, patch_sites, patched_points
from revlens.organism import ModelConfig
from revlens.organism.model import organism_model, train_tokenizer

METRIC = RefusalLogitDifference((5, 6, 7), (8, 9))
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Work:
    """One sweep: all layers by the last positions (by heads, for ``z``) of random prompts."""

    name: str
    component: str
    n_prompts: int
    n_tokens: int
    last: int


@dataclass(frozen=True)
class Outcome:
    """Seconds and ratios of each repeat, the largest difference of two numbers, the ratio of token-layers."""

    work: Work
    n_cells: int
    theirs: list[float]
    ours: list[float]
    difference: float
    token_layers: float

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.theirs, self.ours, strict=True)]


def models(config: ModelConfig) -> tuple[TransformerBridge, TransformerBridge]:
    """A donor and a recipient."""
    tokenizer = train_tokenizer(["any text"], 264)
    pair = []
    for seed in (0, 1):
        # Random tokens need only a tokenizer of the right size.
        own = copy.deepcopy(tokenizer)
        own.add_tokens([f"<{i}>" for i in range(config.n_vocab - len(own))])
        model = organism_model(config, own, seed)
        model.eval()
        pair.append(model)
    return pair[0], pair[1]


def token_layers(model: TransformerBridge, run: Callable[[], Tensor]) -> int:
    """Rows times tokens through attention, summed over blocks: the work of a run on any machine."""
    total = 0

    def count(activation: Tensor, hook: object) -> None:
        nonlocal total
        total += activation.shape[0] * activation.shape[1]

    with model.hooks(
        fwd_hooks=[(f"blocks.{layer}.attn.hook_in", count) for layer in range(model.cfg.n_layers)]
    ):
        run()
    return total


@torch.no_grad()
def compare(donor: TransformerBridge, recipient: TransformerBridge, work: Work, repeats: int) -> Outcome:
    """Time both, in turns."""
    n_layers, heads = recipient.cfg.n_layers, range(recipient.cfg.n_heads) if work.component == "z" else None
    tokens = torch.randint(
        10, recipient.cfg.d_vocab, (work.n_prompts, work.n_tokens), generator=torch.Generator().manual_seed(0)
    )
    _, cache = donor.run_with_cache(tokens)
    sites = patch_sites(range(n_layers), range(-work.last, 0), heads)
    index = pd.DataFrame(
        [site if heads else site[:2] for site in sites], columns=["layer", "pos", "head"][: 3 if heads else 2]
    )
    setter = layer_pos_head_vector_patch_setter if heads else layer_pos_patch_setter
    points = patched_points(donor, range(n_layers), work.component)

    def patch(current: Tensor, site: PatchSite, prompts: Sequence[int]) -> Tensor:
        donated = cache[points[site.layer]][list(prompts), site.position]
        return donated if site.head is None else donated[:, site.head]

    def theirs() -> Tensor:
        result = generic_activation_patch(
            recipient, tokens, cache, lambda logits: METRIC(logits[:, -1]), setter, work.component,
            index_df=index, reduce="none", baseline=True,
        )  # fmt: skip
        assert result.baseline is not None
        return torch.cat([result.baseline[None], result.values])

    def ours() -> Tensor:
        swept = Patcher(recipient, work.component, sites, patch, METRIC, batch_size=64).run(tokens.tolist())
        return torch.cat([swept.baseline[None], swept.values])

    computed = token_layers(recipient, theirs) / token_layers(recipient, ours)
    seconds: tuple[list[float], list[float]] = ([], [])
    difference = 0.0
    values: list[Tensor] = []
    for _ in range(repeats):
        values.clear()
        for run, spent in zip((theirs, ours), seconds, strict=True):
            start = time.perf_counter()
            values.append(run())
            spent.append(time.perf_counter() - start)
        difference = max(difference, float((values[0] - values[1]).abs().max()))
    assert difference < TOLERANCE, f"{work.name}: the two differ by {difference}"
    assert (values[0][1:] - values[0][0]).abs().max() > 100 * TOLERANCE, (
        f"{work.name}: the patches do nothing, so equal numbers say nothing"
    )
    return Outcome(work, len(sites), *seconds, difference, computed)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the small model only, shorter prompts")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("error", FallbackWarning)

    n_tokens = 16 if options.quick else 32
    sizes = {"4 layers, d=128": (ModelConfig(), 16, n_tokens)}
    if not options.quick:
        sizes["8 layers, d=384"] = (
            ModelConfig(d_model=384, n_layers=8, n_heads=6, d_mlp=1024, n_vocab=12_000),
            4,
            24,
        )
    table = Table(
        "model", "parameters", "sweep", "cells", "TransformerLens, s", "revlens, s",
        "ratio: min / median / max", "token-layers", "max |difference|",
        title=f"torch {torch.__version__}, {options.threads} of {os.cpu_count()} threads, "
        f"{options.repeats} repeats, {platform.machine()}",
    )  # fmt: skip
    for size, (config, n_prompts, short) in sizes.items():
        donor, recipient = models(config)
        n_parameters = sum(
            parameter.numel()
            for parameter in {id(p): p for p in recipient.original_model.parameters()}.values()
        )
        for work in (
            Work(f"resid_post, all {short} tokens", "resid_post", n_prompts, short, short),
            Work("resid_post, last of 64 tokens", "resid_post", n_prompts, 64, 1),
            Work("heads, last of 64 tokens", "z", n_prompts, 64, 1),
        ):
            outcome = compare(donor, recipient, work, options.repeats)
            ratios = outcome.ratios
            table.add_row(
                size, f"{n_parameters / 1e6:.1f} M", f"{work.name} x {n_prompts} prompts",
                str(outcome.n_cells),
                f"{statistics.median(outcome.theirs):.3f}", f"{statistics.median(outcome.ours):.3f}",
                f"{min(ratios):.1f} / {statistics.median(ratios):.1f} / {max(ratios):.1f}",
                f"{outcome.token_layers:.1f}", f"{outcome.difference:.1e}",
            )  # fmt: skip
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
