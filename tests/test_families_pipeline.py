"""Laws of each step of the pipeline, on trained Hugging Face checkpoints of every architecture family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

import tiers
from families import (
    ANSWERS,
    FAMILIES,
    FEW,
    PROBES,
    PROMPTS,
    bridge_run,
    hugging_face_rows,
    hugging_face_run,
    load_hugging_face,
    save_family,
    train_history,
)
from revlens import hooks
from revlens.activations import Activations, Sites, capture, read_prompts
from revlens.behaviour import generate
from revlens.causal import Action, RefusalLogitDifference, intervene, patch_between
from revlens.direction import ReversionDirection, drift, locate
from revlens.errors import ConfigError
from revlens.history import Directory, TrainingHistory, boot, boot_with_lora, save
from revlens.prompts import encode_prompts, pad_id_of, pad_left
from revlens.training import finetune, make_guard

#: float16 differs from bfloat16 in its range and in what it can train, which no family changes.
HALF = (torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow))
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(scope="module", params=tiers.families(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def history(family: str, tmp_path_factory: pytest.TempPathFactory) -> TrainingHistory:
    return train_history(family, tmp_path_factory.mktemp("history"))


@pytest.fixture(scope="module")
def acts(history: TrainingHistory, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return capture(history, PROBES, tmp_path_factory.mktemp("acts"))


@pytest.fixture(scope="module")
def v_rev(acts: Activations) -> ReversionDirection:
    return locate(acts)


@pytest.fixture(scope="module")
def aligned(history: TrainingHistory) -> TransformerBridge:
    return history.aligned.load()


@pytest.fixture(scope="module")
def tuned(history: TrainingHistory) -> TransformerBridge:
    return history[4].load()


@pytest.fixture(scope="module")
def metric(aligned: TransformerBridge) -> RefusalLogitDifference:
    return RefusalLogitDifference.from_texts(aligned.tokenizer, engaging=["Sure"], refusal=["I can't"])


def rows_of(model: TransformerBridge) -> list[list[int]]:
    return encode_prompts(model.tokenizer, PROMPTS)


def test_the_way_along_v_rev_ends_at_the_reference(acts: Activations, v_rev: ReversionDirection) -> None:
    assert v_rev.gap.min() > 0.1
    ends = [acts.at(name, "direction").mean(0) for name in ("aligned", "reference")]
    torch.testing.assert_close(ends[0] + v_rev.gap[:, None] * v_rev.unit, ends[1])
    motion = drift(acts, v_rev, "direction", naive=True)
    at_reference = motion.at_step(99)
    torch.testing.assert_close(motion.alignment[at_reference], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(motion.fraction[at_reference], torch.ones(3, dtype=torch.float64))
    assert drift(acts, v_rev).alignment.isfinite().all()


def test_a_checkpoint_patched_with_itself_is_unchanged(
    tuned: TransformerBridge, metric: RefusalLogitDifference
) -> None:
    effect = patch_between(tuned, tuned, PROMPTS, metric, last=None).result.effect()
    torch.testing.assert_close(effect, torch.zeros_like(effect), rtol=0, atol=1e-5)


def test_the_last_stream_of_the_donor_gives_the_donor_s_logits(
    history: TrainingHistory, aligned: TransformerBridge, metric: RefusalLogitDifference
) -> None:
    # After the last block come the final norm and the unembedding, which differ between checkpoints too.
    hybrid = history[4].load()
    hybrid.ln_final.load_state_dict(aligned.ln_final.state_dict())
    hybrid.unembed.load_state_dict(aligned.unembed.state_dict())
    batch = pad_left(rows_of(aligned), pad_id_of(aligned.tokenizer))
    name = hooks.point_name(2, "resid_post")
    with torch.no_grad():
        with hooks.record(aligned, [name]) as kept:
            donor = aligned(batch.tokens, attention_mask=batch.mask)
        with hooks.patch(hybrid, kept, [name]):
            patched = hybrid(batch.tokens, attention_mask=batch.mask)
        bare = hybrid(batch.tokens, attention_mask=batch.mask)
    real = batch.mask.bool()
    torch.testing.assert_close(patched[real], donor[real], rtol=0, atol=1e-5)
    assert (bare[real] - donor[real]).abs().max() > 1e-2
    sweep = patch_between(aligned, hybrid, PROMPTS, metric)
    torch.testing.assert_close(sweep.result.values[-1, -1], sweep.donor, rtol=0, atol=1e-5)


def test_interventions_equal_hooks_on_a_padded_batch(
    tuned: TransformerBridge, v_rev: ReversionDirection, metric: RefusalLogitDifference
) -> None:
    anchor = torch.zeros(3, 16, dtype=torch.float64)
    actions = [Action("ablate"), Action("add", 1.0)]
    effects = intervene(tuned, v_rev, actions, PROMPTS, metric, clamp_mean=anchor)
    batch = pad_left(rows_of(tuned), pad_id_of(tuned.tokenizer))
    alpha = dict(zip(v_rev.layers, v_rev.gap.tolist(), strict=True))
    by_hand = (
        hooks.ablate(tuned, v_rev, tokens="last_prompt"),
        hooks.add(tuned, v_rev, alpha, tokens="last_prompt"),
    )
    for i, context in enumerate(by_hand):
        with torch.no_grad(), context:
            logits = tuned(batch.tokens, attention_mask=batch.mask)
        torch.testing.assert_close(effects.values[0, -1, i], metric(logits[:, -1]), rtol=0, atol=1e-4)
    assert effects.effect().abs().amax((0, 1)).min() > 1e-3


def test_generation_under_hooks_does_not_depend_on_padding(
    tuned: TransformerBridge, v_rev: ReversionDirection
) -> None:
    bare = generate(tuned, PROMPTS, max_new_tokens=8)
    with hooks.ablate(tuned, v_rev):
        together = generate(tuned, PROMPTS, max_new_tokens=8)
        alone = generate(tuned, PROMPTS, max_new_tokens=8, batch_size=1)
    assert together == alone
    assert generate(tuned, PROMPTS, max_new_tokens=8) == bare, "hooks come off"


def displacement(model: TransformerBridge, start: Tensor, v_rev: ReversionDirection) -> Tensor:
    return ((read_prompts(model, PROBES["guard"], Sites()).double().mean(0) - start) * v_rev.unit).sum(-1)


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft's own use of transformers
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_block_holds_the_model_back_and_what_it_saves_is_what_it_was(
    history: TrainingHistory,
    v_rev: ReversionDirection,
    aligned: TransformerBridge,
    adapter: bool,
    tmp_path: Path,
) -> None:
    start = read_prompts(aligned, PROBES["guard"], Sites()).double().mean(0)
    config = replace(FEW, learning_rate=2e-2 if adapter else 5e-3)
    moved = {}
    for arm in ("baseline", "block"):
        source = Directory(history.aligned.path)
        model = boot_with_lora(source, LORA, seed=0) if adapter else source.boot(torch.float32)
        guard = make_guard(arm, v_rev, aligned, PROBES["guard"], strength=10.0, seed=0)
        finetune(model, ANSWERS, config, seed=0, guard=guard)
        moved[arm] = displacement(model, start, v_rev).relu().square().mean()
    assert moved["block"] < 0.5 * moved["baseline"]

    rows = rows_of(model)
    before = bridge_run(model, rows)
    assert max(before.distance(bridge_run(aligned, rows))) > 1e-2, "training must have done something"
    save(model, tmp_path / "saved")
    again = bridge_run(
        TrainingHistory.from_dirs(history.reference.path, history.aligned.path, {4: tmp_path / "saved"})[
            4
        ].load(),
        rows,
    )
    assert max(before.distance(again)) < 1e-5
    hf_model: Any = load_hugging_face(history.aligned.path if adapter else tmp_path / "saved")
    if adapter:
        hf_model = PeftModel.from_pretrained(hf_model, str(tmp_path / "saved")).get_base_model()
    assert max(before.distance(hugging_face_run(hf_model, rows))) < 1e-5


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_patching_in_half_precision(
    history: TrainingHistory,
    aligned: TransformerBridge,
    tuned: TransformerBridge,
    metric: RefusalLogitDifference,
    dtype: torch.dtype,
) -> None:
    half = replace(history, dtype=dtype)
    donor, recipient = half.aligned.load(), half[4].load()
    effect = patch_between(donor, recipient, PROMPTS, metric).result.effect()
    exact = patch_between(aligned, tuned, PROMPTS, metric).result.effect()
    assert (effect - exact).abs().max() < 0.2 * exact.abs().max()
    own = patch_between(recipient, recipient, PROMPTS, metric).result.effect()
    assert own.abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_goes_through_the_pipeline(
    history: TrainingHistory, v_rev: ReversionDirection, dtype: torch.dtype, tmp_path: Path
) -> None:
    half = replace(history, dtype=dtype)
    captured = capture(half, PROBES, tmp_path / "acts")
    direction = locate(captured)
    assert (direction.unit * v_rev.unit).sum(-1).min() > 0.99, "the direction of float32"
    assert drift(captured, direction).alignment.isfinite().all()
    aligned = half.aligned.load()
    with hooks.ablate(aligned, direction, tokens="last_prompt"):
        ablated = read_prompts(aligned, PROMPTS)
    assert (
        (ablated.double() * direction.unit).sum(-1).abs() < 8 * torch.finfo(dtype).eps * ablated.norm(dim=-1)
    ).all()
    with hooks.ablate(aligned, direction):
        assert len(generate(aligned, PROMPTS, max_new_tokens=4)) == len(PROMPTS)

    guard = make_guard("block", direction, aligned, PROBES["guard"], strength=10.0, seed=0)
    two_updates = replace(FEW, steps=2)
    model = half.aligned.load()
    if dtype == torch.float16:
        # Squared gradients vanish in float16, and AdamW divides by them; adapter weights are float32.
        with pytest.raises(ConfigError, match="float16 weights cannot be trained"):
            finetune(model, ANSWERS, two_updates, seed=0, guard=guard)
        model = boot_with_lora(Directory(history.aligned.path), LORA, seed=0, dtype=dtype)
    finetune(model, ANSWERS, two_updates, seed=0, guard=guard)
    trained = bridge_run(model, rows_of(model))
    assert min(trained.distance(bridge_run(aligned, rows_of(model)))) > 0.02
    save(model, tmp_path / "saved")
    again = TrainingHistory.from_dirs(
        history.reference.path, history.aligned.path, {4: tmp_path / "saved"}, dtype=dtype
    )[4]
    assert trained.distance(bridge_run(again.load(), rows_of(model))) == (0.0, 0.0)
    if dtype == torch.bfloat16:
        assert again.source.config()["dtype"] == "bfloat16"


def test_saved_steps_reply_in_hugging_face_as_they_do_here(
    history: TrainingHistory, tuned: TransformerBridge
) -> None:
    path = history[4].path
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = hugging_face_rows(path)
    assert rows == rows_of(tuned) == hugging_face_rows(path.parent / "blank")
    batch = pad_left(rows, pad_id_of(tokenizer))
    hf_model: Any = load_hugging_face(path)
    output = hf_model.generate(
        batch.tokens,
        attention_mask=batch.mask,
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=0,
    )
    replies = tokenizer.batch_decode(output[:, batch.tokens.shape[1] :], skip_special_tokens=True)
    assert any(replies)
    assert generate(tuned, PROMPTS, max_new_tokens=8) == replies
    by_itself = generate(history[4].module(), PROMPTS, max_new_tokens=8, tokenizer=history[4].tokenizer())
    assert by_itself == replies


def test_saved_steps_keep_the_tokenizer(history: TrainingHistory) -> None:
    path = history[4].path
    ours, first = AutoTokenizer.from_pretrained(path), AutoTokenizer.from_pretrained(path.parent / "blank")
    assert ours(list(PROMPTS))["input_ids"] == first(list(PROMPTS))["input_ids"]
    assert ours.special_tokens_map == first.special_tokens_map


def test_training_with_dropout_gives_the_same_weights_again(tmp_path: Path) -> None:
    """Only GPT-2 has dropout by default."""
    path = save_family("gpt2", tmp_path)
    runs = []
    for _ in range(2):
        model = boot(path)
        finetune(model, ANSWERS, FEW, seed=0)
        runs.append(bridge_run(model, rows_of(model)))
    assert runs[0].distance(runs[1]) == (0.0, 0.0)
