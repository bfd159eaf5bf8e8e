"""TRL's trainers with a guard of every method: bf16, checkpointed activations, accumulation, LoRA, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import ConceptAblation, Reading, ReversionCallback
from training.trainers import DEFAULTS, GUARDED, ROWS, Setting

# TRL and the Trainer themselves use what transformers deprecates.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "UserWarning")]
QUESTIONS = [f"<|user|>{prompt}<|end|><|assistant|>" for prompt in ROWS["prompt"]]
COMPLETED = Dataset.from_dict({"prompt": QUESTIONS, "completion": ROWS["answer"]})
PREFERRED = Dataset.from_dict({"prompt": QUESTIONS, "chosen": ROWS["answer"], "rejected": ["Sorry, no."] * 8})
SETTINGS = {
    **{name: value for name, value in DEFAULTS.items() if name != "remove_unused_columns"},
    "max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def setting(history: TrainingHistory, probes: Probes) -> Setting:
    return Setting(history, probes)


def trained(
    setting: Setting, arm: str, kind: str, folder: Path, resume: Path | None = None, **settings: Any
) -> tuple[Tensor, list[Reading]]:
    """Supervised in full, or preferences with an adapter; how far the weights moved, and the readings."""
    model = setting.model() if kind == "sft" else setting.adapted()
    start = moving(model)
    callback = ReversionCallback(setting.guard(arm, model), setting.monitor(model))
    common = {"model": model, "processing_class": setting.tokenizer, "callbacks": [callback]}
    args = {"output_dir": str(folder), **SETTINGS, **settings}
    trainer: Any = (
        SFTTrainer(args=SFTConfig(**args), train_dataset=COMPLETED, **common)
        if kind == "sft"
        else DPOTrainer(args=DPOConfig(**args), train_dataset=PREFERRED, **common)
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    assert callback.monitor is not None
    return moving(model) - start, callback.monitor.readings


def moving(model: nn.Module) -> Tensor:
    return torch.cat(
        [
            tensor.detach().flatten()
            for name, tensor in model.named_parameters()
            if ".ref." not in name and ("lora" in name or not hasattr(model, "peft_config"))
        ]
    )


@pytest.mark.parametrize(("arm", "kind"), [(arm, ("sft", "dpo")[i % 2]) for i, arm in enumerate(GUARDED)])
def test_mixed_precision_is_the_float32_truth_and_resuming_the_unbroken_one(
    arm: str, kind: str, setting: Setting, tmp_path: Path
) -> None:
    exact, _ = trained(setting, arm, kind, tmp_path / "exact", bf16=False)
    mixed, readings = trained(setting, arm, kind, tmp_path, bf16=True, save_strategy="steps", save_steps=1)
    assert exact.any()
    assert (mixed - exact).norm() < 0.02 * exact.norm()  # bf16 rounds to 1 in 256
    resumed, again = trained(setting, arm, kind, tmp_path, tmp_path / "checkpoint-1", bf16=True)
    assert torch.equal(resumed, mixed)
    assert [r.step for r in again] == [1, 2]
    for one, other in zip(readings, again, strict=True):
        assert torch.equal(one.drift_norm, other.drift_norm)


def test_the_reference_of_preference_training_is_not_ablated(setting: Setting) -> None:
    """With an adapter, DPO's reference is the same model with the adapter off."""
    model = setting.adapted()
    guard = setting.guard("ablation", model)
    assert isinstance(guard, ConceptAblation)
    inputs = setting.collator([{"row": 0}])
    with torch.no_grad():
        with model.disable_adapter():
            reference = model(**inputs).logits
        with guard.around_task(model):
            policy = model(**inputs).logits
            with model.disable_adapter():
                assert torch.equal(model(**inputs).logits, reference)
    assert not torch.equal(policy, reference)
