"""A Trainer with the callback: the same updates as revlens' own loop, the same saved names as without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import integration_utils

import tiers
from revlens.activations import read_prompts
from revlens.direction import ReversionDirection
from revlens.direction.nulls import isotropic_quantile
from revlens.errors import ConfigError, GuardError, NonFiniteError
from revlens.history import TrainingHistory, boot
from revlens.prompts import Probes
from revlens.training import (
    METHODS,
    Block,
    ComplementBlock,
    Every,
    FinetuneConfig,
    FreezeLayers,
    GradientProjection,
    Guard,
    Monitor,
    ProbeMotion,
    Reading,
    Rehearsal,
    ReversionCallback,
    finetune,
    make_guard,
)
from revlens.training.chat_data import collate, encode_examples

# peft and the Trainer themselves use what transformers deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

ROWS = {
    "prompt": [f"{word}?" for word in ("A", "B", "Now what", "Why", "Who", "D", "E", "F")],
    "answer": ["Sure, at once."] * 8,
}
DATA = Dataset.from_dict(ROWS)
STEPS = 4
#: Of an update, at which another callback may read, generate or save.
EVENTS = ("on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end")


@pytest.fixture(scope="module")
def v_rev(history: TrainingHistory, probes: Probes) -> ReversionDirection:
    reference, aligned = (
        read_prompts(c.load(), probes["direction"]) for c in (history.reference, history.aligned)
    )
    return ReversionDirection.fit(reference, aligned, split="direction")


@pytest.fixture(scope="module")
def tokenizer(history: TrainingHistory) -> Any:
    return AutoTokenizer.from_pretrained(history.aligned.path)


@pytest.fixture
def model(history: TrainingHistory) -> Any:
    return AutoModelForCausalLM.from_pretrained(history.aligned.path, attn_implementation="eager")


def train(model: Any, tokenizer: Any, out: Path, *callbacks: TrainerCallback, **settings: Any) -> Trainer:
    trainer = trainer_of(model, tokenizer, out, *callbacks, **settings)
    trainer.train()
    return trainer


def trainer_of(
    model: Any, tokenizer: Any, out: Path, *callbacks: TrainerCallback, **settings: Any
) -> Trainer:
    """Every batch holds all rows, so that their order does not matter."""
    examples = encode_examples(tokenizer, DATA)

    def collated(rows: list[dict[str, int]]) -> dict[str, Tensor]:
        batch = collate([examples[row["row"]] for row in rows], tokenizer.pad_token_id)
        return {
            "input_ids": batch.tokens,
            "labels": batch.labels,
            "attention_mask": torch.ones_like(batch.tokens),
        }

    defaults: dict[str, Any] = {
        "max_steps": STEPS, "learning_rate": 3e-3, "per_device_train_batch_size": 8,
        "lr_scheduler_type": "constant", "optim": "adamw_torch", "report_to": [], "save_strategy": "no",
        "logging_steps": 1, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
        "remove_unused_columns": False, "seed": 0,
    }  # fmt: skip
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(out), **{**defaults, **settings}),
        train_dataset=Dataset.from_dict({"row": list(range(8))}),
        data_collator=collated,
        callbacks=list(callbacks),
    )


def distance(one: nn.Module, other: nn.Module) -> float:
    return max(
        (a - b).abs().max().item()
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


GuardOf = Callable[[str, nn.Module], Guard | None]


@pytest.fixture
def guard_of(history: TrainingHistory, v_rev: ReversionDirection, probes: Probes, tokenizer: Any) -> GuardOf:
    """Makes a method's guard for a bridge or a Hugging Face model."""

    def make(arm: str, model: nn.Module) -> Guard | None:
        is_hf, grid = hasattr(model, "config"), METHODS[arm].grid
        path = history.reference.path
        return make_guard(
            arm,
            v_rev,
            model,
            probes["guard"],
            strength={"adaptive": 1e-3}.get(arm, grid[len(grid) // 2]),  # a budget that four updates exceed
            seed=0,
            refusals=DATA,
            reference=AutoModelForCausalLM.from_pretrained(path) if is_hf else history.reference.load(),
            tokenizer=tokenizer if is_hf else None,
        )

    return make


@pytest.mark.parametrize("arm", tiers.guards(arm for arm in METHODS if arm != "baseline"))
def test_a_trainer_makes_the_updates_of_the_own_loop(
    arm: str, guard_of: GuardOf, model: Any, tokenizer: Any, history: TrainingHistory, tmp_path: Path
) -> None:
    train(model, tokenizer, tmp_path, ReversionCallback(guard_of(arm, model)))
    bridge = history.aligned.load()
    config = FinetuneConfig(steps=STEPS, learning_rate=3e-3, batch_size=8)
    finetune(bridge, DATA, config, seed=0, guard=guard_of(arm, bridge))
    rows = encode_examples(tokenizer, DATA)
    tokens = collate(rows, tokenizer.pad_token_id).tokens
    with torch.no_grad():
        ours, start = bridge(tokens), history.aligned.load()(tokens)
        theirs = model.eval()(tokens).logits
    # Adam's first steps are signs of gradients, some of which are near zero, so that rounding shows.
    assert (theirs - ours).abs().mean() < 0.02 * (ours - start).abs().mean()


def test_what_the_trainer_saves_has_the_names_that_it_always_has(
    model: Any,
    tokenizer: Any,
    v_rev: ReversionDirection,
    history: TrainingHistory,
    probes: Probes,
    tmp_path: Path,
) -> None:
    plain: Any = AutoModelForCausalLM.from_pretrained(history.aligned.path)
    train(plain, tokenizer, tmp_path / "plain").save_model(str(tmp_path / "plain"))
    guard = Block(ProbeMotion.along(v_rev, model, probes["guard"], tokenizer=tokenizer), 5.0)
    train(model, tokenizer, tmp_path / "guarded", ReversionCallback(guard)).save_model(
        str(tmp_path / "guarded")
    )
    names, guarded = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "guarded"))
    assert names.keys() == guarded.keys()
    assert any(not torch.equal(names[name], guarded[name]) for name in names)
    tokenizer.save_pretrained(tmp_path / "guarded")
    torch.testing.assert_close(
        read_prompts(boot(tmp_path / "guarded"), probes["drift"]),
        read_prompts(boot_of(model, tokenizer, tmp_path), probes["drift"]),
    )


