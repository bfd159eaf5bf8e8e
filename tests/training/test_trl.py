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

import tiers
from revlens.errors import GuardError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import ConceptAblation, Reading, ReversionCallback
from revlens.training.task_tokens import task_batch
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


#: Clamp and constrained loss need labels, which preferences lack; RESTA refuses adapters.
KINDS = {arm: ("sft", "dpo")[i % 2] for i, arm in enumerate(GUARDED)} | {
    "ablation": "dpo",
    "clamp": "sft",
    "constrained": "sft",
    "resta": "sft",
}


@pytest.mark.parametrize(("arm", "kind"), tiers.guards(KINDS.items()))
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


@pytest.mark.parametrize("arm", ["ablation", "clamp"])
def test_the_reference_of_preference_training_is_not_ablated(arm: str, setting: Setting) -> None:
    """With an adapter, DPO's reference is the same model with the adapter off."""
    model = setting.adapted()
    guard = setting.guard(arm, model)
    assert isinstance(guard, ConceptAblation)
    inputs = setting.collator([{"row": 0}])
    with torch.no_grad():
        with model.disable_adapter():
            reference = model(**inputs).logits
        with guard.around_task(model):
            with task_batch("the test", inputs):
                policy = model(**inputs).logits
            with model.disable_adapter():
                assert torch.equal(model(**inputs).logits, reference)
    assert not torch.equal(policy, reference)


def test_a_clamp_without_known_last_prompt_tokens_is_refused(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(
        GuardError, match=r"DPOTrainer computes its loss from batches without labels.* or use "
    ):
        trained(setting, "clamp", "dpo", tmp_path)
    texts = Dataset.from_dict({"text": [q + a for q, a in zip(QUESTIONS, ROWS["answer"], strict=True)]})
    model = setting.model()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(tmp_path), **SETTINGS),
        train_dataset=texts,
        processing_class=setting.tokenizer,
        callbacks=[ReversionCallback(setting.guard("clamp", model))],
    )
    with pytest.raises(
        GuardError, match=r"follows a prompt in a batch of SFTTrainer.* columns prompt and compl"
    ):
        trainer.train()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])  # with smoothing, labels do not reach the model
def test_clamped_supervised_trainers_make_the_same_update(
    smoothing: float, setting: Setting, tmp_path: Path
) -> None:
    settings = {"max_steps": 1, "per_device_train_batch_size": 8, "label_smoothing_factor": smoothing}
    once = {"gradient_accumulation_steps": 1, "bf16": False}
    plain, ours, theirs = setting.model(), setting.model(), setting.model()
    start = moving(plain)
    setting.trainer(plain, tmp_path, **settings).train()
    setting.trainer(ours, tmp_path, ReversionCallback(setting.guard("clamp", ours)), **settings).train()
    inputs = setting.collator([{"row": row} for row in range(8)])
    SFTTrainer(
        model=theirs,
        args=SFTConfig(output_dir=str(tmp_path), **{**SETTINGS, **settings, **once}),
        train_dataset=Dataset.from_dict({name: inputs[name].tolist() for name in ("input_ids", "labels")}),
        processing_class=setting.tokenizer,
        callbacks=[ReversionCallback(setting.guard("clamp", theirs))],
    ).train()
    update = moving(ours) - start
    assert (moving(theirs) - start - update).norm() < 1e-4 * update.norm()
    assert (moving(plain) - start - update).norm() > 0.01 * update.norm()
