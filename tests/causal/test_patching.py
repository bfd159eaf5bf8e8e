from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.patching import generic_activation_patch, layer_pos_patch_setter

from revlens import hooks
from revlens.activations import COMPONENTS, Sites, read_prompts
from revlens.causal import RefusalLogitDifference, patch_between, patch_heads_between
from revlens.causal.patch_part import Part
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, HistoryError, NonFiniteError, ProbeError, SiteError
from revlens.history import TrainingHistory, boot
from revlens.prompts import Probes, encode_prompts

METRIC = RefusalLogitDifference((20, 21, 22), (23, 24, 25, 26))
#: Up to float noise.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def donor(history: TrainingHistory) -> TransformerBridge:
    return history.reference.load()


@pytest.fixture(scope="module")
def recipient(history: TrainingHistory) -> TransformerBridge:
    return history[3].load()


@pytest.fixture(scope="module")
def prompts(probes: Probes, recipient: TransformerBridge) -> tuple[str, ...]:
    chosen = probes["drift"][:6]
    assert len({len(row) for row in encode_prompts(recipient.tokenizer, chosen)}) > 1, (
        "these tests need prompts of several lengths"
    )
    return chosen


def own_metric(model: TransformerBridge, prompts: tuple[str, ...]) -> Tensor:
    with torch.no_grad():
        rows = [METRIC(model(torch.tensor([row]))[0, -1]) for row in encode_prompts(model.tokenizer, prompts)]
    return torch.stack(rows)


def direction(unit: Tensor, layers: tuple[int, ...] = (0, 1, 2)) -> ReversionDirection:
    unit = torch.nn.functional.normalize(unit.double(), dim=-1)
    return ReversionDirection(unit, torch.ones(len(unit), dtype=torch.float64), layers, "direction", 1)


def difference(donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]) -> Tensor:
    return read_prompts(donor, prompts, Sites()) - read_prompts(recipient, prompts, Sites())


@pytest.mark.parametrize("component", [*COMPONENTS, "z"])
def test_patching_a_checkpoint_with_itself_changes_nothing(
    recipient: TransformerBridge, prompts: tuple[str, ...], component: str
) -> None:
    if component == "z":
        sweep = patch_heads_between(recipient, recipient, prompts, METRIC, last=3)
    else:
        sweep = patch_between(recipient, recipient, prompts, METRIC, sites=Sites(component), last=3)
    assert_same(sweep.result.effect(), torch.zeros_like(sweep.result.values))
    with pytest.raises(NonFiniteError, match="equal mean metrics"):
        sweep.recovered()


