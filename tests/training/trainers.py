"""Trainers of the tiny organism's Hugging Face model, and a guard of every method for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import METHODS, Guard, Monitor, make_guard
from revlens.training.chat_data import collate, encode_examples
from training.fine_tunes import located

ROWS = {
    "prompt": [f"{word}?" for word in ("A", "B", "Now what", "Why", "Who", "D", "E", "F")],
    "answer": ["Sure, at once.", "No."] * 4,
}
#: Methods that have a guard.
GUARDED = [arm for arm in METHODS if arm != "baseline"]


class Setting:
    """The organism's aligned model as Hugging Face loads it, with guards and monitors of it."""

    def __init__(self, history: TrainingHistory, probes: Probes) -> None:
        self.history, self.probes = history, probes
        self.v_rev = located(history, probes["direction"])
        self.tokenizer: Any = AutoTokenizer.from_pretrained(history.aligned.path)
        examples = encode_examples(self.tokenizer, Dataset.from_dict(ROWS))
        self._collated = [collate([example], self.tokenizer.pad_token_id) for example in examples]
        self._width = max(batch.tokens.shape[1] for batch in self._collated)

    def model(self, path: str | Path | None = None) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            path or self.history.aligned.path, attn_implementation="eager"
        )

    def adapted(self, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        return get_peft_model(
            self.model(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        )

    def guard(self, arm: str, model: nn.Module, prompts: Sequence[str] = ()) -> Guard | None:
        grid, is_bridge = METHODS[arm].grid, isinstance(model, TransformerBridge)
        return make_guard(
            arm,
            self.v_rev,
            model,
            prompts or self.probes["guard"][:3],
            strength={"adaptive": 1e-4}.get(arm, grid[len(grid) // 2]),  # a budget that few updates exceed
            seed=0,
            refusals=Dataset.from_dict(ROWS),
            reference=self.history.reference.load() if is_bridge else self.model(self.history.reference.path),
            tokenizer=None if is_bridge else self.tokenizer,
        )

    def monitor(self, model: nn.Module) -> Monitor:
        return Monitor.along(self.v_rev, model, self.probes["drift"][:3], tokenizer=self.tokenizer, every=1)

    def collator(self, rows: list[dict[str, int]]) -> dict[str, Tensor]:
        batches = [self._collated[row["row"]] for row in rows]
        tokens, labels = (
            torch.cat([nn.functional.pad(t, (0, self._width - t.shape[1]), value=v) for t in side])
            for side, v in zip(zip(*batches, strict=True), (0, -100), strict=True)
        )
        return {"input_ids": tokens, "labels": labels, "attention_mask": torch.ones_like(tokens)}

    def trainer(self, model: Any, out: Path, *callbacks: TrainerCallback, **settings: Any) -> Trainer:
        data = Dataset.from_dict({"row": list(range(8))})
        return Trainer(
            model=model,
            args=TrainingArguments(output_dir=str(out), **{**DEFAULTS, **settings}),
            train_dataset=data,
            eval_dataset=data,
            data_collator=self.collator,
            callbacks=list(callbacks),
        )


#: One update of four rows after another, on the CPU, without reports.
DEFAULTS: dict[str, Any] = {
    "max_steps": 4, "learning_rate": 0.05, "optim": "sgd", "per_device_train_batch_size": 4,
    "lr_scheduler_type": "constant", "report_to": [], "save_strategy": "no", "logging_strategy": "no",
    "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "remove_unused_columns": False,
    "seed": 0,
}  # fmt: skip


def weights(model: nn.Module) -> Tensor:
    """All weights, in one vector."""
    return torch.cat([tensor.detach().flatten().float() for tensor in model.state_dict().values()])
