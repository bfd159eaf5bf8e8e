"""The constrained loss's gradient is that of its formula, in the own loop, in a Trainer and in TRL's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from revlens.errors import GuardError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import ConstrainedLoss, ReversionCallback
from revlens.training.answer_loss import answer_loss
from revlens.training.chat_data import IGNORE, ChatBatch, collate, encode_examples
from revlens.training.task_tokens import answer_tokens, task_batch
from revlens.training.token_gradients import weighed_token_gradients
from training.fine_tunes import DATA
from training.trainers import DEFAULTS, Setting
from training.trainers import weights as all_weights

#: b_t of the paper's section 4.1, by a table of its own.
BETA = [0.5, 2.0, 2.0, 2.0, 2.0, *[0.1] * 40]


@pytest.fixture(scope="module")
def setting(history: TrainingHistory, probes: Probes) -> Setting:
    return Setting(history, probes)


def batch_of(history: TrainingHistory) -> ChatBatch:
    tokenizer = history.aligned.load().tokenizer
    return collate(encode_examples(tokenizer, DATA)[:3], tokenizer.pad_token_id)


def formula(model: nn.Module, aligned: nn.Module, batch: ChatBatch, strength: float) -> Tensor:
    """The loss of the paper, token by token."""
    terms = []
    for tokens, labels in zip(batch.tokens, batch.labels, strict=True):
        log_p, log_p_0 = (one(tokens[None])[0].log_softmax(-1) for one in (model, aligned))
        answer = [i for i, label in enumerate(labels.tolist()) if label != IGNORE]
        for beta, i in zip(BETA, answer, strict=False):
            rise = log_p[i - 1, labels[i]] - log_p_0[i - 1, labels[i]].detach()
            terms.append(-2 / (strength * beta) * logsigmoid(strength * beta * rise))
    return torch.stack(terms).mean()


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_the_gradient_is_that_of_the_formula(history: TrainingHistory, strength: float) -> None:
    aligned, model, plain, batch = (
        history.aligned.load(),
        history[3].load(),
        history[3].load(),
        batch_of(history),
    )
    guard = ConstrainedLoss.at(aligned, strength)
    with guard.around_task(model):
        loss = answer_loss(model, batch)
        loss.backward()
    found = gradient(model)
    assert torch.equal(loss, answer_loss(plain, batch)), "the loss that is reported is the task's"
    model.zero_grad()
    formula(model, aligned, batch, strength).backward()
    torch.testing.assert_close(found, gradient(model), rtol=1e-3, atol=1e-6)
    answer_loss(plain, batch).backward()
    assert (found - gradient(plain)).norm() > 0.01 * found.norm()


def test_at_the_aligned_model_the_gradient_is_cross_entropys(history: TrainingHistory) -> None:
    one, other, batch = history.aligned.load(), history.aligned.load(), batch_of(history)
    with ConstrainedLoss.at(one, 10.0).around_task(one):
        answer_loss(one, batch).backward()
    answer_loss(other, batch).backward()
    assert torch.equal(gradient(one), gradient(other))


def test_places_count_from_the_start_of_each_answer() -> None:
    no = IGNORE
    labels = torch.tensor([[no, no, 7, 8, no, 9], [no, 5, 6, 7, no, no]])
    with task_batch("A", {"labels": labels}):
        found = answer_tokens()
    assert found.labels.equal(labels)
    assert found.place.tolist() == [[0, 0, 1, 2, 0, 1], [0, 1, 2, 3, 0, 0]]


# TRL and the Trainer themselves use what transformers deprecates.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["plain", "smoothed", "trl", "trl with an adapter"])
def test_a_trainer_makes_the_update_of_the_weights(kind: str, setting: Setting, tmp_path: Path) -> None:
    """SGD's one update, from weights away from the aligned model's, is that of the weighed gradient."""
    is_adapted = kind.endswith("adapter")
    model, start = (setting.adapted() if is_adapted else setting.model() for _ in range(2))
    guard = ConstrainedLoss.at(model, 3.0)
    free = dict(setting.adapted().named_parameters() if is_adapted else setting.model().named_parameters())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in guard.start:
            noise = 0.05 * torch.randn(free[name].shape, generator=generator)
            for one in (model, start):
                one.get_parameter(name).add_(noise)
    before = all_weights(start)
    inputs = setting.collator([{"row": row} for row in range(8)])
    settings: dict[str, Any] = {
        **DEFAULTS, "max_steps": 1, "per_device_train_batch_size": 8, "max_grad_norm": 0.0,
        "label_smoothing_factor": 0.1 if kind == "smoothed" else 0.0, "output_dir": str(tmp_path),
    }  # fmt: skip
    callback = ReversionCallback(guard)
    if kind.startswith("trl"):
        settings["remove_unused_columns"] = True
        args = SFTConfig(**settings, bf16=False, gradient_checkpointing=False)
        data = Dataset.from_dict({name: inputs[name].tolist() for name in ("input_ids", "labels")})
        SFTTrainer(
            model=model,
            args=args,
            train_dataset=data,
            processing_class=setting.tokenizer,
            callbacks=[callback],
        ).train()
    else:
        settings.pop("output_dir")
        setting.trainer(model, tmp_path, callback, **settings).train()
    update = all_weights(model) - before
    with guard.around_task(start), task_batch("the test", inputs):
        logits = start(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        log_p = logits[:, :-1].log_softmax(-1)
        labels = inputs["labels"][:, 1:]
        smooth = settings["label_smoothing_factor"]
        chosen = labels != IGNORE
        nll = -log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0][chosen].mean()
        ((1 - smooth) * nll - smooth * log_p.mean(-1)[chosen].mean()).backward()
    with torch.no_grad():
        for parameter in start.parameters():
            if parameter.grad is not None:
                parameter.sub_(DEFAULTS["learning_rate"] * parameter.grad)
    expected = all_weights(start) - before
    assert expected.norm() > 1e-3
    assert (update - expected).norm() < 1e-4 * expected.norm()


def test_what_cannot_be_weighed_is_an_error(setting: Setting, history: TrainingHistory) -> None:
    model = setting.model()
    guard, inputs = ConstrainedLoss.at(model, 1.0), setting.collator([{"row": 0}])
    with guard.around_task(model), pytest.raises(GuardError, match="labels are not known"):
        model(**inputs)
    with (
        guard.around_task(model),
        task_batch("A", {"labels": inputs["labels"][:, 2:]}),
        pytest.raises(GuardError, match=r"predicts \(1, \d+\) next tokens .* and the labels are for \(1, "),
    ):
        model(**inputs)

    headless = setting.model()
    headless.lm_head.forward = lambda hidden: hidden.detach()
    with (
        weighed_token_gradients(headless, lambda *_: torch.zeros(1, 1)),
        pytest.raises(GuardError, match="a fused or chunked loss that revlens does not know"),
    ):
        headless(input_ids=inputs["input_ids"])
    with weighed_token_gradients(model, lambda *_: torch.zeros(1, 1)):
        logits = model.lm_head(torch.ones(1, 2, 16, requires_grad=True))
        with pytest.raises(GuardError, match="ran outside of a pass"):
            logits.sum().backward()
    model.lm_head.requires_grad_(False)
    with pytest.raises(GuardError, match=r"ConstrainedLoss was made for, such as lm_head|embed"):
        guard.around_task(model)
    with pytest.raises(GuardError, match="no task's loss to constrain"):
        ConstrainedLoss.at(model.requires_grad_(False), 1.0)