def test_the_last_stream_at_the_last_token_is_all_that_counts(
    history: TrainingHistory, donor: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    hybrid = history[3].load()
    # After the last block come the final norm and the unembedding; the donor's metric goes through its own.
    hybrid.ln_final.load_state_dict(donor.ln_final.state_dict())
    hybrid.unembed.load_state_dict(donor.unembed.state_dict())
    sweep = patch_between(donor, hybrid, prompts, METRIC, last=None)
    assert_same(sweep.donor, own_metric(donor, prompts))
    assert_same(sweep.result.baseline, own_metric(hybrid, prompts))
    assert_same(sweep.result.values[-1, -1], sweep.donor)
    assert_same(sweep.result.effect()[-1, :-1], torch.zeros(len(sweep.positions) - 1, len(prompts)))
    torch.testing.assert_close(sweep.recovered()[-1, -1], torch.tensor(1.0), rtol=0, atol=1e-4)
    # What is only rounding is no discovery, however many prompts agree on its sign.
    assert (sweep.p_values()[-1, :-1] == 1).all()
    # All positions at once, by the hooks: the same as the last one alone.
    with torch.no_grad():
        for i, row in enumerate(encode_prompts(donor.tokenizer, prompts)):
            _, cache = donor.run_with_cache(torch.tensor([row]))
            with hooks.patch(hybrid, cache, ["blocks.2.hook_resid_post"]):
                assert_same(METRIC(hybrid(torch.tensor([row]))[0, -1]), sweep.donor[i])


def test_chat_prompts_equal_transformer_lens(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    sweep = patch_between(donor, recipient, prompts[:1], METRIC, sites=Sites("attn_out"), last=None)
    tokens = torch.tensor(encode_prompts(recipient.tokenizer, prompts[:1]))
    with torch.no_grad():
        _, cache = donor.run_with_cache(tokens)
        theirs = generic_activation_patch(
            recipient, tokens, cache, lambda logits: METRIC(logits[:, -1]), layer_pos_patch_setter,
            "attn_out", ("layer", "pos"), reduce="none", baseline=True,
        )  # fmt: skip
    assert_same(sweep.result.values, theirs.values)
    assert_same(sweep.result.baseline, theirs.baseline)
    assert sweep.result.effect().abs().max() > 1e-3
    assert sweep.result.axis_names == ["layer", "pos"]


def test_prompts_of_mixed_lengths_agree_with_one_at_a_time(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    together = patch_heads_between(donor, recipient, prompts, METRIC, last=3)
    assert together.result.values.shape == (3, 3, 2, len(prompts))
    for i, prompt in enumerate(prompts):
        alone = patch_heads_between(donor, recipient, [prompt], METRIC, last=3)
        assert_same(together.result.values[..., i], alone.result.values[..., 0])
        assert_same(together.donor[i], alone.donor[0])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_order_and_batch_size_change_nothing(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...], batch_size: int
) -> None:
    forwards = patch_between(donor, recipient, prompts, METRIC, last=4)
    backwards = patch_between(donor, recipient, prompts[::-1], METRIC, last=4, batch_size=batch_size)
    assert_same(backwards.result.values.flip(-1), forwards.result.values)
    assert_same(backwards.donor.flip(0), forwards.donor)


def test_fewer_layers_and_tokens_are_a_part_of_all(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    whole = patch_between(donor, recipient, prompts, METRIC, last=4)
    some = patch_between(donor, recipient, prompts, METRIC, sites=Sites(layers=(0, 2)), last=2)
    assert_same(some.result.values, whole.result.values[[0, 2]][:, -2:])
    assert (some.layers, some.positions) == ((0, 2), (-2, -1))
    assert some.result.index_df.to_numpy().tolist() == [[0, -2], [0, -1], [2, -2], [2, -1]]


def test_along_the_whole_difference_equals_full(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    v_rev = direction(difference(donor, recipient, prompts[:1])[0])
    along = patch_between(donor, recipient, prompts[:1], METRIC, part="along", v_rev=v_rev)
    orthogonal = patch_between(donor, recipient, prompts[:1], METRIC, part="orthogonal", v_rev=v_rev)
    full = patch_between(donor, recipient, prompts[:1], METRIC)
    assert_same(along.result.values, full.result.values)
    assert_same(orthogonal.result.effect(), torch.zeros(3, 1, 1))
    assert full.result.effect().abs().max() > 1e-3


def test_across_the_difference_the_parts_change_places(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    d = difference(donor, recipient, prompts[:1])[0]
    across = torch.randn(d.shape, generator=torch.Generator().manual_seed(0))
    v_rev = direction(across - (across * d).sum(-1, keepdim=True) / (d * d).sum(-1, keepdim=True) * d)
    full = patch_between(donor, recipient, prompts[:1], METRIC)
    orthogonal = patch_between(donor, recipient, prompts[:1], METRIC, part="orthogonal", v_rev=v_rev)
    along = patch_between(donor, recipient, prompts[:1], METRIC, part="along", v_rev=v_rev)
    assert_same(orthogonal.result.values, full.result.values)
    assert_same(along.result.effect(), torch.zeros(3, 1, 1))


def test_a_part_is_the_patch_of_that_part_alone(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    v_rev = direction(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), layers=(1,))
    v, d = v_rev.unit[0].float(), difference(donor, recipient, prompts[:1])[0, 1]
    tokens = torch.tensor(encode_prompts(recipient.tokenizer, prompts[:1]))
    steps: dict[Part, Tensor] = {"along": (d @ v) * v, "orthogonal": d - (d @ v) * v}
    for part, step in steps.items():
        swept = patch_between(
            donor, recipient, prompts[:1], METRIC, sites=Sites(layers=(1,)), part=part, v_rev=v_rev
        )
        with torch.no_grad(), hooks.add(recipient, {1: step}, float(step.norm()), tokens="last_prompt"):
            assert_same(swept.result.values[0, 0], METRIC(recipient(tokens)[:, -1]))


def test_parts_and_v_rev_must_fit(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    some = direction(torch.ones(2, 16), layers=(0, 1))
    with pytest.raises(ConfigError, match="part='along' needs v_rev"):
        patch_between(donor, recipient, prompts, METRIC, part="along")
    with pytest.raises(ConfigError, match="part='full' replaces whole activations and uses no v_rev"):
        patch_between(donor, recipient, prompts, METRIC, v_rev=some)
    with pytest.raises(ConfigError, match=r"v_rev has layers \(0, 1\), but layers \[2\] are patched too"):
        patch_between(donor, recipient, prompts, METRIC, part="along", v_rev=some)
    with pytest.raises(ConfigError, match="v_rev has width 8; the model's is 16"):
        patch_between(donor, recipient, prompts, METRIC, part="along", v_rev=direction(torch.ones(3, 8)))
    # Unwrapped, because the type checks of the test run would refuse it first.
    with pytest.raises(ConfigError, match="'across'; expected one of full, along, orthogonal"):
        inspect.unwrap(patch_between)(donor, recipient, prompts, METRIC, part="across")


def test_positions_layers_and_prompts_must_exist(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    shortest = min(len(row) for row in encode_prompts(recipient.tokenizer, prompts))
    for last in (0, shortest + 1):
        with pytest.raises(SiteError, match=f"last={last} must be between 1 and {shortest}"):
            patch_between(donor, recipient, prompts, METRIC, last=last)
    with pytest.raises(SiteError, match="Layer 3 does not exist"):
        patch_heads_between(donor, recipient, prompts, METRIC, layers=(3,))
    with pytest.raises(ProbeError, match="No prompts"):
        patch_between(donor, recipient, [], METRIC)
    with pytest.raises(ConfigError, match="batch_size=0"):
        patch_between(donor, recipient, prompts, METRIC, batch_size=0)


def test_models_must_be_checkpoints_of_one_model(
    donor: TransformerBridge, aligned: TransformerBridge, other_width: Path, prompts: tuple[str, ...]
) -> None:
    with pytest.raises(HistoryError, match="donor has d_model=32, the recipient 16"):
        patch_between(boot(other_width), donor, prompts, METRIC)
    aligned.tokenizer.chat_template = aligned.tokenizer.chat_template.replace(
        "<|assistant|>", "<|assistant|>Sure"
    )
    with pytest.raises(HistoryError, match=r"encode '.*' as different tokens"):
        patch_between(donor, aligned, prompts, METRIC)


def test_a_model_in_training_mode_is_refused(
    donor: TransformerBridge, aligned: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    aligned.train()
    with pytest.raises(ConfigError, match="recipient is in training mode"):
        patch_between(donor, aligned, prompts, METRIC)


def test_a_metric_without_value_names_the_prompt(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    with pytest.raises(NonFiniteError, match="metric of the donor is not finite on prompt '"):
        patch_between(donor, recipient, prompts, lambda logits: METRIC(logits) / 0)


def test_the_table_has_a_row_for_each_patch_site(
    donor: TransformerBridge, recipient: TransformerBridge, prompts: tuple[str, ...]
) -> None:
    sweep = patch_heads_between(donor, recipient, prompts, METRIC, layers=(0, 2), last=2)
    table = sweep.to_dataframe()
    assert list(table.columns) == [
        "layer",
        "position",
        "head",
        "recovered",
        "low",
        "high",
        "r2",
        "gap",
        "effect",
        "p",
        "significant",
    ]
    assert len(table) == 2 * 2 * 2
    row = table[(table["layer"] == 2) & (table["position"] == -1) & (table["head"] == 1)]
    assert row["recovered"].item() == sweep.recovered()[1, 1, 1].item()
    assert row["p"].item() == sweep.p_values()[1, 1, 1].item()
    assert row["effect"].item() == pytest.approx(sweep.result.effect()[1, 1, 1].mean().item())
    assert table["significant"].tolist() == sweep.significant().flatten().tolist()