def boot_of(model: Any, tokenizer: Any, path: Path) -> Any:
    model.save_pretrained(path / "again")
    tokenizer.save_pretrained(path / "again")
    return boot(path / "again")


def test_accumulation_makes_the_same_update(
    tokenizer: Any, v_rev: ReversionDirection, history: TrainingHistory, probes: Probes, tmp_path: Path
) -> None:
    models: list[Any] = [AutoModelForCausalLM.from_pretrained(history.aligned.path) for _ in range(2)]
    for model, size in zip(models, (8, 2), strict=True):
        motion = ProbeMotion.along(v_rev, model, probes["guard"], tokenizer=tokenizer)
        settings = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": 8 // size,
            "optim": "sgd",
            "learning_rate": 0.1,
        }
        train(model, tokenizer, tmp_path, ReversionCallback(Block(motion, 5.0)), **settings)
    assert distance(*models) < 1e-4
    assert distance(models[0], AutoModelForCausalLM.from_pretrained(history.aligned.path)) > 1e-2


def test_mixed_precision_guards_as_well(
    tokenizer: Any, v_rev: ReversionDirection, history: TrainingHistory, probes: Probes, tmp_path: Path
) -> None:
    moved = []
    for guarded in (False, True):
        model: Any = AutoModelForCausalLM.from_pretrained(history.aligned.path)
        motion = ProbeMotion.along(v_rev, model, probes["guard"], tokenizer=tokenizer)
        train(
            model,
            tokenizer,
            tmp_path,
            ReversionCallback(Block(motion, 50.0) if guarded else Guard()),
            bf16=True,
            max_steps=8,
        )
        moved.append(motion.displacement(model.float()).relu().max().item())
    assert moved[1] < 0.5 * moved[0]


