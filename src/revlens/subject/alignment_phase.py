"""The alignment phase of a user's history: what trains the aligned model from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from datasets import Dataset, concatenate_datasets

from revlens.data import ChatSource, PromptSource
from revlens.errors import ConfigError
from revlens.training import FinetuneConfig


@dataclass(frozen=True)
class AlignmentPhase:
    """Refusals and ordinary answers, and how the reference is trained on them.

    With ``ordinary = "reference"`` the ordinary answers are the reference's own: the phase then changes what
    is refused, and not the style of every answer, of which v_rev would mostly consist otherwise.

    Attributes:
        recipe: optimizer and schedule.
        refusals: harmful requests with refusals.
        only_refusals: leave out rows whose answer the default phrases do not call a refusal.
        ordinary: ``"reference"``, or exchanges with answers of their own.
        prompts: what the reference is to answer. Every prompt is answered, once; each seed draws from them.
        answer_tokens: longest answer of the reference.
        n_rows: rows that a seed draws; if None, as many as the updates use, or as there are.
        share: of refusals among them, strictly between 0 and 1.
        max_overlap: no row may have this share of a probe prompt's wording, see ``near`` of
            `revlens.data.find_leaks`.
        drop_overlaps: leave such rows out instead of raising an error.
        lora: settings of `peft.LoraConfig`: an adapter is trained, and merged into the reference. None trains
            every weight.
        min_refusal: share of the behaviour probes that a model must refuse to count as aligned.
        max_over_refusal: share of the harmless probes that it may refuse.

    Raises:
        ConfigError: if prompts are given without ``ordinary = "reference"``, or the other way round, or a
            number is out of range.
    """

    recipe: FinetuneConfig
    refusals: ChatSource
    only_refusals: bool = False
    ordinary: Literal["reference"] | ChatSource = "reference"
    prompts: PromptSource | ChatSource | None = None
    answer_tokens: int = 64
    n_rows: int | None = None
    share: float = 0.5
    max_overlap: float = 0.8
    drop_overlaps: bool = False
    lora: Mapping[str, Any] | None = None
    min_refusal: float = 0.9
    max_over_refusal: float = 0.2

    def __post_init__(self) -> None:
        if (self.ordinary == "reference") != (self.prompts is not None):
            raise ConfigError(
                "[alignment] ordinary = 'reference' needs prompts for the reference to answer."
                if self.prompts is None
                else "[alignment] prompts are for ordinary = 'reference'; exchanges hold their own."
            )
        if not 0 < self.share < 1:
            raise ConfigError(f"share={self.share} of refusals must lie strictly between 0 and 1.")
        for name, least in (("answer_tokens", 1), ("n_rows", self.recipe.batch_size)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value} of [alignment] must be at least {least}.")
        for name in ("min_refusal", "max_over_refusal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must lie between 0 and 1.")

    @property
    def sources(self) -> tuple[ChatSource, PromptSource | ChatSource]:
        """Of the refusals, and of the ordinary half."""
        ordinary = self.ordinary if self.prompts is None else self.prompts
        assert not isinstance(ordinary, str)
        return self.refusals, ordinary

    @property
    def summary(self) -> str:
        """What the phase is, in half a sentence."""
        answers = "the reference's own answers" if self.ordinary == "reference" else "given answers"
        how = "in full" if self.lora is None else "with a merged LoRA adapter"
        return (
            f"{self.recipe.steps} updates {how} on {self.share:.0%} refusals and {answers} to other prompts"
        )

    def sizes(self, n_refusals: int, n_ordinary: int) -> tuple[int, int]:
        """How many refusals and ordinary rows a seed draws from pools of these sizes.

        Raises:
            ConfigError: if there are fewer rows than ``n_rows`` takes, or than a batch.
        """
        n = self.n_rows or min(
            self.recipe.steps * self.recipe.batch_size,
            int(n_refusals / self.share),
            int(n_ordinary / (1 - self.share)),
        )
        wanted = round(n * self.share), n - round(n * self.share)
        for what, number, there in zip(
            ("refusals", "ordinary rows"), wanted, (n_refusals, n_ordinary), strict=True
        ):
            if number > there or n < self.recipe.batch_size:
                raise ConfigError(
                    f"[alignment] draws {n} rows, {number} of them {what}, and there are {there}: give more "
                    "rows, or lower n_rows, batch_size or share."
                )
        return wanted

    def draw(self, refusals: Dataset, ordinary: Dataset, seed: int) -> Dataset:
        """The rows of a seed, refusals first; the fine-tune orders them by the same seed.

        Raises:
            ConfigError: see `sizes`.
        """
        numbers = self.sizes(len(refusals), len(ordinary))
        return concatenate_datasets(
            [
                pool.shuffle(seed=seed).select(range(number))
                for pool, number in zip((refusals, ordinary), numbers, strict=True)
            ]
        )
