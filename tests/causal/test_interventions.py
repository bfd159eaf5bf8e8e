"""Interventions along v_rev, on a small trained history and on every architecture family."""

from __future__ import annotations

import inspect
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from revlens import hooks
from revlens.activations import Sites, read_prompts
from revlens.causal import Action, Intervention, displacement, intervene, site_label
from revlens.direction import ReversionDirection, nulls
from revlens.errors import ConfigError, SiteError
from revlens.history import TrainingHistory
from revlens.prompts import Probes

PROMPTS = ("Hi.", "A longer prompt, with more tokens in it than the small window has room for.", "What now?")


def total(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1]


def direction(seed: int = 0, layers: tuple[int, ...] = (0, 1, 2)) -> ReversionDirection:
    unit = nulls.isotropic_directions(1, len(layers), 16, seed=seed)[0]
    return ReversionDirection(
        unit, torch.full((len(layers),), 2.0, dtype=torch.float64), layers, "direction", 4
    )


def one_metric(model: TransformerBridge, prompt: str) -> Tensor:
    chat = [{"role": "user", "content": prompt}]
    ids = model.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    with torch.no_grad():
        return total(model(torch.tensor([ids]))[:, -1])[0]


def effects(model: TransformerBridge, actions: list[Action]) -> Tensor:
    return intervene(
        model, direction(), actions, PROMPTS, total, clamp_mean=torch.zeros(3, 16, dtype=torch.float64)
    ).effect()


def test_effects_equal_those_of_hooks_by_hand(llama: TransformerBridge) -> None:
    v_rev = direction()
    clamp_mean = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    actions = [Action("ablate"), Action("clamp"), Action("add", -0.5)]
    found = intervene(llama, v_rev, actions, PROMPTS, total, clamp_mean=clamp_mean)
    assert found.sites == ((0,), (1,), (2,), (0, 1, 2))
    rows = [
        torch.tensor(
            [
                llama.tokenizer.apply_chat_template(
                    [{"role": "user", "content": p}], add_generation_prompt=True
                )["input_ids"]
            ]
        )
        for p in PROMPTS
    ]
    v = {layer: v_rev.unit[layer].float() for layer in range(3)}
    by_hand = [
        lambda: hooks.ablate(llama, v, tokens="last_prompt"),
        lambda: hooks.clamp(
            llama, v, {i: float(clamp_mean[i] @ v_rev.unit[i]) for i in range(3)}, tokens="last_prompt"
        ),
        lambda: hooks.add(llama, v, -1.0, tokens="last_prompt"),
    ]
    with torch.no_grad():
        torch.testing.assert_close(
            found.baseline, torch.cat([total(llama(row)[:, -1]) for row in rows]), rtol=1e-4, atol=1e-5
        )
        for i, opened in enumerate(by_hand):
            for j, row in enumerate(rows):
                with opened():
                    torch.testing.assert_close(
                        found.values[0, 3, i, j], total(llama(row)[:, -1])[0], rtol=1e-4, atol=1e-5
                    )


def test_no_dose_has_no_effect_and_opposite_doses_of_opposite_directions_agree(
    llama: TransformerBridge,
) -> None:
    v_rev = direction()
    assert effects(llama, [Action("add", 0.0)]).abs().max() < 1e-5
    flipped = ReversionDirection(-v_rev.unit, v_rev.gap, v_rev.layers, "direction", 4)
    one = intervene(llama, v_rev, [Action("add", 0.5)], PROMPTS, total, clamp_mean=v_rev.unit).effect()
    other = intervene(llama, flipped, [Action("add", -0.5)], PROMPTS, total, clamp_mean=v_rev.unit).effect()
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_controls_get_the_same_dose_and_their_own_rows(llama: TransformerBridge) -> None:
    draws = nulls.isotropic_directions(3, 3, 16, seed=5)
    found = intervene(
        llama,
        direction(),
        [Action("add", 1.0)],
        PROMPTS,
        total,
        clamp_mean=draws[0],
        controls={"random": draws},
    )
    assert found.directions == ("v_rev", "random", "random", "random")
    alone = intervene(llama, direction(seed=0), [Action("add", 1.0)], PROMPTS, total, clamp_mean=draws[0])
    torch.testing.assert_close(found.values[:1], alone.values, rtol=0, atol=0)
    table = found.to_dataframe()
    assert len(table) == 4 * 4 * 1
    assert sorted(table.loc[table["direction"] == "random", "draw"].unique()) == [0, 1, 2]
    one = table[(table["direction"] == "random") & (table["draw"] == 1) & (table["site"] == "0-2")][
        "effect"
    ].item()
    assert one == pytest.approx(float(found.effect()[2, 3, 0]))


@pytest.mark.parametrize(
    "action", [Action("ablate"), Action("clamp"), Action("add", -0.5)], ids=lambda a: a.kind
)
def test_controls_move_the_stream_as_far_as_v_rev_does(llama: TransformerBridge, action: Action) -> None:
    """At a layer alone and at all together, where later layers see what earlier ones were moved to."""
    v_rev, other = direction(), nulls.isotropic_directions(1, 3, 16, seed=5)[0]
    clamp_mean = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    along = Intervention(action, v_rev.unit, v_rev.gap, v_rev.layers, clamp_mean)
    for layers in ((1,), (0, 1, 2)):
        moved = displacement(llama, along, PROMPTS, layers, batch_size=2)
        assert (moved != 0).nonzero().flatten().tolist() == list(layers)
        for intervention, unit in ((along, v_rev.unit), (along.matched(other, moved), other)):
            for layer in layers:
                before = [earlier for earlier in layers if earlier < layer]
                steps = []
                for upto in (before, [*before, layer]):
                    with intervention.on(llama, upto) if upto else nullcontext():
                        steps.append(read_prompts(llama, PROMPTS, Sites(layers=(layer,)))[:, 0].double())
                step = (steps[1] - steps[0]).mean(0)
                assert_close = torch.testing.assert_close
                assert_close(step, moved[layer] * unit[layer], rtol=1e-3, atol=1e-5)
                assert_close(step.norm(), moved[layer].abs(), rtol=1e-3, atol=1e-5)