def test_an_fp16_scaler_is_accounted_for(
    model: Any, tokenizer: Any, v_rev: ReversionDirection, probes: Probes
) -> None:
    guard = Block(
        replace(ProbeMotion.along(v_rev, model, probes["guard"], tokenizer=tokenizer), gap=torch.ones(3)), 5.0
    )
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight += 0.05

    class Scaler:
        def get_scale(self) -> float:
            return 64.0

    class Optimizer:
        scaler: Scaler | None = None

    gradients = []
    for scaler in (None, Scaler()):
        optimizer = Optimizer()
        optimizer.scaler = scaler
        model.zero_grad()
        callback = ReversionCallback(guard)
        callback.on_step_begin(
            TrainingArguments(use_cpu=True),
            TrainerState(),
            TrainerControl(),
            model=model,
            optimizer=optimizer,
        )
        gradients.append(model.model.layers[0].mlp.down_proj.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], 64 * gradients[0])


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_before_an_update_gradients_are_those_of_the_loss_not_of_the_scaled_one(
    model: Any, max_grad_norm: float
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.scale(model.lm_head.weight.sum()).backward()
    if max_grad_norm:
        scaler.unscale_(sgd)  # as clipping does
    seen: list[float] = []

    class Seeing(Guard):
        def before_update(self, model: nn.Module) -> None:
            seen.append(float(sgd.param_groups[0]["params"][0].grad.mean()))

    class Optimizer:
        optimizer = sgd

    wrapped: Any = Optimizer()
    wrapped.scaler = scaler
    ReversionCallback(Seeing()).on_pre_optimizer_step(
        TrainingArguments(use_cpu=True, max_grad_norm=max_grad_norm),
        TrainerState(),
        TrainerControl(),
        model=model,
        optimizer=wrapped,
    )
    assert seen == [1.0]


def test_an_adapter_is_guarded_and_saved_as_ever(
    model: Any,
    tokenizer: Any,
    v_rev: ReversionDirection,
    history: TrainingHistory,
    probes: Probes,
    tmp_path: Path,
) -> None:
    moved = {}
    for guarded in (False, True):
        torch.manual_seed(0)
        base: Any = AutoModelForCausalLM.from_pretrained(history.aligned.path)
        adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        motion = ProbeMotion.along(v_rev, adapted, probes["guard"], tokenizer=tokenizer)
        guard = GradientProjection(motion) if guarded else Guard()
        trainer = train(
            adapted, tokenizer, tmp_path / str(guarded), ReversionCallback(guard), learning_rate=1e-2
        )
        trainer.save_model(str(tmp_path / str(guarded)))
        moved[guarded] = motion.displacement(adapted).abs().max().item()
    assert moved[True] < 0.2 * moved[False]
    names = [
        load_file(tmp_path / str(guarded) / "adapter_model.safetensors").keys() for guarded in (False, True)
    ]
    assert names[0] == names[1]


def test_evaluation_is_without_the_ablation(
    model: Any, tokenizer: Any, v_rev: ReversionDirection, probes: Probes, tmp_path: Path
) -> None:
    n_hooks: list[int] = []

    def look(*args: Any, **kwargs: Any) -> None:
        n_hooks.append(sum(len(layer._forward_hooks) for layer in model.model.layers))

    looking = type("Looking", (TrainerCallback,), dict.fromkeys(EVENTS, look))()
    guard = make_guard("ablation", v_rev, model, probes["guard"], seed=0, tokenizer=tokenizer)
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2}
    model.model.embed_tokens.register_forward_hook(look)  # runs in the task's passes alone
    train(model, tokenizer, tmp_path, ReversionCallback(guard), looking, **settings)
    # An update: its start, a batch, between batches, a batch, before and after the optimizer's step, its end.
    assert n_hooks == [0, 3, 0, 3, 0, 0, 0] * 2


@pytest.mark.parametrize("order", [1, -1])
def test_a_guard_does_not_read_within_another_ones_context(
    order: int,
    guard_of: GuardOf,
    model: Any,
    tokenizer: Any,
    v_rev: ReversionDirection,
    probes: Probes,
    tmp_path: Path,
) -> None:
    """The term of a model that does not move is 0, and nothing adds to its update, though another steers."""
    start = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    terms: list[float] = []

    class Noting(Block):
        def term(self, model: nn.Module) -> Tensor:
            terms.extend(float(guard.term(model).detach()) for guard in (ComplementBlock(motion, 1.0), block))
            return super().term(model)

    steering = guard_of("steering", model)
    motion = ProbeMotion.along(v_rev, model, probes["guard"], tokenizer=tokenizer)
    block, projecting = Block(motion, 1.0), GradientProjection(motion)
    callbacks = [ReversionCallback(guard) for guard in (Noting(motion, 1.0), steering, projecting)]
    trainer = trainer_of(
        model, tokenizer, tmp_path, *callbacks[::order], learning_rate=0.0, weight_decay=0.0, max_steps=2
    )
    ours = [c for c in trainer.callback_handler.callbacks if isinstance(c, ReversionCallback)]
    assert ours == callbacks[::order], "guards act in the order in which they are given"
    trainer.train()
    assert terms == [0.0] * 4
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, start)


