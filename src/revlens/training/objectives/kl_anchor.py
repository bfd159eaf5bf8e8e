"""KL anchor: holds the first answer tokens on probes to the aligned model's distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from revlens.errors import ConfigError, GuardError
from revlens.prompts import Batch, pad_id_of, pad_left
from revlens.training.guard import Guard
from revlens.training.model_parts import probe_batch, tokenizer_of
from revlens.training.state import State, matched
from revlens.training.streams import read_logits, require_gradient


@dataclass
class KLAnchor(Guard):
    """strength * mean KL(aligned || theta) over the first answer tokens of the probes.

    Learning without forgetting distils a model's own earlier outputs (Li & Hoiem 2016, arXiv 1606.09282);
    here, the first few answer tokens, where refusals are decided (Qi et al. 2024, arXiv 2406.05946).

    Attributes:
        batch: the probes, each with the aligned model's own answer but for its last anchored token.
        log_p: the aligned model's log-probabilities at the last tokens of each row.
        strength: weight of the mean KL divergence in nats.
    """

    batch: Batch
    log_p: Float[Tensor, "prompt token d_vocab"]
    strength: float

    @classmethod
    def at(
        cls,
        aligned: nn.Module,
        prompts: Sequence[str],
        strength: float,
        *,
        n_tokens: int = 1,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> KLAnchor:
        """Anchor at the aligned model.

        Args:
            aligned: the model at step 0.
            prompts: user messages.
            strength: weight of the term.
            n_tokens: how many answer tokens are anchored. The last prompt token predicts the first; later
                ones continue the aligned model's own most probable answer.
            tokenizer: of a Hugging Face model; a bridge has its own.

        Raises:
            ConfigError: if ``n_tokens`` is below 1; also see `revlens.training.model_parts.probe_batch`.
            ProbeError: if there is no prompt.
            GuardError: if there is no tokenizer.
        """
        if n_tokens < 1:
            raise ConfigError(f"n_tokens={n_tokens} must be at least 1.")
        batch = probe_batch(aligned, prompts, tokenizer, new_tokens=n_tokens)
        with torch.no_grad():
            for _ in range(n_tokens - 1):
                chosen = read_logits(aligned, batch)[:, -1].argmax(-1).tolist()
                rows = [tokens[mask == 1].tolist() for tokens, mask in zip(*batch, strict=True)]
                pad_id = pad_id_of(tokenizer_of(aligned, tokenizer))
                batch = pad_left([[*row, token] for row, token in zip(rows, chosen, strict=True)], pad_id)
            log_p = _log_probabilities(read_logits(aligned, batch, n_tokens))
        return cls(batch, log_p, strength)

    def state_dict(self) -> dict[str, Tensor]:
        return {"log_p": self.log_p, "tokens": self.batch.tokens, "mask": self.batch.mask}

    def load_state_dict(self, state: State) -> None:
        saved = matched(self, state)
        batch = Batch(saved["tokens"], saved["mask"])
        # After the prompts come the aligned model's own answers, which another model need not give.
        n_prompt = batch.tokens.shape[1] - (self.log_p.shape[1] - 1)
        if any(
            not torch.equal(a[:, :n_prompt], b[:, :n_prompt]) for a, b in zip(batch, self.batch, strict=True)
        ):
            raise GuardError(
                "The probes of KLAnchor are not those of the training that is resumed; "
                "make it as there, with the same prompts and tokenizer."
            )
        self.batch, self.log_p = batch, saved["log_p"]

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        return self.strength * self._divergence(require_gradient(self._logits(model)))

    def divergence(self, model: nn.Module) -> float:
        """Mean KL(aligned || theta) at the model's present weights, in nats; no gradient is needed."""
        with torch.no_grad():
            return float(self._divergence(self._logits(model)))

    def _logits(self, model: nn.Module) -> Float[Tensor, "prompt token d_vocab"]:
        return read_logits(model, self.batch, self.log_p.shape[1])

    def _divergence(self, logits: Float[Tensor, "prompt token d_vocab"]) -> Float[Tensor, ""]:
        log_q = _log_probabilities(logits)
        log_p = self.log_p.to(log_q.device)  # a Trainer may have moved the model
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def _log_probabilities(logits: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch d_vocab"]:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