def test_the_sweep_measures_the_displacement_that_it_gives_to_controls(llama: TransformerBridge) -> None:
    draws = nulls.isotropic_directions(2, 3, 16, seed=5)
    clamp_mean = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    actions = [Action("clamp"), Action("add", 1.0)]
    found = intervene(
        llama, direction(), actions, PROMPTS, total, clamp_mean=clamp_mean, controls={"random": draws}
    )
    v_rev = direction()
    for a, action in enumerate(actions):
        along = Intervention(action, v_rev.unit, v_rev.gap, v_rev.layers, clamp_mean)
        for s, site in enumerate(found.sites):
            moved = displacement(llama, along, PROMPTS, site)
            torch.testing.assert_close(found.displacement[s, a], moved, rtol=1e-4, atol=1e-6)
            with hooks.add(
                llama,
                dict(enumerate(draws[1])),
                dict(enumerate(moved.tolist())),
                layers=site,
                tokens="last_prompt",
            ):
                alone = [one_metric(llama, prompt) for prompt in PROMPTS]
            torch.testing.assert_close(found.values[2, s, a], torch.stack(alone), rtol=1e-4, atol=1e-5)
    table = found.to_dataframe()
    assert table.groupby(["site", "action"])["displacement"].nunique().eq(1).all()
    rows = table[(table["site"] == "0-2") & (table["action"] == "clamp")]
    assert rows["displacement"].iloc[0] == pytest.approx(float(found.displacement[3, 0].mean()))


def test_the_rank_p_value_counts_controls_that_do_as_much(llama: TransformerBridge) -> None:
    draws = torch.cat([direction().unit[None], nulls.isotropic_directions(4, 3, 16, seed=5)])
    found = intervene(
        llama,
        direction(),
        [Action("add", 1.0)],
        PROMPTS,
        total,
        clamp_mean=draws[0],
        controls={"random": draws},
    )
    effect = found.effect().abs()
    expected = (1 + (effect[1:] >= effect[0]).sum(0)) / 6
    torch.testing.assert_close(found.rank_p("random"), expected)
    assert (found.rank_p("random") >= 2 / 6).all()  # the first control is v_rev itself
    with pytest.raises(ConfigError, match=r"No controls of kind 'covariance'; there are \['random'\]"):
        found.rank_p("covariance")


def test_adding_the_whole_gap_moves_the_aligned_projection_to_the_reference(
    history: TrainingHistory, probes: Probes
) -> None:
    activations = {
        c.name: read_prompts(c.load(), probes["direction"], Sites())
        for c in (history.reference, history.aligned)
    }
    v_rev = ReversionDirection.fit(**activations, layers=(0, 1, 2), split="direction")
    model = history.aligned.load()
    intervention = Intervention(
        Action("add", 1.0), v_rev.unit, v_rev.gap, v_rev.layers, activations["aligned"].mean(0).double()
    )
    with intervention.on(model, [2]):
        moved = read_prompts(model, probes["direction"], Sites(layers=(2,)))[:, 0].double()
    expected = activations["reference"][:, 2].double().mean(0) @ v_rev.unit[2]
    torch.testing.assert_close(moved.mean(0) @ v_rev.unit[2], expected, rtol=1e-4, atol=1e-4)


def test_bad_questions_are_errors(llama: TransformerBridge) -> None:
    clamp_mean = torch.zeros(3, 16, dtype=torch.float64)
    with pytest.raises(ConfigError, match="'add' with dose=None"):
        Action("add")
    with pytest.raises(ConfigError, match="'clamp' with dose=1.0"):
        Action("clamp", 1.0)
    with pytest.raises(ConfigError, match="at least one action"):
        intervene(llama, direction(), [], PROMPTS, total, clamp_mean=clamp_mean)
    with pytest.raises(ConfigError, match="not called 'v_rev'"):
        intervene(
            llama,
            direction(),
            [Action("ablate")],
            PROMPTS,
            total,
            clamp_mean=clamp_mean,
            controls={"v_rev": clamp_mean[None]},
        )
    with pytest.raises(SiteError, match="Layer 3 does not exist"):
        intervene(
            llama, direction(layers=(1, 2, 3)), [Action("ablate")], PROMPTS, total, clamp_mean=clamp_mean
        )
    # Unwrapped, because the type checks of the test run would refuse it first.
    with pytest.raises(SiteError, match=r"random has shape \(4, 2, 16\); expected it to end in \(3, 16\)"):
        inspect.unwrap(intervene)(
            llama,
            direction(),
            [Action("ablate")],
            PROMPTS,
            total,
            clamp_mean=clamp_mean,
            controls={"random": torch.ones(4, 2, 16)},
        )


def test_sites_have_names() -> None:
    assert [site_label(site) for site in ((2,), (0, 1, 2))] == ["2", "0-2"]
    assert [action.name for action in (Action("ablate"), Action("add", 0.5), Action("add", -1.0))] == [
        "ablate",
        "add +0.5",
        "add -1",
    ]