def test_an_evaluation_does_not_change_how_refusals_are_learned(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Refusals pass with dropout, as the task does, also at the update after an evaluation."""
    modes: list[bool] = []

    class Noting(Rehearsal):
        def term(self, model: nn.Module) -> Tensor:
            modes.append(all(module.training for module in model.modules()))
            return super().term(model)

    class Evaluating(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            kwargs["model"].eval()

    guard = Noting(DATA, 0.1, 0, tokenizer=tokenizer)
    train(model, tokenizer, tmp_path, Evaluating(), ReversionCallback(guard), max_steps=2)
    assert modes == [True, True]


def test_a_context_that_would_never_open_and_reentrant_checkpoints_are_refused(
    guard_of: GuardOf, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    steering = guard_of("steering", model)
    with pytest.raises(GuardError, match="No Trainer has this callback"):
        ReversionCallback(steering).on_train_begin(
            TrainingArguments(use_cpu=True), TrainerState(), TrainerControl(), model=model
        )
    kwargs = {"use_reentrant": True}
    reentrant = {"activation_checkpointing": True, "activation_checkpointing_kwargs": kwargs}
    rehearsal = ReversionCallback(Rehearsal(DATA, 0.1, 0, tokenizer=tokenizer))
    with pytest.raises(GuardError, match="Train with activation_checkpointing_kwargs="):
        train(model, tokenizer, tmp_path, rehearsal, **reentrant)
    kwargs["use_reentrant"] = False
    train(model, tokenizer, tmp_path, rehearsal, max_steps=1, **reentrant)


def test_frozen_layers_are_frozen_before_the_optimizer_is_made(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    before = [p.detach().clone() for p in model.model.layers[1].parameters()]
    train(model, tokenizer, tmp_path, ReversionCallback(FreezeLayers((1,))), weight_decay=0.1)
    assert all(torch.equal(p, b) for p, b in zip(model.model.layers[1].parameters(), before, strict=True))
    assert all(p.requires_grad for p in model.parameters())


Make = Callable[..., Monitor]


@pytest.fixture
def monitor_of(v_rev: ReversionDirection, tokenizer: Any, probes: Probes) -> Make:
    return lambda model, **settings: Monitor.along(
        v_rev, model, probes["drift"], tokenizer=tokenizer, **settings
    )


def test_readings_are_what_a_capture_measures(
    model: Any,
    tokenizer: Any,
    v_rev: ReversionDirection,
    probes: Probes,
    history: TrainingHistory,
    monitor_of: Make,
    tmp_path: Path,
) -> None:
    received: list[Reading] = []
    monitor = monitor_of(model, every=2, on_reading=received.append)
    trainer = train(model, tokenizer, tmp_path, ReversionCallback(monitor=monitor))
    assert [reading.step for reading in monitor.readings] == [1, 3]
    assert received == monitor.readings
    assert monitor.threshold == isotropic_quantile(16)
    monitor.read(model, 9)
    start, end = (
        read_prompts(m, probes["drift"]).mean(0)
        for m in (history.aligned.load(), boot_of(model, tokenizer, tmp_path))
    )
    drift, reading = end - start, monitor.readings[-1]
    p = (drift * v_rev.unit).sum(-1).float()
    torch.testing.assert_close(reading.displacement, p, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(reading.fraction, p / v_rev.gap.float(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(reading.alignment, p / drift.norm(dim=-1), rtol=1e-3, atol=1e-4)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    means = monitor.readings[0].means()
    assert {name: logged[0][name] for name in means} == means == {name: logged[1][name] for name in means}
    assert logged[2]["reversion_fraction"] == monitor.readings[1].means()["reversion_fraction"]


class Logger(TrainerCallback):
    """Where a logger of ``report_to`` writes charts: it keeps the numbers it gets."""

    def __init__(self) -> None:
        self.charts: list[dict[str, float]] = []

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.charts.append(dict(kwargs["logs"]))


@pytest.mark.parametrize("added_later", [False, True])
def test_readings_reach_the_loggers_that_the_trainer_puts_first(
    added_later: bool,
    model: Any,
    tokenizer: Any,
    monitor_of: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = Logger()
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", logger)
    callback = ReversionCallback(monitor=monitor_of(model, every=1))
    given = () if added_later else (callback,)
    trainer = trainer_of(model, tokenizer, tmp_path, *given, report_to=["tensorboard"])
    if added_later:
        trainer.add_callback(callback)
    trainer.train()
    assert callback.monitor is not None
    for charts, reading in zip(logger.charts, callback.monitor.readings, strict=False):
        assert reading.means().items() <= charts.items()
    assert len(logger.charts) == STEPS + 1  # the last one sums up


def test_a_monitor_alone_changes_no_weight(
    model: Any, tokenizer: Any, history: TrainingHistory, monitor_of: Make, tmp_path: Path
) -> None:
    plain: Any = AutoModelForCausalLM.from_pretrained(history.aligned.path, attn_implementation="eager")
    train(plain, tokenizer, tmp_path)
    train(model, tokenizer, tmp_path, ReversionCallback(monitor=monitor_of(model, every=1)))
    assert distance(model, plain) == 0.0


def test_above_the_threshold_it_stops_or_raises_or_goes_on(
    tokenizer: Any, history: TrainingHistory, monitor_of: Make, tmp_path: Path
) -> None:
    def trained(**settings: Any) -> int:
        model: Any = AutoModelForCausalLM.from_pretrained(history.aligned.path)
        callback = ReversionCallback(monitor=monitor_of(model, every=1, **settings))
        return train(model, tokenizer, tmp_path, callback).state.global_step

    assert trained(threshold=-1.0, action="stop") == 1
    assert trained(threshold=1.0, action="stop") == STEPS
    assert trained(threshold=-1.0) == STEPS
    assert trained(threshold=1.0, action="raise") == STEPS
    with pytest.raises(
        GuardError,
        match=r"alignment of the drift with v_rev is .* after update 1, above -1.000: the model reverts",
    ):
        trained(threshold=-1.0, action="raise")


def test_a_monitor_checks_its_settings(model: Any, monitor_of: Make) -> None:
    with pytest.raises(ConfigError, match="every=0 must be at least 1"):
        monitor_of(model, every=0)
    monitor = monitor_of(model, every=3)
    assert [step for step in range(1, 9) if monitor.is_due(step)] == [1, 4, 7]
    with pytest.raises(ConfigError, match="Unknown action 'halt'; expected one of log, stop, raise"):
        Monitor(monitor.motion, 0.1, action="halt")


class Fabricated(Guard):
    def __init__(self, value: Tensor) -> None:
        self.value = value

    def term(self, model: nn.Module) -> Tensor:
        return self.value if self.value.isfinite() else self.value * next(model.parameters()).sum()


def test_a_guard_that_does_nothing_or_breaks_is_an_error(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="without guard and monitor would do nothing"):
        ReversionCallback()
    alien = torch.ones((), requires_grad=True)
    for value in (torch.tensor(1.0), alien):
        with pytest.raises(
            GuardError, match="The term of Fabricated has no gradient at update 1; it would do nothing"
        ):
            train(model, tokenizer, tmp_path, ReversionCallback(Fabricated(value)))
    with pytest.raises(NonFiniteError, match="The term of Fabricated is nan before update 1"):
        train(model, tokenizer, tmp_path, ReversionCallback(Fabricated(torch.tensor(float("nan")))))


def test_sharding_by_anything_but_fsdp2_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    args = TrainingArguments(use_cpu=True)
    args.deepspeed = "zero3.json"
    with pytest.raises(GuardError, match="not as FSDP2 by accelerate"):
        ReversionCallback(Guard()).on_train_begin(args, TrainerState(), TrainerControl(), model=model)
    with monkeypatch.context() as patch:
        patch.setattr(
            model, "_is_distributed_loading_by_transformers", True
        )  # as `distributed_config=` has it
        with pytest.raises(GuardError, match="not as FSDP2 by accelerate"):
            ReversionCallback(Guard()).on_train_begin(
                TrainingArguments(use_cpu=True), TrainerState(), TrainerControl(), model=model
            )
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch --use_fsdp` has it
    with pytest.raises(GuardError, match="not as FSDP2 by accelerate"):
        ReversionCallback(Guard()).on_train_begin(
            TrainingArguments(use_cpu=True), TrainerState(), TrainerControl(), model=model
        )


def test_every_kth_update_in_a_trainer(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    class Counting(Guard):
        def __init__(self) -> None:
            self.calls: list[str] = []

        def before_update(self, model: nn.Module) -> None:
            self.calls.append("before")

        def after_update(self, model: nn.Module) -> None:
            self.calls.append("after")

    guard = Counting()
    train(model, tokenizer, tmp_path, ReversionCallback(Every(3, guard)))
    assert guard.calls == ["before", "after", "before", "after"]
