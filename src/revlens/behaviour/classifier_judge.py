"""A judge around a sequence classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from revlens.behaviour._exchanges import batches, check_template, fill, paired
from revlens.behaviour._judge_model import load_judge_model
from revlens.behaviour.outcome import OUTCOMES, Outcome
from revlens.errors import ConfigError


@dataclass(frozen=True)
class ClassifierJudge:
    """The outcome of a reply is what the classifier's most likely label means.

    Attributes:
        model: a sequence classifier with at least two labels, in evaluation mode.
        tokenizer: its tokenizer, with a pad token.
        outcomes: what each of its labels means, as the model's config names them.
        template: text with ``{reply}`` and, if wanted, ``{prompt}``; None gives a pair of texts.
        max_length: tokens of prompt and reply together, at most the model's number of positions; longer
            inputs lose their end, the longer text of a pair first.
        batch_size: exchanges at a time.

    Raises:
        ConfigError: if a label is not the model's or has no outcome, all labels mean the same, there is no
            pad token, or the template has no ``{reply}``.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    outcomes: Mapping[str, Outcome]
    template: str | None = None
    max_length: int = 512
    batch_size: int = 32

    def __post_init__(self) -> None:
        labels = [*self._names().values()]
        if set(self.outcomes) != set(labels):
            raise ConfigError(
                f"outcomes={dict(self.outcomes)} must give an outcome to each of the classifier's labels: "
                f"{', '.join(labels)}."
            )
        meanings = set(self.outcomes.values())
        if not meanings <= set(OUTCOMES) or len(meanings) == 1:
            raise ConfigError(
                f"outcomes={dict(self.outcomes)} must name two or more of {', '.join(OUTCOMES)}."
            )
        if self.tokenizer.pad_token is None:
            raise ConfigError(
                "The classifier's tokenizer has no pad token; set tokenizer.pad_token, or pad_token in the "
                "tokenizer_config.json of its folder."
            )
        if self.template is not None:
            check_template(self.template)

    @classmethod
    def from_dir(
        cls,
        path: str | Path,
        outcomes: Mapping[str, Outcome],
        *,
        template: str | None = None,
        max_length: int = 512,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
    ) -> ClassifierJudge:
        """Load a local Hugging Face directory with safetensors weights.

        Raises:
            ConfigError: if it cannot be read as a classifier; also see the class.
        """
        model, tokenizer = load_judge_model(AutoModelForSequenceClassification, path, device)
        return cls(model, tokenizer, dict(outcomes), template, max_length, batch_size)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
        names = self._names()
        labels: list[str] = []
        for batch in batches(paired(prompts, replies), self.batch_size):
            inputs = self.tokenizer(
                *self._texts(batch),
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            logits = self.model(**inputs.to(self.model.device)).logits
            labels += [names[i] for i in logits.argmax(-1).tolist()]
        return [self.outcomes[label] for label in labels]

    def _names(self) -> dict[int, str]:
        """The label of each output."""
        return {int(i): label for i, label in (self.model.config.id2label or {}).items()}

    def _texts(self, exchanges: Sequence[tuple[str, str]]) -> tuple[list[str], ...]:
        """Input of the tokenizer: one list of texts, or two for pairs."""
        if self.template is None:
            return [prompt for prompt, _ in exchanges], [reply for _, reply in exchanges]
        return ([fill(self.template, *exchange) for exchange in exchanges],)
