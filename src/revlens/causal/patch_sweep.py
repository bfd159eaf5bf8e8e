"""The result of a patching sweep: how much of the difference between two checkpoints each patch recovers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import false_discovery_control
from torch import Tensor
from transformer_lens.patching import PatchingResult
from transformer_lens.utilities.statistics import derive_generator

from revlens.errors import ConfigError, NonFiniteError
from revlens.statistics import small_sample_confidence


@dataclass(frozen=True)
class PatchSweep:
    """Per-prompt metrics of every patch, with the statistics of interest as methods.

    Intervals and p-values are over prompts: they hold for this pair of checkpoints, not for other seeds.

    Attributes:
        result: values ``[layer pos (head) prompt]`` in the metric's unit, prompts in the caller's order; its
            baseline is the recipient's unpatched metric.
        donor: the donor's own unpatched metric.
        layers: along the layer axis.
        positions: along the pos axis, counted from the end: -1 is the last prompt token.
        component: what was patched, e.g. ``resid_post``; ``z`` for heads.
        part: ``full``, ``along`` or ``orthogonal``.
        rounding: how far a patch that edits nothing moves the metric at most.
    """

    result: PatchingResult
    donor: Float[Tensor, " prompt"]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    component: str
    part: str
    rounding: float

    def recovered(self) -> Float[Tensor, "layer pos *head"]:
        """Recovered fraction: mean effect / mean(donor - baseline); 0 = as the recipient, 1 = as the donor.

        A ratio of means, not a mean of ratios: a single prompt may have no gap, and its ratio no value. Even
        the whole stream after the last block need not give 1, as the recipient reads it through its own final
        norm and unembedding.

        Raises:
            NonFiniteError: if donor and recipient have equal mean metrics, up to rounding.
        """
        return (self._effect().mean(-1) / self._gap().mean()).float()

    def per_prompt_r2(self) -> Float[Tensor, "layer pos *head"]:
        """How well effects match gaps, over prompts: R^2 = 1 - sum (gap - effect)^2 / sum (gap - mean gap)^2.

        The gap of a prompt is the donor's metric minus the recipient's, the effect is the patched metric
        minus the recipient's. It is 1 if the patch gives every prompt the donor's metric, 0 if it comes no
        closer than the mean gap on every prompt would, and below that if it is further off. `recovered` is a
        ratio of means: an addition that is the same on every prompt can recover all of the mean, and nothing
        of what tells prompts apart. NaN if all prompts have one gap.

        Raises:
            NonFiniteError: see `recovered`.
        """
        gap = self._gap()
        left = (gap - self._effect()).square().sum(-1)
        spread = (gap - gap.mean()).square().sum()
        return (1 - left / spread).float() if spread > 0 else torch.full(left.shape, torch.nan)

    def recovered_interval(
        self, confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0
    ) -> tuple[Float[Tensor, "layer pos *head"], Float[Tensor, "layer pos *head"]]:
        """Bootstrap interval of `recovered` over prompts, with the same draws at every site.

        Percentiles are expanded for small samples. The interval is (-inf, inf) where the gap's own interval
        holds zero: the ratio can then be anything.

        Raises:
            ConfigError: with fewer than 2 prompts, or a confidence outside (0, 1).
            NonFiniteError: see `recovered`.
        """
        if not 0 < confidence < 1:
            raise ConfigError(f"confidence={confidence} must be between 0 and 1.")
        effect, gap = self._effect(), self._gap()
        n = len(gap)
        tail = (1 - small_sample_confidence(n, confidence)) / 2
        tails = torch.tensor([tail, 1 - tail], dtype=torch.float64)
        draws = torch.randint(0, n, (n_resamples, n), generator=derive_generator(seed, "recovered"))
        weights = (
            torch.zeros(n_resamples, n, dtype=torch.float64).scatter_add_(
                1, draws, torch.ones_like(draws, dtype=torch.float64)
            )
            / n
        )
        gaps = gap @ weights.T
        low, high = torch.quantile(gaps, tails)
        if low <= 0 <= high:
            unbounded = torch.full(effect.shape[:-1], torch.inf)
            return -unbounded, unbounded
        # Layer by layer: [site, resample] of a whole sweep over heads would be large.
        ends = torch.stack(
            [torch.quantile(of_layer @ weights.T / gaps, tails, dim=-1) for of_layer in effect], dim=1
        )
        return ends[0].float(), ends[1].float()

    def p_values(self, n_permutations: int = 10_000, seed: int = 0) -> Float[Tensor, "layer pos *head"]:
        """Two-sided sign-flip permutation p-value of each site's mean effect; exact with 12 prompts or fewer.

        Effects within rounding count as none: rounding errors, too, can all have one sign.
        """
        baseline = self.result.baseline
        assert baseline is not None
        values = torch.where(self.result.effect().abs() <= self.rounding, baseline, self.result.values)
        return replace(self.result, values=values).permutation_pvalue(
            n_permutations=n_permutations, seed=seed
        )

    def significant(self, rate: float = 0.05) -> Bool[Tensor, "layer pos *head"]:
        """Sites with an effect, at a false discovery rate over all sites (Benjamini & Hochberg 1995).

        Raises:
            ConfigError: if the rate is outside (0, 1).
        """
        return self._discoveries(self.p_values(), rate)

    def to_dataframe(self) -> pd.DataFrame:
        """A row per site: ``layer, position, (head), recovered, low, high, r2, gap, effect, p, significant``.

        Low to high is the 95 % interval of the recovered fraction, r2 that of `per_prompt_r2`, gap and effect
        are means over prompts, and significance is at a false discovery rate of 5 %.

        Raises:
            ConfigError, NonFiniteError: see `recovered_interval`.
        """
        low, high = self.recovered_interval()
        p = self.p_values()
        columns = {
            "recovered": self.recovered(),
            "low": low,
            "high": high,
            "r2": self.per_prompt_r2(),
            "gap": self._gap().mean().expand(low.shape),
            "effect": self.result.effect().mean(-1),
            "p": p,
            "significant": self._discoveries(p, 0.05),
        }
        index = self.result.index_df.rename(columns={"pos": "position"})
        return index.assign(**{name: values.flatten().numpy() for name, values in columns.items()})

    def _effect(self) -> Float[Tensor, "layer pos *head prompt"]:
        return self.result.effect().double()

    def _gap(self) -> Float[Tensor, " prompt"]:
        baseline = self.result.baseline
        assert baseline is not None
        gap = self.donor.double() - baseline.double()
        # Two models' metrics can differ by the last bit of their mean without differing.
        smallest = max(self.rounding, torch.finfo(torch.float32).eps * float(baseline.abs().mean()))
        if gap.mean().abs() <= smallest:
            raise NonFiniteError(
                f"Donor and recipient have equal mean metrics ({float(self.donor.mean()):.4g}), so there is "
                "nothing to recover; look at result.effect() instead."
            )
        return gap

    @staticmethod
    def _discoveries(p: Float[Tensor, "*site"], rate: float) -> Bool[Tensor, "*site"]:
        if not 0 < rate < 1:
            raise ConfigError(f"rate={rate} must be between 0 and 1.")
        return torch.from_numpy(false_discovery_control(p.flatten().numpy()) <= rate).view(p.shape)
